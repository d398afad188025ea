"""SIGKILL at moments of chance: to the process that uses the memory system, to Redis under it, and to PostgreSQL.

Afterwards nothing acknowledged is lost at its level, nothing is doubled, nothing deleted is back, and Redis serves what SQL
holds. A few rounds here; `make kills` runs 200 (MEMORY_KILLS says how many).
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import memory_child
import pytest
import servers
from memory_child import AGENT
from postgres_server import PostgresServer

from agent_memory.memory import MemorySettings, MemorySystem
from agent_memory.redis import Redis

KILLS = int(os.environ.get("MEMORY_KILLS", "6"))
JOURNALLED = MemorySettings(journal=True)
CHILD = Path(memory_child.__file__)


class Child:
    """A process at work; `lines` is what it has said so far."""

    def __init__(self, path, store, server, seed):
        arguments = [sys.executable, str(CHILD), str(path), store, json.dumps(server.connection_kwargs), str(seed)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.lines = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            # The last line may be cut off by the kill: it was not said.
            if line.endswith(b"\n"):
                self.lines.append(json.loads(line))

    def wait_for(self, count):
        wanted = len(self.lines) + count
        while len(self.lines) < wanted:
            assert self.process.poll() is None, self.process.stderr.read().decode()
            time.sleep(0.005)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return self.lines


class History:
    """What was tried and acknowledged, per memory."""

    def __init__(self):
        self.possible = collections.defaultdict(list)  # label -> contents that may be there, None: nothing

    def learn(self, lines, *, redis_was_away=False):
        for kind, label, action, content, *_ in lines:
            if kind == "missing":
                # What only Redis has cannot be found while Redis is away.
                assert redis_was_away, f"{label} was not found by the thread that has it ({action})"
                continue
            outcome = None if action == "delete" else content
            if kind == "try":
                if action == "store":
                    self.possible[label].append(None)
                self.possible[label].append(outcome)
            else:
                self.possible[label] = [outcome]

    def judge(self, memory):
        report = memory.sync()
        assert not report.remaining
        found = collections.defaultdict(list)
        for entry in memory.query(AGENT):
            found[entry.metadata["label"]].append(entry)
        for label, possible in self.possible.items():
            entries = found.pop(label, [])
            assert len(entries) <= 1, f"{label} is there {len(entries)} times"
            content = entries[0].content if entries else None
            assert content in possible, f"{label} is {content!r}, not one of {possible}"
            if entries:
                served = memory.get(AGENT, entries[0].id)
                assert served is not None
                assert (served.content, served.version) == (content, entries[0].version), "Redis serves a stale copy"
            # The outcomes that a killed process did not receive are known from here.
            self.possible[label] = [content]
        assert not found, f"nobody stored {list(found)}"


@pytest.fixture
def postgres():
    with contextlib.closing(PostgresServer()) as server:
        yield server


def test_killed_processes_lose_nothing_that_was_acknowledged(start_server, tmp_path):
    server = start_server(servers.VALKEY, path=tmp_path / "redis")
    chance = random.Random(KILLS)
    history = History()
    for seed in range(max(2, KILLS // 3)):
        child = Child(tmp_path / "memory", "", server, seed)
        child.wait_for(chance.randrange(20, 250))
        history.learn(child.kill())
        with (
            Redis(**server.connection_kwargs) as client,
            MemorySystem(tmp_path / "memory", redis=client, config=JOURNALLED) as memory,
        ):
            history.judge(memory)


def test_killed_redis_loses_nothing_that_was_acknowledged(start_server, tmp_path):
    server = start_server(servers.VALKEY, path=tmp_path / "redis", transport="tcp")
    chance = random.Random(KILLS)
    history = History()
    child = Child(tmp_path / "memory", "", server, 1)
    try:
        for _ in range(max(3, KILLS - KILLS // 3)):
            child.wait_for(chance.randrange(20, 150))
            server.kill()
            child.wait_for(chance.randrange(5, 60))
            server.start()
        child.wait_for(100)
    finally:
        history.learn(child.kill(), redis_was_away=True)
    with (
        Redis(**server.connection_kwargs) as client,
        MemorySystem(tmp_path / "memory", redis=client, config=JOURNALLED) as memory,
    ):
        history.judge(memory)


def test_killed_postgresql_loses_nothing_that_was_acknowledged(start_server, tmp_path, postgres):
    server = start_server(servers.VALKEY, path=tmp_path / "redis")
    chance = random.Random(KILLS)
    history = History()
    child = Child(tmp_path / "memory", postgres.url, server, 1)
    try:
        for _ in range(max(2, KILLS // 4)):
            child.wait_for(chance.randrange(20, 100))
            postgres.kill()
            child.wait_for(chance.randrange(5, 40))
            postgres.start()
        child.wait_for(60)
    finally:
        history.learn(child.kill())
    with (
        Redis(**server.connection_kwargs) as client,
        MemorySystem(tmp_path / "memory", redis=client, store=postgres.url, config=JOURNALLED) as memory,
    ):
        history.judge(memory)


def test_processes_killed_while_postgresql_and_redis_are_gone_leave_their_journal_to_the_next(
    start_server, tmp_path, postgres
):
    server = start_server(servers.VALKEY, path=tmp_path / "redis", transport="tcp")
    chance = random.Random(KILLS)
    history = History()
    journalled = 0
    for seed in range(max(2, KILLS // 8)):
        child = Child(tmp_path / "memory", postgres.url, server, seed)
        try:
            child.wait_for(chance.randrange(20, 60))
            gone = [postgres, server]
            chance.shuffle(gone)
            for one in gone:
                one.kill()
                child.wait_for(chance.randrange(0, 10))
            child.wait_for(chance.randrange(10, 60))
            if chance.random() < 0.5:
                gone[0].start()
                child.wait_for(chance.randrange(5, 30))
        finally:
            lines = child.kill()
        journalled += sum(words[0] == "ok" and words[4] == "journal" for words in lines)
        history.learn(lines, redis_was_away=True)
        postgres.start()
        server.start()
    with (
        Redis(**server.connection_kwargs) as client,
        MemorySystem(tmp_path / "memory", redis=client, store=postgres.url, config=JOURNALLED) as memory,
    ):
        history.judge(memory)
        assert memory.stats()["journal"]["entries"] == 0
    assert journalled > 0
