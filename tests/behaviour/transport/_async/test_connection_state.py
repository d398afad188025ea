"""Commands that change their connection, on clients whose connections carry other callers too."""

from __future__ import annotations

import pytest
from redis import exceptions as redis_py
from redis.asyncio import BlockingConnectionPool as AsyncBlockingConnectionPool
from redis.asyncio import ConnectionPool as AsyncConnectionPool

from agent_memory import ConnectionStateError, Outcome, ResiliencePolicy
from agent_memory._concurrency import async_sleep
from agent_memory.policy import CommandCategory
from agent_memory.redis.asyncio import Redis as AsyncRedis
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
async def test_what_only_means_something_to_later_commands_is_refused(server, async_connect, command, instead):
    client = async_connect(server)
    before = (await client.info("stats"))["total_connections_received"]
    with pytest.raises(ConnectionStateError, match=command[0]) as refused:
        await client.execute_command(*command)
    assert instead in str(refused.value)
    assert refused.value.outcome is Outcome.NOT_SENT
    assert (await client.info("stats"))["total_connections_received"] == before
    assert await client.ping()


async def test_a_pinned_connection_takes_them(server, async_connect):
    client = async_connect(server).client()
    await client.execute_command("SELECT", 3)
    await client.set("in three", "value")
    assert (await client.info("keyspace"))["db3"]["keys"] == 1
    assert await client.execute_command("CLIENT TRACKING", "ON")
    await client.flushdb()
    await client.aclose()


async def test_select_warns_and_leaves_the_client_where_it_is(server, async_connect):
    client = async_connect(server)
    await client.set("key", "here")
    with pytest.warns(RuntimeWarning, match="SELECT"):
        await client.execute_command("SELECT", 3)
    assert await client.get("key") == b"here"


async def test_a_name_stays_with_the_connection_that_carries_the_commands(server, async_connect):
    client = async_connect(server)
    assert await client.client_setname("worker")
    assert await client.client_getname() == "worker"
    pipeline = client.pipeline(transaction=False)
    pipeline.client_setname("renamed").client_getname()
    assert (await pipeline.execute())[1] in ("renamed", b"renamed")


async def test_a_password_is_only_checked(start_server, async_connect):
    server = start_server("valkey")
    client = async_connect(server)
    with pytest.raises(redis_py.AuthenticationError):
        await client.auth("nobody", "no such user")
    assert await client.ping()


async def test_categories_of_the_user_win(server, async_connect):
    categories = {"JSON.GET": CommandCategory.READ, "GET": CommandCategory.BLOCKING}
    client = async_connect(server, resilience=ResiliencePolicy(categories=categories))
    assert client.bound_commands["json.get"].only_reads
    assert client.bound_commands["JSON.SET"].category is CommandCategory.RELATIVE_WRITE
    assert client.bound_commands["GET"].route is Route.BLOCKING
    await client.set("key", "value")
    assert await client.get("key") == b"value"


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


@pytest.mark.parametrize("pool_class", [AsyncConnectionPool, AsyncBlockingConnectionPool])
@pytest.mark.parametrize("how", ["disconnect", "disconnect idle", "reset"])
async def test_what_is_done_to_the_pool_is_done_to_our_connections(server, pool_class, how):
    pool = pool_class(**server.connection_kwargs)
    client, sibling = AsyncRedis(connection_pool=pool), AsyncRedis(connection_pool=pool)
    witness = AsyncRedis(**server.connection_kwargs)
    try:
        before = await client.client_id()
        assert await sibling.client_id() == before
        if how == "reset":
            pool.reset()
        else:
            await pool.disconnect(inuse_connections=how == "disconnect")
        while before in [int(connection["id"]) for connection in await witness.client_list()]:
            await async_sleep(0.01)
        assert await client.client_id() != before
        assert not any(client.stats()["operations"]["CLIENT ID"]["failures"].values())
    finally:
        await witness.aclose()
        await pool.disconnect()
