# Generated from ../_async/test_urls.py by tools/generate_sync.py: edit that file, not this one.

"""What a URL says is used: by the drop-in as by redis-py, by the resilient client too; else it is refused by name."""

from __future__ import annotations

import pytest
import redis

from agent_memory import ResilientRedisClient, __version__
from agent_memory.redis import Redis

# redis-py would rather have driver_info=, which a URL cannot hold.
pytestmark = pytest.mark.filterwarnings("ignore:Call to '__init__' function with deprecated usage:DeprecationWarning")

OUR_DRIVER = f"redis-py(agent-memory_v{__version__})"


def url_of(server, query):
    return f"{server.url}?{query}"


def facts_of(client):
    """The name and the library that the server knows the connection by."""
    client.ping()
    facts = client.client_info()
    client.close()
    return facts["name"], facts["lib-name"], facts["lib-ver"]


@pytest.mark.parametrize(
    ("query", "known"),
    [
        ("client_name=app", ("app", OUR_DRIVER, redis.__version__)),
        ("lib_name=app&lib_version=9", ("", "app", "9")),
        ("lib_name=app", ("", "app", redis.__version__)),
    ],
)
def test_the_drop_in_uses_names(valkey, query, known):
    assert facts_of(Redis.from_url(url_of(valkey, query), decode_responses=True)) == known


@pytest.mark.parametrize(("text", "flag"), [("true", True), ("1", True), ("False", False), ("no", False), ("0", False)])
def test_switches_are_no_text(valkey, text, flag):
    client = Redis.from_url(url_of(valkey, f"decode_responses={text}"))
    client.set("key", "value")
    assert client.get("key") == ("value" if flag else b"value")
    client.close()


def test_a_query_wins_over_arguments(valkey):
    client = Redis.from_url(url_of(valkey, "lib_name=url&decode_responses=true"), lib_name="argument", db=0)
    assert facts_of(client)[1] == "url"
    resilient = ResilientRedisClient.from_url(url_of(valkey, "client_name=url"), client_name="argument")
    assert resilient.client_name == "url"
    resilient.close()


def test_the_resilient_client_uses_names(valkey):
    url = url_of(valkey, "client_name=app&lib_name=lib&lib_version=9")
    with ResilientRedisClient.from_url(url, "argument") as client:
        assert client.client_name == client.guard.name == "app"
        facts = client.client_info()
        assert (facts["name"], facts["lib-name"], facts["lib-ver"]) == ("app", "lib", "9")
    with ResilientRedisClient("own", connection_name="shown", **valkey.connection_kwargs) as client:
        assert client.client_name == "own"
        assert client.client_info()["name"] == "shown"


@pytest.mark.parametrize("query", ["retry_on_error=x", "retry=3", "socket_timeout=-1", "db=x", "bogus=1"])
def test_what_a_query_gets_wrong_is_refused_by_name(valkey, query):
    name = query.split("=", 1)[0]
    for make in (Redis.from_url, ResilientRedisClient.from_url):
        with pytest.raises((ValueError, TypeError), match=name):
            make(url_of(valkey, query))


def test_an_embedded_server_takes_names():
    with ResilientRedisClient.from_url("embedded://?client_name=app") as client:
        assert client.client_name == "app"
        assert client.client_info()["name"] == "app"
