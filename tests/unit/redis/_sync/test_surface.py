# Generated from ../_async/test_surface.py by tools/generate_sync.py: edit that file, not this one.

"""What `dir()` of a drop-in client shows: redis-py's names and what is documented."""

import redis

from agent_memory.redis import Redis

OWN = {"endpoint", "guard", "resolve", "resolve_records", "stats"}


def names_of(thing):
    return {name for name in dir(thing) if not (name.startswith("__") and name.endswith("__"))}


def test_a_client_shows_redis_py_s_names_and_what_is_documented():
    client = Redis()
    theirs = {name for name in names_of(redis.Redis()) if not name.startswith("_")}
    assert names_of(client) == theirs | OWN
    assert all(getattr(type(client), name).__doc__ for name in OWN - {"guard"})
    assert "__class__" in dir(client)


def test_what_a_subclass_adds_is_shown():
    class Own(Redis):
        def greet(self):
            """A command of its own."""

    assert "greet" in dir(Own())
