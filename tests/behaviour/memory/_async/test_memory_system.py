"""The memory system on a real server and a real database: what is stored is found in every tier and during every outage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import agent_memory.memory as package
from agent_memory._concurrency import ASYNC, async_gather, async_in_thread, async_sleep, async_spawn
from agent_memory.memory import (
    AsyncMemorySystem,
    DurabilityError,
    IndexSettings,
    IntermediateSettings,
    MaintenanceSettings,
    MemoryConflictError,
    MemoryId,
    MemorySchemaError,
    MemorySettings,
    MemoryStoreUnavailableError,
    Ranking,
    ShortTermSettings,
    SyncSettings,
    Tier,
)
from agent_memory.memory._copy import make_copy
from agent_memory.memory.stores.operations import Put
from agent_memory.memory.stores.sqlite import AsyncSqliteStore, _engine
from agent_memory.redis.asyncio import Redis as AsyncRedis
from agent_memory.scoring import ScoreWeights

AGENT = "agent: 1/ü"


class AbsentableStore:
    """A store that can be made unavailable, like one whose database cannot be reached."""

    def __init__(self, store):
        self._store = store
        self.is_away = False

    def __getattr__(self, name):
        found = getattr(self._store, name)
        if self.is_away and name not in ("open", "close", "stats"):
            return self._refuse
        return found

    async def _refuse(self, *args, **options):
        raise MemoryStoreUnavailableError("the database is away")


@pytest.fixture
async def open_memory(valkey, tmp_path):
    """A factory of memory systems on one server and one folder: open_memory(**options)."""
    async with contextlib.AsyncExitStack() as opened:

        async def open_one(folder="memory", **options):
            client = await opened.enter_async_context(AsyncRedis(**valkey.connection_kwargs))
            memory = AsyncMemorySystem(tmp_path / folder, **{"redis": client} | options)
            return await opened.enter_async_context(memory)

        yield open_one


@pytest.fixture
async def memory(open_memory):
    return await open_memory()


@pytest.fixture
async def divided(open_memory, tmp_path):
    """A memory system and its store, which can be made unavailable."""
    (tmp_path / "memory").mkdir()
    store = AbsentableStore(AsyncSqliteStore(tmp_path / "memory" / "memories.sqlite"))
    return await open_memory(store=store), store


async def collect(iterator):
    return [entry async for entry in iterator]


async def until(condition):
    """Waits for a condition, given as a coroutine function; the test's own timeout bounds it."""
    while not await condition():
        await async_sleep(0.01)


async def test_what_is_stored_is_found_by_id_by_words_by_vector_and_by_conditions(memory):
    lisbon = await memory.store(
        AGENT,
        "The user lives in Lisbon.",
        importance=0.8,
        embedding=[1.0, 0.0, 0.0],
        memory_type="fact",
        step=3,
        timestamp_s=1.7e9,
        metadata={"source": "chat", "nested": {"a": [1]}},
        tags=["home", "city"],
        namespace=("users", "a/b"),
        user_id="u1",
        session_id="s1",
    )
    rain = await memory.store(AGENT, "It rains.", embedding=[0.0, 1.0, 0.0], timestamp_s=1.7e9 + 60)
    other = await memory.store("somebody else", "The user lives in Porto.", embedding=[1.0, 0.0, 0.0])

    weighted = await memory.retrieve(
        AGENT,
        "rain",
        embedding=[1.0, 0.0, 0.0],
        ranking=Ranking(weights=ScoreWeights(similarity=1.0, lexical=1.0, importance=0.5, recency=0.0)),
    )
    parts = {entry.id: entry.score_parts for entry in weighted}
    assert parts[lisbon] == {"similarity": 1.0, "lexical": 0.0, "importance": 0.8}
    assert parts[rain]["lexical"] > 0.0
    assert parts[rain] == {"similarity": 0.0, "lexical": parts[rain]["lexical"], "importance": 0.5}
    (alone,) = await memory.retrieve(AGENT, embedding=[0.0, 1.0, 0.1], k=1)
    assert alone.score_parts == {"similarity": alone.score}
    entry = await memory.get(AGENT, lisbon)
    by_words = await memory.retrieve(AGENT, "Where does the user live?")
    by_vector = await memory.retrieve(AGENT, embedding=[0.0, 1.0, 0.1], k=1)
    by_both = await memory.retrieve(AGENT, "rain", embedding=[1.0, 0.0, 0.0], k=5)
    filtered = await memory.retrieve(
        AGENT,
        embedding=[0.0, 1.0, 0.0],
        filters={"source": "chat"},
        tags=["city"],
        namespace=("users",),
        user_id="u1",
        session_id="s1",
        memory_types=("fact",),
        since_s=1.6e9,
        until_s=1.7e9 + 1,
    )

    assert isinstance(lisbon, MemoryId)
    assert lisbon.durability == "sql"
    assert entry.version == lisbon.version
    assert (entry.content, entry.importance, entry.memory_type, entry.step) == (
        "The user lives in Lisbon.",
        0.8,
        "fact",
        3,
    )
    assert (entry.metadata, entry.tags) == ({"source": "chat", "nested": {"a": [1]}}, ("home", "city"))
    assert (entry.namespace, entry.user_id, entry.session_id) == (("users", "a/b"), "u1", "s1")
    assert np.array_equal(entry.embedding, np.array([1, 0, 0], dtype=np.float32))
    assert [found.id for found in by_words] == [lisbon]
    assert by_words[0].score > 0
    assert [found.id for found in by_vector] == [rain]
    assert {found.id for found in by_both} == {lisbon, rain}
    assert [found.id for found in filtered] == [lisbon]
    assert await memory.get(AGENT, other) is None
    assert await memory.get(AGENT, "no such id") is None
    assert [found.id async for found in memory.query(AGENT, since_s=1.7e9, until_s=1.7e9 + 1)] == [lisbon]
    assert [found.id async for found in memory.query(AGENT, step_from=1, step_to=3)] == [lisbon]
    assert [found.id async for found in memory.query(AGENT, min_importance=0.7, tags=("home",))] == [lisbon]
    assert [found.id for found in await memory.history(AGENT)] == [lisbon, rain]
    assert await memory.count(AGENT) == 2
    assert await memory.short_term.count(AGENT) == 2
    assert await memory.long_term.count(AGENT) == 0


async def test_the_tiers_work_on_every_kind_of_server(server, tmp_path):
    async with (
        AsyncRedis(**server.connection_kwargs) as client,
        AsyncMemorySystem(tmp_path, redis=client) as memory,
    ):
        clean = await memory.store(AGENT, "clean", embedding=[1.0, 0.0])
        dirty = await memory.store(AGENT, "dirty", embedding=[0.0, 1.0], durability="redis")
        await memory._lifecycle.parts.clean.flush()
        found = await memory.retrieve(AGENT, embedding=[1.0, 0.5], k=2)
        report = await memory.maintain()

        assert [entry.id for entry in found] == [clean, dirty]
        assert (report.sync.synced, report.sync.beaten) == (1, 0)
        assert memory.stats()["loader"]["loaded"] == 0
        assert await memory.count(AGENT) == 2


async def test_bytes_and_json_come_back_as_they_were(memory):
    for content in (b"\x00\xff", {"a": [1, None, "ü"]}, 7, None, ""):
        stored = await memory.store(AGENT, content)
        assert (await memory.get(AGENT, stored)).content == content


async def test_what_is_wrong_is_refused_before_anything_is_written(memory):
    for arguments, error in (
        ({"importance": 1.5}, ValueError),
        ({"ttl_s": 0}, ValueError),
        ({"embedding": [float("nan")]}, ValueError),
        ({"durability": "paper"}, ValueError),
        ({"tags": "home"}, TypeError),
    ):
        with pytest.raises(error):
            await memory.store(AGENT, "x", **arguments)
    with pytest.raises(ValueError, match="without"):
        await memory.store_many(AGENT, [{"content": "x"}, {"importance": 0.5}])
    for wrong in ("color", "tier", "expires_at", "writer"):
        with pytest.raises(TypeError, match=f"attributes must be of deduplicate, embedding, .*, got '{wrong}'"):
            await memory.store(AGENT, "x", **{wrong: "red"})
        with pytest.raises(TypeError, match=f"attributes must be of .*, got '{wrong}'"):
            await memory.store_many(AGENT, [{"content": "x"}, {"content": "x", wrong: "red"}])
        with pytest.raises(TypeError, match=f"changes must be of .*, got '{wrong}'"):
            await memory.update(AGENT, "id", **{wrong: "red"})
        with pytest.raises(TypeError, match=f"conditions must be of .*, got '{wrong}'"):
            await memory.retrieve(AGENT, "x", **{wrong: "red"})
        with pytest.raises(TypeError, match=f"conditions must be of .*, got '{wrong}'"):
            await memory.count(AGENT, **{wrong: "red"})
    assert await memory.count(AGENT) == 0


async def test_an_update_is_a_new_version_over_the_one_that_was_named(memory):
    first = await memory.store(AGENT, "one", tags=["kept"], embedding=[1.0, 2.0])
    await memory.retrieve(AGENT, "one")

    second = await memory.update(AGENT, first, content="two", if_version=first.version)
    with pytest.raises(MemoryConflictError):
        await memory.update(AGENT, first, content="three", if_version=first.version)
    with pytest.raises(KeyError):
        await memory.update(AGENT, "no such id", content="x")

    entry = await memory.get(AGENT, first)
    assert second.version > first.version
    assert (entry.content, entry.tags, entry.version) == ("two", ("kept",), second.version)
    assert entry.embedding is None  # it belonged to the old content
    assert not any(found.is_match for found in await memory.retrieve(AGENT, "one"))
    assert [found.content for found in await memory.retrieve(AGENT, "two")] == ["two"]


async def test_updates_of_one_memory_by_many_are_none_of_them_lost(memory):
    stored = await memory.store(AGENT, "x", metadata={"count": 0})

    async def add():
        for _ in range(5):
            while True:
                entry = await memory.get(AGENT, stored)
                try:
                    count = entry.metadata["count"] + 1
                    await memory.update(AGENT, stored, metadata={"count": count}, if_version=entry.version)
                    break
                except MemoryConflictError:
                    pass

    await async_gather(*(async_spawn(add) for _ in range(4)))

    assert (await memory.get(AGENT, stored)).metadata == {"count": 20}


async def test_what_is_deleted_stays_deleted(memory, open_memory):
    stored = await memory.store(AGENT, "secret")
    other = await open_memory()
    assert (await other.get(AGENT, stored)).content == "secret"

    assert await memory.delete(AGENT, stored) is True
    assert await memory.delete(AGENT, stored) is False

    assert await memory.get(AGENT, stored) is None
    assert await other.get(AGENT, stored) is None
    assert await memory.retrieve(AGENT, "secret") == []
    with pytest.raises(KeyError):
        await memory.update(AGENT, stored, content="again")


async def test_keys_and_idempotency_keys_and_equal_contents_name_one_memory(memory):
    first = await memory.store(AGENT, "blue", key="color")
    second = await memory.store(AGENT, "green", key="color")
    once = await memory.store(AGENT, "x", idempotency_key="k")
    again = await memory.store(AGENT, "x", idempotency_key="k")
    equal = [await memory.store(AGENT, "same", deduplicate=True) for _ in range(2)]

    assert first == second
    assert (await memory.get_by_key(AGENT, "color")).content == "green"
    assert (await memory.get(AGENT, first)).content == "green"
    assert once == again
    assert equal[0] == equal[1]
    assert await memory.count(AGENT) == 3


async def test_a_process_sees_what_another_one_stores(memory, open_memory):
    other = await open_memory()
    await memory.store(AGENT, "The first one.")
    assert len(await other.retrieve(AGENT, "first second")) == 1

    second = await memory.store(AGENT, "The second one.")
    first = (await memory.retrieve(AGENT, "first"))[0].id

    async def is_seen():
        return len(await other.retrieve(AGENT, "first second")) == 2

    await until(is_seen)
    await memory.update(AGENT, second, content="Something else.")
    assert (await other.get(AGENT, second)).content == "Something else."
    await memory.delete(AGENT, first)

    async def is_gone():
        return not any(entry.is_match for entry in await other.retrieve(AGENT, "first second"))

    await until(is_gone)


async def test_reading_writes_nothing_and_what_was_used_is_counted_in_batches(memory):
    stored = await memory.store(AGENT, "used", importance=0.9)
    for _ in range(3):
        await memory.get(AGENT, stored)

    assert (await memory.get(AGENT, stored)).importance == 0.9
    assert (await memory.maintain()).accesses == 1
    assert (await memory.get(AGENT, stored)).version == stored.version


async def test_what_expires_is_not_found_any_more(memory):
    stored = await memory.store(AGENT, "a lighthouse", ttl_s=0.05)
    kept = await memory.store(AGENT, "another lighthouse", ttl_s=1_000)

    async def is_gone():
        return await memory.get(AGENT, stored) is None

    await until(is_gone)
    assert [entry.id for entry in await memory.retrieve(AGENT, "lighthouse")] == [kept]
    assert (await memory.maintain()).expired == 1


async def test_with_redis_away_everything_goes_on_and_redis_catches_up(start_server, tmp_path):
    server = start_server(transport="tcp")
    async with (
        AsyncRedis(**server.connection_kwargs, socket_timeout=2) as client,
        AsyncMemorySystem(tmp_path, redis=client) as memory,
    ):
        before = await memory.store(AGENT, "stored before", embedding=[1.0, 0.0])
        deleted = await memory.store(AGENT, "deleted meanwhile")
        assert len(await memory.retrieve(AGENT, "stored deleted")) == 2

        server.kill()
        meanwhile = await memory.store(AGENT, "stored meanwhile", embedding=[0.0, 1.0])
        await memory.update(AGENT, before, content="changed meanwhile")
        await memory.delete(AGENT, deleted)
        found = await memory.retrieve(AGENT, "meanwhile")
        health = await memory.check_health()
        assert memory.health() == health
        promised_more = await memory.store(AGENT, "asked for less", durability="redis")

        server.start()

        async def is_healthy():
            return await memory.check_health()

        await until(is_healthy)
        await memory.sync()
        contents = {entry.content for entry in await memory.retrieve(AGENT, "stored changed asked meanwhile")}

    assert health.state == "degraded"
    assert {entry.id for entry in found} == {before, meanwhile}
    assert promised_more.durability == "sql"
    assert contents == {"stored meanwhile", "changed meanwhile", "asked for less"}


async def test_with_sql_away_redis_accepts_what_may_stay_there_and_sql_gets_it_later(divided):
    memory, store = divided
    before = await memory.store(AGENT, "stored before")
    deleted = await memory.store(AGENT, "deleted meanwhile")
    assert len(await memory.retrieve(AGENT, "stored deleted")) == 2

    store.is_away = True
    with pytest.raises(DurabilityError):
        await memory.store(AGENT, "not accepted")
    with pytest.raises(DurabilityError):
        await memory.store(AGENT, "critical", minimum="sql")
    meanwhile = await memory.store(AGENT, "stored meanwhile", minimum="redis")
    changed = await memory.update(AGENT, before, content="changed meanwhile", minimum="redis")
    assert await memory.delete(AGENT, deleted, minimum="redis") is True
    found = {entry.content for entry in await memory.retrieve(AGENT, "stored changed deleted meanwhile")}
    with pytest.raises(MemoryStoreUnavailableError):
        await memory.get(AGENT, "unknown")
    assert (await memory.check_health()).state == "degraded"
    unsynced = memory.stats()["redis"]["dirty_bytes"]

    store.is_away = False

    async def is_healthy():
        return await memory.check_health()

    await until(is_healthy)
    report = await memory.sync()

    assert (meanwhile.durability, changed.durability) == ("redis", "redis")
    assert found == {"stored meanwhile", "changed meanwhile"}
    assert unsynced > 0
    assert (report.synced, report.beaten, report.remaining) == (3, 0, False)
    assert {entry.content async for entry in memory.query(AGENT)} == found
    assert {entry.content for entry in await memory.retrieve(AGENT, "stored changed deleted meanwhile")} == found
    assert memory.stats()["redis"]["dirty_bytes"] == 0


async def test_with_both_away_a_write_is_refused(start_server, tmp_path):
    server = start_server(transport="tcp")
    store = AbsentableStore(AsyncSqliteStore(tmp_path / "memories.sqlite"))
    async with (
        AsyncRedis(**server.connection_kwargs) as client,
        AsyncMemorySystem(tmp_path, redis=client, store=store) as memory,
    ):
        await memory.store(AGENT, "x")
        server.kill()
        store.is_away = True
        for arguments in ({}, {"minimum": "redis"}, {"durability": "redis"}):
            with pytest.raises(DurabilityError):
                await memory.store(AGENT, "y", **arguments)
        assert (await memory.check_health()).state == "down"


JOURNALLED = MemorySettings(journal=True)


async def test_with_both_away_the_journal_keeps_what_may_stay_there_until_sql_has_it(start_server, tmp_path):
    server = start_server(transport="tcp")
    store = AbsentableStore(AsyncSqliteStore(tmp_path / "memories.sqlite"))
    async with (
        AsyncRedis(**server.connection_kwargs) as client,
        AsyncMemorySystem(tmp_path, redis=client, store=store, config=JOURNALLED) as memory,
    ):
        here = await memory.store(AGENT, "stored before", durability="journal")
        changed = await memory.store(AGENT, "left alone")
        gone = await memory.store(AGENT, "to be deleted")
        assert len(await memory.retrieve(AGENT, "stored deleted left")) == 3
        server.kill()
        store.is_away = True
        kept = await memory.store(AGENT, "stored meanwhile", durability="journal", embedding=None)
        degraded = await memory.store(AGENT, "stored by degrading", minimum="journal")
        assert (await memory.get(AGENT, kept)).content == "stored meanwhile"
        with pytest.raises(MemoryStoreUnavailableError):
            await memory.update(AGENT, changed, content="it cannot be read, so it cannot be changed", minimum="journal")
        again = await memory.update(AGENT, kept, content="changed meanwhile", minimum="journal")
        assert await memory.delete(AGENT, gone, minimum="journal")
        for arguments in ({}, {"durability": "redis"}, {"minimum": "redis"}):
            with pytest.raises(DurabilityError):
                await memory.store(AGENT, "y", **arguments)
        found = {entry.content for entry in await memory.retrieve(AGENT, "stored changed meanwhile degrading deleted")}
        held = memory.stats()["journal"]["entries"]

        store.is_away = False
        await async_sleep(0.3)  # an absence is remembered for a quarter of a second
        report = await memory.sync()

        assert [here.durability, kept.durability, degraded.durability] == ["sql", "journal", "journal"]
        assert again.durability == "journal"
        assert again.version > kept.version
        assert found == {"changed meanwhile", "stored by degrading"}
        assert held == 3
        assert report.synced == 3
        assert memory.stats()["journal"] == {"entries": 0, "bytes": 0}
        after = {entry.content async for entry in memory.query(AGENT)}
        assert after == {"stored before", "left alone", "changed meanwhile", "stored by degrading"}
        assert {
            entry.content for entry in await memory.retrieve(AGENT, "stored changed left degrading meanwhile")
        } == after
        assert await memory.get(AGENT, gone) is None


async def test_what_the_journal_holds_reaches_sql_with_the_next_write_and_loses_to_what_is_greater(
    open_memory, tmp_path
):
    (tmp_path / "memory").mkdir()
    store = AbsentableStore(AsyncSqliteStore(tmp_path / "memory" / "memories.sqlite"))
    memory = await open_memory(redis=None, store=store, config=JOURNALLED)
    other = await open_memory(redis=None, store=AsyncSqliteStore(tmp_path / "memory" / "memories.sqlite"))
    stored = await memory.store(AGENT, "first")
    await memory.retrieve(AGENT, "first")
    store.is_away = True
    await memory.delete(AGENT, await memory.store(AGENT, "brief", minimum="journal"), minimum="journal")
    await memory.store(AGENT, "kept", minimum="journal")
    assert (await other.update(AGENT, stored, content="second")).durability == "sql"
    store.is_away = False
    await async_sleep(0.3)  # an absence is remembered for a quarter of a second

    await memory.store(AGENT, "next")

    async def is_empty():
        return not memory.stats()["journal"]["entries"]

    await until(is_empty)
    assert {entry.content async for entry in other.query(AGENT)} == {"second", "kept", "next"}


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


async def test_a_successor_brings_a_killed_process_journal_into_sql(tmp_path):
    code = f"""
import os, signal
from agent_memory.memory import MemorySettings, MemoryStoreUnavailableError, MemorySystem

class Away:
    def __getattr__(self, name):
        def refuse(*args, **options):
            if name not in ("open", "close"):
                raise MemoryStoreUnavailableError("away")
        return refuse

system = MemorySystem({os.fspath(tmp_path)!r}, redis=None, store="sqlite:///{tmp_path}/memories.sqlite",
                      config=MemorySettings(journal=True))
system._resources._make_store = Away
with system as memory:
    for number in range(20):
        print(memory.store("a", f"memory {{number}}", durability="journal"), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = await async_in_thread(run_python, code)
    ids = done.stdout.split()
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(ids) == 20

    options = {"redis": None, "store": f"sqlite:///{tmp_path}/memories.sqlite", "config": JOURNALLED}
    async with AsyncMemorySystem(tmp_path, **options) as memory:
        found = {entry.id: entry.content async for entry in memory.query("a")}
        assert memory.stats()["journal"]["entries"] == 0
    assert found == {memory_id: f"memory {number}" for number, memory_id in enumerate(ids)}
    async with AsyncMemorySystem(tmp_path, **options) as memory:
        assert await memory.count("a") == 20


async def test_what_the_journal_holds_is_bounded_and_asked_for_only_where_there_is_one(open_memory, tmp_path):
    (tmp_path / "memory").mkdir()
    store = AbsentableStore(AsyncSqliteStore(tmp_path / "memory" / "memories.sqlite"))
    settings = MemorySettings(journal=True, sync=SyncSettings(max_unsynced_bytes=3_000))
    memory = await open_memory(redis=None, store=store, config=settings)
    store.is_away = True
    await memory.store(AGENT, "x" * 2_000, durability="journal")
    with pytest.raises(DurabilityError, match="max_unsynced_bytes"):
        await memory.store(AGENT, "x" * 2_000, durability="journal")
    without = await open_memory(folder="other", redis=None)
    with pytest.raises(ValueError, match="journal=True"):
        await without.store(AGENT, "x", durability="journal")
    with pytest.raises(ValueError, match="journal=True"):
        MemorySettings(durability="journal")


async def test_what_redis_alone_has_is_not_called_absent_while_it_is_away(start_server, tmp_path):
    server = start_server(transport="tcp", path=tmp_path / "redis")
    async with (
        AsyncRedis(**server.connection_kwargs) as client,
        AsyncMemorySystem(tmp_path, redis=client) as memory,
    ):
        await memory.store(AGENT, "whatever")
        await memory.retrieve(AGENT, "whatever")
        stored = await memory.store(AGENT, "in Redis alone", durability="redis")
        server.kill()
        with pytest.raises(MemoryStoreUnavailableError, match="Redis is away"):
            await memory.get(AGENT, stored)
        # Another process may have stored it there.
        with pytest.raises(MemoryStoreUnavailableError, match="Redis is away"):
            await memory.get(AGENT, "nowhere")
        server.start()

        async def is_back():
            with contextlib.suppress(MemoryStoreUnavailableError):
                return await memory.get(AGENT, stored)

        await until(is_back)
        assert await memory.get(AGENT, "nowhere") is None


async def test_a_server_that_may_evict_is_no_place_for_what_sql_does_not_hold(start_server, tmp_path):
    server = start_server(config={"maxmemory-policy": "allkeys-lru"})
    store = AbsentableStore(AsyncSqliteStore(tmp_path / "memories.sqlite"))
    async with (
        AsyncRedis(**server.connection_kwargs) as client,
        AsyncMemorySystem(tmp_path, redis=client, store=store) as memory,
    ):
        safer = await memory.store(AGENT, "x", durability="redis")
        store.is_away = True
        with pytest.raises(DurabilityError, match="allkeys-lru"):
            await memory.store(AGENT, "y", durability="redis")

    assert safer.durability == "sql"


async def test_what_waits_for_sql_is_bounded(divided, open_memory):
    _, store = divided
    settings = MemorySettings(sync=SyncSettings(max_unsynced_bytes=1_000))
    bounded = await open_memory(store=store, config=settings)
    store.is_away = True

    await bounded.store(AGENT, "x" * 2_000, durability="redis")
    with pytest.raises(DurabilityError, match="max_unsynced_bytes"):
        await bounded.store(AGENT, "y", durability="redis")


async def test_memories_move_from_tier_to_tier_and_stay_what_they_are(open_memory):
    settings = MemorySettings(
        short_term=ShortTermSettings(max_entries=20),
        intermediate=IntermediateSettings(max_entries=30, min_importance=0.2),
        maintenance=MaintenanceSettings(pause_s=0, batch_entries=7),
    )
    memory = await open_memory(config=settings)
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(100, 8)).astype(np.float32)
    ids = await memory.store_many(
        AGENT,
        [{"content": f"memory number {n} " * 9, "importance": 0.1 if n % 10 == 0 else 0.6} for n in range(100)],
        embeddings=vectors,
    )

    report = await memory.maintain()

    tiers = [await tier.count(AGENT) for tier in (memory.short_term, memory.intermediate, memory.long_term)]
    assert tiers == [20, 30, 50]
    assert report.moved == {"STM to IM": 72, "STM to LTM": 8, "IM to LTM": 42}
    for n in (0, 30, 95):
        entry = await memory.get(AGENT, ids[n])
        assert (entry.content, entry.version) == (f"memory number {n} " * 9, ids[n].version)
        assert np.array_equal(entry.embedding, vectors[n])
        assert [found.id for found in await memory.retrieve(AGENT, embedding=vectors[n], k=1)] == [ids[n]]
    assert {entry.tier async for entry in memory.long_term.query(AGENT)} == {Tier.LTM}


async def test_batches_of_a_thousand_are_synchronised_and_moved_though_no_script_takes_so_many(open_memory):
    settings = MemorySettings(
        short_term=ShortTermSettings(max_entries=1),
        sync=SyncSettings(batch_entries=1_000),
        maintenance=MaintenanceSettings(batch_entries=1_000, pause_s=0),
    )
    memory = await open_memory(config=settings)
    for n in range(1_100):
        await memory.store(AGENT, f"memory {n}", durability="redis")

    report = await memory.maintain()

    assert (report.sync.synced, report.sync.remaining) == (1_100, False)
    assert report.moved == {"STM to IM": 1_099, "STM to LTM": 0, "IM to LTM": 0}
    assert [await tier.count(AGENT) for tier in (memory.short_term, memory.intermediate)] == [1, 1_099]
    assert memory.stats()["redis"]["dirty_entries"] == 1_100  # as the round found them
    assert (await memory.sync()).synced == 0
    assert memory.stats()["redis"]["dirty_entries"] == 0


async def test_the_sync_service_works_in_the_background_and_stops(open_memory):
    settings = MemorySettings(sync=SyncSettings(interval_s=0.02), maintenance=MaintenanceSettings(interval_s=0.02))
    memory = await open_memory(config=settings)
    await memory.start()
    stored = await memory.store(AGENT, "accepted by Redis", durability="redis")

    async def is_synced():
        return await memory.count(AGENT) == 1

    await until(is_synced)
    await memory.stop()

    assert stored.durability == "redis"
    assert memory.stats()["service"]["failures"] == 0
    assert (await memory.get(AGENT, stored)).version == stored.version


async def test_an_index_starts_from_a_snapshot_and_the_feed(open_memory, tmp_path):
    settings = MemorySettings(index=IndexSettings(snapshot_entries=50))
    memory = await open_memory(config=settings)
    vectors = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    ids = await memory.store_many(AGENT, [{"content": f"word{n}"} for n in range(60)], embeddings=vectors)
    await memory.retrieve(AGENT, "word1")
    assert (await memory.maintain()).snapshots == 1
    await memory.delete(AGENT, ids[0])
    await memory.update(AGENT, ids[1], content="changed")

    fresh = await open_memory(config=settings)
    assert not any(entry.is_match for entry in await fresh.retrieve(AGENT, "word0 word1"))
    assert [entry.id for entry in await fresh.retrieve(AGENT, "changed")] == [ids[1]]
    assert [entry.id for entry in await fresh.retrieve(AGENT, embedding=vectors[7], k=1)] == [ids[7]]
    assert fresh.stats()["index"]["loads"] == 1
    assert await fresh.rebuild_indices(AGENT) == 59
    assert list((tmp_path / "memory" / "snapshots").iterdir()) == []


async def test_the_least_recently_used_index_goes_where_memory_is_short(open_memory):
    memory = await open_memory(config=MemorySettings(index=IndexSettings(max_bytes=4_000)))
    for agent_id in ("a", "b", "c"):
        await memory.store_many(agent_id, [{"content": f"word {n}"} for n in range(5)])
    for agent_id in ("a", "b", "c", "a"):
        assert len(await memory.retrieve(agent_id, "word", k=10)) == 5

    stats = memory.stats()["index"]
    assert stats["evicted"] > 0
    assert stats["agents"] < 3


async def test_export_and_import_keep_ids_and_versions(memory, open_memory):
    await memory.store_many(AGENT, [{"content": f"text {n}", "tags": ["t"], "step": n} for n in range(3)])
    await memory.store(AGENT, b"\xff", embedding=[1.0, 2.0], metadata={"a": 1}, namespace=("x",))
    lines = [line async for line in memory.export(AGENT)]
    other = await open_memory("another", redis=None)

    assert await other.import_(lines) == 4
    assert await other.import_(lines) == 0
    assert [line async for line in other.export(AGENT)] == lines
    assert [json.loads(line)["version"] for line in lines] == [
        e.version async for e in memory.query(AGENT, order_by="seq")
    ]
    with pytest.raises(ValueError, match="lines must be"):
        await other.import_(["{}"])


async def test_a_line_of_an_export_is_read_whatever_is_in_it(memory, open_memory):
    name = "embedding_base64"
    await memory.store(AGENT, f'"{name}":"AAAA",', embedding=[1.0, -2.0])
    await memory.store(AGENT, {name: "AAAA", "b": [{name: "AAAA"}]}, embedding=[3.0, 4.0])
    await memory.store(AGENT, "Grüße", metadata={name: "AAAA", "a": '{"'}, tags=[name], embedding=[5.0, 6.0])
    await memory.store(AGENT, "none")
    lines = [line async for line in memory.export(AGENT)]
    spaced = [json.dumps(dict(reversed(json.loads(line).items()))) for line in lines]
    for number, given in enumerate((lines, spaced)):
        other = await open_memory(f"another {number}", redis=None)
        assert await other.import_(given) == 4
        assert [line async for line in other.export(AGENT)] == lines
        await other.close()


async def test_an_import_that_meets_a_bad_line_has_stored_the_batches_before(memory, open_memory):
    await memory.store_many(AGENT, [{"content": f"text {n}"} for n in range(1_100)])
    lines = [line async for line in memory.export(AGENT)]
    for number, (at, stored) in enumerate(((1_050, 1_000), (1_000, 1_000), (400, 0))):
        other = await open_memory(f"another {number}", redis=None)
        with pytest.raises(ValueError, match="lines must be"):
            await other.import_([*lines[:at], "{}", *lines[at:]])
        assert await other.count(AGENT) == stored
        report = await other.import_(lines)
        assert (report, report.unchanged) == (1_100 - stored, stored)
        await other.close()


async def test_an_import_raises_what_the_store_raised_for_a_batch(memory, open_memory):
    await memory.store_many(AGENT, [{"content": f"text {n}"} for n in range(1_600)])
    lines = [line async for line in memory.export(AGENT)]
    other = await open_memory("another", redis=None)
    store = other._lifecycle.parts.sql.store
    write, calls = store.write, []

    async def failing(operations):
        calls.append(len(operations))
        if len(calls) == 2:
            raise MemoryStoreUnavailableError("it is away")
        return await write(operations)

    store.write = failing
    with pytest.raises(MemoryStoreUnavailableError, match="away"):
        await other.import_(lines)
    assert calls == [500, 500], "what comes after it is not begun"

    async def is_healthy():
        return await other.check_health()

    await until(is_healthy)
    assert await other.count(AGENT) == 500


async def test_many_dirty_copies_go_to_sql_in_parts(open_memory):
    memory = await open_memory(config=MemorySettings(sync=SyncSettings(batch_entries=3)))
    stored = [
        await memory.store(agent_id, f"text {n}", durability="redis")
        for agent_id, count in (("many", 40), ("few", 4), ("one", 1))
        for n in range(count)
    ]
    report = await memory.sync()
    assert (report.synced, report.beaten, report.remaining) == (len(stored), 0, False)
    assert [await memory.count(agent_id) for agent_id in ("many", "few", "one")] == [40, 4, 1]
    assert memory.stats()["redis"]["dirty_bytes"] == 0


async def test_redis_follows_only_what_no_process_has_put_there(open_memory):
    memory = await open_memory()
    stored = [await memory.store(AGENT, f"text {n}") for n in range(3)]
    await memory.update(AGENT, stored[0], content="changed")
    await memory.delete(AGENT, stored[1])
    await memory.store_many(AGENT, [{"content": f"many {n}"} for n in range(700)])
    await memory._lifecycle.parts.clean.flush()
    for n in range(3):
        await memory.store(AGENT, f"dirty {n}", durability="redis")
    report = await memory.sync()
    assert (report.synced, report.followed) == (3, 0)
    assert (await memory.sync()).followed == 0

    # As a process that dies before it puts what it has committed.
    copy = make_copy(AGENT, "put nowhere", memory_id="lost", timestamp=0.0, created_us=1, writer=1)
    await memory._lifecycle.parts.sql.store.write([Put(copy)])
    await memory.store(AGENT, "after a gap")
    await memory._lifecycle.parts.clean.flush()
    await memory.store(AGENT, "dirty after a gap", durability="redis")
    report = await memory.sync()
    assert (report.synced, report.followed) == (1, 2)
    assert (await memory.sync()).followed == 0


async def test_a_copy_that_changes_while_sql_gets_it_stays_dirty(divided):
    memory, store = divided
    first = await memory.store(AGENT, "first", durability="redis")
    write = store.write

    async def write_and_be_overtaken(operations):
        del store.write
        results = await write(operations)
        store.is_away = True
        await memory.update(AGENT, first, content="second", minimum="redis")
        store.is_away = False
        return results

    async def is_healthy():
        return await memory.check_health()

    store.write = write_and_be_overtaken
    assert (await memory.sync()).synced == 1
    dirty_bytes = memory.stats()["redis"]["dirty_bytes"]
    await until(is_healthy)
    content = (await memory.get(AGENT, first)).content
    report = await memory.sync()

    assert dirty_bytes > 0
    assert content == "second"
    assert (report.synced, report.remaining) == (1, False)
    assert [entry.content async for entry in memory.query(AGENT)] == ["second"]
    assert memory.stats()["redis"]["dirty_bytes"] == 0


async def test_sql_that_goes_away_stops_all_parts_and_the_next_round_goes_on(open_memory):
    memory = await open_memory(config=MemorySettings(sync=SyncSettings(batch_entries=3, interval_s=600)))
    for n in range(40):
        await memory.store(AGENT, f"text {n}", durability="redis")
    store = memory._lifecycle.parts.sql.store
    write, calls = store.write, []

    async def failing(operations):
        calls.append(len(operations))
        if len(calls) > 4:
            raise MemoryStoreUnavailableError("it is away")
        return await write(operations)

    store.write = failing
    report = await memory.sync()
    assert report.remaining
    assert report.synced == 4 * 3
    assert len(calls) <= 4 + 3, "no part is begun after one that failed"
    store.write = write

    async def is_healthy():
        return await memory.check_health()

    await until(is_healthy)
    assert (await memory.sync()).synced == 40 - 4 * 3


async def test_forgetting_and_erasing(memory):
    await memory.store_many(AGENT, [{"content": f"text {n}", "importance": n / 10, "user_id": "u"} for n in range(10)])
    await memory.store("other", "text", user_id="u")
    await memory.retrieve(AGENT, "text")

    assert await memory.forget(AGENT, max_importance=0.2, dry_run=True) == 3
    assert await memory.forget(AGENT, max_importance=0.2) == 3
    assert await memory.count(AGENT) == 7
    with pytest.raises(ValueError, match="conditions"):
        await memory.forget(AGENT)
    assert await memory.delete_user("u") == 8
    assert await memory.retrieve(AGENT, "text") == []
    await memory.store(AGENT, "text again")
    assert await memory.delete_agent(AGENT) >= 1
    assert await memory.count(AGENT) == 0
    assert await memory.retrieve(AGENT, "text") == []


async def test_an_erased_user_is_not_read_while_the_erasure_goes_on(memory):
    ours = await memory.store(AGENT, "text of theirs", user_id="u")
    others = await memory.store(AGENT, "text of others", user_id="v")
    dirty = await memory.store(AGENT, "text for Redis", user_id="u", durability="redis")
    assert len(await memory.retrieve(AGENT, "text")) == 3
    store = memory._lifecycle.parts.sql.store
    erase, seen = store.erase, []

    async def look(kind, name):
        seen.append([await memory.get(AGENT, one) for one in (ours, dirty)])
        seen.append([entry.id for entry in await memory.retrieve(AGENT, "text")])
        return await erase(kind, name)

    store.erase = look
    assert await memory.delete_user("u") == 2
    assert seen == [[None, None], [others]]
    assert (await memory.get(AGENT, others)).content == "text of others"
    assert [entry.id for entry in await memory.retrieve(AGENT, "text")] == [others]


async def test_texts_are_embedded_where_there_is_an_embedder(open_memory):
    def embed(texts):
        return [[float(len(text)), 1.0] for text in texts]

    memory = await open_memory(embed=embed)
    short = await memory.store(AGENT, "a")
    (long,) = await memory.store_many(AGENT, [{"content": "a" * 50}])

    found = await memory.retrieve(AGENT, "b" * 40, k=1, ranking=Ranking(weights=ScoreWeights(lexical=0)))
    await memory.update(AGENT, short, content="a" * 30)

    assert found[0].id == long
    assert (await memory.get(AGENT, short)).embedding[0] == 30


async def test_texts_come_first_and_vectors_later(memory):
    await memory.store(AGENT, "words only")
    assert len(await memory.retrieve(AGENT, "words")) == 1
    stored = await memory.store(AGENT, "with a vector", embedding=[1.0, 0.0])

    assert (await memory.retrieve(AGENT, embedding=[1.0, 0.0], k=1))[0].id == stored
    assert len(await memory.retrieve(AGENT, "words")) == 1


async def test_misses_are_loaded_once_and_absence_is_remembered(memory):
    stored = await memory.store(AGENT, "x")
    await memory._lifecycle.parts.clean.flush()
    await memory._lifecycle.parts.redis.tier.client.flushall()

    gets = [async_spawn(memory.get, AGENT, stored) for _ in range(20)]
    found = await async_gather(*gets)
    for _ in range(5):
        assert await memory.get(AGENT, "nowhere") is None

    loader = memory.stats()["loader"]
    assert {entry.content for entry in found} == {"x"}
    assert loader["absent_hits"] >= 1


def start_python(code):
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_a_process_that_misses_the_server_of_a_killed_owner_owns_the_next_one(tmp_path):
    code = f"""
import sys
from agent_memory.memory import MemorySystem
with MemorySystem({os.fspath(tmp_path)!r}) as memory:
    print(memory.store("a", "in the owner's Redis", durability="redis"), flush=True)
    sys.stdin.read()
"""
    owner = start_python(code)
    try:
        stored = (await async_in_thread(owner.stdout.readline)).strip()
        async with AsyncMemorySystem(tmp_path) as successor, AsyncMemorySystem(tmp_path) as other:
            assert (await successor.get("a", stored)).content == "in the owner's Redis"
            assert (await other.get("a", stored)).content == "in the owner's Redis"
            owner.kill()
            await async_in_thread(owner.wait)
            meanwhile = await successor.store("a", "meanwhile")

            async def reaches_redis(memory):
                with contextlib.suppress(DurabilityError, MemoryStoreUnavailableError):
                    return (await memory.store("a", "x", durability="redis")).durability == "redis"

            await until(lambda: reaches_redis(successor))
            await until(lambda: reaches_redis(other))
            assert [memory._resources.directory.server is not None for memory in (successor, other)].count(True) == 1
            for memory in (successor, other):
                assert (await memory.get("a", stored)).content == "in the owner's Redis"
                assert (await memory.get("a", meanwhile)).content == "meanwhile"
            await successor.sync()
            assert (await successor.get("a", stored)).content == "in the owner's Redis"
    finally:
        owner.kill()
        owner.wait()
        owner.stdin.close()
        owner.stdout.close()


async def test_the_owners_server_comes_back_when_it_was_killed(tmp_path):
    async with AsyncMemorySystem(tmp_path) as memory:
        stored = await memory.store("a", "kept by both", durability="redis")
        memory._resources.directory.server.kill()

        async def is_found():
            with contextlib.suppress(MemoryStoreUnavailableError):
                return await memory.get("a", stored)

        await until(is_found)
        assert (await memory.get("a", stored)).content == "kept by both"


async def test_a_child_of_fork_opens_anew_and_leaves_its_parent_alone(tmp_path):
    async with AsyncMemorySystem(tmp_path, config=JOURNALLED) as memory:
        before = await memory.store("a", "the parent's")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = _in_child(memory, before)
            finally:
                os._exit(status)
        _, status = await async_in_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        after = await memory.store("a", "the parent's again")
        assert (await memory.get("a", after)).content == "the parent's again"
        assert {entry.content async for entry in memory.query("a")} == {
            "the parent's",
            "the child's",
            "the parent's again",
        }
        assert await memory.check_health()


def _in_child(inherited, before):
    """0 where the inherited system works beside the parent's, and so does one that is made here."""
    seen = asyncio.Runner().run(_use(inherited, before)) if ASYNC else _use(inherited, before)
    with package.MemorySystem(inherited._resources.directory.path) as memory:
        memory.store("a", "the child's")
        found = memory.get("a", before)
    return 0 if seen == found.content == "the parent's" else 1


async def _use(inherited, before):
    found = await inherited.get("a", before)
    assert inherited.stats()["redis"]["here"]
    await inherited.close()
    return found.content


async def test_the_default_system_has_a_server_of_its_own_and_keeps_what_was_stored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with AsyncMemorySystem() as memory:
        stored = await memory.store("a", "kept", durability="redis")
        attached = AsyncMemorySystem()
        async with attached:
            assert (await attached.get("a", stored)).content == "kept"
        assert os.stat("agent_memory/server.json").st_mode & 0o077 == 0
    async with AsyncMemorySystem() as memory:
        assert (await memory.get("a", stored)).content == "kept"
        assert (await memory.sync()).synced == 1
        assert await memory.count("a") == 1


async def test_a_new_content_has_no_old_vector(open_memory):
    own = await open_memory()
    note = await own.store(AGENT, "lives in Lisbon", embedding=[1.0, 0.0, 0.0])
    await own.update(AGENT, note, content="has a cat", embedding=[0.0, 1.0, 0.0])
    assert (await own.retrieve(AGENT, embedding=[0.0, 1.0, 0.0]))[0].similarity == pytest.approx(1.0)
    await own.update(AGENT, note, importance=0.9)
    assert (await own.get(AGENT, note)).embedding is not None  # the content is the same
    await own.update(AGENT, note, content={"fact": "has a dog"})
    assert (await own.get(AGENT, note)).embedding is None


async def test_of_equal_memories_the_newer_comes_first(open_memory):
    memory = await open_memory()
    await memory.store(AGENT, "The colour is blue.", timestamp_s=1.70e9)
    await memory.store(AGENT, "The colour is green.", timestamp_s=1.75e9)
    found = await memory.retrieve(AGENT, "What is the colour?", k=1)
    assert [entry.content for entry in found] == ["The colour is green."]


async def test_relevance_is_comparable_between_calls(open_memory):
    memory = await open_memory()
    await memory.store("alone", "The user lives in Rome.", embedding=[1.0, 0.0])
    await memory.store("two", "The user likes green tea.", embedding=[1.0, 0.0])
    await memory.store("two", "The user drinks coffee.", embedding=[0.6, 0.8])
    exact = (await memory.retrieve("alone", "The user lives in Rome.", embedding=[1.0, 0.0]))[0]
    best, other = await memory.retrieve("two", "zebra tea", embedding=[0.8, -0.6])
    assert exact.relevance == exact.score > 0.9 > best.relevance > other.relevance >= 0.0
    assert [exact.similarity, best.similarity, other.similarity] == pytest.approx([1.0, 0.8, 0.0], abs=1e-6)
    assert await memory.retrieve("two", "zebra tea", embedding=[0.8, -0.6], min_relevance=0.9) == []
    with pytest.raises(ValueError, match=r"min_relevance must be in 0\.\.1, got 2"):
        await memory.retrieve("two", "tea", min_relevance=2)


async def test_a_question_without_any_match_gives_what_is_recent_and_important(open_memory):
    memory = await open_memory()
    await memory.store(AGENT, "Bob: hello", importance=0.1, timestamp_s=1.6e9)
    await memory.store(AGENT, "The user is called Ann.", importance=1.0)
    found = await memory.retrieve(AGENT, "Who am I?", k=1)
    assert [(entry.content, entry.is_match, entry.relevance) for entry in found] == [
        ("The user is called Ann.", False, 0.0)
    ]
    assert await memory.retrieve(AGENT, "Who am I?", min_relevance=0.01) == []


async def test_a_reranker_orders_the_best_of_the_pool(open_memory):
    memory = await open_memory()
    for number in range(6):
        await memory.store(AGENT, f"tea {number}")

    async def prefer(text, entries):
        assert (text, len(entries)) == ("tea", 6)
        return [int(entry.content[-1] == "2") for entry in entries]

    best = (await memory.retrieve(AGENT, "tea", k=2, ranking=Ranking(rerank=prefer)))[0]
    assert (best.content, best.score) == ("tea 2", 1.0)
    with pytest.raises(ValueError, match="rerank must return 6 finite scores, got 1"):
        await memory.retrieve(AGENT, "tea", ranking=Ranking(rerank=lambda _, __: [1.0]))
    with pytest.raises(ValueError, match="text must be given with a rerank, got None"):
        await memory.retrieve(AGENT, embedding=[1.0], ranking=Ranking(rerank=prefer))


@pytest.mark.parametrize("given", [{}, {"user_id": "ann"}, {"timestamp_s": 1.7e9}])
async def test_the_order_of_storing_is_the_step_of_a_session(open_memory, given):
    memory = await open_memory()
    turns = [
        "Ann: What did you name your new puppy?", "Bob: Biscuit! She is asleep on my feet.", "Ann: Did you fix the sink?",
        "Bob: Yes, with tape and hope.", "Ann: How was the puppy show?", "Bob: Long. I fell asleep.",
    ]  # fmt: skip
    await memory.store_many(AGENT, [{"content": turn, "session_id": "s", **given} for turn in turns])
    found = await memory.retrieve(AGENT, "What is the name of Bob's new puppy?", k=3)
    assert turns[1] in [entry.content for entry in found]


TURNS = [
    "Ann: What did you name your new puppy?", "Bob: Biscuit! She is asleep on my feet.", "Ann: Did you fix the sink?",
    "Bob: Yes, with tape and hope.", "Ann: How was the puppy show?", "Bob: Long. I fell asleep.", "Ann: See ya!",
]  # fmt: skip


async def test_a_session_is_found_alike_however_it_was_stored(open_memory, tmp_path):
    """By `store` or `store_many`, with steps or in its order; also after a change, and from SQL in another process."""
    found = {}
    for way in ("store", "store_many", "steps"):
        memory = await open_memory(tmp_path / way, redis=None)
        entries = [
            {"content": turn, "session_id": "s", **({"step": step} if way == "steps" else {})}
            for step, turn in enumerate(TURNS)
        ]
        ids = []
        for part in [[entry] for entry in entries] if way == "store" else [entries]:
            ids += [await memory.store(AGENT, **part[0])] if way == "store" else await memory.store_many(AGENT, part)
        for moment in ("stored", "changed", "opened"):
            if moment == "changed":
                await memory.update(AGENT, ids[1], importance=0.9)
                await memory.update(AGENT, ids[4], importance=0.1)
            elif moment == "opened":
                await memory.close()
                memory = await open_memory(tmp_path / way, redis=None)
            for question in ("What is the name of Bob's new puppy?", "Who fell asleep at the show?"):
                answer = await memory.retrieve(AGENT, question, k=len(TURNS))
                found[way, moment, question] = [(entry.content, round(entry.relevance, 9)) for entry in answer]
    for (way, moment, question), answer in found.items():
        assert answer == found["steps", "stored", question], (way, moment)


async def test_forgetting_many_is_one_commit_and_others_see_it(open_memory, monkeypatch):
    # On a busy machine a transaction may reach the time at which it is divided.
    monkeypatch.setattr(_engine, "MAX_TRANSACTION_S", 60.0)
    memory = await open_memory()
    await memory.store_many(AGENT, [{"content": f"tea {number}", "tags": [str(number % 2)]} for number in range(300)])
    (kept, gone) = [entry async for entry in memory.query(AGENT, limit=2)]
    assert (await memory.get(AGENT, gone.id)) is not None  # it is in Redis, too
    before = memory.stats()["store"]["transactions"]
    assert await memory.forget(AGENT, tags=["1"]) == 150
    assert memory.stats()["store"]["transactions"] == before + 1
    assert await memory.forget(AGENT, tags=["1"]) == 0
    assert await memory.count(AGENT) == 150
    assert (await memory.get(AGENT, gone.id), (await memory.get(AGENT, kept.id)).content) == (None, "tea 0")
    assert len(await memory.retrieve(AGENT, "tea", k=300)) == 150


async def test_memories_of_one_call_are_in_their_order(open_memory):
    memory = await open_memory()
    await memory.store_many(AGENT, [{"content": f"tea {number}"} for number in range(20)])
    assert [entry.content for entry in await memory.history(AGENT)] == [f"tea {number}" for number in range(20)]
    newest = [entry.content for entry in await memory.retrieve(AGENT, "tea", k=5)]
    assert newest == [f"tea {number}" for number in range(19, 14, -1)]


def test_an_unknown_language_is_refused_where_it_is_set():
    with pytest.raises(ValueError, match=r"language must be one of .*, got 'klingon'"):
        IndexSettings(language="klingon")


async def test_filters_match_any_element_of_a_list_and_know_no_operators(open_memory):
    memory = await open_memory()
    await memory.store(AGENT, "tea", metadata={"topics": ["drinks", "food"], "year": 2024})
    await memory.store(AGENT, "tea", metadata={"topics": ["cars"], "year": 2024})
    assert len(await memory.retrieve(AGENT, "tea", filters={"topics": "drinks"})) == 1
    assert len(await memory.retrieve(AGENT, "tea", filters={"topics": ["food", "cars"]})) == 2
    assert await memory.retrieve(AGENT, "tea", filters={"topics": "boats"}) == []
    with pytest.raises(TypeError, match="there are no operators"):
        await memory.retrieve(AGENT, "tea", filters={"year": {"$gt": 2000}})


async def test_files_are_for_this_user_alone_in_whatever_folder(open_memory, tmp_path):
    home = tmp_path / "memory"
    home.mkdir(mode=0o755)
    (home / "memories.sqlite").touch(mode=0o644)  # as earlier versions made it
    memory = await open_memory(home, redis=None, config=MemorySettings(index=IndexSettings(snapshot_entries=1)))
    await memory.store(AGENT, "secret")
    await memory.retrieve(AGENT, "secret")
    assert (await memory.maintain()).snapshots == 1
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.rglob("*") if path.is_file()}
    assert len(modes) >= 3
    assert set(modes.values()) == {0o600}, modes


async def test_what_is_no_file_of_this_user_is_refused(open_memory, tmp_path):
    home = tmp_path / "memory"
    home.mkdir()
    os.mkfifo(home / "memories.sqlite")
    with pytest.raises(MemorySchemaError, match="must be a regular file"):
        await open_memory(home, redis=None)


def test_a_url_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path must be a folder, got a URL") as caught:
        AsyncMemorySystem("postgresql://user:secret@db.example/agents")
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
