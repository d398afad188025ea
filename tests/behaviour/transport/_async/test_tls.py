"""Replies over TLS: however many records they come in, every caller gets its own."""

from __future__ import annotations

import random

from agent_memory._concurrency import async_gather, async_spawn
from agent_memory.redis.asyncio import Redis as AsyncRedis


async def test_a_reply_of_many_records(tls_server):
    async with AsyncRedis(**tls_server.connection_kwargs) as client:
        for size in (16_384, 16_385, 100_000, 1_000_000):
            value = random.Random(size).randbytes(size)
            await client.set("large", value)
            assert await client.get("large") == value
            assert await client.pipeline(transaction=False).get("large").get("large").execute() == [value, value]


async def test_replies_of_all_sizes_at_once(tls_server):
    async with AsyncRedis(**tls_server.connection_kwargs) as client:
        values = {f"key:{number}": bytes([number % 251]) * (number * 97 % 30_000) for number in range(200)}
        await client.mset(values)

        async def get(key):
            assert await client.get(key) == values[key]

        for _ in range(5):
            await async_gather(*[async_spawn(get, key) for key in values])
