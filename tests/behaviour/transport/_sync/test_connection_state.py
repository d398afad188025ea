# Generated from ../_async/test_connection_state.py by tools/generate_sync.py: edit that file, not this one.

"""Commands that change their connection, on clients whose connections carry other callers too."""

from __future__ import annotations

import pytest
from redis import BlockingConnectionPool, ConnectionPool
from redis import exceptions as redis_py

from agent_memory import ConnectionStateError, Outcome, ResiliencePolicy
from agent_memory._concurrency import sleep
from agent_memory.policy import CommandCategory
from agent_memory.redis import Redis
from agent_memory.redis.commands.bound_command import Route


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        (("MULTI",), "pipeline()"),
        (("WATCH", "key"), "pipeline()"),
        (("CLIENT REPLY", "OFF"), "client()"),
        (("CLIENT TRACKING", "ON"), "client()"),
        (("SUBSCRIBE", "channel"), "pubsub()"),
        (("ASKING",), "client()"),
    ],
)
def test_what_only_means_something_to_later_commands_is_refused(server, connect, command, instead):
    client = connect(server)
    before = client.info("stats")["total_connections_received"]
    with pytest.raises(ConnectionStateError, match=command[0]) as refused:
        client.execute_command(*command)
    assert instead in str(refused.value)
    assert refused.value.outcome is Outcome.NOT_SENT
    assert client.info("stats")["total_connections_received"] == before
    assert client.ping()


def test_a_pinned_connection_takes_them(server, connect):
    client = connect(server).client()
    client.execute_command("SELECT", 3)
    client.set("in three", "value")
    assert client.info("keyspace")["db3"]["keys"] == 1
    assert client.execute_command("CLIENT TRACKING", "ON")
    client.flushdb()
    client.close()


def test_select_warns_and_leaves_the_client_where_it_is(server, connect):
    client = connect(server)
    client.set("key", "here")
    with pytest.warns(RuntimeWarning, match="SELECT"):
        client.execute_command("SELECT", 3)
    assert client.get("key") == b"here"


def test_a_name_stays_with_the_connection_that_carries_the_commands(server, connect):
    client = connect(server)
    assert client.client_setname("worker")
    assert client.client_getname() == "worker"
    pipeline = client.pipeline(transaction=False)
    pipeline.client_setname("renamed").client_getname()
    assert pipeline.execute()[1] in ("renamed", b"renamed")


def test_a_password_is_only_checked(start_server, connect):
    server = start_server("valkey")
    client = connect(server)
    with pytest.raises(redis_py.AuthenticationError):
        client.auth("nobody", "no such user")
    assert client.ping()


def test_categories_of_the_user_win(server, connect):
    categories = {"JSON.GET": CommandCategory.READ, "GET": CommandCategory.BLOCKING}
    client = connect(server, resilience=ResiliencePolicy(categories=categories))
    assert client.bound_commands["json.get"].only_reads
    assert client.bound_commands["JSON.SET"].category is CommandCategory.RELATIVE_WRITE
    assert client.bound_commands["GET"].route is Route.BLOCKING
    client.set("key", "value")
    assert client.get("key") == b"value"


@pytest.mark.parametrize(
    ("categories", "error", "message"),
    [
        (
            {"json.get": CommandCategory.READ},
            ValueError,
            "keyed by upper-case command names, got 'json.get'",
        ),
        ({"JSON.GET": 1}, TypeError, r"categories\['JSON.GET'\] must be a CommandCategory, got 1"),
    ],
)
def test_categories_are_checked(categories, error, message):
    with pytest.raises(error, match=message):
        ResiliencePolicy(categories=categories)


@pytest.mark.parametrize("pool_class", [ConnectionPool, BlockingConnectionPool])
@pytest.mark.parametrize("how", ["disconnect", "disconnect idle", "reset"])
def test_what_is_done_to_the_pool_is_done_to_our_connections(server, pool_class, how):
    pool = pool_class(**server.connection_kwargs)
    client, sibling = Redis(connection_pool=pool), Redis(connection_pool=pool)
    witness = Redis(**server.connection_kwargs)
    try:
        before = client.client_id()
        assert sibling.client_id() == before
        if how == "reset":
            pool.reset()
        else:
            pool.disconnect(inuse_connections=how == "disconnect")
        while before in [int(connection["id"]) for connection in witness.client_list()]:
            sleep(0.01)
        assert client.client_id() != before
        assert not any(client.stats()["operations"]["CLIENT ID"]["failures"].values())
    finally:
        witness.close()
        pool.disconnect()
