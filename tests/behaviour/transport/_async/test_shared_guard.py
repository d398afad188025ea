"""One guard for the clients of one pool that are configured alike; a client with a pool of its own has its own."""

import gc
import time
import weakref

import pytest
import redis.asyncio

from agent_memory._concurrency import ASYNC, async_settle, async_sleep
from agent_memory.errors import CircuitOpenError
from agent_memory.policy import BreakerSettings
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.asyncio import Redis
from agent_memory.redis.pool_state import MAX_GUARDS

WITHIN_S = 20.0
EAGER = ResiliencePolicy(breaker=BreakerSettings(2), probe_interval_s=0.05)


def pool_of(server, **options):
    return redis.asyncio.ConnectionPool(**server.connection_kwargs, **options)


async def close_pool(pool):
    await async_settle(pool.aclose() if ASYNC else pool.disconnect())


async def open_circuit(pool, policy=EAGER):
    """Open it with a client per call; returns how many calls failed before one was rejected."""
    for failures in range(10):
        try:
            await Redis(connection_pool=pool, resilience=policy).get("key")
        except CircuitOpenError:
            return failures
        except redis.RedisError:
            pass
    raise AssertionError("never opened")


async def test_a_client_per_call_opens_the_circuit_of_its_pool(start_server):
    server = start_server(transport="tcp")
    pool = pool_of(server, socket_timeout=0.2, socket_connect_timeout=0.2)
    await Redis(connection_pool=pool).set("key", 1)
    server.pause()
    # A call is two attempts, each of which counts.
    assert await open_circuit(pool, ResiliencePolicy()) <= 3
    started_s = time.monotonic()
    with pytest.raises(CircuitOpenError):
        await Redis(connection_pool=pool).get("key")
    assert time.monotonic() - started_s < 0.1
    server.resume()
    await close_pool(pool)


async def test_the_probe_outlives_the_client_that_started_it(start_server):
    server = start_server(transport="tcp")
    pool = pool_of(server, socket_timeout=0.2, socket_connect_timeout=0.2)
    server.kill()
    await open_circuit(pool)
    client = Redis(connection_pool=pool, resilience=EAGER)
    await client.aclose()  # the pool is not its own, and neither is the probe
    guard = client.guard
    del client
    gc.collect()
    server.start()
    deadline_s = time.monotonic() + WITHIN_S
    while guard.state != "closed":
        assert time.monotonic() < deadline_s, "no probe closed it"
        await async_sleep(0.01)
    assert await Redis(connection_pool=pool, resilience=EAGER).get("key") is None
    await close_pool(pool)


async def test_what_is_configured_alike_shares(valkey):
    pool = pool_of(valkey)

    def guard(given=pool, **options):
        return Redis(connection_pool=given, **options).guard

    assert guard() is guard()
    assert guard(resilience=ResiliencePolicy(probe_interval_s=1.0)) is guard(
        resilience=ResiliencePolicy(probe_interval_s=1)
    )
    others = [
        guard(),
        guard(client_name="another"),
        guard(resilience=ResiliencePolicy(probe_interval_s=2.0)),
        guard(resilience=ResiliencePolicy(probe_interval_s=None)),
        guard(given=pool_of(valkey)),
        Redis(**valkey.connection_kwargs).guard,
        Redis(**valkey.connection_kwargs).guard,
    ]
    assert len({id(one) for one in others}) == len(others)
    assert guard(resilience=None) is None
    assert guard(guard=others[1]) is others[1]


async def test_the_guards_of_a_pool_are_bounded(valkey):
    pool = pool_of(valkey)
    first = Redis(connection_pool=pool)
    for number in range(MAX_GUARDS):
        Redis(connection_pool=pool, client_name=f"client {number}")
    assert len(pool._agent_memory_shared._guards) == MAX_GUARDS
    assert await first.ping()  # it keeps what it has
    assert Redis(connection_pool=pool).guard is not first.guard
    await close_pool(pool)


async def test_guard_and_probe_end_with_their_pool(start_server):
    server = start_server(transport="tcp")
    pool = pool_of(server, socket_timeout=0.2, socket_connect_timeout=0.2)
    server.kill()
    await open_circuit(pool)
    client = Redis(connection_pool=pool, resilience=EAGER)
    prober = weakref.ref(client._prober)
    del pool, client
    deadline_s = time.monotonic() + WITHIN_S
    while prober() is not None:
        gc.collect()
        assert time.monotonic() < deadline_s, "the probe is still there"
        await async_sleep(0.01)


async def test_a_closed_client_that_is_used_again_is_probed_again(start_server, async_connect):
    server = start_server(transport="tcp")
    client = async_connect(server, socket_timeout=0.2, socket_connect_timeout=0.2, resilience=EAGER)
    await client.ping()
    await async_settle(client.aclose() if ASYNC else client.close())
    server.kill()
    with pytest.raises(CircuitOpenError):
        for _ in range(10):
            try:
                await client.get("key")
            except CircuitOpenError:
                raise
            except redis.RedisError:
                pass
    server.start()
    deadline_s = time.monotonic() + WITHIN_S
    while client.guard.state != "closed":
        assert time.monotonic() < deadline_s, "no probe closed it"
        await async_sleep(0.01)
