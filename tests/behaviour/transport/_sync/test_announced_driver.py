# Generated from ../_async/test_announced_driver.py by tools/generate_sync.py: edit that file, not this one.

"""What CLIENT LIST shows of a connection: redis-py with this package on it, and the client's name, unless told otherwise."""

from __future__ import annotations

import pytest
import redis
import servers
from redis import ConnectionPool

import agent_memory
from agent_memory.redis import Redis
from agent_memory.redis.redis_py_internals.features import DriverInfo
from agent_memory.storage.redis_client import ResilientRedisClient

OURS = (f"redis-py(agent-memory_v{agent_memory.__version__})", redis.__version__)


@pytest.fixture(params=[servers.VALKEY, servers.REDIS])
def announced_to(request, start_server):
    """A server that knows CLIENT SETINFO."""
    return start_server(request.param, transport="tcp")


def announced(client):
    try:
        seen = client.client_info()
        return seen.get("lib-name", ""), seen.get("lib-ver", "")
    finally:
        client.close()


def test_the_driver_is_redis_py_with_this_package_on_it(start_server):
    assert announced(Redis(**start_server(servers.VALKEY).connection_kwargs)) == OURS


def test_the_driver_is_the_same_for_a_url_and_for_a_pool(start_server):
    server = start_server(servers.VALKEY, transport="tcp")
    assert announced(Redis.from_url(server.url)) == OURS
    assert announced(Redis.from_pool(ConnectionPool.from_url(server.url))) == OURS


def test_client_list_shows_driver_and_name(announced_to):
    arguments = announced_to.connection_kwargs
    client = Redis(**arguments, client_name="checkout")
    resilient = ResilientRedisClient("orders", **arguments, connection_name="orders-1")
    resilient.set("key", 1)
    listed = {row["name"]: row for row in client.client_list()}
    assert {"checkout", "orders-1"} <= listed.keys()
    if "lib-name" in listed["checkout"]:  # since Redis 7.2
        assert {(row["lib-name"], row["lib-ver"]) for row in listed.values()} == {OURS}
    client.close()
    resilient.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"driver_info": DriverInfo(name="mine", lib_version="1.2")}, ("mine", "1.2")),
        ({"driver_info": None}, ("", "")),
    ]
    if DriverInfo is not None  # since redis-py 7.2, where what was before is deprecated
    else [
        ({"lib_name": "mine", "lib_version": "1.2"}, ("mine", "1.2")),
        ({"lib_name": None, "lib_version": None}, ("", "")),
    ],
)
def test_what_the_caller_says_of_the_driver_is_sent(start_server, given, expected):
    arguments = start_server(servers.VALKEY).connection_kwargs
    assert announced(Redis(**arguments, **given)) == expected
