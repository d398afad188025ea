# Generated from ../_async/test_limits_of_waiting.py by tools/generate_sync.py: edit that file, not this one.

"""How long a call waits for a failover, and which calls do not wait."""

from __future__ import annotations

import contextlib
import time

import pytest
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from agent_memory import ResiliencePolicy, RetryPolicy
from agent_memory._concurrency import in_thread
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError


@contextlib.contextmanager
def owner_in_trouble(cluster, fault):
    """The owner of "key", after `fault` (kill or pause); the cluster is whole again afterwards."""
    owner = in_thread(cluster.owner_of_key, "key")
    in_thread(getattr(owner, fault))
    try:
        yield owner
    finally:
        if owner.paused:
            owner.resume()
        in_thread(cluster.start)


def store_key(client):
    """Set "key" on its owner and on a replica."""
    client.set("key", "value")
    assert client.wait(1, 5000, target_nodes=client.get_node_from_key("key")) == 1


def test_a_read_without_an_answer_is_sent_to_the_next_owner(cluster, connect_cluster):
    client = connect_cluster(cluster, socket_timeout=0.3)
    store_key(client)
    with owner_in_trouble(cluster, "pause"):
        assert client.get("key") == b"value"


def test_without_a_policy_calls_wait_for_a_failover_and_lost_replies_are_raised(cluster, connect_cluster):
    client = connect_cluster(cluster, socket_timeout=0.3, resilience=None)
    store_key(client)
    assert {name for node in client.stats()["nodes"].values() for name in node} == {"connections"}
    with owner_in_trouble(cluster, "kill"):
        assert client.get("key") == b"value"
    store_key(client)
    with owner_in_trouble(cluster, "pause"):
        with pytest.raises(RedisTimeoutError) as caught:
            client.get("key")
        assert caught.value.outcome is Outcome.UNKNOWN


def test_a_call_waits_for_a_failover_until_its_deadline(cluster, connect_cluster):
    deadline_s = 0.5  # the servers take over a second
    policy = ResiliencePolicy(retry=RetryPolicy(deadline_s=deadline_s))
    client = connect_cluster(cluster, resilience=policy)
    store_key(client)
    with owner_in_trouble(cluster, "kill"):
        began_s = time.monotonic()
        with pytest.raises(RedisUnavailableError) as caught:
            client.set("key", "again")
        assert caught.value.outcome is Outcome.NOT_SENT
        assert time.monotonic() - began_s >= deadline_s - 0.1


def test_a_given_retry_bounds_how_often_a_call_goes_on(cluster, connect_cluster):
    client = connect_cluster(cluster, retry=Retry(NoBackoff(), 0))
    store_key(client)
    with owner_in_trouble(cluster, "kill"):
        with pytest.raises(RedisUnavailableError) as caught:
            client.set("key", "again")
        assert caught.value.outcome is Outcome.NOT_SENT
        assert client.stats()["cluster"]["waits"] == 0


def test_a_call_for_a_node_does_not_wait_for_a_failover(cluster, connect_cluster):
    client = connect_cluster(cluster)
    store_key(client)
    node = client.get_node_from_key("key")
    with owner_in_trouble(cluster, "kill"):
        with pytest.raises(RedisUnavailableError) as caught:
            client.dbsize(target_nodes=node)
        assert caught.value.outcome is Outcome.NOT_SENT
        assert client.stats()["cluster"]["waits"] == 0


def test_scripts_over_several_slots_are_refused(cluster, connect_cluster):
    client = connect_cluster(cluster)
    with pytest.raises(RedisClusterException, match="same key slot"):
        client.eval("return 1", 2, "one", "two")
