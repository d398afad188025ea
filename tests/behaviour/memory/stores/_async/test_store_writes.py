"""What becomes of writes: versions, tombstones, keys, conditions. Every store answers alike."""

from __future__ import annotations

import pytest
from store_samples import WRITER, copy, put

from agent_memory._concurrency import async_gather, async_spawn
from agent_memory.memory import MemoryStoreClosedError, Tier
from agent_memory.memory.stores import Delete, MemoryQuery, Move, Put, WriteStatus

APPLIED = WriteStatus.APPLIED


async def one(store, operation):
    (result,) = await store.write([operation])
    return result


async def held(store, memory_id):
    (found,) = await store.get([memory_id])
    return found


async def test_a_memory_comes_back_as_it_was_stored(async_store, clock):
    given = copy(
        {"text": "größer", "list": [1, 2.5, None, True]},
        memory_id="m",
        timestamp=1234.56789,
        importance=0.1 + 0.2,
        embedding=[0.1, -2.5, 3e-20],
        memory_type="fact",
        step=-(2**62),
        metadata={"speaker": "Ann", "n": 1e-7, "nul": "\0", "nested": {"a": [1]}},
        tags=["b", "a", "ü"],
        namespace=["users", "a/b %"],
        user_id="u",
        session_id="s",
        key="k",
        idempotency_key="i",
        expires_at=4e9,
        tier=Tier.IM,
        deduplicate=True,
    )
    result = await one(async_store, Put(given))
    found = await held(async_store, "m")
    assert result == (APPLIED, "m", clock.now_us, 1, False, clock.now_us, found)
    assert found == given._replace(
        version=clock.now_us, created_us=clock.now_us, checksum=found.checksum, seq=1, generation=1
    )
    assert await async_store.get_by_key("agent", "k", ["users", "a/b %"], "u") == found
    assert await async_store.get_by_key("agent", "k", ["users", "a/b %"]) is None


async def test_bytes_and_empty_contents(async_store):
    await async_store.write([put(b"\0\xff", memory_id="b"), put("", memory_id="e"), put(None, memory_id="n")])
    found = await async_store.get(["e", "missing", "n", "b"])
    assert [one and one.content for one in found] == [b"", None, b"null", b"\0\xff"]


async def test_versions_grow_by_at_least_one_even_if_the_clock_does_not(async_store, clock):
    first = await one(async_store, put(memory_id="m"))
    second = await one(async_store, put("changed", memory_id="m"))
    assert second[:6] == (APPLIED, "m", first.version + 1, 2, True, first.version)
    clock.now_us -= 10_000_000
    third = await one(async_store, put("again", memory_id="m"))
    assert third.version == second.version + 1
    clock.now_us += 20_000_000
    fourth = await one(async_store, put("and again", memory_id="m"))
    assert fourth.version == clock.now_us
    assert (await held(async_store, "m")).created_us == first.version


async def test_a_copy_with_a_version_is_applied_only_if_it_is_greater(async_store):
    def at(version, writer, content):
        return Put(copy(content, memory_id="m", version=version, writer=writer))

    statuses = [
        (await one(async_store, operation)).status
        for operation in (
            at(10, 5, "a"),
            at(10, 5, "a"),
            at(9, 9, "late"),
            at(10, 4, "lesser writer"),
            at(10, 6, "b"),
            at(11, 1, "c"),
        )
    ]
    stale = WriteStatus.STALE
    assert statuses == [APPLIED, stale, stale, stale, APPLIED, APPLIED]
    found = await held(async_store, "m")
    assert (found.version, found.writer, found.content, found.seq) == (11, 1, b"c", 3)
    # What the store assigns next is above everything it has accepted.
    assert (await one(async_store, put(memory_id="m"))).version > 11


async def test_nothing_beats_a_tombstone(async_store):
    await one(async_store, put("secret", memory_id="m", tags=["t"], embedding=[1.0], user_id="u", key="k"))
    deleted = await one(async_store, Delete("m", "agent", writer=WRITER))
    assert deleted.status is APPLIED
    assert deleted.existed
    refused = await async_store.write(
        [put(memory_id="m"), put(memory_id="m", version=2**52 - 1), put(memory_id="m", create=True)]
    )
    assert {(result.status, result.version) for result in refused} == {(WriteStatus.DELETED, deleted.version)}
    found = await held(async_store, "m")
    assert (found.deleted, found.content, found.vector, found.tags, found.user_id, found.key) == (
        1,
        b"",
        b"",
        "",
        "",
        "",
    )
    assert found.version == deleted.version
    again = await one(async_store, Delete("m", "agent"))
    assert again[:3] == (WriteStatus.STALE, "m", deleted.version)
    assert await async_store.count(MemoryQuery(agent_id="agent")) == 0


async def test_a_delete_that_comes_before_its_memory_holds(async_store):
    early = await one(async_store, Delete("m", "agent", version=50, writer=3))
    assert early[:3] == (APPLIED, "m", 50)
    assert not early.existed
    assert (await one(async_store, put(memory_id="m", version=40))).status is WriteStatus.DELETED
    # An old delete beats a younger memory: deleted comes first in the order of copies.
    await one(async_store, put(memory_id="n", version=40))
    assert (await one(async_store, Delete("n", "agent", version=30, writer=3)))[:3] == (APPLIED, "n", 30)
    later = await one(async_store, Delete("n", "agent", version=60, writer=3))
    assert later[:3] == (APPLIED, "n", 60)
    assert not later.existed


async def test_if_version(async_store):
    absent = await one(async_store, put(memory_id="m", if_version=5))
    assert absent.status is WriteStatus.ABSENT
    first = await one(async_store, put(memory_id="m"))
    second = await one(async_store, put("b", memory_id="m", if_version=first.version))
    assert second.status is APPLIED
    conflict = await one(async_store, put("c", memory_id="m", if_version=first.version))
    assert conflict[:3] == (WriteStatus.CONFLICT, "m", second.version)
    conflict = await one(async_store, Delete("m", "agent", if_version=first.version))
    assert conflict[:3] == (WriteStatus.CONFLICT, "m", second.version)
    assert (await held(async_store, "m")).content == b"b"
    assert (await one(async_store, Delete("m", "agent", if_version=second.version))).status is APPLIED


async def test_a_create_may_be_repeated(async_store):
    operation = put(memory_id="m", create=True)
    first = await one(async_store, operation)
    assert (await one(async_store, operation))[:3] == (WriteStatus.EXISTING, "m", first.version)


async def test_an_id_belongs_to_one_agent(async_store):
    await one(async_store, put(memory_id="m", agent_id="a"))
    refused = await async_store.write([put(memory_id="m", agent_id="b"), Delete("m", "b"), Move("m", "b", 1, Tier.LTM)])
    statuses = [result.status for result in refused]
    assert statuses == [WriteStatus.FOREIGN, WriteStatus.FOREIGN, WriteStatus.ABSENT]


async def test_a_key_names_one_living_memory(async_store):
    first = await one(async_store, put("a", memory_id="m1", key="k"))
    second = await one(async_store, put("b", memory_id="m2", key="k"))
    assert second[:2] == (APPLIED, "m1")
    elsewhere = await one(async_store, put("c", memory_id="m3", key="k", namespace=["other"]))
    assert elsewhere.id == "m3"
    found = await async_store.get_by_key("agent", "k")
    assert (found.id, found.content, found.version, found.created_us) == ("m1", b"b", second.version, first.version)
    await one(async_store, Delete("m1", "agent"))
    assert await async_store.get_by_key("agent", "k") is None
    third = await one(async_store, put("d", memory_id="m4", key="k"))
    assert third[:2] == (APPLIED, "m4")
    # An update that gives up its key leaves it to others; one that wants a key in use is refused.
    await one(async_store, put("e", memory_id="m4"))
    assert await async_store.get_by_key("agent", "k") is None
    await async_store.write([put("f", memory_id="m5", key="k"), put("g", memory_id="m6", key="j")])
    assert (await one(async_store, put("g", memory_id="m6", key="k")))[:2] == (WriteStatus.EXISTING, "m5")


async def test_of_two_copies_with_one_key_the_greater_stays(async_store):
    await one(async_store, put("older", memory_id="m1", key="k", version=10))
    assert (await one(async_store, put("newer", memory_id="m2", key="k", version=20)))[:2] == (APPLIED, "m2")
    assert (await held(async_store, "m1")).deleted
    assert (await one(async_store, put("oldest", memory_id="m3", key="k", version=5))).status is WriteStatus.DELETED
    assert (await held(async_store, "m3")).deleted
    assert (await async_store.get_by_key("agent", "k")).content == b"newer"
    assert (await async_store.agent("agent")).counts == (1, 0, 0)


async def test_an_idempotency_key_is_answered_with_the_first_memory(async_store):
    first = await one(async_store, put("a", memory_id="m1", idempotency_key="i"))
    again = await one(async_store, put("a", memory_id="m2", idempotency_key="i"))
    assert again[:3] == (WriteStatus.EXISTING, "m1", first.version)
    assert again.existed
    await one(async_store, put("changed", memory_id="m1"))
    await one(async_store, Delete("m1", "agent"))
    after = await one(async_store, put("a", memory_id="m3", idempotency_key="i"))
    assert after[:2] == (WriteStatus.EXISTING, "m1")
    assert not after.existed
    assert (await one(async_store, put("a", memory_id="m4", agent_id="other", idempotency_key="i"))).status is APPLIED


async def test_equal_contents_are_stored_once_where_asked_for(async_store):
    results = await async_store.write(
        [
            put("same", memory_id="m1", deduplicate=True),
            put("same", memory_id="m2", deduplicate=True),
            put("same", memory_id="m3"),
            put("same", memory_id="m4", deduplicate=True, user_id="u"),
            put("same", memory_id="m5", deduplicate=True, namespace=["n"]),
            put(b"same", memory_id="m6", deduplicate=True),
            Delete("m1", "agent"),
            put("same", memory_id="m7", deduplicate=True),
        ]
    )
    assert [result.id for result in results] == ["m1", "m1", "m3", "m4", "m5", "m6", "m1", "m7"]
    assert (await one(async_store, put("same", memory_id="m8", deduplicate=True)))[:2] == (WriteStatus.EXISTING, "m7")


async def test_operations_of_one_call_see_each_other(async_store):
    results = await async_store.write(
        [
            put("a", memory_id="m", tags=["x"]),
            put("b", memory_id="m", tags=["y"]),
            Move("m", "agent", 0, Tier.LTM),
            put("k1", memory_id="k1", key="k"),
            put("k2", memory_id="k2", key="k"),
            put("gone", memory_id="g"),
            Delete("g", "agent"),
            put("late", memory_id="g"),
        ]
    )
    assert [result.status for result in results] == [
        *(APPLIED, APPLIED, WriteStatus.STALE, APPLIED, APPLIED, APPLIED, APPLIED, WriteStatus.DELETED)
    ]
    found = await held(async_store, "m")
    assert (found.content, found.tags, found.seq) == (b"b", '["y"]', 2)
    moved = await async_store.write(
        [Move("m", "agent", found.version, Tier.IM), put("c", memory_id="m"), Delete("m", "agent")]
    )
    assert [result.status for result in moved] == [APPLIED, APPLIED, APPLIED]
    assert (await async_store.agent("agent")).counts == (1, 0, 0)
    assert await async_store.count(MemoryQuery(agent_id="agent", tags=("y",))) == 0


async def test_a_move_is_a_label_on_an_unchanged_version(async_store):
    first = await one(async_store, put("words " * 100, memory_id="m", embedding=[0.1, 0.2]))
    before = await held(async_store, "m")
    moved = await one(async_store, Move("m", "agent", first.version, Tier.LTM))
    assert moved[:6] == (APPLIED, "m", first.version, 2, True, 0)
    assert await held(async_store, "m") == before._replace(tier=Tier.LTM, seq=2)
    assert (await one(async_store, Move("m", "agent", first.version, Tier.LTM))).seq == 0
    back = await one(async_store, Move("m", "agent", first.version, Tier.IM))
    assert back.seq == 3
    assert await held(async_store, "m") == before._replace(tier=Tier.IM, seq=3)
    await one(async_store, put("changed", memory_id="m", tier=Tier.IM))
    late = await one(async_store, Move("m", "agent", first.version, Tier.LTM))
    assert late.status is WriteStatus.STALE
    assert (await async_store.agent("agent")).counts == (0, 1, 0)


async def test_a_long_list_goes_through_several_transactions(async_make_store):
    store = await async_make_store()
    results = await store.write([put(str(n), memory_id=f"n{n:05d}") for n in range(2_500)])
    assert [result.seq for result in results] == list(range(1, 2_501))
    assert store.stats().transactions >= 3
    assert await store.count(MemoryQuery(agent_id="agent")) == 2_500


async def test_many_callers_at_once(async_store):
    async def store_some(caller):
        for number in range(20):
            (result,) = await async_store.write([put(f"{caller} {number}", agent_id=f"agent{caller % 3}")])
            assert result.status is APPLIED

    await async_gather(*[async_spawn(store_some, caller) for caller in range(12)])
    states = [await async_store.agent(f"agent{number}") for number in range(3)]
    assert [(state.seq, state.counts) for state in states] == [(80, (80, 0, 0))] * 3
    for state in states:
        page = await async_store.changes(state.agent_id, limit=100)
        assert [found.seq for found in page.copies] == list(range(1, 81))
        assert sorted({found.version for found in page.copies}) == [found.version for found in page.copies]


async def test_two_stores_on_one_database_agree(async_make_store):
    first, second = await async_make_store(), await async_make_store()

    async def store_some(store):
        for _ in range(30):
            await store.write([put()])

    await async_gather(async_spawn(store_some, first), async_spawn(store_some, second))
    for store in (first, second):
        page = await store.changes("agent")
        assert [found.seq for found in page.copies] == list(range(1, 61))


async def test_a_closed_store_says_so_and_opens_again(async_make_store):
    store = await async_make_store()
    await store.write([put(memory_id="m")])
    await store.close()
    await store.close()
    with pytest.raises(MemoryStoreClosedError):
        await store.get(["m"])
    with pytest.raises(MemoryStoreClosedError):
        await store.write([put()])
    await store.open()
    assert (await held(store, "m")).content == b"something said"
