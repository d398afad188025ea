# Generated from ../_async/test_slot_moves.py by tools/generate_sync.py: edit that file, not this one.

"""Slots that move under load, in both ways: no error, nothing doubled, ASK followed in one buffer."""

from __future__ import annotations

import pytest
import redis

from agent_memory._concurrency import Event, gather, in_thread, spawn
from agent_memory.errors import Outcome


def test_every_read_of_a_half_moved_slot_is_answered(cluster, connect_cluster):
    client = connect_cluster(cluster)
    slot = cluster.slot_of("{half}")
    keys = [f"{{half}}{number}" for number in range(20)]
    client.mset(dict.fromkeys(keys, "value"))
    source = in_thread(cluster.owner_of, slot)
    target = next(node for node in in_thread(cluster.primaries) if node is not source)
    in_thread(cluster.begin_move, slot, target)
    in_thread(cluster.move_keys, slot, target)

    def read(key):
        return [client.get(key) for _ in range(20)]

    answers = gather(*(spawn(read, key) for key in keys))
    assert [answer for one in answers for answer in one] == [b"value"] * 400
    assert client.stats()["cluster"]["ask"] >= 400

    pipeline = client.pipeline()
    for key in keys:
        pipeline.get(key)
    assert pipeline.execute() == [b"value"] * 20
    transaction = client.pipeline(transaction=True)
    transaction.get(keys[0]).append(keys[0], "s")
    try:
        assert transaction.execute() == [b"value", 6]
    finally:
        in_thread(cluster.end_move, slot, target)
    assert client.get(keys[0]) == b"values"


def test_slots_move_under_load_without_an_error(cluster, connect_cluster):
    ways = [False, True] if cluster.nodes[0].product == "valkey" else [False]  # Redis 7 cannot move slots atomically
    client = connect_cluster(cluster)
    names = [f"{{move{number}}}counter" for number in range(12)]
    moved = Event()

    def count(name):
        acknowledged = 0
        while not moved.is_set():
            acknowledged += 1
            assert client.incr(name) == acknowledged
        return acknowledged

    counting = [spawn(count, name) for name in names]
    slots = sorted({cluster.slot_of(name) for name in names})
    for atomic in ways:
        for target in in_thread(cluster.primaries):
            in_thread(lambda target=target, atomic=atomic: cluster.move_slots(slots, target, atomic=atomic))
    moved.set()
    acknowledged = gather(*counting)
    assert [int(client.get(name)) for name in names] == acknowledged
    assert min(acknowledged) > 0


def test_pipelines_go_on_while_slots_move(cluster, connect_cluster):
    client = connect_cluster(cluster)
    names = [f"{{pipe{number}}}" for number in range(8)]
    moved = Event()

    def work():
        rounds = 0
        while not moved.is_set():
            rounds += 1
            pipeline = client.pipeline()
            for name in names:
                pipeline.incr(f"{name}n").rpush(f"{name}l", rounds)
            assert pipeline.execute() == [rounds] * (2 * len(names))
        return rounds

    working = spawn(work)
    slots = sorted({cluster.slot_of(name) for name in names})
    for target in in_thread(cluster.primaries):
        in_thread(cluster.move_slots, slots, target)
    moved.set()
    rounds = working.result()
    for name in names:
        assert client.lrange(f"{name}l", 0, -1) == [b"%d" % number for number in range(1, rounds + 1)]


def test_a_stale_view_costs_one_redirect_a_slot(cluster, connect_cluster):
    client = connect_cluster(cluster)
    names = [f"{{stale{number}}}" for number in range(10)]
    for name in names:
        client.set(name, "value")
    slots = sorted({cluster.slot_of(name) for name in names})
    target = in_thread(cluster.primaries)[-1]
    in_thread(cluster.move_slots, slots, target)
    for _ in range(10):
        for name in names:
            assert client.get(name) == b"value"
    figures = client.stats()["cluster"]
    assert figures["moved"] <= len(slots)
    assert figures["questions"] <= 10


def test_a_write_of_unknown_outcome_is_raised_and_not_repeated(cluster, connect_cluster):
    client = connect_cluster(cluster, socket_timeout=0.3)
    client.set("counter", 0)
    owner = in_thread(cluster.owner_of_key, "counter")
    owner.pause()
    try:
        with pytest.raises(redis.TimeoutError) as caught:
            client.incr("counter")
        assert caught.value.outcome is Outcome.UNKNOWN
    finally:
        owner.resume()
    assert int(client.get("counter")) <= 1
    assert int(owner.ask("GET", "counter")) <= 1
