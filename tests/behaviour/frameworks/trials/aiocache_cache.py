"""aiocache: its cache and its decorator through an outage."""

# needs: aiocache
import asyncio

import aiocache
from outage import Outage

import agent_memory.redis.asyncio

with Outage() as outage, asyncio.Runner() as runner:
    page = outage.page("aiocache")
    address = outage.proxy.connection_kwargs
    cache = page.make_cache(address["host"], address["port"], address.get("password"))
    assert type(cache.client) is agent_memory.redis.asyncio.Redis

    async def use():
        await cache.set("key", "value", ttl=60)
        assert await cache.get("key") == "value"

    outage.endure(lambda: runner.run(use()))

    @aiocache.cached(cache=aiocache.RedisCache)
    async def answer():
        return 42

    answer.cache = cache
    outage.server.kill()
    assert runner.run(answer()) == 42
    runner.run(cache.close())
