"""What rejected callers are told to wait for, while a background probe looks for the server."""

from __future__ import annotations

import pytest

from agent_memory._compat import async_sleep
from agent_memory.errors import CircuitOpenError, RedisUnavailableError
from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.asyncio import Redis as AsyncRedis


def policy(probe_interval: float | None) -> ResiliencePolicy:
    return ResiliencePolicy(
        breaker=BreakerSettings(1, 300.0), retry=RetryPolicy(max_retries=0), probe_interval=probe_interval
    )


@pytest.mark.parametrize(("probe_interval", "at_most_s"), [(0.75, 0.75), (None, 300.0)])
async def test_a_rejection_names_the_next_probe(start_server, probe_interval, at_most_s):
    server = start_server()
    client = AsyncRedis(**server.connection_kwargs, resilience=policy(probe_interval))
    await client.set("key", "value")
    server.kill()
    with pytest.raises(RedisUnavailableError):
        await client.get("key")
    # The first probe announces itself when it starts, a turn after the circuit has opened.
    while probe_interval is not None and client.guard.retry_after_s > at_most_s:
        with pytest.raises(CircuitOpenError):
            await client.get("key")
        await async_sleep(0.001)
    with pytest.raises(CircuitOpenError) as rejected:
        await client.get("key")
    assert rejected.value.retry_after_s <= at_most_s
    if probe_interval is None:
        assert rejected.value.retry_after_s > 290.0
    await client.aclose()
