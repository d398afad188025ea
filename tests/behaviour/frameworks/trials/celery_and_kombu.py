"""Celery: a process that sends tasks, and a worker of its own process behind the same outage; kombu's queues by themselves."""

# needs: celery kombu
import contextlib
import os
import subprocess
import sys
import tempfile

from outage import Outage, recover, wait_for

import agent_memory.redis

WORKER = """
from outage import *
page = load_page("celery", {url!r})
page.app.worker_main(["worker", "--pool=solo", "--loglevel=ERROR", "--without-mingle", "--without-gossip"])
"""


@contextlib.contextmanager
def worker(url):
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER.format(url=url)], stdout=log, stderr=log, env=os.environ
        )
        try:
            yield process
        except BaseException:
            log.seek(0)
            print(log.read().decode()[-6000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


with Outage() as outage:
    page = outage.page("celery")
    page.fail_fast(page.app)
    with worker(outage.url) as process:
        assert page.double.delay(21).get(timeout=20) == 42
        outage.endure(lambda: page.double.delay(21))
        # The worker goes on after both.
        wait_for(lambda: process.poll() is None, "the worker lives")
        result = page.double.delay(4)
        assert result.get(timeout=30) == 8
    client = page.app.backend.client
    assert type(client) is agent_memory.redis.Redis
    assert client.transport_here() is not None

    def letter():
        with page.connection.clone() as connection, connection.SimpleQueue("letters") as queue:
            queue.put({"to": "someone"})
            message = queue.get(timeout=1)
            message.ack()
            assert message.payload == {"to": "someone"}

    print("kombu")
    outage.endure(letter)
    recover(letter)
