# Generated from ../_async/test_healthy_shards.py by tools/generate_sync.py: edit that file, not this one.

"""A node that hangs costs the calls of its own slots: those of the other shards go on at their rate."""

from __future__ import annotations

import time

import pytest
import redis

from agent_memory._concurrency import Event, gather, in_thread, sleep, spawn

WORKERS = 8
WINDOW_S = 1.2
"""Longer than `socket_timeout` and than what the servers need to notice, so that retries, refreshes and waits fall into it."""
LEAST_SHARE = 0.5
"""Of the rate without the hung node. `make bench BENCH=cluster_failover` shows 0.9; load moves the rate of a second."""


@pytest.fixture
def partial_cluster(cluster):
    """A cluster whose healthy shards answer while another one has no primary."""
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    yield cluster
    for node in cluster.nodes:
        if node.paused:
            node.resume()
    cluster.start()
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")


def test_a_hung_node_does_not_slow_the_others(partial_cluster, connect_cluster):
    cluster = partial_cluster
    client = connect_cluster(cluster, socket_timeout=0.4)
    victim = in_thread(cluster.owner_of, 0)
    tags = [f"{{{tag}}}" for tag in range(400)]
    hung = [tag for tag in tags if cluster.owner_of_key(tag) is victim][:WORKERS]
    healthy = [tag for tag in tags if cluster.owner_of_key(tag) is not victim][:WORKERS]
    answered, over = [0], Event()

    def work(key, counted):
        while not over.is_set():
            try:
                client.incr(key)
            except redis.RedisError:
                assert not counted
                continue
            answered[0] += counted

    def rate():
        before, began_s = answered[0], time.monotonic()
        sleep(WINDOW_S)
        return (answered[0] - before) / (time.monotonic() - began_s)

    workers = [spawn(work, key, 1) for key in healthy]
    alone = rate()
    for key in hung:
        client.incr(key)
    victim.pause()
    workers += [spawn(work, key, 0) for key in hung]
    meanwhile = rate()
    victim.resume()
    over.set()
    gather(*workers)
    assert meanwhile >= LEAST_SHARE * alone
