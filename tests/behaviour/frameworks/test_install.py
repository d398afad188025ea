"""`install()` and `uninstall()`: which names change, that they are put back, and that the resilient clients recognise them."""

import subprocess
import sys
import textwrap
from unittest import mock

import pytest
import redis
import redis.asyncio
import redis.asyncio.client
import redis.asyncio.sentinel
import redis.client
import redis.sentinel
import redis.utils

import agent_memory.redis
import agent_memory.redis.asyncio
import agent_memory.redis.asyncio.sentinel
import agent_memory.redis.sentinel
from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis import install, is_installed, uninstall
from agent_memory.redis.originals import AsyncRedisPy, RedisPy

MODULES = [module for name, module in sys.modules.items() if name.partition(".")[0] == "redis"]


def names():
    return {(module.__name__, name): id(value) for module in MODULES for name, value in vars(module).items()}


@pytest.fixture(autouse=True)
def put_back():
    yield
    uninstall()


def test_the_names_are_ours_and_are_put_back_exactly():
    before = names()
    install()
    changed = {name for name, value in names().items() if value != before[name]}
    assert changed == {
        (module, name)
        for module, replaced in {
            "redis": ("Redis", "StrictRedis", "Sentinel"),
            "redis.client": ("Redis", "StrictRedis"),
            "redis.sentinel": ("Sentinel",),
            "redis.asyncio": ("Redis", "StrictRedis", "Sentinel"),
            "redis.asyncio.client": ("Redis", "StrictRedis"),
            "redis.asyncio.sentinel": ("Sentinel",),
        }.items()
        for name in replaced
    }
    assert redis.Redis is redis.StrictRedis is agent_memory.redis.Redis
    assert redis.asyncio.Redis is agent_memory.redis.asyncio.Redis
    assert redis.Sentinel is agent_memory.redis.sentinel.Sentinel
    assert redis.asyncio.Sentinel is agent_memory.redis.asyncio.sentinel.Sentinel
    uninstall()
    assert names() == before


def test_repeated_it_changes_nothing_more():
    before = names()
    uninstall()
    assert names() == before
    install()
    installed = names()
    install()
    assert names() == installed
    assert is_installed()
    uninstall()
    assert names() == before
    assert not is_installed()


def test_what_stands_under_a_name_keeps_it():
    class Theirs(RedisPy):
        pass

    with mock.patch("redis.Redis", Theirs):
        install()
        assert redis.Redis is Theirs
        assert not is_installed()
    install()
    with mock.patch("redis.asyncio.Redis", Theirs):
        uninstall()
        assert redis.asyncio.Redis is Theirs
    uninstall()  # the patch has put ours back
    assert redis.asyncio.Redis is AsyncRedisPy


def test_clients_know_their_base():
    install()
    assert issubclass(redis.Redis, RedisPy)
    assert issubclass(redis.asyncio.Redis, AsyncRedisPy)
    with redis.from_url("redis://127.0.0.1:1") as client:
        assert type(client) is agent_memory.redis.Redis
    assert type(redis.asyncio.from_url("redis://127.0.0.1:1")) is agent_memory.redis.asyncio.Redis


def test_the_policy_is_that_of_clients_without_one():
    def guard(**options):
        return redis.Redis(**options).guard

    install(resilience=ResiliencePolicy(probe_interval_s=None, circuit_scope="endpoint"))
    assert guard(port=1) is guard(port=1) is not guard(port=2)
    install(resilience=None)
    assert guard(port=1) is None
    assert guard(port=1, resilience=ResiliencePolicy()) is not None
    uninstall()
    one, other = agent_memory.redis.Redis(port=1), agent_memory.redis.Redis(port=1, resilience=DEFAULT_RESILIENCE)
    assert one.guard is not other.guard
    assert None not in (one.guard, other.guard)


INSTALL = "import agent_memory.redis; agent_memory.redis.install()"
CLIENTS = """
from agent_memory.storage.redis_client import ResilientRedisClient
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient
from agent_memory.memory import AsyncMemorySystem, MemorySystem
"""
SYNC_CHECK = """
client = ResilientRedisClient("c", port=1, exactly_once=True, probe_interval_s=0.5)
assert type(client.client) is agent_memory.redis.Redis, type(client.client)
assert client.client.guard is None
assert client._commands.guard is client._guard
assert client._commands._once is not None
assert client._prober is not None
with mock.patch("redis.Redis") as stand_in:
    injected = ResilientRedisClient("c", host="elsewhere")
    assert stand_in.call_args.kwargs["host"] == "elsewhere"
    assert injected.client is stand_in.return_value
    assert injected._prober is None
"""
CHECKS = (
    """
from unittest import mock
import agent_memory.redis.asyncio, redis, redis.asyncio
assert redis.Redis is agent_memory.redis.Redis
assert agent_memory.redis.Redis.__mro__.count(agent_memory.redis.Redis) == 1
"""
    + SYNC_CHECK
    + SYNC_CHECK.replace("Resilient", "AsyncResilient")
    .replace("memory.redis.Redis", "memory.redis.asyncio.Redis")
    .replace('"redis.Redis"', '"redis.asyncio.Redis"')
)


@pytest.mark.parametrize(
    "order",
    [
        (INSTALL, CLIENTS),
        (CLIENTS, INSTALL),
        ("import redis, redis.asyncio, redis.cluster", INSTALL, CLIENTS),
        (INSTALL, "import redis, redis.asyncio.cluster, redis.sentinel", CLIENTS),
        (INSTALL, INSTALL, CLIENTS),
        (INSTALL, "agent_memory.redis.uninstall()", CLIENTS, INSTALL),
    ],
)
def test_in_every_order_the_resilient_clients_know_ours(order):
    program = textwrap.dedent("\n".join((*order, CHECKS)))
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr


def test_uninstalled_the_resilient_clients_connect_by_ours_all_the_same(valkey):
    from agent_memory.storage.redis_client import ResilientRedisClient

    install()
    uninstall()
    with ResilientRedisClient("c", **valkey.connection_kwargs) as client:
        assert type(client.client) is agent_memory.redis.Redis
        assert client.ping()


def test_one_call_is_admitted_once(valkey, installed):
    from agent_memory.storage.redis_client import ResilientRedisClient

    with ResilientRedisClient("c", **valkey.connection_kwargs) as client:
        client.set("key", "value")
        assert client.get("key") == "value"
        calls = client._guard.stats()["operations"]
    assert (calls["SET"]["calls"], calls["GET"]["calls"]) == (1, 1)
