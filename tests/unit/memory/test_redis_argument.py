"""What `redis=` takes: clients of the system's own world that give bytes, URLs of servers. The rest is refused when given."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import redis
import redis.asyncio

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory import ResilientRedisClient
from agent_memory.memory import AsyncMemorySystem, MemorySystem

BLOCKING = [redis.Redis, agent_memory.redis.Redis]
ASYNCIO = [redis.asyncio.Redis, agent_memory.redis.asyncio.Redis]


@pytest.mark.parametrize("make", BLOCKING)
def test_a_blocking_client_is_for_the_blocking_system(make, tmp_path):
    with contextlib.closing(make()) as client:
        MemorySystem(tmp_path, redis=client)
        with pytest.raises(
            TypeError, match=r"redis must be an asyncio client.* got .*Redis, which is for MemorySystem"
        ):
            AsyncMemorySystem(tmp_path, redis=client)


@pytest.mark.parametrize("make", ASYNCIO)
def test_an_asyncio_client_is_for_the_asyncio_system(make, tmp_path):
    client = make()
    AsyncMemorySystem(tmp_path, redis=client)
    with pytest.raises(
        TypeError, match=r"redis must be a blocking client.* got .*Redis, which is for AsyncMemorySystem"
    ):
        MemorySystem(tmp_path, redis=client)
    asyncio.run(client.aclose())


def test_a_cluster_client_is_of_its_world_too(tmp_path):
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=1)
    AsyncMemorySystem(tmp_path, redis=client)
    with pytest.raises(TypeError, match="blocking client"):
        MemorySystem(tmp_path, redis=client)
    decoding = redis.asyncio.RedisCluster(host="127.0.0.1", port=1, decode_responses=True)
    with pytest.raises(ValueError, match="decode_responses=False"):
        AsyncMemorySystem(tmp_path, redis=decoding)


@pytest.mark.parametrize("make", BLOCKING)
def test_a_client_that_decodes_is_refused(make, tmp_path):
    with (
        contextlib.closing(make(decode_responses=True)) as client,
        pytest.raises(ValueError, match=r"redis must be a client with decode_responses=False .* got .* with True"),
    ):
        MemorySystem(tmp_path, redis=client)


@pytest.mark.parametrize("make", ASYNCIO)
def test_an_asyncio_client_that_decodes_is_refused(make, tmp_path):
    client = make(decode_responses=True)
    with pytest.raises(ValueError, match="decode_responses=False"):
        AsyncMemorySystem(tmp_path, redis=client)
    asyncio.run(client.aclose())


@pytest.mark.parametrize("system", [MemorySystem, AsyncMemorySystem])
def test_what_is_no_client_and_no_url_is_refused(system, tmp_path):
    for given in (6379, b"redis://localhost", ResilientRedisClient, object()):
        with pytest.raises(TypeError, match="redis must be a"):
            system(tmp_path, redis=given)
    for given in ("localhost:6379", "http://:secret@localhost", "", "Embedded"):
        with pytest.raises(ValueError, match="redis must be 'embedded', a redis://") as refusal:
            system(tmp_path, redis=given)
        assert "secret" not in str(refusal.value)
    with pytest.raises(ValueError, match="without decode_responses"):
        system(tmp_path, redis="redis://localhost?decode_responses=True")
    assert list(tmp_path.iterdir()) == []
    for given in (
        None,
        "embedded",
        "redis://localhost:1/0?decode_responses=no",
        "rediss://localhost",
        "unix:///tmp/none",
    ):
        system(tmp_path, redis=given)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("make", BLOCKING)
def test_clients_that_are_taken_work(make, protocol, valkey, tmp_path):
    with (
        contextlib.closing(make(**valkey.connection_kwargs, protocol=protocol)) as client,
        MemorySystem(tmp_path, redis=client) as memory,
    ):
        stored = memory.store("agent", "likes tea", durability="redis")
        assert memory.sync().synced == 1
        assert memory.get("agent", stored).content == "likes tea"
        assert memory.stats()["redis"]["here"]
