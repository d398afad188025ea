"""Many writes of one connection that are lost together: only asyncio shares a connection."""

from __future__ import annotations

from agent_memory import AsyncResilientRedisClient, Priority, RecoveryConfig, RetryPolicy
from agent_memory._concurrency import async_sleep, async_spawn
from agent_memory.redis.asyncio import Redis as AsyncRedis

WAIT_S = 60.0
QUICK = {"retry_policy": RetryPolicy(max_retries=0), "socket_timeout": 1.0, "probe_interval_s": 0.1}


def client_of(where, **options):
    return AsyncResilientRedisClient("resolved", **{**where.connection_kwargs, **QUICK, **options}, exactly_once=True)


async def test_a_successor_resolves_many_lost_writes_of_one_connection(server, proxy, journal):
    between = proxy(server)
    config = RecoveryConfig(path=journal, close_timeout_s=0.1, base_delay=0.01, max_delay=0.05)
    predecessor = client_of(between, recovery=config)
    await predecessor.incr("counter:0")
    between.black_hole("down")
    high = predecessor.with_priority(Priority.HIGH)
    calls = [async_spawn(high.incr, f"counter:{number}") for number in range(8)]
    async with AsyncRedis(**server.connection_kwargs) as observer:
        while not all(await observer.mget([f"counter:{number}" for number in range(1, 8)])):
            await async_sleep(0.01)
    between.refuse()
    between.reset()
    lost = [await call.result() for call in calls]
    assert {result.status for result in lost} == {"queued"}
    await predecessor.close()
    between.heal()
    between.accept()
    async with client_of(between, recovery=config) as successor:
        assert await successor.recovery.flush(WAIT_S)
        assert successor.recovery.dead_letters() == []
        assert await successor.mget([f"counter:{number}" for number in range(8)]) == ["2", *["1"] * 7]
