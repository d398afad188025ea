"""What a health check asks a server: PING, TIME, INFO."""

from __future__ import annotations

import time
from typing import Any

from redis.exceptions import ResponseError

from agent_memory._concurrency import async_settle
from agent_memory.redis.server_checks import ServerFacts

__all__ = ["async_health_facts"]


async def async_health_facts(client: Any) -> ServerFacts:
    """Asks the server of `client`, any client of redis-py's kind, three times; raises what its connection raises.

    What the user has no right to stays empty.
    """
    facts = ServerFacts()
    began_s = time.perf_counter()
    await async_settle(client.ping())
    facts.latencies_s = (time.perf_counter() - began_s,)
    before_s = time.time()
    try:
        seconds, microseconds = await async_settle(client.time())
        facts.clock_skew_s = float(seconds) + float(microseconds) / 1e6 - (before_s + time.time()) / 2
        facts.info = await async_settle(client.info())
    except ResponseError:
        pass
    return facts
