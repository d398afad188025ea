"""Slots that move under load, in both ways: no error, nothing doubled, ASK followed in one buffer."""

from __future__ import annotations

import pytest
import redis

from agent_memory._concurrency import AsyncEvent, async_gather, async_in_thread, async_spawn
from agent_memory.errors import Outcome


async def test_every_read_of_a_half_moved_slot_is_answered(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    slot = cluster.slot_of("{half}")
    keys = [f"{{half}}{number}" for number in range(20)]
    await client.mset(dict.fromkeys(keys, "value"))
    source = await async_in_thread(cluster.owner_of, slot)
    target = next(node for node in await async_in_thread(cluster.primaries) if node is not source)
    await async_in_thread(cluster.begin_move, slot, target)
    await async_in_thread(cluster.move_keys, slot, target)

    async def read(key):
        return [await client.get(key) for _ in range(20)]

    answers = await async_gather(*(async_spawn(read, key) for key in keys))
    assert [answer for one in answers for answer in one] == [b"value"] * 400
    assert client.stats()["cluster"]["ask"] >= 400

    pipeline = client.pipeline()
    for key in keys:
        pipeline.get(key)
    assert await pipeline.execute() == [b"value"] * 20
    transaction = client.pipeline(transaction=True)
    transaction.get(keys[0]).append(keys[0], "s")
    try:
        assert await transaction.execute() == [b"value", 6]
    finally:
        await async_in_thread(cluster.end_move, slot, target)
    assert await client.get(keys[0]) == b"values"


async def test_slots_move_under_load_without_an_error(cluster, async_connect_cluster):
    ways = [False, True] if cluster.nodes[0].product == "valkey" else [False]  # Redis 7 cannot move slots atomically
    client = async_connect_cluster(cluster)
    names = [f"{{move{number}}}counter" for number in range(12)]
    moved = AsyncEvent()

    async def count(name):
        acknowledged = 0
        while not moved.is_set():
            acknowledged += 1
            assert await client.incr(name) == acknowledged
        return acknowledged

    counting = [async_spawn(count, name) for name in names]
    slots = sorted({cluster.slot_of(name) for name in names})
    for atomic in ways:
        for target in await async_in_thread(cluster.primaries):
            await async_in_thread(lambda target=target, atomic=atomic: cluster.move_slots(slots, target, atomic=atomic))
    moved.set()
    acknowledged = await async_gather(*counting)
    assert [int(await client.get(name)) for name in names] == acknowledged
    assert min(acknowledged) > 0


async def test_pipelines_go_on_while_slots_move(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    names = [f"{{pipe{number}}}" for number in range(8)]
    moved = AsyncEvent()

    async def work():
        rounds = 0
        while not moved.is_set():
            rounds += 1
            pipeline = client.pipeline()
            for name in names:
                pipeline.incr(f"{name}n").rpush(f"{name}l", rounds)
            assert await pipeline.execute() == [rounds] * (2 * len(names))
        return rounds

    working = async_spawn(work)
    slots = sorted({cluster.slot_of(name) for name in names})
    for target in await async_in_thread(cluster.primaries):
        await async_in_thread(cluster.move_slots, slots, target)
    moved.set()
    rounds = await working.result()
    for name in names:
        assert await client.lrange(f"{name}l", 0, -1) == [b"%d" % number for number in range(1, rounds + 1)]


async def test_a_stale_view_costs_one_redirect_a_slot(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster)
    names = [f"{{stale{number}}}" for number in range(10)]
    for name in names:
        await client.set(name, "value")
    slots = sorted({cluster.slot_of(name) for name in names})
    target = (await async_in_thread(cluster.primaries))[-1]
    await async_in_thread(cluster.move_slots, slots, target)
    for _ in range(10):
        for name in names:
            assert await client.get(name) == b"value"
    figures = client.stats()["cluster"]
    assert figures["moved"] <= len(slots)
    assert figures["questions"] <= 10


async def test_a_write_of_unknown_outcome_is_raised_and_not_repeated(cluster, async_connect_cluster):
    client = async_connect_cluster(cluster, socket_timeout=0.3)
    await client.set("counter", 0)
    owner = await async_in_thread(cluster.owner_of_key, "counter")
    owner.pause()
    try:
        with pytest.raises(redis.TimeoutError) as caught:
            await client.incr("counter")
        assert caught.value.outcome is Outcome.UNKNOWN
    finally:
        owner.resume()
    assert int(await client.get("counter")) <= 1
    assert int(owner.ask("GET", "counter")) <= 1
