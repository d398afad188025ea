"""Conditions, keys, expiry, export and import, as callers of the memory system meet them."""

from __future__ import annotations

import json

import pytest

from agent_memory.memory import AsyncMemorySystem, MemoryDeletedError, MemorySettings, Ranking

AGENT = "agent"
OVER_S = 1e-6
"""A life that is over when the store has it."""

EMPTY = {
    "user_id": None,
    "session_id": None,
    "namespace": (),
    "tags": (),
    "since_s": None,
    "until_s": None,
    "memory_types": [],
}
EMPTY_RETRIEVALS = EMPTY | {"filters": {}}
EMPTY_QUERIES = EMPTY | {
    "any_tags": set(),
    "attributes": {},
    "tiers": (),
    "key": None,
    "step_from": None,
    "min_importance": None,
}


@pytest.fixture
async def memory(tmp_path):
    async with AsyncMemorySystem(tmp_path / "memory", redis=None) as opened:
        yield opened


async def collect(iterator):
    return [entry async for entry in iterator]


@pytest.mark.parametrize("name", EMPTY_QUERIES)
async def test_a_condition_that_restricts_nothing_is_refused(memory, name):
    await memory.store(AGENT, "ann likes tea", user_id="ann")
    given = {name: EMPTY_QUERIES[name]}
    with pytest.raises(ValueError, match=f"{name} must not be empty"):
        await memory.forget(AGENT, **given)
    with pytest.raises(ValueError, match=f"{name} must not be empty"):
        await memory.forget(AGENT, dry_run=True, step_to=3, **given)  # beside one that restricts
    with pytest.raises(ValueError, match=f"{name} must not be empty"):
        await memory.count(AGENT, **given)
    with pytest.raises(ValueError, match=f"{name} must not be empty"):
        await collect(memory.query(AGENT, **given))
    assert await memory.count(AGENT) == 1


@pytest.mark.parametrize("name", EMPTY_RETRIEVALS)
async def test_a_condition_of_a_retrieval_that_restricts_nothing_is_refused(memory, name):
    for nothing in (EMPTY_RETRIEVALS[name], None):
        with pytest.raises(ValueError, match=f"{name} must not be empty, got"):
            await memory.retrieve(AGENT, "tea", **{name: nothing})


@pytest.mark.parametrize("conditions", [{}, {"order_by": "seq"}, {"descending": True}, {"namespace_exact": False}])
async def test_forgetting_without_a_condition_is_refused(memory, conditions):
    await memory.store(AGENT, "a")
    with pytest.raises(ValueError, match=r"delete_agent\(\)"):
        await memory.forget(AGENT, **conditions)
    assert await memory.count(AGENT) == 1


async def test_forgetting_takes_every_condition(memory):
    await memory.store(AGENT, "root")
    await memory.store(AGENT, "below", namespace=["n"])
    assert await memory.forget(AGENT, namespace=(), namespace_exact=True) == 1
    assert [entry.content for entry in await collect(memory.query(AGENT))] == ["below"]
    with pytest.raises(TypeError, match="limit"):
        await memory.forget(AGENT, user_id="ann", limit=1)
    assert await memory.forget(AGENT, namespace=["n"], order_by="importance", descending=True) == 1


async def test_collections_may_be_lists_and_sets(memory):
    await memory.store(AGENT, "tea", tags=["t"], namespace=["n"], memory_type="fact")
    for words in ({"tags": ["t"]}, {"namespace": ["n"]}, {"memory_types": {"fact"}}, {"any_tags": ["t", "u"]}):
        assert await memory.count(AGENT, **words) == 1
        assert len(await collect(memory.query(AGENT, **words))) == 1
        if "any_tags" not in words:
            assert len(await memory.retrieve(AGENT, "tea", **words)) == 1
    for name in ("tags", "memory_types", "namespace"):
        with pytest.raises(TypeError, match=f"{name} must be"):
            await memory.count(AGENT, **{name: "text"})
        with pytest.raises(TypeError, match=f"{name} must be"):
            await memory.retrieve(AGENT, "tea", **{name: "text"})
    assert await memory.forget(AGENT, tags=["t"]) == 1


async def test_the_words_of_a_retrieval_are_checked_though_there_is_no_memory(memory):
    for wrong in (0, -1, True, 1.5, None):
        with pytest.raises(ValueError, match="k must be a whole number >= 1, got"):
            await memory.retrieve(AGENT, "tea", k=wrong)
    with pytest.raises(TypeError, match="text must be a str or None, got bytes"):
        await memory.retrieve(AGENT, b"tea")
    with pytest.raises(TypeError, match="ranking must be a Ranking, got dict"):
        await memory.retrieve(AGENT, "tea", ranking={"pool": 3})
    for wrong in (-1, 1.5, "x"):
        with pytest.raises(ValueError, match="limit must be"):
            await collect(memory.query(AGENT, limit=wrong))
        with pytest.raises(ValueError, match="limit must be"):
            await memory.history(AGENT, limit=wrong)
    assert await collect(memory.query(AGENT, limit=0)) == []


async def test_filters_are_a_mapping_of_the_metadata(memory):
    with pytest.raises(TypeError, match="filters must be a mapping of names in the metadata, got list"):
        await memory.retrieve(AGENT, "tea", filters=["user"])


@pytest.mark.parametrize("nothing", [None, [], ()])
async def test_a_filter_without_a_value_is_refused_by_name(memory, nothing):
    await memory.store(AGENT, "tea", metadata={"user": "ann"})
    with pytest.raises(ValueError, match="'user'"):
        await memory.retrieve(AGENT, "tea", filters={"user": nothing})


async def test_no_user_means_the_memories_without_a_user(memory):
    await memory.store(AGENT, "hers", key="home", user_id="ann")
    assert await memory.get_by_key(AGENT, "home") is None
    await memory.store(AGENT, "nobody's", key="home")
    assert (await memory.get_by_key(AGENT, "home")).content == "nobody's"
    assert (await memory.get_by_key(AGENT, "home", user_id="ann")).content == "hers"


async def test_what_has_expired_is_gone_everywhere(memory):
    kept = await memory.store(AGENT, "kept")
    over = await memory.store(AGENT, "one-time code", key="otp", namespace=("codes",), user_id="ann", ttl_s=OVER_S)
    turned = await memory.store(AGENT, "another code", key="otp2")
    await memory.update(AGENT, turned, ttl_s=OVER_S)
    for memory_id in (over, turned):
        assert await memory.get(AGENT, memory_id) is None
        with pytest.raises(KeyError):
            await memory.update(AGENT, memory_id, importance=0.1)
    assert await memory.get_by_key(AGENT, "otp", ("codes",), user_id="ann") is None
    assert await memory.get_by_key(AGENT, "otp2") is None
    assert [one.namespace for one in await memory.namespaces(AGENT)] == [()]
    assert await memory.count(AGENT) == await memory.short_term.count(AGENT) == 1
    assert [entry.id for entry in await collect(memory.query(AGENT))] == [kept]
    assert [entry.id for entry in await memory.history(AGENT)] == [kept]
    assert [entry.id for entry in await memory.retrieve(AGENT, "code", ranking=Ranking(now_s=0.0))] == []
    assert len([line async for line in memory.export(AGENT)]) == 1
    assert await memory.forget(AGENT, user_id="ann") == 0
    assert await memory.delete(AGENT, over) is False
    assert await memory.delete(AGENT, over) is False
    assert await memory.delete(AGENT, kept) is True
    assert await memory.delete(AGENT, kept) is False


async def test_the_idempotency_key_of_what_is_gone_is_refused(memory):
    gone = await memory.store(AGENT, "first", idempotency_key="i")
    await memory.delete(AGENT, gone)
    over = await memory.store(AGENT, "first", idempotency_key="j", ttl_s=OVER_S)
    for key, memory_id in (("i", gone), ("j", over)):
        with pytest.raises(MemoryDeletedError) as refused:
            await memory.store(AGENT, "again", idempotency_key=key)
        assert refused.value.memory_id == memory_id
    assert (await memory.maintain()).expired == 1
    with pytest.raises(MemoryDeletedError):
        await memory.store_many(AGENT, [{"content": "again", "idempotency_key": "j"}])
    assert await memory.count(AGENT) == 0


async def test_an_import_keeps_idempotency_keys_and_deduplication(memory, tmp_path):
    first = [
        await memory.store(AGENT, "likes tea", deduplicate=True),
        await memory.store(AGENT, "order 7", idempotency_key="request-7", user_id="ann"),
    ]
    await memory.store(AGENT, "code", ttl_s=1_000.0)
    lines = [line async for line in memory.export(AGENT)]
    lines[2] = json.dumps(json.loads(lines[2]) | {"expires_at": 1.0})
    async with AsyncMemorySystem(tmp_path / "other", redis=None) as other:
        report = await other.import_(lines)
        assert (report, report.unchanged, report.skipped) == (2, 0, {"expired": 1})
        again = [
            await other.store(AGENT, "likes tea", deduplicate=True),
            await other.store(AGENT, "order 7", idempotency_key="request-7", user_id="ann"),
        ]
        assert again == first
        report = await other.import_(lines[:2])
        assert (report, report.unchanged, report.skipped) == (0, 2, {})


async def test_an_import_says_what_it_skipped(memory):
    ids = [await memory.store(AGENT, f"memory {n}", idempotency_key=f"i{n}") for n in range(4)]
    lines = [line async for line in memory.export(AGENT)]
    await memory.delete(AGENT, ids[0])
    await memory.update(AGENT, ids[1], content="newer")
    foreign = json.dumps(json.loads(lines[2]) | {"agent_id": "other"})
    report = await memory.import_([*lines, foreign])
    assert (report, report.unchanged) == (0, 2)
    assert report.skipped == {"deleted": 1, "outdated": 1, "foreign": 1}
    assert repr(report) == "ImportReport(0, unchanged=2, skipped={'deleted': 1, 'outdated': 1, 'foreign': 1})"
    await memory.delete_agent(AGENT)
    assert (await memory.import_(lines)).skipped == {"erased": 4}
    assert await memory.count(AGENT) == 0
    report = await memory.import_([*lines, foreign], new_ids=True)
    assert (report, report.skipped) == (5, {})
    restored = await collect(memory.query(AGENT))
    assert sorted(entry.content for entry in restored) == [f"memory {n}" for n in range(4)]
    assert not {entry.id for entry in restored} & set(ids)
    assert {round(entry.created_at_s, 3) for entry in restored} == {
        round(json.loads(line)["created_at"], 3) for line in lines
    }
    assert await memory.count("other") == 1


async def test_deduplication_by_setting_leaves_keys_alone(tmp_path):
    async with AsyncMemorySystem(tmp_path, redis=None, config=MemorySettings(deduplicate=True)) as memory:
        await memory.store(AGENT, "open", key="ticket-1")
        await memory.store(AGENT, "closed", key="ticket-2")
        await memory.store(AGENT, "open", key="ticket-2")
        assert (await memory.get_by_key(AGENT, "ticket-2")).content == "open"
        plain = await memory.store(AGENT, "open")
        assert await memory.store(AGENT, "open") == plain
        assert await memory.count(AGENT) == 3
