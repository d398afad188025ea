"""huey: enqueueing through an outage, with a consumer that lives through it and goes on."""

# needs: huey
from outage import Outage

import agent_memory.redis

with Outage() as outage:
    page = outage.page("huey")
    assert type(page.huey.storage.conn) is agent_memory.redis.Redis
    consumer = page.huey.create_consumer(workers=1, periodic=False, check_worker_health=False)
    consumer.start()
    assert page.double(21).get(blocking=True, timeout=20) == 42
    outage.endure(lambda: page.double(21))
    assert page.double(4).get(blocking=True, timeout=30) == 8
    consumer.stop(graceful=True)
