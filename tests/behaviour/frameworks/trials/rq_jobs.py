"""RQ: enqueueing through an outage, and a worker before and after it."""

# needs: rq
import rq
from outage import Outage

with Outage() as outage:
    page = outage.page("rq")

    def work():
        job = page.queue.enqueue(page.double, 21)
        rq.SimpleWorker([page.queue], connection=page.connection).work(burst=True)
        assert job.latest_result().return_value == 42

    work()
    outage.endure(lambda: page.queue.enqueue(page.double, 21))
    work()
    assert page.connection.transport_here() is not None
