"""limits: a limiter through an outage."""

# needs: limits
from outage import Outage

import agent_memory.redis

with Outage() as outage:
    page = outage.page("limits")
    assert type(page.storage.storage) is agent_memory.redis.Redis
    outage.endure(lambda: page.limiter.hit(page.limit, "user"))
