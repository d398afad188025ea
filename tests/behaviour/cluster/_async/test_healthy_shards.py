"""A node that hangs costs the calls of its own slots: those of the other shards go on at their rate."""

from __future__ import annotations

import time

import pytest
import redis

from agent_memory._concurrency import AsyncEvent, async_gather, async_in_thread, async_sleep, async_spawn

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


async def test_a_hung_node_does_not_slow_the_others(partial_cluster, async_connect_cluster):
    cluster = partial_cluster
    client = async_connect_cluster(cluster, socket_timeout=0.4)
    victim = await async_in_thread(cluster.owner_of, 0)
    tags = [f"{{{tag}}}" for tag in range(400)]
    hung = [tag for tag in tags if cluster.owner_of_key(tag) is victim][:WORKERS]
    healthy = [tag for tag in tags if cluster.owner_of_key(tag) is not victim][:WORKERS]
    answered, over = [0], AsyncEvent()

    async def work(key, counted):
        while not over.is_set():
            try:
                await client.incr(key)
            except redis.RedisError:
                assert not counted
                continue
            answered[0] += counted

    async def rate():
        before, began_s = answered[0], time.monotonic()
        await async_sleep(WINDOW_S)
        return (answered[0] - before) / (time.monotonic() - began_s)

    workers = [async_spawn(work, key, 1) for key in healthy]
    alone = await rate()
    for key in hung:
        await client.incr(key)
    victim.pause()
    workers += [async_spawn(work, key, 0) for key in hung]
    meanwhile = await rate()
    victim.resume()
    over.set()
    await async_gather(*workers)
    assert meanwhile >= LEAST_SHARE * alone
