# Generated from ../_async/test_database_faults.py by tools/generate_sync.py: edit that file, not this one.

"""What a fault of the database means: writes that it refuses leave the reads alone, and the health says why."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import pytest

from agent_memory.memory import (
    DurabilityError,
    MemorySettings,
    MemoryStoreUnavailableError,
    MemorySystem,
    SqliteSettings,
    StoreFault,
)
from agent_memory.memory._sync.accesses import MAX_PENDING
from agent_memory.redis import Redis

AGENT = "agent"
SETTINGS = MemorySettings(sqlite=SqliteSettings(busy_timeout_s=0.05))


@pytest.fixture(params=["with Redis", "without Redis"])
def memory(request, tmp_path):
    with contextlib.ExitStack() as opened:
        client = None
        if request.param == "with Redis":
            valkey = request.getfixturevalue("valkey")
            client = opened.enter_context(Redis(**valkey.connection_kwargs))
        yield opened.enter_context(MemorySystem(tmp_path / "m", redis=client, config=SETTINGS))


def writing_connection(memory):
    """The connection of the store's writer: limits of SQLite's are of a connection."""
    return memory._lifecycle.parts.sql.store._engine._connection


@contextlib.contextmanager
def full(memory):
    connection = writing_connection(memory)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    yield
    connection.execute("PRAGMA max_page_count = 1000000")


@contextlib.contextmanager
def read_only(memory):
    writing_connection(memory).execute("PRAGMA query_only = ON")
    yield
    writing_connection(memory).execute("PRAGMA query_only = OFF")


@contextlib.contextmanager
def locked(memory):
    other = sqlite3.connect(memory._lifecycle.parts.sql.store._engine.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


FAULTS = pytest.mark.parametrize(
    ("fault", "begin", "words"),
    [
        (StoreFault.FULL, full, "SQL is full: SQLite: database or disk is full"),
        (StoreFault.READ_ONLY, read_only, "SQL is read-only: SQLite: attempt to write a readonly database"),
        (StoreFault.LOCKED, locked, "SQL is locked: SQLite: database is locked"),
    ],
    ids=["full", "read-only", "locked"],
)


@FAULTS
def test_a_refused_write_says_why_and_reads_go_on(memory, fault, begin, words):
    first = memory.store(AGENT, "the first")
    with begin(memory):
        for _ in range(2):
            with pytest.raises(DurabilityError) as caught:
                memory.store(AGENT, os.urandom(100_000).hex())
            assert caught.value.fault is fault
            assert words in str(caught.value) or "a moment ago" in str(caught.value)
            assert memory.get(AGENT, first).content == "the first"
            assert memory.count(AGENT) == 1
            assert [entry.id for entry in memory.query(AGENT)] == [first]
            assert [entry.id for entry in memory.retrieve(AGENT, "first")] == [first]
        assert memory.health().sql == fault.value
        health = memory.check_health()
        assert (health.state, health.sql) == ("degraded", fault.value)
        stats = memory.stats()["sql"]
        assert (stats["here"], stats["refuses_writes"], stats["failures"]) == (True, fault.value, 0)
    memory._lifecycle.parts.sql.writability._refused_at = 0.0  # as if it were long ago
    assert memory.check_health().sql == "here"
    memory.store(AGENT, os.urandom(100_000).hex())
    assert memory.stats()["sql"]["refuses_writes"] is None


@FAULTS
def test_a_write_goes_to_redis_where_that_is_accepted(memory, fault, begin, words):
    base = memory.store(AGENT, "base")
    content = os.urandom(100_000).hex()
    with begin(memory):
        if memory._lifecycle.parts.redis.tier is None:
            with pytest.raises(DurabilityError, match="there is no Redis") as caught:
                memory.store(AGENT, content, minimum="redis")
            assert caught.value.fault is fault
            return
        stored = memory.store(AGENT, content, minimum="redis")
        changed = memory.update(AGENT, base, content=content, minimum="redis")
        assert (stored.durability, changed.durability) == ("redis", "redis")
        assert memory.get(AGENT, stored).content == content
        assert memory.sync().remaining
    memory._lifecycle.parts.sql.writability._refused_at = 0.0
    assert memory.sync().synced == 2
    assert memory.count(AGENT) == 2


def test_a_small_write_fits_where_a_large_one_does_not(memory):
    memory.store(AGENT, "the first")
    with full(memory):
        with pytest.raises(DurabilityError):
            memory.store(AGENT, os.urandom(100_000).hex())
        memory.store(AGENT, "small")
        assert memory.check_health().sql == memory.health().sql == "here"


def test_uses_wait_for_sql_and_are_dropped_only_beyond_their_bound(memory):
    first = memory.store(AGENT, "likes tea")
    for _ in range(5):
        memory.get(AGENT, first)
    with locked(memory):
        with pytest.raises(MemoryStoreUnavailableError):
            memory.maintain()
        memory.get(AGENT, first)
    memory._lifecycle.parts.sql.writability._refused_at = 0.0
    assert memory.maintain().accesses == 1
    (uses,) = memory._lifecycle.parts.sql.store.accesses([first])
    assert (uses.uses, memory.stats()["service"]["dropped_accesses"]) == (6, 0)

    accesses, bound = memory._lifecycle.parts.accesses, MAX_PENDING
    accesses.note([f"m{number}" for number in range(bound)])
    accesses._take_back({"other": [3, 0.0], "m0": [2, 0.0]})
    assert (accesses._pending["m0"][0], accesses.dropped) == (3, 3)
