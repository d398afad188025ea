"""A client and a pool for each call share the circuit of their server, and one probe closes it for all of them."""

import time

import pytest
import redis.asyncio

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory._concurrency import async_sleep
from agent_memory.errors import CircuitOpenError
from agent_memory.policy import BreakerSettings
from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis.asyncio import Redis

WITHIN_S = 20.0
TIMEOUT_S = 0.2
SHARED = ResiliencePolicy(circuit_scope="endpoint")


def options(resilience):
    given = {} if resilience is None else {"resilience": resilience}
    return given | {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}


async def call_once(make, url, resilience):
    """One call by a client that is made for it and closed behind it; returns its reply."""
    client = make(url, **options(resilience))
    try:
        return await client.get("key")
    finally:
        await client.aclose()


async def failures_until_open(make, url, resilience=None):
    """How many calls, each by a client of its own, fail before one is rejected; None where none of ten is."""
    for failures in range(10):
        try:
            await call_once(make, url, resilience)
        except CircuitOpenError:
            return failures
        except redis.RedisError:
            pass
    return None


async def wait_until_served(make, url, resilience=None):
    deadline_s = time.monotonic() + WITHIN_S
    while True:
        assert time.monotonic() < deadline_s, "the circuit stays open"
        try:
            return await call_once(make, url, resilience)
        except redis.ConnectionError:
            await async_sleep(0.01)


@pytest.mark.parametrize("fault", ["stall", "kill"])
async def test_fresh_clients_open_one_circuit_and_the_probe_closes_it(start_server, fault):
    server = start_server(transport="tcp")
    await call_once(Redis.from_url, server.url, SHARED)
    if fault == "stall":
        server.pause()
    else:
        server.kill()
    assert await failures_until_open(Redis.from_url, server.url, SHARED) <= 3
    started_s = time.monotonic()
    with pytest.raises(CircuitOpenError):
        await call_once(Redis.from_url, server.url, SHARED)
    assert time.monotonic() - started_s < TIMEOUT_S
    if fault == "stall":
        server.resume()
    else:
        server.start()
    # The breaker's own wait is 300 s: only the probe can have closed it.
    await wait_until_served(Redis.from_url, server.url, SHARED)


async def test_without_the_scope_each_pool_has_a_circuit_of_its_own(start_server):
    server = start_server(transport="tcp")
    server.kill()
    policy = ResiliencePolicy(breaker=BreakerSettings(20))
    assert await failures_until_open(Redis.from_url, server.url, policy) is None


async def test_installed_clients_share_it(start_server, installed):
    server = start_server(transport="tcp")
    await call_once(redis.asyncio.from_url, server.url, None)
    server.kill()
    assert await failures_until_open(redis.asyncio.from_url, server.url) <= 3
    server.start()
    await wait_until_served(redis.asyncio.from_url, server.url)


async def test_pools_made_anew_share_it(start_server, installed):
    server = start_server(transport="tcp")
    server.kill()

    def make(url, **given):
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, timeout=1, **given)
        return redis.asyncio.Redis.from_pool(pool)

    assert await failures_until_open(make, server.url) <= 3
    server.start()
    await wait_until_served(make, server.url)


async def test_both_worlds_share_it(start_server, installed):
    server = start_server(transport="tcp")
    blocking = redis.Redis.from_url(server.url)
    here = redis.asyncio.from_url(server.url)
    assert blocking.guard is here.guard
    blocking.close()
    await here.aclose()


async def test_which_clients_share_a_circuit(start_server, proxy):
    server = start_server(transport="tcp")
    other = proxy(server)
    clients = []

    def guard(url=server.url, resilience=SHARED, **given):
        clients.append(Redis.from_url(url, resilience=resilience, **given))
        return clients[-1].guard

    assert guard() is guard(db=1) is guard(socket_timeout=1)
    assert guard() is not guard(other.url)
    named = Redis(**server.connection_kwargs, client_name="another", resilience=SHARED)
    clients.append(named)
    assert guard() is not named.guard
    assert guard() is not guard(resilience=ResiliencePolicy(circuit_scope="endpoint", probe_interval_s=None))
    assert guard(resilience=DEFAULT_RESILIENCE) is not guard(resilience=DEFAULT_RESILIENCE)
    for client in clients:
        await client.aclose()


async def test_connections_of_another_class_share_by_address(start_server):
    server = start_server(transport="tcp")

    class Watched(redis.asyncio.Connection):
        def __init__(self, *args, watched_by=None, **kwargs):
            super().__init__(*args, **kwargs)

    def make(url, resilience, **given):
        pool = redis.asyncio.ConnectionPool.from_url(url, connection_class=Watched, watched_by="us", **given)
        client = Redis(connection_pool=pool, resilience=resilience)
        client.auto_close_connection_pool = True
        return client

    server.kill()
    # redis-py connects here, ten times a call unless told otherwise.
    retry = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)

    def without_retries(url, resilience, **given):
        return make(url, resilience, retry=retry, **given)

    assert await failures_until_open(without_retries, server.url, SHARED) <= 3
    server.start()
    await wait_until_served(without_retries, server.url, SHARED)


async def test_the_scope_is_checked():
    with pytest.raises(ValueError, match="circuit_scope must be 'pool' or 'endpoint', got 'server'"):
        ResiliencePolicy(circuit_scope="server")
    with pytest.raises(ValueError, match="resilience must be a ResiliencePolicy or None"):
        agent_memory.redis.install(resilience="none")
    assert not agent_memory.redis.is_installed()
