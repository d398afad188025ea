"""How long a call waits for a failover, and which calls do not wait."""

from __future__ import annotations

import contextlib
import time

import pytest
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException

from agent_memory import ResiliencePolicy, RetryPolicy
from agent_memory._concurrency import async_in_thread
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError


@contextlib.asynccontextmanager
async def owner_in_trouble(cluster, fault):
    """The owner of "key", after `fault` (kill or pause); the cluster is whole again afterwards."""
    owner = await async_in_thread(cluster.owner_of_key, "key")
    await async_in_thread(getattr(owner, fault))
    try:
        yield owner
    finally:
        if owner.paused:
            owner.resume()
        await async_in_thread(cluster.start)


async def store_key(client):
    """Set "key" on its owner and on a replica."""
    await client.set("key", "value")
    assert await client.wait(1, 5000, target_nodes=client.get_node_from_key("key")) == 1


async def test_a_read_without_an_answer_is_sent_to_the_next_owner(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster, socket_timeout=0.3)
    await store_key(client)
    async with owner_in_trouble(cluster, "pause"):
        assert await client.get("key") == b"value"


async def test_without_a_policy_calls_wait_for_a_failover_and_lost_replies_are_raised(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster, socket_timeout=0.3, resilience=None)
    await store_key(client)
    assert {name for node in client.stats()["nodes"].values() for name in node} == {"connections"}
    async with owner_in_trouble(cluster, "kill"):
        assert await client.get("key") == b"value"
    await store_key(client)
    async with owner_in_trouble(cluster, "pause"):
        with pytest.raises(RedisTimeoutError) as caught:
            await client.get("key")
        assert caught.value.outcome is Outcome.UNKNOWN


async def test_a_call_waits_for_a_failover_until_its_deadline(cluster, async_connect_cluster):
    deadline_s = 0.5  # the servers take over a second
    policy = ResiliencePolicy(retry=RetryPolicy(deadline_s=deadline_s))
    client = async_connect_cluster(cluster, resilience=policy)
    await store_key(client)
    async with owner_in_trouble(cluster, "kill"):
        began_s = time.monotonic()
        with pytest.raises(RedisUnavailableError) as caught:
            await client.set("key", "again")
        assert caught.value.outcome is Outcome.NOT_SENT
        assert time.monotonic() - began_s >= deadline_s - 0.1


async def test_a_given_retry_bounds_how_often_a_call_goes_on(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster, retry=AsyncRetry(NoBackoff(), 0))
    await store_key(client)
    async with owner_in_trouble(cluster, "kill"):
        with pytest.raises(RedisUnavailableError) as caught:
            await client.set("key", "again")
        assert caught.value.outcome is Outcome.NOT_SENT
        assert client.stats()["cluster"]["waits"] == 0


async def test_a_call_for_a_node_does_not_wait_for_a_failover(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    await store_key(client)
    node = client.get_node_from_key("key")
    async with owner_in_trouble(cluster, "kill"):
        with pytest.raises(RedisUnavailableError) as caught:
            await client.dbsize(target_nodes=node)
        assert caught.value.outcome is Outcome.NOT_SENT
        assert client.stats()["cluster"]["waits"] == 0


async def test_scripts_over_several_slots_are_refused(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    with pytest.raises(RedisClusterException, match="same key slot"):
        await client.eval("return 1", 2, "one", "two")
