"""Several processes open one folder at the same time, or one while another closes: all of them work."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from agent_memory.embedded.workspace import lock_data_folder
from agent_memory.memory import MemorySystem, SqliteSettings, _directory
from agent_memory.memory.stores.sqlite import _schema

WORK = """
import asyncio, sys, time
from agent_memory.memory import AsyncMemorySystem, MemorySettings, MemorySystem

home, name, kind = sys.argv[1:]
options = {"config": MemorySettings(journal=True)} | ({"redis": None} if kind == "without" else {})

def turn(word):
    print(word, flush=True)
    sys.stdin.readline()

async def by_tasks():
    async with AsyncMemorySystem(home, **options) as memory:
        stored = await memory.store("agent", name)
        assert (await memory.get("agent", stored)).content == name
        while (await memory.store("agent", name, durability="redis")).durability != "redis":
            await asyncio.sleep(0.02)  # the owner it attached to has just ended
        turn("open")

turn("up")
if kind == "asyncio":
    asyncio.run(by_tasks())
else:
    with MemorySystem(home, **options) as memory:
        stored = memory.store("agent", name)
        assert memory.get("agent", stored).content == name
        while kind != "without" and memory.store("agent", name, durability="redis").durability != "redis":
            time.sleep(0.02)
        turn("open")
print("closed")
"""


class Process:
    """A process that goes on by a line of its standard input, and says so before it waits for it."""

    def __init__(self, home, name, kind="threads"):
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORK, os.fspath(home), name, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def reaches(self, wanted):
        said = self._process.stdout.readline().strip()
        if said != wanted:
            self._process.kill()
            pytest.fail(f"{said!r} instead of {wanted!r}: {self._process.communicate()[1]}")

    def go_on(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self):
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("kinds", [("threads", "asyncio", "threads", "asyncio"), ("without",) * 4])
def test_four_processes_open_one_folder_at_once(kinds, tmp_path):
    names = set()
    for number in range(4):
        home = tmp_path / f"folder{number // 2}"  # one that is new, then one that was closed a moment ago
        made = {f"round {number} process {at}" for at in range(4)}
        names = made if number % 2 == 0 else names | made
        with contextlib.ExitStack() as ending:
            processes = [Process(home, name, kind) for name, kind in zip(sorted(made), kinds, strict=True)]
            for process in processes:
                ending.callback(process.end)
            for wanted in ("up", "open", "closed"):
                for process in processes:
                    process.reaches(wanted)
                if wanted != "closed":
                    for process in processes:
                        process.go_on()
        with MemorySystem(home, redis=None) as memory:
            assert {entry.content for entry in memory.query("agent")} == names


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.1])
def test_a_process_opens_the_folder_while_the_one_before_closes(delay_s, tmp_path):
    with contextlib.ExitStack() as ending:
        old, new = Process(tmp_path, "old"), Process(tmp_path, "new", "asyncio")
        ending.callback(old.end)
        ending.callback(new.end)
        for process in (old, new):
            process.reaches("up")
        old.go_on()
        old.reaches("open")
        old.go_on()
        time.sleep(delay_s)  # how far it has come
        new.go_on()
        new.reaches("open")
        old.reaches("closed")
        new.go_on()
        new.reaches("closed")
    with MemorySystem(tmp_path, redis=None) as memory:
        assert {entry.content for entry in memory.query("agent")} == {"old", "new"}


@pytest.fixture
def other_owner(tmp_path):
    """The server belongs to another process, and its address is unknown: that process has just begun or is about to end."""
    (tmp_path / "redis").mkdir()
    lock = lock_data_folder(tmp_path / "redis", 0.0)
    yield lock
    lock.close()


def test_the_loser_of_the_race_waits_for_the_owner(tmp_path, other_owner, monkeypatch):
    attempts = threading.Semaphore(0)
    become_owner = _directory.MemoryDirectory._become_owner

    def attempt(self):
        attempts.release()
        return become_owner(self)

    monkeypatch.setattr(_directory.MemoryDirectory, "_become_owner", attempt)
    memory = MemorySystem(tmp_path)
    opening = threading.Thread(target=memory.open)
    opening.start()
    for _ in range(3):
        assert attempts.acquire(timeout=60)
    assert opening.is_alive()
    other_owner.close()
    opening.join(60)
    assert memory.store("agent", "x", durability="redis").durability == "redis"
    memory.close()


def test_without_an_owner_that_answers_it_goes_on_without_redis_and_attaches_later(
    tmp_path, other_owner, monkeypatch, caplog
):
    monkeypatch.setattr(_directory.MemoryDirectory.open_server, "__defaults__", (0.1,))
    with MemorySystem(tmp_path) as memory:
        assert "going on without Redis" in caplog.text
        stored = memory.store("agent", "in SQL")
        assert memory.get("agent", stored).content == "in SQL"
        assert memory.health().state == "degraded"
        assert memory.store("agent", "x", durability="redis").durability == "sql"
        other_owner.close()
        while memory.store("agent", "x", durability="redis").durability != "redis":
            time.sleep(0.02)
        assert memory.check_health()


# --- the database ---


@pytest.fixture
def database(tmp_path):
    """A factory of connections to one database file that does not wait for others: database(writer=True)."""
    settings = SqliteSettings(busy_timeout_s=0.001)
    with contextlib.ExitStack() as opened:
        yield lambda: opened.enter_context(
            contextlib.closing(_schema.connect(tmp_path / "memories.sqlite", settings, writer=True))
        )


def test_a_database_that_another_process_is_making_is_waited_for(database, tmp_path):
    other, own = database(), database()
    other.execute("BEGIN")
    other.execute("SELECT * FROM sqlite_schema").fetchall()  # holds the lock of a reader: no write-ahead log now
    timer = threading.Timer(0.2, other.execute, ["COMMIT"])
    timer.start()
    _schema.migrate(own, tmp_path, 60)
    assert own.execute("PRAGMA user_version").fetchone() == (_schema.SCHEMA_VERSION,)
    timer.join()


def test_the_wait_for_another_process_ends(database, tmp_path):
    other, own = database(), database()
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        _schema.migrate(own, tmp_path, 0.05)


class Interrupted:
    """A connection; between its first question about the database and the second one, another process does something."""

    def __init__(self, connection, work):
        self._connection = connection
        self._other = threading.Thread(target=work)

    def execute(self, sql, *parameters):
        answer = self._connection.execute(sql, *parameters)
        if "application_id" in sql and not self._other.ident:
            self._other.start()
            self._other.join(0.3)  # it is done, or has to wait for the first
        return answer

    def join(self):
        self._other.join()


def test_a_database_that_is_made_between_two_questions_is_not_taken_for_another_applications(database, tmp_path):
    other, own = database(), database()
    interrupted = Interrupted(own, lambda: _schema.migrate(other, tmp_path, 60))
    _schema.migrate(interrupted, tmp_path, 60)
    interrupted.join()
    for connection in (other, own):
        assert connection.execute("PRAGMA user_version").fetchone() == (_schema.SCHEMA_VERSION,)


def test_what_is_committed_stays_whatever_else_of_this_process_opens_the_file(tmp_path):
    """A descriptor of the file that is closed takes all of this process's locks on it along; then the next process to close
    the database removes the log that this one writes to.
    """
    home = tmp_path / "folder"
    with MemorySystem(home, redis=None) as memory:
        memory.store("agent", "before")
        assert memory._lifecycle.parts.sql.store.scrub()
        with MemorySystem(home, redis=None) as other:
            other.store("agent", "of another object")
        memory.store("agent", "between")
        log = os.stat(home / "memories.sqlite-wal").st_ino
        process = Process(home, "of another process", "without")
        for wanted in ("up", "open", "closed"):
            process.reaches(wanted)
            if wanted != "closed":
                process.go_on()
        process.end()
        assert os.stat(home / "memories.sqlite-wal").st_ino == log
        memory.store("agent", "after")
    with MemorySystem(home, redis=None) as memory:
        found = {entry.content for entry in memory.query("agent")}
    assert found == {"before", "of another object", "between", "of another process", "after"}
