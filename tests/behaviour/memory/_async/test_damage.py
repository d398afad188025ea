"""One damaged memory costs one memory: lists leave it out and say so, it is raised when asked for by id, check() finds it."""

from __future__ import annotations

import contextlib
import sqlite3

import psycopg
import pytest
from psycopg import sql

from agent_memory._concurrency import ASYNC
from agent_memory.memory import (
    AsyncMemorySystem,
    CorruptMemoryError,
    DamagedMemory,
    IntermediateSettings,
    LongTermSettings,
    MaintenanceSettings,
    MemorySettings,
    MemoryStoreError,
    PostgresSettings,
    ShortTermSettings,
    StoreFault,
    SyncSettings,
)
from agent_memory.memory.stores import _compression
from agent_memory.redis.asyncio import Redis as AsyncRedis

AGENT = "agent"
SCHEMA = "damage_async" if ASYNC else "damage_sync"
TEXTS = ("likes tea", "likes coffee", "likes water")


class Place:
    """Where the memories of one test are; changes their rows behind the store's back."""

    def __init__(self, folder, url):
        self.folder, self.url = folder, url

    def options(self):
        if self.url is None:
            return {}
        return {"store": self.url}

    def change(self, statement, *values):
        if self.url is None:
            connection = sqlite3.connect(self.folder / "memories.sqlite", isolation_level=None)
            connection.execute(statement, values)
            connection.close()
            return
        with psycopg.connect(self.url, autocommit=True, options=f"-c search_path={SCHEMA}") as connection:
            connection.execute(statement.replace("?", "%s"), values)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    if request.param == "sqlite":
        yield Place(tmp_path, None)
        return
    url = request.getfixturevalue("postgres_url")
    drop = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(drop)
    yield Place(tmp_path, url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(drop)


SQLITE_ONLY = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
"""A PostgreSQL server takes no such texts, and its files are its own."""


@pytest.fixture
async def open_memory(valkey, place):
    """A factory of memory systems in one place: open_memory(with_redis, **settings)."""
    async with contextlib.AsyncExitStack() as opened:

        async def open_one(with_redis=False, **settings):
            client = None
            if with_redis:
                client = await opened.enter_async_context(AsyncRedis(**valkey.connection_kwargs))
            config = MemorySettings(postgres=PostgresSettings(schema=SCHEMA), **settings)
            made = AsyncMemorySystem(place.folder, redis=client, config=config, **place.options())
            return await opened.enter_async_context(made)

        yield open_one


@pytest.fixture
def raw(valkey):
    """The server's keys as bytes, past the client."""
    import redis

    with redis.Redis(**valkey.connection_kwargs) as client:
        yield client


def flip(raw, memory_id, at=-1):
    """Flips a bit of a memory's value in Redis."""
    (key,) = raw.keys(f"*:m:*:{memory_id}")
    value = bytearray(raw.get(key))
    value[at] ^= 1
    raw.set(key, bytes(value), keepttl=True)


async def ids_of(iterator):
    return [entry.id async for entry in iterator]


@pytest.mark.parametrize("with_redis", [True, False], ids=["with Redis", "without Redis"])
async def test_a_damaged_row_is_left_out_of_lists_and_raised_by_id(open_memory, place, raw, caplog, with_redis):
    memory = await open_memory(with_redis)
    bad, *good = [await memory.store(AGENT, text, key=text) for text in TEXTS]
    await memory._lifecycle.parts.clean.flush()
    raw.flushall()
    place.change("UPDATE memories SET importance = 0.25 WHERE id = ?", bad)
    memory = await open_memory(with_redis)

    for call in (
        lambda: memory.get(AGENT, bad),
        lambda: memory.get_by_key(AGENT, "likes tea"),
        lambda: memory.update(AGENT, bad, content="likes milk"),
    ):
        with pytest.raises(CorruptMemoryError) as caught:
            await call()
        assert (caught.value.memory_id, caught.value.fault) == (bad, StoreFault.DAMAGED)
    assert await ids_of(memory.query(AGENT)) == good
    assert await ids_of(memory.short_term.query(AGENT)) == good
    assert [entry.id for entry in await memory.history(AGENT)] == good
    assert {entry.id for entry in await memory.retrieve(AGENT, "likes")} == set(good)
    assert len([line async for line in memory.export(AGENT)]) == 2
    assert {(await memory.get(AGENT, one)).id for one in good} == set(good)
    assert memory.stats()["damaged"]["memories"] == 1
    assert memory.stats()["damaged"]["met"] >= 5
    assert [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()] == [
        f"the copy of memory {bad} in SQL is damaged"
    ]
    assert (await memory.sync()).remaining is False
    await memory.maintain()

    assert await memory.delete(AGENT, bad)
    assert await memory.get(AGENT, bad) is None
    assert (await memory.check()).is_intact


@SQLITE_ONLY
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE memories SET session_id = CAST(x'ff41' AS TEXT) WHERE id = ?",
        "UPDATE memories SET metadata = CAST(x'c3' AS TEXT) WHERE id = ?",
        "UPDATE memories SET id = 'another' WHERE id = ?",
        "UPDATE memories SET dictionary = 77 WHERE id = ?",
        "UPDATE memories SET content_kind = 9 WHERE id = ?",
        "UPDATE vectors SET vector = x'01' WHERE row_id = (SELECT row_id FROM memories WHERE id = ?)",
        "UPDATE vectors SET element = 1, vector = x'010203' WHERE row_id = (SELECT row_id FROM memories WHERE id = ?)",
    ],
)
async def test_whatever_is_damaged_in_a_row_of_sqlite_is_noticed_and_stays_its_own(open_memory, place, change):
    memory = await open_memory()
    bad, *good = [await memory.store(AGENT, text, embedding=[1.0, 2.0]) for text in TEXTS]
    place.change(change, bad)
    if "SET id" not in change:
        with pytest.raises(CorruptMemoryError):
            await memory.get(AGENT, bad)
    assert await ids_of(memory.query(AGENT)) == good
    assert {entry.id for entry in await memory.retrieve(AGENT, "likes")} == set(good)
    report = await memory.check()
    assert (report.damaged_count, report.scanned, report.is_complete) == (1, 3, True)


async def test_check_reads_everything_and_names_what_is_damaged(open_memory, place):
    memory = await open_memory()
    for agent in ("one", "two"):
        await memory.store_many(agent, [{"content": f"{agent} {number}"} for number in range(1_200)])
    assert await memory.check() == type(await memory.check())(scanned=2_400)
    one, other = await memory.store("one", "x"), await memory.store("two", "y")
    for bad in (one, other):
        place.change("UPDATE memories SET importance = 0.25 WHERE id = ?", bad)

    report = await memory.check(limit=1)
    assert (report.scanned, report.damaged_count, len(report.damaged), report.is_intact) == (2_402, 2, 1, False)
    assert (await memory.check("two")).damaged == [DamagedMemory("two", other, "SQL")]
    assert (await memory.check("nobody")).is_intact
    with pytest.raises(ValueError, match="limit"):
        await memory.check(limit=0)


async def test_long_term_memory_is_compressed_and_its_dictionary_trained_though_a_memory_is_damaged(
    open_memory, place, monkeypatch
):
    monkeypatch.setattr(_compression, "MIN_DICTIONARY_SAMPLES", 10)
    memory = await open_memory(
        short_term=ShortTermSettings(max_entries=1),
        intermediate=IntermediateSettings(min_importance=0.3),
        long_term=LongTermSettings(dictionary_bytes=4_096),
        maintenance=MaintenanceSettings(pause_s=0),
    )
    person = ("Ann", "Bob", "Carla")
    texts = [
        f"{person[n % 3]} said on day {n} that the meeting about project {n * 7 % 13} was moved." for n in range(400)
    ]
    stored = await memory.store_many(AGENT, [{"content": text, "importance": 0.1} for text in texts])
    await memory.maintain()
    place.change("UPDATE memories SET content = ?, dictionary = 0 WHERE id = ?", b"no zstd frame", stored[5])
    await memory.maintain()
    assert await memory._lifecycle.parts.sql.store.train_dictionary(force=True) is not None
    assert len(await ids_of(memory.query(AGENT))) == 399
    with pytest.raises(CorruptMemoryError):
        await memory.get(AGENT, stored[5])


@SQLITE_ONLY
async def test_a_damaged_page_is_reported_and_readable_memories_are_read(open_memory, place):
    memory = await open_memory()
    await memory.store_many(AGENT, [{"content": "x" * 2_000} for number in range(60)])
    other = await memory.store("other", "whole")
    await memory.close()
    file = place.folder / "memories.sqlite"
    connection = sqlite3.connect(file)
    page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'memories_seq'").fetchone()[0]
    connection.close()
    with file.open("r+b") as opened:
        opened.seek((page - 1) * 16_384)
        opened.write(b"\xff" * 16_384)
    memory = await open_memory()
    assert (await memory.get("other", other)).content == "whole"
    with pytest.raises(MemoryStoreError) as caught:
        await memory._lifecycle.parts.sql.ask(memory._lifecycle.parts.sql.store.changes, AGENT)
    assert (caught.value.fault, caught.value.code) == (StoreFault.DAMAGED, "SQLITE_CORRUPT")
    report = await memory.check()
    assert (report.is_complete, report.is_intact) == (False, False)
    assert report.database


async def test_a_damaged_copy_that_only_redis_has_is_raised_and_set_aside(open_memory, raw, caplog):
    memory = await open_memory(True, sync=SyncSettings(batch_entries=2))
    bad = [await memory.store(AGENT, f"bad {number}", durability="redis") for number in range(5)]
    good = [await memory.store(AGENT, f"good {number}", durability="redis") for number in range(3)]
    for one in bad:
        flip(raw, one)

    with pytest.raises(CorruptMemoryError) as caught:
        await memory.get(AGENT, bad[0])
    assert (caught.value.where, caught.value.memory_id) == ("Redis", bad[0])
    assert {entry.id for entry in await memory.retrieve(AGENT, "good bad")} == set(good)
    for _ in range(2):
        report = await memory.sync()
        assert (report.synced, report.remaining) == ((3, False) if _ == 0 else (0, False))
    assert await memory.count(AGENT) == 3
    for one in bad:
        with pytest.raises(CorruptMemoryError):
            await memory.get(AGENT, one)
        with pytest.raises(CorruptMemoryError):
            await memory.update(AGENT, one, content="x")
    assert memory.stats()["damaged"]["memories"] == 5
    report = await memory.check()
    assert {(one.id, one.where) for one in report.damaged} == {(one, "Redis") for one in bad}
    assert await memory.delete(AGENT, bad[0])
    assert await memory.get(AGENT, bad[0]) is None
    assert (await memory.check()).damaged_count == 4
    await memory.delete_agent(AGENT)
    assert not raw.keys("*:m:*")
    assert not raw.keys("*:damaged")
    assert (await memory.check()).is_intact


async def test_check_sets_aside_what_no_synchronisation_has_met(open_memory, raw):
    memory = await open_memory(True)
    bad = await memory.store(AGENT, "bad", durability="redis")
    flip(raw, bad)
    report = await memory.check(AGENT)
    assert (report.quarantined, report.damaged) == (1, [DamagedMemory(AGENT, bad, "Redis")])
    assert (await memory.check()).quarantined == 0
    assert raw.keys("*:damaged")
    assert memory.stats()["redis"]["dirty_bytes"] > 0


async def test_the_version_of_a_damaged_update_is_not_taken_for_the_one_that_sql_has(open_memory, raw, place):
    memory = await open_memory(True)
    stored = await memory.store(AGENT, "old")
    await memory._lifecycle.parts.clean.flush()
    store, writer = memory._lifecycle.parts.sql.store, memory._lifecycle.parts.writer
    entry = await memory.get(AGENT, stored)
    (copy,) = await store.get([stored])
    newer = copy._replace(content=b"new", writer=writer.number)
    from agent_memory.memory.stores import Put

    written = await writer._put_as_dirty(Put(newer, copy.version), copy.version)
    assert written.result.version > entry.version
    assert (await memory.get(AGENT, stored)).content == "new"
    flip(raw, stored)
    with pytest.raises(CorruptMemoryError):
        await memory.get(AGENT, stored)


async def test_a_damaged_cached_copy_is_read_from_sql(open_memory, raw, caplog):
    memory = await open_memory(True)
    stored = await memory.store(AGENT, "likes tea")
    await memory._lifecycle.parts.clean.flush()
    flip(raw, stored)
    assert (await memory.get(AGENT, stored)).content == "likes tea"
    assert "cached copies in Redis were damaged" in caplog.text
    assert (await memory.check()).is_intact
