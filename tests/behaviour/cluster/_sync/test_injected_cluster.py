# Generated from ../_async/test_injected_cluster.py by tools/generate_sync.py: edit that file, not this one.

"""A RedisCluster as `client=` of the resilient clients: commands, pipelines and the queue, through a failover."""

from __future__ import annotations

import pytest
import redis

from agent_memory import Priority, RecoveryConfig, ResilientRedisClient, StoreStatus
from agent_memory._concurrency import in_thread

NAMES = [f"key {number}" for number in range(20)]


@pytest.fixture
def redis_py_cluster(cluster):
    """redis-py's own cluster client."""
    kind = redis.RedisCluster
    return kind(**cluster.connection_kwargs)


def use(client):
    """Commands to all nodes, one that is split, a pipeline, a script, and writes with a priority."""
    for name in NAMES:
        assert client.set(name, name)
    assert [client.get(name) for name in NAMES] == [name.encode() for name in NAMES]
    assert client.incrby("visits", 3) == 3
    with client.pipeline() as pipeline:
        for name in NAMES:
            pipeline.get(name)
        assert pipeline.execute() == [name.encode() for name in NAMES]
    assert client.delete(*NAMES) == len(NAMES)
    stored = client.with_priority(Priority.HIGH).set("order", "paid")
    assert (stored.status, client.get("order")) == (StoreStatus.STORED, b"paid")
    kept = client.store_with_retry("agent", "state", client.set)
    assert (kept.status, client.get("agent")) == (StoreStatus.STORED, b"state")


def test_commands_of_our_cluster_client(cluster, connect_cluster):
    given = connect_cluster(cluster)
    with ResilientRedisClient("cluster", client=given) as client:
        use(client)
        assert client.client is given
        assert client.keyslot("order") == given.keyslot("order")
        assert client.get_node_from_key("order") == given.get_node_from_key("order")
        assert client.stats()["operations"]["GET"]["successes"] >= len(NAMES)
    assert given.get("order") == b"paid", "it stays open"


def test_commands_of_redis_py_s_cluster_client(redis_py_cluster):
    with redis_py_cluster as given:
        with ResilientRedisClient("cluster", client=given) as client:
            use(client)
        assert given.get("order") == b"paid", "it stays open"


def test_a_failover_costs_time_and_no_write(cluster, connect_cluster):
    given = connect_cluster(cluster, socket_timeout=0.5)
    recovery = RecoveryConfig(base_delay=0.05, max_delay=0.2)
    with ResilientRedisClient("cluster", client=given, recovery=recovery) as client:
        client.set("key", "before")
        assert given.wait(1, 5000, target_nodes=given.get_node_from_key("key")) == 1
        owner = in_thread(cluster.owner_of_key, "key")
        in_thread(owner.kill)
        try:
            assert client.get("key") == b"before"
            result = client.with_priority(Priority.HIGH).set("key", "after")
            assert result.status is StoreStatus.STORED or result.wait(30.0)
            assert client.get("key") == b"after"
        finally:
            in_thread(cluster.start)
