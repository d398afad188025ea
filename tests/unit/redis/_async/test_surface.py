"""What `dir()` of a drop-in client shows: redis-py's names and what is documented."""

import redis.asyncio

from agent_memory._concurrency import ASYNC
from agent_memory.redis.asyncio import Redis

OWN = {"endpoint", "guard", "resolve", "resolve_records", "stats"}
if ASYNC:
    OWN |= {"cache", "cached"}  # client-side caching is for asyncio so far


def names_of(thing):
    return {name for name in dir(thing) if not (name.startswith("__") and name.endswith("__"))}


async def test_a_client_shows_redis_py_s_names_and_what_is_documented():
    client = Redis()
    theirs = {name for name in names_of(redis.asyncio.Redis()) if not name.startswith("_")}
    assert names_of(client) == theirs | OWN
    assert all(getattr(type(client), name).__doc__ for name in OWN - {"guard"})
    assert "__class__" in dir(client)


async def test_what_a_subclass_adds_is_shown():
    class Own(Redis):
        async def greet(self):
            """A command of its own."""

    assert "greet" in dir(Own())
