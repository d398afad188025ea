# Generated from ../_async/test_announced_driver.py by tools/generate_sync.py: edit that file, not this one.

"""What a connection tells the server about its driver is what redis-py would tell it, unless the caller says otherwise."""

from __future__ import annotations

import pytest
import redis
import servers
from redis.driver_info import DriverInfo

from agent_memory.redis import Redis


def announced(client):
    try:
        seen = client.client_info()
        return seen.get("lib-name", ""), seen.get("lib-ver", "")
    finally:
        client.close()


def test_the_driver_is_redis_py_of_the_installed_version(start_server):
    arguments = start_server(servers.VALKEY).connection_kwargs
    assert announced(Redis(**arguments)) == ("redis-py", redis.__version__)


def test_the_driver_is_the_same_for_a_url(start_server):
    arguments = dict(start_server(servers.VALKEY, transport="tcp").connection_kwargs)
    url = f"redis://{arguments.pop('host')}:{arguments.pop('port')}"
    assert announced(Redis.from_url(url, **arguments)) == ("redis-py", redis.__version__)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"driver_info": DriverInfo(name="mine", lib_version="1.2")}, ("mine", "1.2")),
        ({"driver_info": None}, ("", "")),
    ],
)
def test_what_the_caller_says_of_the_driver_is_sent(start_server, given, expected):
    arguments = start_server(servers.VALKEY).connection_kwargs
    assert announced(Redis(**arguments, **given)) == expected
