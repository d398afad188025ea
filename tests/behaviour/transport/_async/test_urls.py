"""What a URL says is used: by the drop-in as by redis-py, by the resilient client too; else it is refused by name."""

from __future__ import annotations

import pytest
import redis

from agent_memory import AsyncResilientRedisClient, __version__
from agent_memory.redis.asyncio import Redis as AsyncRedis

# redis-py would rather have driver_info=, which a URL cannot hold.
pytestmark = pytest.mark.filterwarnings("ignore:Call to '__init__' function with deprecated usage:DeprecationWarning")

OUR_DRIVER = f"redis-py(agent-memory_v{__version__})"


def url_of(server, query):
    return f"{server.url}?{query}"


async def facts_of(client):
    """The name and the library that the server knows the connection by."""
    await client.ping()
    facts = await client.client_info()
    await client.aclose()
    return facts["name"], facts["lib-name"], facts["lib-ver"]


@pytest.mark.parametrize(
    ("query", "known"),
    [
        ("client_name=app", ("app", OUR_DRIVER, redis.__version__)),
        ("lib_name=app&lib_version=9", ("", "app", "9")),
        ("lib_name=app", ("", "app", redis.__version__)),
    ],
)
async def test_the_drop_in_uses_names(valkey, query, known):
    assert await facts_of(AsyncRedis.from_url(url_of(valkey, query), decode_responses=True)) == known


@pytest.mark.parametrize(("text", "flag"), [("true", True), ("1", True), ("False", False), ("no", False), ("0", False)])
async def test_switches_are_no_text(valkey, text, flag):
    client = AsyncRedis.from_url(url_of(valkey, f"decode_responses={text}"))
    await client.set("key", "value")
    assert await client.get("key") == ("value" if flag else b"value")
    await client.aclose()


async def test_a_query_wins_over_arguments(valkey):
    client = AsyncRedis.from_url(url_of(valkey, "lib_name=url&decode_responses=true"), lib_name="argument", db=0)
    assert (await facts_of(client))[1] == "url"
    resilient = AsyncResilientRedisClient.from_url(url_of(valkey, "client_name=url"), client_name="argument")
    assert resilient.client_name == "url"
    await resilient.close()


async def test_the_resilient_client_uses_names(valkey):
    url = url_of(valkey, "client_name=app&lib_name=lib&lib_version=9")
    async with AsyncResilientRedisClient.from_url(url, "argument") as client:
        assert client.client_name == client.guard.name == "app"
        facts = await client.client_info()
        assert (facts["name"], facts["lib-name"], facts["lib-ver"]) == ("app", "lib", "9")
    async with AsyncResilientRedisClient("own", connection_name="shown", **valkey.connection_kwargs) as client:
        assert client.client_name == "own"
        assert (await client.client_info())["name"] == "shown"


@pytest.mark.parametrize("query", ["retry_on_error=x", "retry=3", "socket_timeout=-1", "db=x", "bogus=1"])
async def test_what_a_query_gets_wrong_is_refused_by_name(valkey, query):
    name = query.split("=", 1)[0]
    for make in (AsyncRedis.from_url, AsyncResilientRedisClient.from_url):
        with pytest.raises((ValueError, TypeError), match=name):
            make(url_of(valkey, query))


async def test_an_embedded_server_takes_names():
    async with AsyncResilientRedisClient.from_url("embedded://?client_name=app") as client:
        assert client.client_name == "app"
        assert (await client.client_info())["name"] == "app"
