"""What only shows in a process of its own: fork, exit with work under way, what an import loads."""

import json
import os
import subprocess
import sys

import pytest

from agent_memory._concurrency import spawn
from agent_memory.storage.redis_client import Priority, ResilientRedisClient

LONG_S = 100


def run(script, *arguments):
    """Runs a script in a fresh interpreter; it has to end by itself."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


EXIT = """
import asyncio, json, sys, threading
from agent_memory import AsyncResilientRedisClient, Priority, ResilientRedisClient, RetryPolicy

arguments = json.loads(sys.argv[1])
client = ResilientRedisClient("exit", **arguments, socket_timeout=600, probe_interval_s=0.1)
client.guard.add_listener(lambda *change: print(change))
# The server does not answer: a thread waits for a reply, the worker of the queue waits, the probe waits.
started = threading.Event()

def wait_for_an_answer():
    started.set()
    client.get("key")

threading.Thread(target=wait_for_an_answer, daemon=True).start()
started.wait()
assert client.store_with_retry("agent", {}, lambda *_: False, Priority.HIGH).status == "queued"
from agent_memory import RedisUnavailableError
def unavailable():
    raise RedisUnavailableError("gone")
for _ in range(3):
    try:
        client._execute_with_circuit_breaker("get", unavailable)
    except RedisUnavailableError:
        pass
assert client.state == "open"

async def main():
    other = AsyncResilientRedisClient("exit", **arguments, socket_timeout=600, guard=client.guard)
    assert (await other.store_with_retry("agent", {}, lambda *_: False, Priority.HIGH)).status == "queued"

asyncio.run(main())
print("end")
"""


def test_an_interpreter_with_calls_in_flight_exits(mortal_server):
    mortal_server.pause()
    try:
        done = run(EXIT, json.dumps(mortal_server.connection_kwargs))
    finally:
        mortal_server.resume()
    assert done.stdout.endswith("end\n")
    assert "Traceback" not in done.stderr


FORK = """
import json, os, sys
from agent_memory import Priority, ResilientRedisClient, RetryPolicy

client = ResilientRedisClient("fork", **json.loads(sys.argv[1]), probe_interval_s=0.1, retry_policy=RetryPolicy(max_retries=0))
client.set("parent", "before")
client.recovery.pause()
queued = client.store_with_retry("agent", {"value": 1}, lambda *_: False, Priority.HIGH)
ready, tell = os.pipe()
child = os.fork()
if child == 0:
    try:
        assert client.recovery.pending() == []
        client.recovery.resume()
        assert client.get("parent") == "before"
        client.set("child", "value")
        calls = []
        def second_time(agent_id, state):
            calls.append(agent_id)
            return len(calls) > 1 and client.set(agent_id, "by the child")
        assert client.store_with_retry("child agent", {}, second_time, Priority.HIGH).wait(60)
        client.guard.force_open()
        client.guard.reset()
        client.close()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert client.get("parent") == "before"
assert os.waitpid(child, 0)[1] == 0
assert client.get("child") == "value"
assert [write.agent_id for write in client.recovery.pending()] == ["agent"]
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_parent_and_child_go_on_after_fork(mortal_server):
    run(FORK, json.dumps(mortal_server.connection_kwargs))


IMPORT = """
import json, sys
import redis
before = set(sys.modules)
import agent_memory
print(json.dumps(sorted(set(sys.modules) - before)))
agent_memory.ResilientRedisClient, agent_memory.AsyncResilientRedisClient, agent_memory.CircuitBreaker
print(json.dumps(sorted(set(sys.modules) - before)))
"""
HEAVY = {
    "agent_memory.testing",
    "aiohttp",
    "fastapi",
    "gevent",
    "numpy",
    "pandas",
    "psycopg",
    "rich",
    "sqlite3",
    "uvloop",
}


def test_an_import_loads_nothing_heavy():
    first, second = (set(json.loads(line)) for line in run(IMPORT).stdout.splitlines())
    assert first <= {"agent_memory", "agent_memory._core"}
    assert "agent_memory.storage.redis_client" in second
    assert not second & HEAVY


def test_every_public_name_is_there():
    import agent_memory

    assert sorted(agent_memory.__all__) == dir(agent_memory)
    for name in agent_memory.__all__:
        assert getattr(agent_memory, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        agent_memory.nothing  # noqa: B018


def test_many_threads_store_through_an_outage(mortal_server, request):
    """Threads write numbers upwards, each its own key and one that all share; nothing is lost, no key goes backwards."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    request.addfinalizer(lambda: sys.setswitchinterval(interval))
    threads, writes = 8, 60
    with ResilientRedisClient(
        "threads", **mortal_server.connection_kwargs, probe_interval_s=0.1, retry_base_delay=0.01
    ) as client:

        def append_and_set(agent_id, state):
            with client.pipeline() as pipeline:
                return all(pipeline.rpush(f"log:{agent_id}", state).set(agent_id, state).execute())

        def work(number):
            results = []
            for value in range(writes):
                results.append(client.store_with_retry(f"own:{number}", value, append_and_set, Priority.HIGH))
                results.append(client.store_with_retry("shared", f"{number}:{value}", append_and_set, Priority.NORMAL))
                if number == 0 and value == writes // 3:
                    mortal_server.kill()
                if number == 0 and value == 2 * writes // 3:
                    mortal_server.restart()
            return results

        results = [result for task in [spawn(work, number) for number in range(threads)] for result in task.result()]
        assert len(results) == 2 * threads * writes
        assert all(result.wait(LONG_S) for result in results)
        assert client.recovery.dead_letters() == []
        for number in range(threads):
            assert client.get(f"own:{number}") == str(writes - 1)
            log = [int(value) for value in client.lrange(f"log:own:{number}", 0, -1)]
            # A write whose answer was lost is repeated, so a number may come twice; never again after a later one.
            assert log == sorted(log)
            assert set(log) == set(range(writes))
        shared = client.lrange("log:shared", 0, -1)
        assert {tuple(map(int, value.split(":"))) for value in shared} == {
            (number, value) for number in range(threads) for value in range(writes)
        }
        assert client.get("shared") == shared[-1]
