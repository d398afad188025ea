"""What only the SQLite store has: its file, its schema, its processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading

import pytest
import store_samples
from store_samples import copy, put

from agent_memory.memory import (
    CorruptMemoryError,
    MemorySchemaError,
    MemoryStoreClosedError,
    MemoryStoreFullError,
    MemoryStoreUnavailableError,
    SqliteSettings,
    Tier,
)
from agent_memory.memory.stores import MemoryQuery, Put, WriteStatus
from agent_memory.memory.stores.sqlite import SqliteStore, _engine, _reading, _schema, _writing


@pytest.fixture
def path(tmp_path):
    return tmp_path / "memories.db"


def change(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_the_file_is_as_the_design_says(path):
    with SqliteStore(path) as store:
        store.write([put()])
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA page_size").fetchone() == (16_384,)
    assert connection.execute("PRAGMA user_version").fetchone() == (_schema.SCHEMA_VERSION,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    tables = connection.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%'")
    strict = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%' AND strict"
    )
    assert strict.fetchall() == tables.fetchall()
    connection.close()


def test_a_newer_schema_is_refused_and_left_alone(path):
    SqliteStore(path).open()
    change(path, "PRAGMA user_version = 999")
    with pytest.raises(MemorySchemaError, match="has schema 999, this version of agent_memory knows up to "):
        SqliteStore(path).open()


def test_a_foreign_database_is_refused_and_left_alone(path):
    change(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(MemorySchemaError, match="another application"):
        SqliteStore(path).open()
    assert path.read_bytes() == before
    path.write_bytes(b"no database at all, but long enough to have a header" * 100)
    with pytest.raises(MemorySchemaError, match="not a SQLite database"):
        SqliteStore(path).open()


def test_a_place_that_cannot_be_opened_is_unavailable(tmp_path):
    with pytest.raises(MemoryStoreUnavailableError):
        SqliteStore(tmp_path / "missing" / "memories.db").open()


def test_the_end_of_the_feed_is_found_however_much_there_is_before_it(path):
    def steps_at_the_end(store):
        """Instructions of SQLite's machine for the changes after the last one."""
        last = store.changes("a").seq
        steps = []

        def counted(reader):
            reader.connection.set_progress_handler(lambda: steps.append(1), 1)
            try:
                return reader.changes("a", last, 1_000, True)
            finally:
                reader.connection.set_progress_handler(None, 1)

        assert store._engine.read(counted).copies == []
        return len(steps)

    with SqliteStore(path) as store:
        store.write([put(agent_id="a") for _ in range(10)])
        few = steps_at_the_end(store)
        store.write([put(agent_id="a") for _ in range(900)])
        assert steps_at_the_end(store) <= few


def test_a_changed_byte_of_a_row_is_noticed(path):
    with SqliteStore(path) as store:
        store.write([put("first", memory_id="a", embedding=[1.0]), put("second", memory_id="b", tier=Tier.LTM)])
    change(path, "UPDATE memories SET content = CAST('frist' AS BLOB) WHERE id = 'a'")
    with SqliteStore(path) as store:
        with pytest.raises(CorruptMemoryError) as caught:
            store.get(["a"])
        assert caught.value.memory_id == "a"
        assert "frist" not in str(caught.value)
        assert store.get(["b"])[0].content == b"second"
    change(
        path,
        "UPDATE memories SET content = CAST('first' AS BLOB) WHERE id = 'a'",
        "UPDATE vectors SET vector = x'00000000'",
    )
    with SqliteStore(path) as store, pytest.raises(CorruptMemoryError):
        store.get(["a"])


def test_a_database_that_another_process_holds_is_unavailable_for_a_while(path):
    with SqliteStore(path, config=SqliteSettings(busy_timeout_s=0.05)) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(MemoryStoreUnavailableError, match="locked"):
            store.write([put(memory_id="m")])
        assert store.get(["m"]) == [None]
        holder.execute("ROLLBACK")
        holder.close()
        assert store.write([put(memory_id="m")])[0].status is WriteStatus.APPLIED


def test_one_bad_write_does_not_fail_its_neighbours(path):
    """Writes that wait together share a transaction; one that SQLite refuses is refused alone."""
    with SqliteStore(path) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        bad = Put(copy(memory_id="bad")._replace(step="no number"))
        answers = {}

        def write(name, operation):
            try:
                answers[name] = store.write([operation])[0].status
            except Exception as error:
                answers[name] = type(error).__name__

        threads = [
            threading.Thread(target=write, args=(name, operation))
            for name, operation in (("a", put()), ("bad", bad), ("b", put()), ("c", put()))
        ]
        for thread in threads:
            thread.start()
        while store._engine._writer.pending < 4:
            threading.Event().wait(0.001)
        holder.execute("ROLLBACK")
        holder.close()
        for thread in threads:
            thread.join()
        applied = WriteStatus.APPLIED
        assert answers == {"a": applied, "b": applied, "c": applied, "bad": answers["bad"]}
        assert isinstance(answers["bad"], str)
        assert store.count(MemoryQuery(agent_id="agent")) == 3


def test_the_queue_has_a_bound(path):
    settings = SqliteSettings(max_pending_writes=2, busy_timeout_s=30.0)
    with SqliteStore(path, config=settings) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        threads = [threading.Thread(target=store.write, args=([put()],)) for _ in range(2)]
        for thread in threads:
            thread.start()
        while store._engine._writer.pending < 2:
            threading.Event().wait(0.001)
        with pytest.raises(MemoryStoreFullError, match="max_pending_writes"):
            store.write([put()])
        holder.execute("ROLLBACK")
        holder.close()
        for thread in threads:
            thread.join()
        assert store.count(MemoryQuery(agent_id="agent")) == 2


CRASH = """
import sys
sys.path.insert(0, sys.argv[2])
from store_samples import put
from agent_memory.memory.stores.sqlite import SqliteStore, _reading, _schema, _writing
store = SqliteStore(sys.argv[1])
store.open()
for number in range(1_000_000):
    store.write([put(memory_id=f"m{number}")])
    print(number, flush=True)
"""


def test_what_was_acknowledged_is_there_after_kill_9(path):
    here = os.path.dirname(store_samples.__file__)
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", CRASH, path, here], stdout=subprocess.PIPE, text=True)
        acknowledged = [int(child.stdout.readline()) for _ in range(25)]
        child.kill()
        rest, _ = child.communicate()
        acknowledged += [int(line) for line in rest.split("\n")[:-1]]
        with SqliteStore(path) as store:
            found = store.get([f"m{number}" for number in acknowledged])
            assert None not in found
            page = store.changes("agent", limit=10_000)
            assert [one.seq for one in page.copies] == sorted({one.seq for one in page.copies})
            assert store.agent("agent").counts[0] == len(page.copies)


def test_a_forked_child_opens_its_own(path):
    with SqliteStore(path) as store:
        store.write([put(memory_id="parent")])
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                try:
                    store.get(["parent"])
                except MemoryStoreClosedError:
                    store.open()
                    store.write([put(memory_id="child")])
                    store.close()
                    os.write(write, b"done")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(write)
        assert os.read(read, 10) == b"done"
        os.close(read)
        assert None not in store.get(["parent", "child"])


def test_the_wal_is_checkpointed(path, monkeypatch):
    monkeypatch.setattr(_engine, "WAL_BYTES", 1024 * 1024)
    with SqliteStore(path) as store:
        for _ in range(12):
            store.write([put("x" * 10_000) for _ in range(100)])
        assert os.path.getsize(f"{path}-wal") < 8 * 1024 * 1024
        assert store.count(MemoryQuery(agent_id="agent")) == 1_200


def test_names_are_looked_up_by_their_own_indexes(path):
    """However much the agent has written: the index of its feed would lead through all of it."""
    statements = {
        _writing._HELD_BY_KEY: "memories_key (agent_no=? AND user_id=? AND namespace=? AND key=?)",
        _writing._HELD_BY_REQUEST: "memories_idempotency (agent_no=? AND user_id=? AND idempotency_key=?)",
        _writing._HELD_BY_TWIN: "memories_hash (agent_no=? AND content_hash=?)",
        _reading._BY_KEY: "memories_key (agent_no=? AND user_id=? AND namespace=? AND key=?)",
    }
    with SqliteStore(path) as store:
        store.write([put()])
        connection = sqlite3.connect(path)
        for statement, index in statements.items():
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", ["x"] * statement.count("?")).fetchall()
            assert any(index in row[3] for row in plan), plan
        connection.close()
