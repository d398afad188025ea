# Generated from ../_async/test_erasure.py by tools/generate_sync.py: edit that file, not this one.

"""Erased is gone everywhere: from journal, snapshots, Redis and the files of the folder, and it is not read meanwhile."""

from __future__ import annotations

import fcntl
import random
import sqlite3

import pytest

from agent_memory._concurrency import gather, sleep, spawn
from agent_memory.memory import IndexSettings, MemorySettings, MemorySystem, SqliteSettings, SyncSettings
from agent_memory.redis import Redis

AGENT = "agent"
MARK = "ERASED-MARK"
SMALL = MemorySettings(index=IndexSettings(snapshot_entries=1), sync=SyncSettings(max_staleness_s=1e-9))
JOURNALLED = MemorySettings(journal=True, sqlite=SqliteSettings(busy_timeout_s=0.05))


def files_holding(folder, mark=MARK):
    return [str(path) for path in folder.rglob("*") if path.is_file() and mark.encode() in path.read_bytes()]


@pytest.fixture
def memory(tmp_path):
    with MemorySystem(tmp_path / "memory", redis=None, config=SMALL) as opened:
        yield opened


def until(condition):
    """Waits for a condition; the test's own timeout bounds it."""
    while not condition():
        sleep(0.01)


@pytest.mark.parametrize("kind", ["agent", "user"])
def test_what_the_journal_took_is_erased_with_the_rest(tmp_path, kind):
    with MemorySystem(tmp_path, redis=None, config=JOURNALLED) as memory:
        memory.store(AGENT, "nothing special")
        other = sqlite3.connect(tmp_path / "memories.sqlite", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        note = memory.store(AGENT, f"{MARK} of the user", user_id="ann", durability="journal")
        assert note.durability == "journal"
        other.execute("ROLLBACK")
        other.close()
        sleep(0.3)  # SQL is asked again
        assert memory.delete_user("ann") == 1 if kind == "user" else memory.delete_agent(AGENT) == 1
        assert len(memory._lifecycle.parts.journal) == 0
        assert files_holding(memory._resources.directory.journal) == [], "not even what it has removed"
        assert memory.get(AGENT, note) is None
        assert memory.retrieve(AGENT, MARK) == [] if kind == "agent" else True
        assert memory.count(AGENT, user_id="ann") == 0
        memory.maintain()
    assert files_holding(tmp_path) == []


def test_what_another_process_journalled_is_not_read_once_it_is_erased(tmp_path):
    with (
        MemorySystem(tmp_path, redis=None, config=JOURNALLED) as memory,
        MemorySystem(tmp_path, redis=None) as eraser,
    ):
        memory.store(AGENT, "nothing special")
        other = sqlite3.connect(tmp_path / "memories.sqlite", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        note = memory.store(AGENT, "of the user", durability="journal")
        other.execute("ROLLBACK")
        other.close()
        eraser.delete_agent(AGENT)
        sleep(0.3)
        assert memory.get(AGENT, note) is None
        assert len(memory._lifecycle.parts.journal) == 0


@pytest.mark.parametrize("kind", ["agent", "user"])
def test_an_erasure_waits_for_the_snapshot_that_another_process_writes(memory, tmp_path, kind):
    for _ in range(3):
        memory.store(AGENT, "secret", user_id="ann")
    memory.retrieve(AGENT, "secret")
    assert memory.maintain().snapshots == 1
    snapshots = tmp_path / "memory" / "snapshots"
    (whole,) = snapshots.iterdir()
    with snapshots.with_name("index.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as the writer of a snapshot does
        task = spawn(memory.delete_user, "ann") if kind == "user" else spawn(memory.delete_agent, AGENT)
        while not memory._lifecycle.parts.sql.store.erasures():
            sleep(0.01)
        sleep(0.1)
        assert not task.is_done()
        written = whole.with_name(whole.name.replace(".1.", ".1.9"))
        written.write_bytes(b"another snapshot")
        left = whole.with_name(whole.name + ".4711.0.tmp")
        left.write_bytes(b"of a process that died")
    task.join()
    assert list(snapshots.iterdir()) == []


@pytest.mark.parametrize("kind", ["agent", "user"])
def test_no_snapshot_is_written_of_what_is_being_erased(memory, tmp_path, kind):
    memory.store(AGENT, "secret", user_id="ann")
    memory.retrieve(AGENT, "secret")
    memory._lifecycle.parts.sql.store.begin_erasure(kind, "ann" if kind == "user" else AGENT)
    assert memory._lifecycle.parts.indexes.save_snapshots() == 0
    assert memory.maintain().erased == 1
    assert list((tmp_path / "memory").rglob("*.snapshot")) == []


def test_an_erasure_that_was_interrupted_is_finished_everywhere(valkey, tmp_path):
    with Redis(**valkey.connection_kwargs) as client:
        memory = MemorySystem(tmp_path, redis=client, config=SMALL).open()
        hers = memory.store(AGENT, f"{MARK} of ann", user_id="ann")
        memory.retrieve(AGENT, MARK)
        memory.maintain()
        memory._lifecycle.parts.clean.flush()
        memory._lifecycle.parts.sql.store.begin_erasure("user", "ann")  # and the process dies
        with MemorySystem(tmp_path, redis=client, config=SMALL) as other:
            assert other.maintain().erased == 1
            assert other.get(AGENT, hers) is None
            assert other.retrieve(AGENT, MARK) == []
        assert [key for key in client.keys("*:m:*") if MARK.encode() in client.get(key)] == []
        memory.close()
    assert files_holding(tmp_path) == []


def test_what_could_not_be_erased_in_redis_is_erased_when_it_is_back(valkey, proxy, tmp_path):
    between = proxy((valkey.connection_kwargs["host"], valkey.connection_kwargs["port"]))
    options = {**valkey.connection_kwargs, "host": between.host, "port": between.port, "socket_timeout": 0.2}
    with Redis(**options) as client, MemorySystem(tmp_path, redis=client) as memory:
        note = memory.store(AGENT, "secret", user_id="ann")
        memory._lifecycle.parts.clean.flush()
        between.black_hole()
        assert memory.delete_agent(AGENT) == 1
        between.heal()
        sleep(0.3)
        memory.sync()
        assert memory.get(AGENT, note) is None
        with Redis(**valkey.connection_kwargs) as direct:
            assert direct.keys("*:m:*") == []


def test_a_log_that_is_being_read_is_emptied_later(memory, tmp_path):
    for number in range(3):
        memory.store(AGENT, f"{MARK} {number}")
    reader = sqlite3.connect(tmp_path / "memory" / "memories.sqlite", isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM memories").fetchone()
    memory._lifecycle.parts.sql.store._engine.settings = SqliteSettings(busy_timeout_s=0.05)
    assert memory.delete_agent(AGENT) == 3
    assert files_holding(tmp_path) != []
    assert (tmp_path / "memory" / "erasure.pending").exists()
    reader.execute("COMMIT")
    reader.close()
    with MemorySystem(tmp_path / "memory", redis=None) as other:
        other.maintain()
        assert files_holding(tmp_path) == []
    assert not (tmp_path / "memory" / "erasure.pending").exists()


@pytest.mark.parametrize("redis", ["embedded", None])
def test_erased_text_is_in_no_file(tmp_path, redis):
    """Of a user with many memories among others': long and short, changed, deleted, moved; pages are split and merged."""
    chance = random.Random(7)
    lengths = [5, 50, 300, 3_000, 20_000]
    with MemorySystem(tmp_path, redis=redis, config=SMALL) as memory:
        for batch in range(6):
            entries = [
                {
                    "content": f"{MARK if number % 2 else 'kept'} {number} {'x' * chance.choice(lengths)}",
                    "user_id": "ann" if number % 2 else "bob",
                    "tags": [f"{MARK}-tag" if number % 2 else "tag"],
                    "key": f"{MARK if number % 2 else 'key'}-{batch}-{number}",
                    "idempotency_key": f"{MARK if number % 2 else 'i'}-{batch}-{number}",
                    "metadata": {"told": f"{MARK}-told" if number % 2 else ""},
                    "namespace": [f"{MARK}-namespace" if number % 2 else "n"],
                }
                for number in range(200)
            ]
            ids = memory.store_many(f"agent{batch % 3}", entries)
            for number in chance.sample(range(1, 200, 2), 20):
                memory.update(f"agent{batch % 3}", ids[number], content=f"{MARK} anew " + "y" * 500)
            for number in chance.sample(range(200), 20):
                memory.delete(f"agent{batch % 3}", ids[number])
        for agent_id in ("agent0", "agent1", "agent2"):
            memory.retrieve(agent_id, MARK)
        memory.maintain()
        memory.delete_user("ann")
        until(lambda: not files_holding(tmp_path))  # the server removes its old file a moment later
        assert memory.count(user_id="bob") > 500
        assert memory.delete_agent("agent0") > 100
        memory.maintain()
    assert files_holding(tmp_path) == []


def test_own_writes_that_wait_for_a_search_do_not_survive_an_erasure_elsewhere(memory, tmp_path):
    memory.retrieve(AGENT, "anything")
    memory.store_many(AGENT, [{"content": "zqmark"}, {"content": "zqmark again"}])
    with MemorySystem(tmp_path / "memory", redis=None) as other:
        assert other.delete_agent(AGENT) == 2
    memory.store(AGENT, "new")
    memory.retrieve(AGENT, "zqmark")
    assert memory.maintain().snapshots == 1
    assert files_holding(tmp_path, "zqmark") == []


def test_the_snapshot_that_knows_a_user_by_deleted_memories_goes_with_the_user(memory, tmp_path):
    hers = memory.store(AGENT, "zqmark of hers", user_id="ann")
    memory.store(AGENT, "another")
    memory.retrieve(AGENT, "zqmark")
    memory.maintain()
    memory.delete(AGENT, hers)
    assert files_holding(tmp_path, "zqmark") != []
    assert memory.delete_user("ann") == 0
    assert files_holding(tmp_path, "zqmark") == []


def test_many_erasures_at_once_share_what_they_do_to_files(tmp_path):
    with MemorySystem(tmp_path, redis=None, config=SMALL) as memory:
        users = [f"user{number}" for number in range(40)]
        for user in users:
            memory.store(AGENT, f"{MARK} of {user}", user_id=user)
        memory.retrieve(AGENT, MARK)
        store = memory._lifecycle.parts.sql.store
        scrub, scrubs = store.scrub, []

        def count():
            scrubs.append(None)
            return scrub()

        store.scrub = count
        saving = spawn(memory._lifecycle.parts.indexes.save_snapshots)
        assert gather(*[spawn(memory.delete_user, user) for user in users]) == [1] * len(users)
        saving.join()
        assert len(scrubs) < len(users)
        assert files_holding(tmp_path) == []


def test_a_damaged_memory_does_not_keep_a_system_from_closing(tmp_path):
    memory = MemorySystem(tmp_path, redis=None, config=SMALL).open()
    memory.store(AGENT, "one")
    memory.retrieve(AGENT, "one")
    memory.store(AGENT, "another")
    other = sqlite3.connect(tmp_path / "memories.sqlite")
    other.execute("UPDATE memories SET content = x'00' WHERE seq = 2")
    other.commit()
    other.close()
    memory.close()
    with MemorySystem(tmp_path, redis=None, config=SMALL) as again:
        assert again.count(AGENT) == 2
