# Generated from ../_async/test_demotion.py by tools/generate_sync.py: edit that file, not this one.

"""A managed failover: the name leads to a new primary, and the old one lives on and says READONLY.

The command was not run, so it is tried again where the name leads now, whatever the client.
"""

import time

import pytest
import redis

from agent_memory import ResilientRedisClient
from agent_memory._concurrency import ASYNC, gather, settle, spawn
from agent_memory.errors import Outcome
from agent_memory.redis import Redis


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


def of_its_own(where, **options):
    return Redis(**where.connection_kwargs, **options)


def without_resilience(where, **options):
    return Redis(**where.connection_kwargs, resilience=None, **options)


def exactly_once(where, **options):
    return Redis(**where.connection_kwargs, exactly_once=True, **options)


def given_pool(where, **options):
    return Redis(connection_pool=redis.ConnectionPool(**where.connection_kwargs, **options))


def resilient(where, **options):
    return ResilientRedisClient("name", **where.connection_kwargs, **options)


def pinned(where, **options):
    return settle(Redis(**where.connection_kwargs, single_connection_client=True, **options))


def of_foreign_connections(where, **options):
    class Connection(redis.Connection):
        """One of the caller's own: commands travel redis-py's way."""

    pool = redis.ConnectionPool(connection_class=Connection, **where.connection_kwargs, **options)
    return Redis(connection_pool=pool)


KINDS = [of_its_own, without_resilience, exactly_once, given_pool, resilient, pinned, of_foreign_connections]
PLAIN = [of_its_own, without_resilience, given_pool, resilient]
ON_OURS = [*PLAIN, exactly_once]


def close(client):
    if isinstance(client, ResilientRedisClient) or not ASYNC:
        client.close()
    else:
        client.close()
    if isinstance(client, Redis) and not client.auto_close_connection_pool:
        client.connection_pool.disconnect()


def by_command(client):
    return client.incr("counter")


def by_pipeline(client):
    return client.pipeline(transaction=False).get("key").incr("counter").execute()[1]


def by_transaction(client):
    return client.pipeline().get("key").incr("counter").execute()[1]


def by_quiet_pipeline(client):
    return client.pipeline(transaction=False).incr("counter").get("key").execute(raise_on_error=False)[0]


@pytest.mark.parametrize("call", [by_command, by_pipeline, by_transaction, by_quiet_pipeline])
@pytest.mark.parametrize("kind", ON_OURS)
def test_a_refused_write_goes_to_the_new_primary(kind, call, failover):
    client = kind(failover)
    assert call(client) == 1
    failover.demote()
    assert call(client) == 1
    assert call(client) == 2
    assert failover.counters() == (1, 2)
    close(client)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_tried_again_has_left_the_old_primary(kind, failover):
    """Without retries the first call may fail; the second finds the new primary."""
    client = kind(failover)
    by_command(client)
    failover.demote()
    try:
        assert by_command(client) == 1
    except redis.ReadOnlyError:
        assert by_command(client) == 1
    assert failover.counters() == (1, 1)
    close(client)


@pytest.mark.parametrize("kind", ON_OURS)
def test_a_blocking_write_leaves_the_old_primary(kind, failover):
    client = kind(failover)
    assert client.blpop(["list"], 0.01) is None
    failover.demote()
    with redis.Redis(**failover.new.connection_kwargs) as admin:
        admin.rpush("list", "element")
    assert client.blpop(["list"], 1)
    close(client)


@pytest.mark.parametrize("kind", ON_OURS)
def test_a_watched_transaction_fails_once(kind, failover):
    client = kind(failover)

    def add():
        with client.pipeline() as pipeline:
            pipeline.watch("counter")
            pipeline.multi()
            pipeline.incr("counter")
            return pipeline.execute()[0]

    assert add() == 1
    failover.demote()
    with pytest.raises(redis.ResponseError):
        add()
    assert add() == 1
    assert failover.counters() == (1, 1)
    close(client)


@pytest.mark.parametrize("kind", PLAIN)  # exactly once sends it in a transaction, which is refused whole
def test_a_script_that_was_run_is_not_run_again(kind, failover):
    """It may have had effects before it met READONLY; but the connection is left all the same."""
    client = kind(failover)
    script = "redis.call('INCR', 'counter') return redis.call('GET', 'counter')"
    client.eval(script, 0)
    failover.demote()
    with pytest.raises(redis.ResponseError):
        client.eval(script, 0)
    assert failover.counters() == (1, 0)
    assert int(client.eval(script, 0)) == 1
    close(client)


@pytest.mark.parametrize("kind", ON_OURS)
def test_many_callers_cost_few_connections(kind, failover):
    client = kind(failover, max_connections=8)
    gather(*(spawn(by_command, client) for _ in range(8)))
    failover.demote()
    before = failover.relay.connections_accepted
    values = gather(*(spawn(by_command, client) for _ in range(32)))
    assert sorted(values) == list(range(1, 33))
    assert failover.relay.connections_accepted - before <= 16
    assert failover.counters() == (8, 32)
    close(client)


@pytest.mark.parametrize("kind", PLAIN)  # a replica cannot serve new connections of exactly once
def test_a_replica_costs_few_connections(kind, failover):
    """A name that goes on leading to a server that refuses writes: the error comes, and at most a connection each 0.1 s."""
    client = kind(failover)
    client.set("key", "value")
    failover.demote(name_follows=False)
    before, started_s = failover.relay.connections_accepted, time.monotonic()
    for _ in range(5):
        with pytest.raises(redis.ReadOnlyError) as caught:
            by_command(client)
        assert caught.value.outcome in {Outcome.REJECTED, Outcome.NOT_SENT}
    opened = failover.relay.connections_accepted - before
    assert 1 <= opened <= 3 + (time.monotonic() - started_s) * 20
    assert client.get("key") in {b"value", "value"}
    close(client)


@pytest.mark.parametrize("transaction", [False, True])
def test_a_pipeline_refused_for_good_says_so_as_ever(transaction, failover):
    client = without_resilience(failover)
    client.set("key", "value")
    failover.demote(name_follows=False)
    with pytest.raises(redis.ReadOnlyError, match="Command # 2"):
        client.pipeline(transaction=transaction).get("key").incr("counter").execute()
    if not transaction:
        results = client.pipeline(transaction=False).get("key").incr("counter").execute(raise_on_error=False)
        assert results[0] == b"value"
        assert isinstance(results[1], redis.ReadOnlyError)
    close(client)
