"""The methods that are the extension's show what redis-py's functions show, and the resilient clients' their own."""

import inspect
import types

import pytest
import redis
import redis.asyncio

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory.redis.commands.direct import DIRECT
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient
from agent_memory.storage.redis_client import ResilientRedisClient

TWINS = [(agent_memory.redis.Redis, redis.Redis), (agent_memory.redis.asyncio.Redis, redis.asyncio.Redis)]
LISTED = "get set delete exists expire hset hget hgetall hdel zrem zcard".split()


def face_of(owner, name):
    return next(vars(each)[name] for each in owner.__mro__ if name in vars(each))


@pytest.mark.parametrize(("client", "peer"), TWINS, ids=["sync", "asyncio"])
@pytest.mark.parametrize("name", DIRECT)
def test_they_show_redis_pys_function(client, peer, name):
    ours, theirs = getattr(client, name), getattr(peer, name)
    assert type(face_of(client, name)).__name__ == "Face"
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert (ours.__name__, ours.__qualname__, ours.__module__) == (
        theirs.__name__,
        theirs.__qualname__,
        theirs.__module__,
    )
    assert ours.__doc__ == theirs.__doc__
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)
    assert ours.__annotations__ == theirs.__annotations__
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)
    assert inspect.isfunction(ours)
    assert isinstance(ours, types.FunctionType)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(("client", "_peer"), TWINS, ids=["sync", "asyncio"])
def test_they_bind_as_functions_do(client, _peer):
    one = client(host="nowhere")
    assert inspect.ismethod(one.get)
    assert one.get == one.get
    assert one.get.__self__ is one
    assert one.get.__func__ is client.get
    assert list(inspect.signature(one.get).parameters) == ["name"]


@pytest.mark.parametrize("client", [ResilientRedisClient, AsyncResilientRedisClient])
@pytest.mark.parametrize("name", LISTED)
def test_the_resilient_clients_show_their_own(client, name):
    shown = getattr(client, name)
    is_asyncio = client is AsyncResilientRedisClient
    assert type(face_of(client, name)).__name__ == "Face"
    assert shown.__name__ == name
    assert shown.__module__.startswith("agent_memory.storage")
    assert inspect.iscoroutinefunction(shown) == is_asyncio
    assert inspect.isfunction(shown)
    assert next(iter(inspect.signature(shown).parameters)) == "self"
    assert shown.__doc__.startswith(("GET", "SET", "DEL", "EX", "H", "Z"))
