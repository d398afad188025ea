"""Erasing agents and users: fenced at once, removed in batches, resumable by any process."""

from __future__ import annotations

from store_samples import ids, put

from agent_memory.memory import Tier
from agent_memory.memory.stores import Access, Delete, MemoryQuery, WriteStatus


async def test_an_erased_agent_is_not_read_and_late_writes_are_refused(async_store):
    results = await async_store.write(
        [
            put(memory_id=f"m{n}", key=f"k{n}", idempotency_key=f"i{n}", tags=["t"], embedding=[1.0], user_id="u")
            for n in range(5)
        ]
    )
    await async_store.write([Delete("m4", "agent")])
    await async_store.record_accesses([Access("m0", 1, 1.0)])
    erasure = await async_store.begin_erasure("agent", "agent")
    assert erasure[:3] == ("agent", "agent", 2)
    assert erasure.remaining
    assert await async_store.get(["m0"]) == [None]
    assert await async_store.get_by_key("agent", "k0") is None
    assert await async_store.count(MemoryQuery(agent_id="agent")) == 0
    assert (await async_store.query(MemoryQuery(user_id="u"))).copies == []
    page = await async_store.changes("agent", 3)
    assert (page.copies, page.generation, page.reset) == ([], 2, True)
    late = await async_store.write(
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


async def test_an_agent_lives_on_while_its_past_goes(async_make_store):
    store = await async_make_store()
    await store.write([put(memory_id=f"m{n}", key="k" if n == 0 else None, idempotency_key=f"i{n}") for n in range(7)])
    await store.begin_erasure("agent", "agent")
    (new,) = await store.write([put("new", memory_id="n0", key="k", idempotency_key="i0")])
    assert new.id == "n0"
    other = await async_make_store()  # another process goes on with it
    assert [(one.kind, one.name) for one in await other.erasures()] == [("agent", "agent")]
    erased = []
    while True:
        batch = await other.erase("agent", "agent", limit=3)
        erased.append(batch.erased)
        if not batch.remaining:
            break
    assert erased == [3, 3, 1]
    assert await other.erasures() == []
    assert ids((await store.changes("agent", 0)).copies) == ["n0"]
    state = await store.agent("agent")
    assert (state.generation, state.counts) == (2, (1, 0, 0))
    assert new.version > 0
    assert (await store.get_by_key("agent", "k")).id == "n0"


async def test_erasing_an_agent_that_never_was(async_store):
    await async_store.begin_erasure("agent", "nobody")
    erasure = await async_store.erase("agent", "nobody")
    assert (erasure.erased, erasure.remaining) == (0, False)
    (result,) = await async_store.write([put(agent_id="nobody", generation=1, version=2**51)])
    assert result.status is WriteStatus.ERASED


async def test_an_erased_user_leaves_tombstones_in_all_agents(async_store, clock):
    results = await async_store.write(
        [
            put(memory_id="a1", agent_id="a", user_id="u", tier=Tier.LTM),
            put(memory_id="a2", agent_id="a", user_id="v"),
            put(memory_id="b1", agent_id="b", user_id="u", tags=["private"]),
            put(memory_id="b2", agent_id="b"),
        ]
    )
    clock.now_us += 100
    erasure = await async_store.begin_erasure("user", "u")
    assert erasure.fence_version >= max(result.version for result in results)
    late = await async_store.write(
        [
            put(memory_id="c1", agent_id="c", user_id="u", version=results[0].version),
            put("kept alive?", memory_id="a1", agent_id="a", user_id="u", if_version=results[0].version),
            put("kept alive?", memory_id="a1", agent_id="a"),
        ]
    )
    assert {result.status for result in late} == {WriteStatus.ERASED}
    assert [one and one.id for one in await async_store.get(["a1", "a2", "b1", "b2"])] == [None, "a2", None, "b2"]
    assert await async_store.count(MemoryQuery(user_id="u")) == 0
    assert ids((await async_store.query(MemoryQuery(agent_id="b"))).copies) == ["b2"]
    assert [one.id for one in (await async_store.changes("a")).copies] == ["a2"]
    (new,) = await async_store.write([put(memory_id="c2", agent_id="c", user_id="u")])
    assert new.version > erasure.fence_version
    assert (await async_store.erase("user", "u", limit=1)).remaining
    while (await async_store.erase("user", "u", limit=1)).remaining:
        pass
    assert await async_store.erasures() == []
    found = {one.id: one for one in await async_store.get(["a1", "a2", "b1", "b2", "c2"])}
    assert {name for name, one in found.items() if one.deleted} == {"a1", "b1"}
    assert ids((await async_store.query(MemoryQuery(user_id="u"))).copies) == ["c2"]
    assert (found["b1"].content, found["b1"].user_id, found["b1"].tags) == (b"", "", "")
    page = await async_store.changes("a", 2)
    assert [(one.id, one.deleted) for one in page.copies] == [("a1", 1)]
    assert (await async_store.agent("a")).counts == (1, 0, 0)
