"""A managed failover: the name leads to a new primary, and the old one lives on and says READONLY.

The command was not run, so it is tried again where the name leads now, whatever the client.
"""

import time

import pytest
import redis
import redis.asyncio

from agent_memory import AsyncResilientRedisClient
from agent_memory._concurrency import ASYNC, async_gather, async_settle, async_spawn
from agent_memory.errors import Outcome
from agent_memory.redis.asyncio import Redis


class Failover:
    """Two servers, and the name of the primary: a proxy."""

    def __init__(self, old, new, relay):
        self.old, self.new, self.relay = old, new, relay
        self.connection_kwargs = relay.connection_kwargs

    def demote(self, *, name_follows=True):
        with redis.Redis(**self.old.connection_kwargs) as admin:
            admin.replicaof("127.0.0.1", 1)
        if name_follows:
            self.relay.upstream = self.new

    def counter(self, server):
        with redis.Redis(**server.connection_kwargs) as observer:
            return int(observer.get("counter") or 0)

    def counters(self):
        return self.counter(self.old), self.counter(self.new)


@pytest.fixture
def failover(start_server, proxy):
    old, new = (start_server(transport="tcp", protected=False) for _ in range(2))
    return Failover(old, new, proxy(old))


async def of_its_own(where, **options):
    return Redis(**where.connection_kwargs, **options)


async def without_resilience(where, **options):
    return Redis(**where.connection_kwargs, resilience=None, **options)


async def exactly_once(where, **options):
    return Redis(**where.connection_kwargs, exactly_once=True, **options)


async def given_pool(where, **options):
    return Redis(connection_pool=redis.asyncio.ConnectionPool(**where.connection_kwargs, **options))


async def resilient(where, **options):
    return AsyncResilientRedisClient("name", **where.connection_kwargs, **options)


async def pinned(where, **options):
    return await async_settle(Redis(**where.connection_kwargs, single_connection_client=True, **options))


async def of_foreign_connections(where, **options):
    class Connection(redis.asyncio.Connection):
        """One of the caller's own: commands travel redis-py's way."""

    pool = redis.asyncio.ConnectionPool(connection_class=Connection, **where.connection_kwargs, **options)
    return Redis(connection_pool=pool)


KINDS = [of_its_own, without_resilience, exactly_once, given_pool, resilient, pinned, of_foreign_connections]
PLAIN = [of_its_own, without_resilience, given_pool, resilient]
ON_OURS = [*PLAIN, exactly_once]


async def close(client):
    if isinstance(client, AsyncResilientRedisClient) or not ASYNC:
        await client.close()
    else:
        await client.aclose()
    if isinstance(client, Redis) and not client.auto_close_connection_pool:
        await client.connection_pool.disconnect()


async def by_command(client):
    return await client.incr("counter")


async def by_pipeline(client):
    return (await client.pipeline(transaction=False).get("key").incr("counter").execute())[1]


async def by_transaction(client):
    return (await client.pipeline().get("key").incr("counter").execute())[1]


async def by_quiet_pipeline(client):
    return (await client.pipeline(transaction=False).incr("counter").get("key").execute(raise_on_error=False))[0]


@pytest.mark.parametrize("call", [by_command, by_pipeline, by_transaction, by_quiet_pipeline])
@pytest.mark.parametrize("kind", ON_OURS)
async def test_a_refused_write_goes_to_the_new_primary(kind, call, failover):
    client = await kind(failover)
    assert await call(client) == 1
    failover.demote()
    assert await call(client) == 1
    assert await call(client) == 2
    assert failover.counters() == (1, 2)
    await close(client)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_tried_again_has_left_the_old_primary(kind, failover):
    """Without retries the first call may fail; the second finds the new primary."""
    client = await kind(failover)
    await by_command(client)
    failover.demote()
    try:
        assert await by_command(client) == 1
    except redis.ReadOnlyError:
        assert await by_command(client) == 1
    assert failover.counters() == (1, 1)
    await close(client)


@pytest.mark.parametrize("kind", ON_OURS)
async def test_a_blocking_write_leaves_the_old_primary(kind, failover):
    client = await kind(failover)
    assert await client.blpop(["list"], 0.01) is None
    failover.demote()
    with redis.Redis(**failover.new.connection_kwargs) as admin:
        admin.rpush("list", "element")
    assert await client.blpop(["list"], 1)
    await close(client)


@pytest.mark.parametrize("kind", ON_OURS)
async def test_a_watched_transaction_fails_once(kind, failover):
    client = await kind(failover)

    async def add():
        async with client.pipeline() as pipeline:
            await pipeline.watch("counter")
            pipeline.multi()
            pipeline.incr("counter")
            return (await pipeline.execute())[0]

    assert await add() == 1
    failover.demote()
    with pytest.raises(redis.ResponseError):
        await add()
    assert await add() == 1
    assert failover.counters() == (1, 1)
    await close(client)


@pytest.mark.parametrize("kind", PLAIN)  # exactly once sends it in a transaction, which is refused whole
async def test_a_script_that_was_run_is_not_run_again(kind, failover):
    """It may have had effects before it met READONLY; but the connection is left all the same."""
    client = await kind(failover)
    script = "redis.call('INCR', 'counter') return redis.call('GET', 'counter')"
    await client.eval(script, 0)
    failover.demote()
    with pytest.raises(redis.ResponseError):
        await client.eval(script, 0)
    assert failover.counters() == (1, 0)
    assert int(await client.eval(script, 0)) == 1
    await close(client)


@pytest.mark.parametrize("kind", ON_OURS)
async def test_many_callers_cost_few_connections(kind, failover):
    client = await kind(failover, max_connections=8)
    await async_gather(*(async_spawn(by_command, client) for _ in range(8)))
    failover.demote()
    before = failover.relay.connections_accepted
    values = await async_gather(*(async_spawn(by_command, client) for _ in range(32)))
    assert sorted(values) == list(range(1, 33))
    assert failover.relay.connections_accepted - before <= 16
    assert failover.counters() == (8, 32)
    await close(client)


@pytest.mark.parametrize("kind", PLAIN)  # a replica cannot serve new connections of exactly once
async def test_a_replica_costs_few_connections(kind, failover):
    """A name that goes on leading to a server that refuses writes: the error comes, and at most a connection each 0.1 s."""
    client = await kind(failover)
    await client.set("key", "value")
    failover.demote(name_follows=False)
    before, started_s = failover.relay.connections_accepted, time.monotonic()
    for _ in range(5):
        with pytest.raises(redis.ReadOnlyError) as caught:
            await by_command(client)
        assert caught.value.outcome in {Outcome.REJECTED, Outcome.NOT_SENT}
    opened = failover.relay.connections_accepted - before
    assert 1 <= opened <= 3 + (time.monotonic() - started_s) * 20
    assert await client.get("key") in {b"value", "value"}
    await close(client)


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_pipeline_refused_for_good_says_so_as_ever(transaction, failover):
    client = await without_resilience(failover)
    await client.set("key", "value")
    failover.demote(name_follows=False)
    with pytest.raises(redis.ReadOnlyError, match="Command # 2"):
        await client.pipeline(transaction=transaction).get("key").incr("counter").execute()
    if not transaction:
        results = await client.pipeline(transaction=False).get("key").incr("counter").execute(raise_on_error=False)
        assert results[0] == b"value"
        assert isinstance(results[1], redis.ReadOnlyError)
    await close(client)
