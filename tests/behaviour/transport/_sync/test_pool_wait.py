# Generated from ../_async/test_pool_wait.py by tools/generate_sync.py: edit that file, not this one.

"""How long a call waits for a connection where all are busy: as long as a BlockingConnectionPool's `timeout` says."""

from __future__ import annotations

import pytest
import redis
from redis import BlockingConnectionPool, ConnectionPool

from agent_memory._concurrency import sleep, spawn
from agent_memory.errors import ConnectionLimitError
from agent_memory.redis import Redis

PLACES = 1
"""Connections that leave one for a blocking command: on asyncio the others share one."""


def wait_until_blocked(server):
    """Until the server has a client that waits in a blocking command."""
    with redis.Redis(**server.connection_kwargs, decode_responses=True) as observer:
        while not observer.info("clients")["blocked_clients"]:
            sleep(0.001)


def hold(client):
    """Keep the one connection for blocking commands busy until "held" has an element."""
    return client.blpop("held", 30)


@pytest.mark.parametrize(
    ("pool_class", "options", "said"),
    [
        (BlockingConnectionPool, {"timeout": 0.02}, "stayed busy for 0.02 s"),
        (BlockingConnectionPool, {"timeout": 0}, "stayed busy for 0 s"),
        (ConnectionPool, {"socket_timeout": 0.03}, "stayed busy for 0.03 s"),
    ],
)
def test_the_pool_says_how_long(start_server, pool_class, options, said):
    server = start_server(transport="tcp")
    pool = pool_class(max_connections=PLACES, **{**server.connection_kwargs, **options})
    client = Redis(connection_pool=pool)
    holder = spawn(hold, client, name="holder")
    wait_until_blocked(server)
    with pytest.raises(ConnectionLimitError, match=said):
        client.blpop("other", 1)
    with redis.Redis(**server.connection_kwargs) as observer:
        observer.rpush("other", "element")
        observer.rpush("held", "element")
    assert holder.join(30)
    assert list(client.blpop("other", 30)) == [b"other", b"element"]  # there is a place again
    pool.disconnect()


def test_none_is_for_ever(start_server):
    """Far longer than socket_timeout, as in redis-py."""
    server = start_server(transport="tcp")
    options = {**server.connection_kwargs, "socket_timeout": 0.05}
    pool = BlockingConnectionPool(max_connections=PLACES, timeout=None, **options)
    client = Redis(connection_pool=pool)
    holder = spawn(hold, client, name="holder")
    wait_until_blocked(server)
    got = []

    def wait_for_place():
        got.append(list(client.blpop("other", 30)))

    waiter = spawn(wait_for_place, name="waiter")
    sleep(0.3)
    assert not waiter.is_done()
    with redis.Redis(**server.connection_kwargs) as observer:
        observer.rpush("other", "element")
        observer.rpush("held", "element")
    assert holder.join(30)
    assert waiter.join(30)
    assert got == [[b"other", b"element"]]
    pool.disconnect()


@pytest.mark.parametrize("timeout", [-1, "x", float("nan")])
def test_a_wait_that_is_none_is_refused(timeout):
    with pytest.raises(ValueError, match="timeout must be >= 0, got"):
        Redis(connection_pool=BlockingConnectionPool(timeout=timeout))
