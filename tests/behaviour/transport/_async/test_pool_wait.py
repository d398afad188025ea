"""How long a call waits for a connection where all are busy: as long as a BlockingConnectionPool's `timeout` says."""

from __future__ import annotations

import pytest
import redis
from redis.asyncio import BlockingConnectionPool as AsyncBlockingConnectionPool
from redis.asyncio import ConnectionPool as AsyncConnectionPool

from agent_memory._concurrency import ASYNC, async_sleep, async_spawn
from agent_memory.errors import ConnectionLimitError
from agent_memory.redis.asyncio import Redis as AsyncRedis

PLACES = 2 if ASYNC else 1
"""Connections that leave one for a blocking command: on asyncio the others share one."""


async def wait_until_blocked(server):
    """Until the server has a client that waits in a blocking command."""
    with redis.Redis(**server.connection_kwargs, decode_responses=True) as observer:
        while not observer.info("clients")["blocked_clients"]:
            await async_sleep(0.001)


async def hold(client):
    """Keep the one connection for blocking commands busy until "held" has an element."""
    return await client.blpop("held", 30)


@pytest.mark.parametrize(
    ("pool_class", "options", "said"),
    [
        (AsyncBlockingConnectionPool, {"timeout": 0.02}, "stayed busy for 0.02 s"),
        (AsyncBlockingConnectionPool, {"timeout": 0}, "stayed busy for 0 s"),
        (AsyncConnectionPool, {"socket_timeout": 0.03}, "stayed busy for 0.03 s"),
    ],
)
async def test_the_pool_says_how_long(start_server, pool_class, options, said):
    server = start_server(transport="tcp")
    pool = pool_class(max_connections=PLACES, **{**server.connection_kwargs, **options})
    client = AsyncRedis(connection_pool=pool)
    holder = async_spawn(hold, client, name="holder")
    await wait_until_blocked(server)
    with pytest.raises(ConnectionLimitError, match=said):
        await client.blpop("other", 1)
    with redis.Redis(**server.connection_kwargs) as observer:
        observer.rpush("other", "element")
        observer.rpush("held", "element")
    assert await holder.join(30)
    assert list(await client.blpop("other", 30)) == [b"other", b"element"]  # there is a place again
    await pool.disconnect()


async def test_none_is_for_ever(start_server):
    """Far longer than socket_timeout, as in redis-py."""
    server = start_server(transport="tcp")
    options = {**server.connection_kwargs, "socket_timeout": 0.05}
    pool = AsyncBlockingConnectionPool(max_connections=PLACES, timeout=None, **options)
    client = AsyncRedis(connection_pool=pool)
    holder = async_spawn(hold, client, name="holder")
    await wait_until_blocked(server)
    got = []

    async def wait_for_place():
        got.append(list(await client.blpop("other", 30)))

    waiter = async_spawn(wait_for_place, name="waiter")
    await async_sleep(0.3)
    assert not waiter.is_done()
    with redis.Redis(**server.connection_kwargs) as observer:
        observer.rpush("other", "element")
        observer.rpush("held", "element")
    assert await holder.join(30)
    assert await waiter.join(30)
    assert got == [[b"other", b"element"]]
    await pool.disconnect()


@pytest.mark.parametrize("timeout", [-1, "x", float("nan")])
def test_a_wait_that_is_none_is_refused(timeout):
    with pytest.raises(ValueError, match="timeout must be >= 0, got"):
        AsyncRedis(connection_pool=AsyncBlockingConnectionPool(timeout=timeout))
