# Generated from ../_async/test_commands.py by tools/generate_sync.py: edit that file, not this one.

"""The listed commands, and every other command of redis-py, on a real server."""

import pytest
import redis
from redis.exceptions import ResponseError

from agent_memory.storage.redis_client import ResilientRedisClient


@pytest.fixture(params=["own", "injected redis-py", "injected drop-in"])
def client(request, address):
    if request.param == "own":
        injected = None
    elif request.param == "injected redis-py":
        injected = redis.Redis(**address, decode_responses=True)
    else:
        from agent_memory.redis import Redis

        injected = Redis(**address, decode_responses=True)
    with ResilientRedisClient("commands", **address, client=injected) as client:
        yield client
    if injected is not None:
        injected.close()


def test_strings_and_keys(client):
    assert client.ping() is True
    assert client.get("key") is None
    assert client.set("key", "value") is True
    assert client.set("key", "other", nx=True) is None
    assert client.set(key="key", value="value", ex=100) is True
    assert client.get(key="key") == "value"
    assert client.exists("key", "no key") == 1
    assert client.expire("key", 100) is True
    assert client.expire("no key", time=100) is False
    assert client.delete("key", "no key") == 1


def test_hashes(client):
    assert client.hset("hash", "a", "1") == 1
    assert client.hset(name="hash", key="a", value="2") == 0
    assert client.hset("hash", mapping={"b": "3"}) == 1
    assert client.hget("hash", "a") == "2"
    assert client.hget("hash", "z") is None
    assert client.hset_dict("hash", {"b": 3, "c": 4}) == 1
    assert client.hgetall("hash") == {"a": "2", "b": "3", "c": "4"}
    assert client.hdel("hash", "a", "z") == 1
    with pytest.warns(DeprecationWarning, match="use hset_dict"):
        assert client.hmset("hash", {"d": 5}) == 1
    assert client.hgetall("no hash") == {}


def test_sorted_sets(client):
    assert client.zadd("zset", {"a": 1, "b": 2, "c": 3}) == 3
    assert client.zadd("zset", {"a": 5}, xx=True, ch=True) == 1
    assert client.zrange("zset", 0, -1) == ["b", "c", "a"]
    assert client.zrange("zset", 0, 0, withscores=True) == [("b", 2.0)]
    assert client.zrangebyscore("zset", 2, "+inf", start=1, num=1) == ["c"]
    assert client.zrem("zset", "b", "z") == 1
    assert client.zcard("zset") == 2


def test_scan_iter(client):
    for number in range(50):
        client.set(f"scan:{number}", number)
    client.set("other", 1)
    keys = list(client.scan_iter("scan:*", 7))
    assert set(keys) == {f"scan:{number}" for number in range(50)}
    assert set(client.scan_iter(match="other", count=100)) == {"other"}


def test_commands_beyond_the_listed(client):
    assert client.lpush("list", "a", "b") == 2
    assert client.lrange("list", 0, -1) == ["b", "a"]
    assert client.incrby("number", 5) == 5
    assert client.execute_command("GET", "number") == "5"
    assert client.config_get("maxmemory") == {"maxmemory": "0"}


def test_pipeline_is_one_guarded_call(client):
    with client.pipeline(transaction=True) as pipeline:
        pipeline.set("a", 1).incr("a")
        pipeline.get("a")
        assert len(pipeline) == 3
        assert pipeline.execute() == [True, 2, "2"]
    operations = client.stats()["operations"]
    calls = {name.lower(): figures["calls"] for name, figures in operations.items() if figures["calls"]}
    assert calls.pop("ping") == 1
    assert calls == {"pipeline": 1}


def test_pipeline_with_watch(client):
    client.set("watched", 1)
    with client.pipeline() as pipeline:
        pipeline.watch("watched")
        value = int(pipeline.get("watched"))
        pipeline.multi()
        pipeline.set("watched", value + 1)
        assert pipeline.execute() == [True]
    assert client.get("watched") == "2"


def test_lua_scripts(client):
    script = client.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    assert script(keys=["counter"], args=[2]) == 2
    assert script(keys=["counter"], args=[3]) == 5
    with client.pipeline() as pipeline:
        script(keys=["counter"], args=[1], client=pipeline)
        assert pipeline.execute() == [6]
    assert client.eval("return ARGV[1]", 0, "x") == "x"


def test_errors_of_the_server_are_raised_as_they_are_and_open_nothing(client):
    client.set("text", "value")
    for _ in range(10):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            client.hget("text", "field")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            client.lpush("text", "a")
    assert client.state == "closed"


def test_unknown_attributes(client):
    with pytest.raises(AttributeError):
        client.no_such_command  # noqa: B018
    with pytest.raises(AttributeError):
        client._no_such_name  # noqa: B018
    assert "lpush" in dir(client)
    assert "store_with_retry" in dir(client)


def test_bytes_on_request(address):
    with ResilientRedisClient("bytes", **address, decode_responses=False) as client:
        client.set("key", b"\xff\x00")
        assert client.get("key") == b"\xff\x00"
