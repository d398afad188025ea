"""The listed commands, and every other command of redis-py, on a real server."""

import pytest
import pytest_asyncio
import redis.asyncio
from redis.exceptions import ResponseError

from agent_memory.storage.async_redis_client import AsyncResilientRedisClient


@pytest_asyncio.fixture(params=["own", "injected redis-py", "injected drop-in"])
async def client(request, address):
    if request.param == "own":
        injected = None
    elif request.param == "injected redis-py":
        injected = redis.asyncio.Redis(**address, decode_responses=True)
    else:
        from agent_memory.redis.asyncio import Redis

        injected = Redis(**address, decode_responses=True)
    async with AsyncResilientRedisClient("commands", **address, client=injected) as client:
        yield client
    if injected is not None:
        await injected.aclose()


async def test_strings_and_keys(client):
    assert await client.ping() is True
    assert await client.get("key") is None
    assert await client.set("key", "value") is True
    assert await client.set("key", "other", nx=True) is None
    assert await client.set(key="key", value="value", ex=100) is True
    assert await client.get(key="key") == "value"
    assert await client.exists("key", "no key") == 1
    assert await client.expire("key", 100) is True
    assert await client.expire("no key", time=100) is False
    assert await client.delete("key", "no key") == 1


async def test_hashes(client):
    assert await client.hset("hash", "a", "1") == 1
    assert await client.hset(name="hash", key="a", value="2") == 0
    assert await client.hset("hash", mapping={"b": "3"}) == 1
    assert await client.hget("hash", "a") == "2"
    assert await client.hget("hash", "z") is None
    assert await client.hset_dict("hash", {"b": 3, "c": 4}) == 1
    assert await client.hgetall("hash") == {"a": "2", "b": "3", "c": "4"}
    assert await client.hdel("hash", "a", "z") == 1
    with pytest.warns(DeprecationWarning, match="use hset_dict"):
        assert await client.hmset("hash", {"d": 5}) == 1
    assert await client.hgetall("no hash") == {}


async def test_sorted_sets(client):
    assert await client.zadd("zset", {"a": 1, "b": 2, "c": 3}) == 3
    assert await client.zadd("zset", {"a": 5}, xx=True, ch=True) == 1
    assert await client.zrange("zset", 0, -1) == ["b", "c", "a"]
    assert await client.zrange("zset", 0, 0, withscores=True) == [("b", 2.0)]
    assert await client.zrangebyscore("zset", 2, "+inf", start=1, num=1) == ["c"]
    assert await client.zrem("zset", "b", "z") == 1
    assert await client.zcard("zset") == 2


async def test_scan_iter(client):
    for number in range(50):
        await client.set(f"scan:{number}", number)
    await client.set("other", 1)
    keys = [key async for key in client.scan_iter("scan:*", 7)]
    assert set(keys) == {f"scan:{number}" for number in range(50)}
    assert {key async for key in client.scan_iter(match="other", count=100)} == {"other"}


async def test_commands_beyond_the_listed(client):
    assert await client.lpush("list", "a", "b") == 2
    assert await client.lrange("list", 0, -1) == ["b", "a"]
    assert await client.incrby("number", 5) == 5
    assert await client.execute_command("GET", "number") == "5"
    assert await client.config_get("maxmemory") == {"maxmemory": "0"}


async def test_pipeline_is_one_guarded_call(client):
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.set("a", 1).incr("a")
        pipeline.get("a")
        assert len(pipeline) == 3
        assert await pipeline.execute() == [True, 2, "2"]
    operations = client.stats()["operations"]
    calls = {name.lower(): figures["calls"] for name, figures in operations.items() if figures["calls"]}
    assert calls.pop("ping") == 1
    assert calls == {"pipeline": 1}


async def test_pipeline_with_watch(client):
    await client.set("watched", 1)
    async with client.pipeline() as pipeline:
        await pipeline.watch("watched")
        value = int(await pipeline.get("watched"))
        pipeline.multi()
        pipeline.set("watched", value + 1)
        assert await pipeline.execute() == [True]
    assert await client.get("watched") == "2"


async def test_lua_scripts(client):
    script = client.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    assert await script(keys=["counter"], args=[2]) == 2
    assert await script(keys=["counter"], args=[3]) == 5
    async with client.pipeline() as pipeline:
        await script(keys=["counter"], args=[1], client=pipeline)
        assert await pipeline.execute() == [6]
    assert await client.eval("return ARGV[1]", 0, "x") == "x"


async def test_errors_of_the_server_are_raised_as_they_are_and_open_nothing(client):
    await client.set("text", "value")
    for _ in range(10):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await client.hget("text", "field")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await client.lpush("text", "a")
    assert client.state == "closed"


async def test_unknown_attributes(client):
    with pytest.raises(AttributeError):
        client.no_such_command  # noqa: B018
    with pytest.raises(AttributeError):
        client._no_such_name  # noqa: B018
    assert "lpush" in dir(client)
    assert "store_with_retry" in dir(client)


async def test_bytes_on_request(address):
    async with AsyncResilientRedisClient("bytes", **address, decode_responses=False) as client:
        await client.set("key", b"\xff\x00")
        assert await client.get("key") == b"\xff\x00"
