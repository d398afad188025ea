"""The resilient client of a cluster: URLs and `cluster=`, a circuit for each node, one budget, figures per node and summed."""

from __future__ import annotations

import contextlib
import itertools
import logging

import pytest
import redis
from redis.asyncio.cluster import ClusterNode

from agent_memory import Priority, RecoveryConfig, RetryPolicy
from agent_memory._concurrency import AsyncEvent, async_in_thread, async_settle, async_spawn
from agent_memory.errors import CircuitOpenError, Outcome, RedisUnavailableError
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient, resilient_operation


def options_of(where, **options):
    """Arguments of a client for this cluster, beside its addresses."""
    arguments = where.connection_kwargs
    del arguments["host"], arguments["port"]
    return {**arguments, "recovery": None, "socket_timeout": 1.0, **options}


def addresses_of(where):
    return [node.address for node in where.nodes if node.alive]


def tags_of(where, node, count):
    """Names in slots of `node`."""
    names = (f"{{{tag}}}" for tag in range(2000))
    return list(itertools.islice((name for name in names if where.owner_of_key(name) is node), count))


async def test_commands_by_url_and_by_addresses(cluster):
    password = cluster.connection_kwargs["password"]
    hosts = ",".join(f"{host}:{port}" for host, port in addresses_of(cluster)[:2])
    by_url = AsyncResilientRedisClient.from_url(
        f"redis+cluster://:{password}@{hosts}/0?socket_timeout=2", recovery=None
    )
    host, port = addresses_of(cluster)[0]
    given = [f"{host}:{port}", (host, port), ClusterNode(host, port)]
    by_addresses = AsyncResilientRedisClient("by-addresses", cluster=given, **options_of(cluster))
    for client in (by_url, by_addresses):
        async with client:
            assert await client.ping()
            assert await client.set("name", "Agent Smith")
            assert await client.get("name") == "Agent Smith"
            await client.hset_dict("agent:1", {"health": "100", "position": "10,20"})
            assert await client.hgetall("agent:1") == {"health": "100", "position": "10,20"}
            await client.mset_nonatomic({"one": 1, "two": 2, "three": 3})
            assert await client.delete("one", "two", "three") == 3
            found = [key async for key in client.scan_iter("agent:*")]
            assert found == ["agent:1"]
            pipeline = client.pipeline()
            pipeline.incr("one")
            pipeline.incr("two")
            assert await async_settle(pipeline.execute()) == [1, 1]
            assert client.state == "closed"
            assert password not in repr(client)
        await client.close()


async def test_double_await_and_operations_of_a_subclass(cluster):
    class Agents(AsyncResilientRedisClient):
        @resilient_operation("visit")
        async def visit(self, name):
            await self.incr(f"{{{name}}}:visits")
            return await self.get(f"{{{name}}}:visits")

    async with Agents("agents", cluster=addresses_of(cluster), double_await=True, **options_of(cluster)) as client:
        assert await async_settle(client.visit("smith")) == "1"
        assert await async_settle(client.get("{smith}:visits")) == "1"


async def test_figures_per_node_and_summed(cluster):
    async with AsyncResilientRedisClient("figures", cluster=addresses_of(cluster), **options_of(cluster)) as client:
        for node in cluster.primaries():
            for name in tags_of(cluster, node, 5):
                await client.set(name, 1)
        figures = client.stats()
        by_node = {
            name: node["operations"]["SET"]["successes"]
            for name, node in figures["nodes"].items()
            if "SET" in node["operations"]
        }
        assert sorted(by_node.values()) == [5, 5, 5]
        assert figures["operations"]["SET"]["successes"] == figures["operations"]["SET"]["latency"]["count"] == 15
        latency = figures["operations"]["SET"]["latency"]
        assert 0 < latency["p50_s"] <= latency["p99_s"] <= latency["max_s"]
        assert figures["cluster"]["epoch"] > 0
        health = client.health()
        assert health
        assert {node.state for node in health.nodes.values()} == {"closed"}
        assert [node.role for node in health.nodes.values()].count("primary") == 3
        assert set(health.nodes) == set(figures["nodes"])


async def test_circuit_of_one_node_rejects_no_other(cluster):
    """A shard without its primary, longer than the deadline: its calls fail, the others go on, the budget is one."""
    policy = RetryPolicy(max_retries=1, base_delay=0.01, deadline_s=0.4)
    client = AsyncResilientRedisClient(
        "shards", cluster=addresses_of(cluster), **options_of(cluster, retry_policy=policy, socket_timeout=0.2)
    )
    async with client:
        victim = cluster.owner_of(0)
        away, here = tags_of(cluster, victim, 4), tags_of(cluster, cluster.owner_of(16383), 4)
        for name in (*away, *here):
            await client.set(name, 0)
        victim.pause()
        try:
            errors = []
            for name in away:
                with pytest.raises((redis.ConnectionError, redis.TimeoutError)) as caught:
                    await client.incr(name)
                errors.append(caught.value)
            assert {error.outcome for error in errors} <= {Outcome.UNKNOWN, Outcome.NOT_SENT}
            assert any(isinstance(error, CircuitOpenError) for error in errors)
            for name in here:
                assert await client.incr(name) == 1
            host, port = victim.address
            health = client.health()
            assert not health
            assert health.state == client.state == "open"
            assert health.nodes[f"{host}:{port}"].state == "open"
            assert sum(node.state == "open" for node in health.nodes.values()) == 1
            assert client.stats()["nodes"][f"{host}:{port}"]["times_opened"] == client.stats()["times_opened"] == 1
        finally:
            victim.resume()
            await async_in_thread(cluster.wait_ok)


async def test_one_retry_budget_for_all_nodes(cluster):
    """Reads lost at two nodes are repeated at the expense of one bucket."""
    policy = RetryPolicy(max_retries=1, base_delay=0.001, deadline_s=1.0)
    client = AsyncResilientRedisClient(
        "budget", cluster=addresses_of(cluster), **options_of(cluster, retry_policy=policy, socket_timeout=0.1)
    )
    async with client:
        first, second = cluster.owner_of(0), cluster.owner_of(16383)
        for node in (first, second):
            await client.get(tags_of(cluster, node, 1)[0])
        before = {name: node["budget_level"] for name, node in client.stats()["nodes"].items()}
        assert set(before.values()) == {500.0}
        (name,) = tags_of(cluster, first, 1)
        first.pause()
        try:
            with contextlib.suppress(redis.RedisError):  # a failover may be quicker than the deadline
                await client.get(name)
        finally:
            first.resume()
        levels = {name: node["budget_level"] for name, node in client.stats()["nodes"].items()}
        assert max(levels.values()) - min(levels.values()) < 14  # the refill between two looks
        assert max(levels.values()) < 500.0, "the retry at one node is paid for by all"
        await async_in_thread(cluster.wait_ok)


async def test_cluster_that_is_away_costs_an_error_and_nothing_else(unused_address, caplog):
    address = (unused_address.connection_kwargs["host"], unused_address.connection_kwargs["port"])
    client = AsyncResilientRedisClient("away", cluster=[address], recovery=None, socket_timeout=0.3)
    with caplog.at_level(logging.WARNING, logger="agent_memory.storage"):
        assert await client.init() is False
    assert "away" in caplog.text
    for call in (lambda: client.get("key"), lambda: client.incr("key"), lambda: client.client.get("key")):
        with pytest.raises(RedisUnavailableError) as caught:
            await async_settle(call())
        assert caught.value.outcome is Outcome.NOT_SENT
    assert hasattr(client, "incr")
    assert not hasattr(client, "no_such_command")
    assert not client.health()
    result = await client.store_with_retry("agent", 1, _store, Priority.NORMAL)
    assert not result
    assert str(result.status) == "failed", "there is no queue"
    await client.close()


async def _store(agent_id, data):
    raise redis.ConnectionError("away")


async def test_store_with_retry_without_a_queue(cluster):
    async with AsyncResilientRedisClient("stores", cluster=addresses_of(cluster), **options_of(cluster)) as client:

        async def store(agent_id, data):
            await client.hset_dict(f"agent:{agent_id}", data)
            return True

        assert await client.store_with_retry("7", {"health": "100"}, store, Priority.CRITICAL)
        assert await client.hget("agent:7", "health") == "100"


async def test_failover_costs_time_and_no_errors(cluster):
    client = AsyncResilientRedisClient("failover", cluster=addresses_of(cluster), **options_of(cluster))
    async with client:
        victim = cluster.owner_of(0)
        (name,) = tags_of(cluster, victim, 1)
        await client.set(name, "value")
        await async_settle(client.wait(1, 5000, target_nodes=client.get_node_from_key(name)))
        victim.kill()
        assert await client.get(name) == "value"
        victim.start()
        await async_in_thread(cluster.wait_ok)


async def test_our_own_cluster_client_injected(cluster, async_connect_cluster):
    injected = async_connect_cluster(cluster, decode_responses=True)
    client = AsyncResilientRedisClient("injected", client=injected, recovery=None)
    assert client.client is injected
    async with client:
        assert await client.set("key", "value")
        assert await client.get("key") == "value"
        assert client.stats()["operations"]["SET"]["calls"] == 1, "admitted once, by its node"
    assert await injected.get("key") == "value", "it stays open"
    with pytest.raises(ValueError, match="client must be given to the constructor"):
        client.client = injected


REFUSED = [
    ({"recovery": RecoveryConfig()}, "recovery must be None for a cluster"),
    ({"exactly_once": True}, "exactly_once must be left out with cluster="),
    ({"db": 1}, "db must be left out with cluster="),
    ({"host": "redis-1"}, "host must be left out with cluster="),
    ({"client": object()}, "client must be left out with cluster="),
    ({"unix_socket_path": "/tmp/redis.sock"}, "unix_socket_path must be left out with cluster="),
    ({"cluster": []}, "cluster must name a node"),
    ({"cluster": "redis-1:6379"}, "cluster must be a list of addresses"),
    ({"cluster": ["redis://:secret@redis-1"]}, "cluster must be a list of"),
    ({"cluster": [("redis-1", 0)]}, "cluster must have ports from 1 to 65535"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED, ids=[message for _, message in REFUSED])
async def test_what_a_cluster_cannot_do_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        AsyncResilientRedisClient("refused", **{"cluster": ["127.0.0.1:6379"], "recovery": None, **wrong})
    assert "secret" not in str(caught.value)


async def test_refusals_beside_the_constructor():
    with pytest.raises(ValueError, match="recovery must be None for a cluster"):
        AsyncResilientRedisClient("queue", cluster=["127.0.0.1:6379"])
    with pytest.raises(ValueError, match="database 0"):
        AsyncResilientRedisClient.from_url("redis+cluster://127.0.0.1:6379/3", recovery=None)
    with pytest.raises(TypeError, match="nonsense must be a parameter"):
        AsyncResilientRedisClient("unknown", cluster=["127.0.0.1:6379"], recovery=None, nonsense=1)
    with pytest.raises(TypeError, match="address_remap must be a parameter"):
        AsyncResilientRedisClient("one-server", address_remap=lambda address: address)
    client = AsyncResilientRedisClient("guards", cluster=["127.0.0.1:6379"], recovery=None)
    with pytest.raises(NotImplementedError, match="each node has its own"):
        _ = client.guard
    await client.close()


async def test_callers_of_a_cluster_that_is_away_do_not_queue_up(unused_address):
    """Each attempt to reach a cluster serves all calls that wait for it."""
    address = (unused_address.connection_kwargs["host"], unused_address.connection_kwargs["port"])
    client = AsyncResilientRedisClient("crowd", cluster=[address], recovery=None, socket_timeout=0.3)
    begin = AsyncEvent()

    async def call():
        await begin.wait(5.0)
        with pytest.raises(RedisUnavailableError):
            await client.get("key")

    callers = [async_spawn(call) for _ in range(8)]
    begin.set()
    for caller in callers:
        await caller.join(20.0)
        assert caller.is_done()
    await client.close()
