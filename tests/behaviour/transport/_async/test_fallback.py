"""A server that refuses RESP3 is spoken to in RESP2, and replies keep their shapes."""

from __future__ import annotations

import inspect

import pytest
import redis
import servers

from agent_memory.redis.asyncio import Redis as AsyncRedis

HAS_SHAPES = "legacy_responses" in inspect.signature(redis.Redis).parameters
"""Redis-py chooses the shapes of replies, and speaks RESP3 by default: since 8.0."""
DEFAULT_PROTOCOL = 3 if HAS_SHAPES else 2
COMMANDS = [
    ("HGETALL", "hash"),
    ("ZRANGE", "zset", 0, -1),
    ("SMEMBERS", "set"),
    ("CONFIG GET", "maxmemory"),
    ("XRANGE", "stream", "-", "+"),
    ("GET", "string"),
    ("EXISTS", "string", "nothing"),
]


async def shapes(client):
    await client.hset("hash", mapping={"a": "1", "b": "2"})
    await client.zadd("zset", {"one": 1.5, "two": 2.0})
    await client.sadd("set", "member")
    await client.delete("stream")
    await client.xadd("stream", {"field": "value"}, id="1-1")
    await client.set("string", "value")
    replies = [await client.execute_command(*command) for command in COMMANDS]
    replies.append(await client.zrange("zset", 0, -1, withscores=True))
    replies.append(await client.zscore("zset", "one"))
    replies.append(await client.pipeline().hgetall("hash").zscore("zset", "two").execute())
    return replies


@pytest.mark.parametrize("legacy_responses", [True, False] if HAS_SHAPES else [True])
@pytest.mark.parametrize("protocol", [None, 2, 3])
async def test_replies_keep_their_shapes(start_server, protocol, legacy_responses):
    options = {"protocol": protocol or DEFAULT_PROTOCOL, "decode_responses": True}
    if HAS_SHAPES:
        options |= {"protocol": protocol, "legacy_responses": legacy_responses}
    seen = []
    for config in ({}, {"rename-command": 'HELLO ""'}):
        server = start_server(servers.REDIS, config=config)
        client = AsyncRedis(**server.connection_kwargs, **options)
        seen.append(await shapes(client))
        assert client.transport_here().protocol == (2 if config else protocol or DEFAULT_PROTOCOL)
        await client.aclose()
    if protocol == 3 and not HAS_SHAPES:  # those of RESP2: redis-py has no callbacks that make the others of them
        return
    assert seen[0] == seen[1]
    assert [type(reply) for reply in seen[0]] == [type(reply) for reply in seen[1]]
