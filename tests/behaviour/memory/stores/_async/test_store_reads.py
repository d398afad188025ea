"""What is read: queries, pages, the change feed, counts, candidates. Every store answers alike."""

from __future__ import annotations

import random

import pytest
from store_samples import copy, ids, put

from agent_memory.memory import Tier, _copy
from agent_memory.memory.stores import Access, Delete, MemoryQuery, Move, Put


async def matching(store, **query):
    return ids((await store.query(MemoryQuery(**({"agent_id": "agent"} | query)))).copies)


async def test_conditions(async_store):
    await async_store.write(
        [
            put("a", memory_id="a", timestamp=10.0, step=1, importance=0.1, memory_type="fact", tags=["x", "y"]),
            put("b", memory_id="b", timestamp=20.0, step=2, importance=0.5, memory_type="event", tags=["y"]),
            put("c", memory_id="c", timestamp=30.0, importance=0.9, session_id="s", user_id="u", tier=Tier.IM),
            put("d", memory_id="d", timestamp=40.0, step=3, metadata={"n": 1, "é'": "x", "b": True, "z": None}),
            put("e", memory_id="e", timestamp=50.0, step=4, metadata={"n": 1.0, "b": 1, "deep": {"n": 1}}, key="k"),
            put("f", memory_id="f", timestamp=60.0, namespace=["p", "q"]),
            put("g", memory_id="g", timestamp=70.0, namespace=["p"]),
            put("h", memory_id="h", timestamp=80.0, namespace=["pp"]),
            put("o", memory_id="o", agent_id="other", user_id="u", timestamp=5.0),
            put("z", memory_id="z", timestamp=10.0, tags=["x"]),
            Delete("z", "agent"),
        ]
    )
    for query, expected in (
        ({}, "abcdefgh"),
        ({"since_s": 20.0, "until_s": 40.0}, "bc"),
        ({"step_from": 2}, "bde"),
        ({"step_from": 2, "step_to": 3}, "bd"),
        ({"min_importance": 0.5, "max_importance": 0.5}, "bdefgh"),
        ({"memory_types": ("fact", "event")}, "ab"),
        ({"tags": ("y",)}, "ab"),
        ({"tags": ("y", "x")}, "a"),
        ({"any_tags": ("x", "missing")}, "a"),
        ({"session_id": "s"}, "c"),
        ({"user_id": "u"}, "c"),
        ({"user_id": "u", "agent_id": None}, "oc"),
        ({"tiers": (Tier.IM, Tier.LTM)}, "c"),
        ({"attributes": {"n": 1}}, "d"),
        ({"attributes": {"n": 1.0}}, "e"),
        ({"attributes": {"é'": "x"}}, "d"),
        ({"attributes": {"b": True, "n": 1}}, "d"),
        ({"attributes": {"z": None}}, "d"),
        ({"attributes": {"deep": "x"}}, ""),
        ({"key": "k"}, "e"),
        ({"namespace": ("p",)}, "fg"),
        ({"namespace": ("p",), "namespace_exact": True}, "g"),
        ({"namespace_exact": True}, "abcde"),
        ({"order_by": "step", "step_from": 0, "descending": True}, "edba"),
        ({"order_by": "step"}, "cfghabde"),
        ({"order_by": "importance", "descending": True, "min_importance": 0.6}, "c"),
        ({"order_by": "seq", "descending": True, "until_s": 30.0}, "ba"),
    ):
        assert "".join(await matching(async_store, **query)) == expected, query
        assert await async_store.count(MemoryQuery(**({"agent_id": "agent"} | query))) == len(expected), query


@pytest.mark.parametrize("order_by", ["timestamp", "step", "importance", "seq", "created"])
@pytest.mark.parametrize("descending", [False, True])
async def test_pages_give_each_memory_once_and_in_order(async_store, order_by, descending):
    chance = random.Random(5)
    made = [
        copy(
            memory_id=f"m{number:02d}",
            timestamp=float(chance.randrange(4)),
            importance=chance.randrange(3) / 2,
            step=chance.choice([None, 2**62 + 1, 2**62, -7]),
        )
        for number in range(23)
    ]
    await async_store.write([Put(one) for one in made])
    query = MemoryQuery(agent_id="agent", order_by=order_by, descending=descending)
    found, cursor = [], None
    while True:
        page = await async_store.query(query, limit=4, cursor=cursor, vectors=False)
        found += page.copies
        cursor = page.cursor
        if cursor is None:
            break

    def value(number):
        one = made[number]
        worth = {"timestamp": one.timestamp, "importance": one.importance, "seq": number, "created": number}
        return one.step if order_by == "step" else worth[order_by]

    numbers = sorted(range(23), key=lambda n: (value(n) is not None, value(n) or 0, n), reverse=descending)
    assert ids(found) == [made[number].id for number in numbers]


@pytest.mark.parametrize(
    "arguments", [{}, {"agent_id": "a", "since_s": float("nan")}, {"agent_id": "a", "order_by": "x"}]
)
def test_a_query_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        MemoryQuery(**arguments)


async def test_a_limit_outside_its_rule_is_refused(async_store):
    for limit in (0, 10_001):
        with pytest.raises(ValueError, match="limit must be"):
            await async_store.query(MemoryQuery(agent_id="agent"), limit=limit)


async def test_the_feed_gives_each_memory_at_its_last_change(async_store):
    results = await async_store.write([put(memory_id=name) for name in "abc"])
    await async_store.write([put("changed", memory_id="a"), Delete("b", "agent")])
    await async_store.write([Move("c", "agent", results[2].version, Tier.LTM), put(agent_id="other")])
    page = await async_store.changes("agent")
    assert [(found.id, found.seq, found.deleted, found.tier) for found in page.copies] == [
        *(("a", 4, 0, 0), ("b", 5, 1, 0), ("c", 6, 0, 2))
    ]
    assert page[1:] == (6, 1, False, False, ())
    page = await async_store.changes("agent", 4, limit=1)
    assert (ids(page.copies), page.seq, page.more) == (["b"], 5, True)
    assert (await async_store.changes("agent", 6))[:2] == ([], 6)
    assert (await async_store.changes("nobody", 0)) == ([], 0, 1, False, False, ())


async def test_purged_tombstones_send_old_readers_back_to_the_beginning(async_store, clock):
    await async_store.write([put(memory_id="a"), put(memory_id="b"), Delete("a", "agent")])
    assert await async_store.purge_tombstones(clock.now_us) == 0
    clock.now_us += 1_000_000
    await async_store.write([Delete("b", "agent"), put(memory_id="c")])
    assert await async_store.purge_tombstones(clock.now_us) == 1
    assert (await async_store.changes("agent", 2)).reset
    page = await async_store.changes("agent", 3)
    assert (ids(page.copies), page.reset) == (["b", "c"], False)
    assert not (await async_store.changes("agent", 0)).reset
    assert await async_store.get(["a"]) == [None]


async def test_agents_and_their_counts(async_store, clock):
    assert await async_store.agent("agent") is None
    (first,) = await async_store.write([put()])
    clock.now_us += 5
    await async_store.write([put(agent_id="b", tier=Tier.LTM), put(agent_id="b", tier=Tier.IM), put(agent_id="b")])
    state = await async_store.agent("b")
    assert (state.seq, state.generation, state.counts, state.touched_us) == (3, 1, (1, 1, 1), clock.now_us)
    assert state.last_version == clock.now_us + 2
    assert [one.agent_id for one in await async_store.agents()] == ["agent", "b"]
    assert [one.agent_id for one in await async_store.agents(touched_after_us=first.version)] == ["b"]
    await async_store.write([put(agent_id="b", tier=Tier.LTM)])
    assert [one.agent_id for one in await async_store.crowded(Tier.LTM, 1)] == ["b"]
    assert await async_store.crowded(Tier.STM, 1) == []


async def test_candidates_are_the_oldest(async_store, clock):
    versions = {}
    for name, agent, tier in (("a", "x", 0), ("b", "y", 0), ("c", "x", 1), ("d", "x", 0), ("e", "x", 0)):
        clock.now_us += 10
        (result,) = await async_store.write([put(memory_id=name, agent_id=agent, tier=Tier(tier), importance=0.25)])
        versions[name] = result.version
    await async_store.write([Delete("d", "x")])
    found = await async_store.aged(Tier.STM, versions["e"])
    assert [(one.id, one.agent_id, one.version, one.tier, one.importance) for one in found] == [
        *(("a", "x", versions["a"], Tier.STM, 0.25), ("b", "y", versions["b"], Tier.STM, 0.25))
    ]
    assert [one.id for one in await async_store.aged(Tier.STM, 2**52, limit=1)] == ["a"]
    assert [one.id for one in await async_store.aged(Tier.IM, 2**52)] == ["c"]
    assert [one.id for one in await async_store.oldest("x", Tier.STM, limit=2)] == ["a", "e"]


async def test_namespaces(async_store):
    await async_store.write(
        [
            put(),
            *(put(namespace=labels) for labels in (["a"], ["a", "b"], ["a", "b"], ["a-"], ["ab"], ["z/", "é"])),
            put(memory_id="gone", namespace=["gone"]),
            Delete("gone", "agent"),
        ]
    )
    found = {one.namespace: one.memories for one in await async_store.namespaces("agent")}
    assert found == {(): 1, ("a",): 1, ("a", "b"): 2, ("a-",): 1, ("ab",): 1, ("z/", "é"): 1}
    assert [one.namespace for one in await async_store.namespaces("agent", ["a"])] == [("a",), ("a", "b")]
    assert [one.namespace for one in await async_store.namespaces("agent", ["z/"])] == [("z/", "é")]
    paged = [(await async_store.namespaces("agent", limit=1, offset=n))[0].namespace for n in range(6)]
    assert sorted(paged) == sorted(found)


async def test_expired_memories_are_gone_before_they_are_taken_out(async_store, clock):
    now = clock.now_us / 1e6
    await async_store.write(
        [
            put(memory_id="past", expires_at=now - 1),
            put(memory_id="now", expires_at=now),
            put(memory_id="later", expires_at=now + 1),
            put(memory_id="never"),
        ]
    )
    assert await matching(async_store, order_by="seq") == ["later", "never"]
    expired = await async_store.expire(now, limit=1)
    expired += await async_store.expire(now)
    assert [result.id for result in expired] == ["past", "now"]
    assert await async_store.expire(now) == []
    assert [found.deleted for found in await async_store.get(["past", "now", "later"])] == [1, 1, 0]
    assert (await async_store.agent("agent")).counts == (2, 0, 0)


async def test_statistics_of_use_add_up_and_change_nothing_else(async_store):
    (result,) = await async_store.write([put(memory_id="m")])
    await async_store.record_accesses([Access("m", 2, 50.0), Access("missing", 1, 1.0)])
    await async_store.record_accesses(iter([Access("m", 3, 40.0)]))
    assert await async_store.accesses(["m", "missing"]) == [Access("m", 5, 50.0)]
    (found,) = await async_store.get(["m"])
    assert (found.version, found.seq) == (result.version, 1)
    await async_store.write([Delete("m", "agent")])
    assert await async_store.accesses(["m"]) == []


async def test_names_are_data(async_store):
    name = "'; DROP TABLE memories; -- %s ? {} \\ é"
    await async_store.write(
        [put(agent_id=name, memory_id=name, tags=[name], key=name, user_id=name, session_id=name, namespace=[name])]
    )
    query = MemoryQuery(agent_id=name, tags=(name,), key=name, user_id=name, session_id=name, namespace=(name,))
    assert ids((await async_store.query(query)).copies) == [name]
    assert _copy.entry_of((await async_store.get([name]))[0]).tags == (name,)
