"""Dramatiq: sending through an outage, with a worker that lives through it and goes on."""

# needs: dramatiq
from dramatiq import Worker
from outage import Outage

with Outage() as outage:
    page = outage.page("dramatiq")
    worker = Worker(page.broker, worker_timeout=100, worker_threads=1)
    worker.start()
    assert page.double.send(21).get_result(block=True, timeout=20_000) == 42
    outage.endure(lambda: page.double.send(21))
    assert page.double.send(4).get_result(block=True, timeout=60_000) == 8
    worker.stop()
    assert page.client.transport_here() is not None
