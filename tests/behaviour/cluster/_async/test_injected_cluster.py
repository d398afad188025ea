"""A RedisCluster as `client=` of the resilient clients: commands, pipelines and the queue, through a failover."""

from __future__ import annotations

import pytest
import redis
import redis.asyncio

from agent_memory import AsyncResilientRedisClient, Priority, RecoveryConfig, StoreStatus
from agent_memory._concurrency import ASYNC, async_in_thread

NAMES = [f"key {number}" for number in range(20)]


@pytest.fixture
def async_redis_py_cluster(cluster):
    """redis-py's own cluster client."""
    kind = redis.asyncio.RedisCluster if ASYNC else redis.RedisCluster
    return kind(**cluster.connection_kwargs)


async def use(client):
    """Commands to all nodes, one that is split, a pipeline, a script, and writes with a priority."""
    for name in NAMES:
        assert await client.set(name, name)
    assert [await client.get(name) for name in NAMES] == [name.encode() for name in NAMES]
    assert await client.incrby("visits", 3) == 3
    async with client.pipeline() as pipeline:
        for name in NAMES:
            pipeline.get(name)
        assert await pipeline.execute() == [name.encode() for name in NAMES]
    assert await client.delete(*NAMES) == len(NAMES)
    stored = await client.with_priority(Priority.HIGH).set("order", "paid")
    assert (stored.status, await client.get("order")) == (StoreStatus.STORED, b"paid")
    kept = await client.store_with_retry("agent", "state", client.set)
    assert (kept.status, await client.get("agent")) == (StoreStatus.STORED, b"state")


async def test_commands_of_our_cluster_client(cluster, async_connect_cluster):
    given = async_connect_cluster(cluster)
    async with AsyncResilientRedisClient("cluster", client=given) as client:
        await use(client)
        assert client.client is given
        assert client.keyslot("order") == given.keyslot("order")
        assert client.get_node_from_key("order") == given.get_node_from_key("order")
        assert client.stats()["operations"]["GET"]["successes"] >= len(NAMES)
    assert await given.get("order") == b"paid", "it stays open"


async def test_commands_of_redis_py_s_cluster_client(async_redis_py_cluster):
    async with async_redis_py_cluster as given:
        async with AsyncResilientRedisClient("cluster", client=given) as client:
            await use(client)
        assert await given.get("order") == b"paid", "it stays open"


async def test_a_failover_costs_time_and_no_write(cluster, async_connect_cluster):
    given = async_connect_cluster(cluster, socket_timeout=0.5)
    recovery = RecoveryConfig(base_delay=0.05, max_delay=0.2)
    async with AsyncResilientRedisClient("cluster", client=given, recovery=recovery) as client:
        await client.set("key", "before")
        assert await given.wait(1, 5000, target_nodes=given.get_node_from_key("key")) == 1
        owner = await async_in_thread(cluster.owner_of_key, "key")
        await async_in_thread(owner.kill)
        try:
            assert await client.get("key") == b"before"
            result = await client.with_priority(Priority.HIGH).set("key", "after")
            assert result.status is StoreStatus.STORED or await result.wait(30.0)
            assert await client.get("key") == b"after"
        finally:
            await async_in_thread(cluster.start)
