# Generated from ../_async/test_store_erasure.py by tools/generate_sync.py: edit that file, not this one.

"""Erasing agents and users: fenced at once, removed in batches, resumable by any process."""

from __future__ import annotations

from store_samples import ids, put

from agent_memory.memory import Tier
from agent_memory.memory.stores import Access, Delete, MemoryQuery, WriteStatus


def test_an_erased_agent_is_not_read_and_late_writes_are_refused(store):
    results = store.write(
        [
            put(memory_id=f"m{n}", key=f"k{n}", idempotency_key=f"i{n}", tags=["t"], embedding=[1.0], user_id="u")
            for n in range(5)
        ]
    )
    store.write([Delete("m4", "agent")])
    store.record_accesses([Access("m0", 1, 1.0)])
    erasure = store.begin_erasure("agent", "agent")
    assert erasure[:3] == ("agent", "agent", 2)
    assert erasure.remaining
    assert store.get(["m0"]) == [None]
    assert store.get_by_key("agent", "k0") is None
    assert store.count(MemoryQuery(agent_id="agent")) == 0
    assert store.query(MemoryQuery(user_id="u")).copies == []
    page = store.changes("agent", 3)
    assert (page.copies, page.generation, page.reset) == ([], 2, True)
    late = store.write(
        [
            put(memory_id="m9", version=results[0].version),
            put(memory_id="m9", version=2**51, generation=1),
            Delete("m9", "agent", version=results[0].version),
            put(memory_id="m0"),
            put(memory_id="m0", if_version=results[0].version),
        ]
    )
    refused = [WriteStatus.ERASED] * 3 + [WriteStatus.DELETED] * 2
    assert [result.status for result in late] == refused


def test_an_agent_lives_on_while_its_past_goes(make_store):
    store = make_store()
    store.write([put(memory_id=f"m{n}", key="k" if n == 0 else None, idempotency_key=f"i{n}") for n in range(7)])
    store.begin_erasure("agent", "agent")
    (new,) = store.write([put("new", memory_id="n0", key="k", idempotency_key="i0")])
    assert new.id == "n0"
    other = make_store()  # another process goes on with it
    assert [(one.kind, one.name) for one in other.erasures()] == [("agent", "agent")]
    erased = []
    while True:
        batch = other.erase("agent", "agent", limit=3)
        erased.append(batch.erased)
        if not batch.remaining:
            break
    assert erased == [3, 3, 1]
    assert other.erasures() == []
    assert ids(store.changes("agent", 0).copies) == ["n0"]
    state = store.agent("agent")
    assert (state.generation, state.counts) == (2, (1, 0, 0))
    assert new.version > 0
    assert store.get_by_key("agent", "k").id == "n0"


def test_erasing_an_agent_that_never_was(store):
    store.begin_erasure("agent", "nobody")
    erasure = store.erase("agent", "nobody")
    assert (erasure.erased, erasure.remaining) == (0, False)
    (result,) = store.write([put(agent_id="nobody", generation=1, version=2**51)])
    assert result.status is WriteStatus.ERASED


def test_an_erased_user_leaves_tombstones_in_all_agents(store, clock):
    results = store.write(
        [
            put(memory_id="a1", agent_id="a", user_id="u", tier=Tier.LTM),
            put(memory_id="a2", agent_id="a", user_id="v"),
            put(memory_id="b1", agent_id="b", user_id="u", tags=["private"]),
            put(memory_id="b2", agent_id="b"),
        ]
    )
    clock.now_us += 100
    erasure = store.begin_erasure("user", "u")
    assert erasure.fence_version >= max(result.version for result in results)
    late = store.write(
        [
            put(memory_id="c1", agent_id="c", user_id="u", version=results[0].version),
            put("kept alive?", memory_id="a1", agent_id="a", user_id="u", if_version=results[0].version),
            put("kept alive?", memory_id="a1", agent_id="a"),
        ]
    )
    assert {result.status for result in late} == {WriteStatus.ERASED}
    assert [one and one.id for one in store.get(["a1", "a2", "b1", "b2"])] == [None, "a2", None, "b2"]
    assert store.count(MemoryQuery(user_id="u")) == 0
    assert ids(store.query(MemoryQuery(agent_id="b")).copies) == ["b2"]
    assert [one.id for one in store.changes("a").copies] == ["a2"]
    (new,) = store.write([put(memory_id="c2", agent_id="c", user_id="u")])
    assert new.version > erasure.fence_version
    assert store.erase("user", "u", limit=1).remaining
    while store.erase("user", "u", limit=1).remaining:
        pass
    assert store.erasures() == []
    found = {one.id: one for one in store.get(["a1", "a2", "b1", "b2", "c2"])}
    assert {name for name, one in found.items() if one.deleted} == {"a1", "b1"}
    assert ids(store.query(MemoryQuery(user_id="u")).copies) == ["c2"]
    assert (found["b1"].content, found["b1"].user_id, found["b1"].tags) == (b"", "", "")
    page = store.changes("a", 2)
    assert [(one.id, one.deleted) for one in page.copies] == [("a1", 1)]
    assert store.agent("a").counts == (1, 0, 0)
