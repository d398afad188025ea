"""Every kind of SQLite's errors at every call of the store, raised by SQLite itself, and what comes of it, by one table."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import time

import pytest
from tests.machines._async.store_calls import CALLS, READS, numbers, seq_of, tried

from agent_memory.memory import (
    AsyncMemorySystem,
    DurabilityError,
    LongTermSettings,
    MemorySettings,
    MemoryStoreError,
    MemoryStoreUnavailableError,
    SqliteSettings,
    StoreFault,
)
from agent_memory.memory.stores import MemoryQuery, _compression
from agent_memory.memory.stores.sqlite import AsyncSqliteStore
from agent_memory.memory.stores.sqlite._engine import SqliteEngine
from agent_memory.memory.stores.sqlite._errors import FAULTS, fault_of, translated
from agent_memory.redis.asyncio import Redis as AsyncRedis

AWAY, TRANSIENT, FULL, READ_ONLY, LOCKED, DAMAGED, WRONG = StoreFault
SETTINGS = SqliteSettings(busy_timeout_s=0.02, reader_threads=1)
TABLES = ("agents", "memories", "accesses", "erasures", "dictionaries", "user_fences")


# --- faults of the writer ---


@contextlib.contextmanager
def triggers(engine, body):
    """Runs `body` before each change that the writer makes of a row."""
    connection = engine._connection
    names = [f"fault_{table}_{verb}" for table in TABLES for verb in ("INSERT", "UPDATE", "DELETE")]
    for name in names:
        _, table, verb = name.replace("user_fences", "user-fences").split("_")
        table = table.replace("-", "_")
        connection.execute(f"CREATE TEMP TRIGGER {name} BEFORE {verb} ON main.{table} BEGIN {body}; END")
    try:
        yield
    finally:
        for name in names:
            connection.execute(f"DROP TRIGGER temp.{name}")


@contextlib.contextmanager
def full(engine):
    connection = engine._connection
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    with triggers(engine, "INSERT OR REPLACE INTO vectors VALUES (-1, 0, zeroblob(2000000))"):
        yield
    connection.execute("PRAGMA max_page_count = 1000000")


@contextlib.contextmanager
def beyond_the_limit_of_files(engine):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(f"{engine.path}-wal"), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(engine):
    engine._connection.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        engine._connection.execute("PRAGMA query_only = OFF")


@contextlib.contextmanager
def locked(engine):
    other = sqlite3.connect(engine.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextlib.contextmanager
def interrupted(engine):
    engine._connection.set_progress_handler(lambda: 1, 1)
    try:
        yield
    finally:
        engine._connection.set_progress_handler(None, 1)


@contextlib.contextmanager
def denied(engine):
    engine._connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    try:
        yield
    finally:
        engine._connection.set_authorizer(None)


@contextlib.contextmanager
def constraint(engine):
    with triggers(engine, "SELECT RAISE(ABORT, 'refused')"):
        yield


WRITE_FAULTS = {
    "full": (full, FULL, "SQLITE_FULL"),
    "beyond the limit of files": (beyond_the_limit_of_files, FULL, "SQLITE_IOERR_WRITE"),
    "read-only": (read_only, READ_ONLY, "SQLITE_READONLY"),
    "locked": (locked, LOCKED, "SQLITE_BUSY"),
    "interrupted": (interrupted, LOCKED, "SQLITE_INTERRUPT"),
    "denied": (denied, WRONG, "SQLITE/23"),
    "constraint": (constraint, WRONG, "SQLITE/1811"),
}


# --- faults of a reader ---


@contextlib.asynccontextmanager
async def reader_interrupted(engine):
    await engine.async_read(lambda reader: reader.connection.set_progress_handler(lambda: 1, 1))
    try:
        yield
    finally:
        await engine.async_read(lambda reader: reader.connection.set_progress_handler(None, 1))


@contextlib.asynccontextmanager
async def reader_denied(engine):
    await engine.async_read(lambda reader: reader.connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY))
    try:
        yield
    finally:
        await engine.async_read(lambda reader: reader.connection.set_authorizer(None))


@contextlib.asynccontextmanager
async def without_tables(engine):
    def rename(begin, end):
        other = sqlite3.connect(engine.path, isolation_level=None)
        other.execute("PRAGMA legacy_alter_table = ON")
        for table in ("agents", "memories", "accesses", "erasures"):
            other.execute(f"ALTER TABLE {begin}{table} RENAME TO {end}{table}")
        other.close()

    rename("", "x")
    try:
        yield
    finally:
        rename("x", "")


@contextlib.asynccontextmanager
async def not_to_be_opened(engine):
    engine._epoch = object()  # as for a new thread: its connection is still to be opened
    folder = engine.path.parent
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(folder)
        engine._epoch = object()


def descriptors(path):
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == str(path):
                found.add(int(name))
    return found


@contextlib.asynccontextmanager
async def unreadable(engine):
    """The file is one that can't be read at any place: a pipe."""
    connection = engine._connection
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    engine._epoch = object()
    await engine.async_read(lambda reader: reader.connection.execute("PRAGMA mmap_size = 0").fetchall())
    # The writer's is one of them; it has what it needs in its cache.
    own = {one: os.dup(one) for one in descriptors(engine.path)}
    assert own
    pipe = os.pipe()
    for one in own:
        os.dup2(pipe[1], one)
    try:
        yield
    finally:
        for one, kept in own.items():
            os.dup2(kept, one)
        for one in (*own.values(), *pipe):
            os.close(one)
        engine._epoch = object()


READ_FAULTS = {
    "interrupted": (reader_interrupted, LOCKED, "SQLITE_INTERRUPT"),
    "denied": (reader_denied, WRONG, "SQLITE/23"),
    "without tables": (without_tables, WRONG, "SQLITE/1"),
    "not to be opened": (not_to_be_opened, AWAY, "SQLITE_CANTOPEN"),
    "unreadable": (unreadable, AWAY, "SQLITE_IOERR"),
}


@pytest.fixture(params=["directly", "through python"])
async def store(request, tmp_path, monkeypatch):
    monkeypatch.setattr(_compression, "MIN_DICTIONARY_SAMPLES", 10)
    (tmp_path / "place").mkdir()
    long_term = LongTermSettings(dictionary_bytes=4_096)
    path = tmp_path / "place" / "memories.sqlite"
    engine = SqliteEngine(
        path, SETTINGS, long_term, lambda: time.time_ns() // 1_000, writes_directly=request.param == "directly"
    )
    async with AsyncSqliteStore.of_engine(engine) as made:
        yield made


def check(error, fault, code, told):
    assert error is not None, told
    kind = MemoryStoreError if fault in (WRONG, DAMAGED) else MemoryStoreUnavailableError
    assert (type(error), error.fault) == (kind, fault), (told, error)
    assert error.code.startswith(code), (told, error.code)


@pytest.mark.parametrize("name", sorted(set(CALLS) - READS))
async def test_every_fault_of_the_writer_at_every_call_that_writes(store, name):
    prepare, call = CALLS[name]
    for begin, fault, code in WRITE_FAULTS.values():
        agent = f"agent {next(numbers)}"
        prepared = await prepare(store, agent)
        await store.get(["warm"])
        before = await seq_of(store, agent)
        with begin(store._engine):
            _, error = await tried(call, store, agent, prepared)
            check(error, fault, code, (name, begin.__name__))
            for reads in READS - {"check_writable", "get_by_key", "user_agents", "aged", "get", "agents", "count"}:
                await getattr(store, reads)(*ARGUMENTS[reads](agent))
            assert await seq_of(store, agent) == before
        assert await call(store, agent, prepared) + before == await seq_of(store, agent), (name, begin.__name__)


ARGUMENTS = {
    "query": lambda agent: (MemoryQuery(agent_id=agent),),
    "changes": lambda agent: (agent,),
    "agent": lambda agent: (agent,),
    "crowded": lambda agent: (0, 10_000),
    "namespaces": lambda agent: (agent,),
    "oldest": lambda agent: (agent, 0),
    "accesses": lambda agent: (["m"],),
    "erasures": lambda agent: (),
}


@pytest.mark.parametrize("name", sorted(READS - {"check_writable"}))
async def test_every_fault_of_a_reader_at_every_call_that_reads(store, name):
    prepare, call = CALLS[name]
    for begin, fault, code in READ_FAULTS.values():
        agent = f"agent {next(numbers)}"
        prepared = await prepare(store, agent)
        if name == "accesses":
            await store.record_accesses([])
        async with begin(store._engine):
            _, error = await tried(call, store, agent, prepared)
            check(error, fault, code, (name, begin.__name__))
        await call(store, agent, prepared)


@pytest.mark.parametrize("name", ["read-only", "locked", "interrupted", "denied"])
async def test_whether_it_takes_writes_is_known_without_a_write(store, name):
    begin, fault, code = WRITE_FAULTS[name]
    with begin(store._engine):
        with pytest.raises(MemoryStoreError) as caught:
            await store.check_writable()
        check(caught.value, fault, code, name)
    await store.check_writable()


async def test_a_file_that_is_no_database_is_damaged(store):
    await store.write([])
    engine = store._engine
    engine._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    engine._epoch = object()
    with engine.path.open("r+b") as file:
        head = file.read(100)
        file.seek(0)
        file.write(b"x" * 100)
    with pytest.raises(MemoryStoreError) as caught:
        await store.agents()
    check(caught.value, DAMAGED, "SQLITE_NOTADB", "")
    with engine.path.open("r+b") as file:
        file.write(head)


@pytest.fixture(params=["with Redis", "without Redis"])
async def memory(request, tmp_path):
    async with contextlib.AsyncExitStack() as opened:
        client = None
        if request.param == "with Redis":
            valkey = request.getfixturevalue("valkey")
            client = await opened.enter_async_context(AsyncRedis(**valkey.connection_kwargs))
        folder = tmp_path / "place"
        config = MemorySettings(sqlite=SETTINGS)
        yield await opened.enter_async_context(AsyncMemorySystem(folder, redis=client, config=config))


@pytest.mark.parametrize("name", WRITE_FAULTS)
async def test_what_each_fault_of_a_write_means_for_the_system(memory, name):
    begin, fault, _ = WRITE_FAULTS[name]
    first = await memory.store("agent", "the first")
    with begin(memory._lifecycle.parts.sql.store._engine):
        if fault is WRONG:
            with pytest.raises(MemoryStoreError) as caught:
                await memory.store("agent", "x", minimum="redis")
            assert caught.value.fault is WRONG
        else:
            with pytest.raises(DurabilityError, match=f"SQL is {fault.value}") as caught:
                await memory.store("agent", "x")
            assert caught.value.fault is fault
            if memory._lifecycle.parts.redis.tier is not None:
                assert (await memory.store("agent", "degraded", minimum="redis")).durability == "redis"
            assert memory.health().sql == fault.value
            health = await memory.check_health()
            assert (health.state, health.sql) == ("degraded", fault.value)
        assert (await memory.get("agent", first)).content == "the first"
        assert await memory.count("agent") == 1
        assert first in [entry.id for entry in await memory.retrieve("agent", "first")]
    memory._lifecycle.parts.sql.writability._refused_at = 0.0  # as if it were later
    assert (await memory.store("agent", "the last")).durability == "sql"
    assert (await memory.check_health()).sql == "here"


@pytest.mark.parametrize("name", READ_FAULTS)
async def test_what_each_fault_of_a_read_means_for_the_system(memory, name):
    begin, fault, _ = READ_FAULTS[name]
    has_redis = memory._lifecycle.parts.redis.tier is not None
    await memory.store("agent", "the first")
    async with begin(memory._lifecycle.parts.sql.store._engine):
        with pytest.raises(MemoryStoreError) as caught:
            await memory.count("agent")
        assert caught.value.fault is fault
        assert memory.health().sql == fault.value
        health = await memory.check_health()
        assert health.sql == fault.value
        assert health.state == ("degraded" if has_redis or fault is LOCKED else "down")
        assert memory._lifecycle.parts.sql.is_away() == (fault is AWAY)
    memory._lifecycle.parts.sql.availability._retry_at = memory._lifecycle.parts.sql.writability._refused_at = 0.0
    assert await memory.count("agent") == 1
    assert (await memory.check_health()).sql == "here"


def test_every_code_of_sqlite_means_something():
    """Those that no test raises: by the table, and an unknown extended code means what its primary one does."""
    for name, fault in FAULTS.items():
        error = sqlite3.OperationalError("told")
        error.sqlite_errorcode = getattr(sqlite3, name)
        assert (translated(error).fault, translated(error).code) == (fault, name)
    assert fault_of(sqlite3.SQLITE_BUSY_SNAPSHOT) is LOCKED
    assert fault_of(sqlite3.SQLITE_READONLY_DBMOVED) is READ_ONLY
    assert fault_of(sqlite3.SQLITE_IOERR | 99 << 8) is AWAY
    assert fault_of(sqlite3.SQLITE_CONSTRAINT_UNIQUE) is WRONG
    told = translated(sqlite3.OperationalError("Could not decode to UTF-8 column 'x' with text 'secret'"))
    assert (told.fault, "secret" in str(told)) == (WRONG, False)
