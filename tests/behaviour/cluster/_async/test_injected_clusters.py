"""redis-py's own cluster clients inside the resilient client: no write is repeated, raw errors are explained."""

from __future__ import annotations

import logging

import pytest
import redis
from redis.asyncio.cluster import RedisCluster as RedisPyCluster

from agent_memory import RetryPolicy
from agent_memory._concurrency import async_in_thread, async_settle
from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient
from agent_memory.storage.injected_clusters import explain_cluster_error


async def test_stalled_write_is_executed_at_most_once(cluster):
    injected = RedisPyCluster(**cluster.connection_kwargs, socket_timeout=0.3, decode_responses=True)
    client = AsyncResilientRedisClient("injected", client=injected, retry_policy=RetryPolicy(base_delay=0.01))
    assert injected.retry.get_retries() == 0, "its own retries are off"
    await client.zadd("key", {"member": 1}, incr=True)
    node = await async_in_thread(cluster.owner_of_key, "key")
    node.pause()
    try:
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)) as caught:
            await client.zadd("key", {"member": 1}, incr=True)
    finally:
        node.resume()
    assert caught.value.outcome is Outcome.UNKNOWN
    await async_in_thread(cluster.wait_ok)
    score = float(await async_in_thread(cluster.owner_of_key("key").ask, "ZSCORE", "key", "member"))
    assert score <= 2, "sent once, executed at most once"
    # redis-py closes nothing where its last call failed: it has to connect again before.
    assert await client.zscore("key", "member") in (1.0, 2.0)
    await client.close()
    await async_settle(injected.aclose())


class _Stubborn(RedisPyCluster):
    """A cluster client whose retries cannot be switched off."""

    def set_retry(self, retry):
        """Keep them."""


async def test_retries_that_stay_on_are_warned_of(cluster, caplog):
    injected = _Stubborn(**cluster.connection_kwargs)
    with caplog.at_level(logging.WARNING, logger="agent_memory.storage"):
        client = AsyncResilientRedisClient("stubborn", client=injected)
    assert "a write whose reply is lost may be executed several times" in caplog.text
    await client.close()
    await async_settle(injected.aclose())


async def test_raw_errors_of_redis_py_are_unknown(cluster, monkeypatch):
    """A lost node makes redis-py raise AttributeError from within; a caller's own mistake stays what it is."""
    injected = RedisPyCluster(**cluster.connection_kwargs, decode_responses=True)
    client = AsyncResilientRedisClient("raw", client=injected, retry_policy=RetryPolicy(base_delay=0.01))
    await client.set("key", "value")
    with pytest.raises(TypeError):
        await client.set("key")
    # As after a lost node: the table of slots names one that is not there any more.
    monkeypatch.setattr(type(injected.nodes_manager), "get_node_from_slot", lambda *_, **__: None)
    with pytest.raises(RedisUnavailableError) as caught:
        await client.set("key", "other")
    assert caught.value.outcome is Outcome.UNKNOWN
    assert isinstance(caught.value.__cause__.__cause__ or caught.value.__cause__, AttributeError | TypeError)
    await client.close()
    await async_settle(injected.aclose())


def test_lost_connection_behind_a_cluster_error_is_unknown():
    lost = redis.exceptions.RedisClusterException("no node answers")
    lost.__context__ = redis.ConnectionError("reset")
    explained = explain_cluster_error(lost)
    assert isinstance(explained, RedisUnavailableError)
    assert explained.outcome is Outcome.UNKNOWN
    refused = redis.exceptions.RedisClusterException("keys must map to the same slot")
    assert explain_cluster_error(refused) is refused
