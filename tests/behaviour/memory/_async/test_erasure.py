"""Erased is gone everywhere: from journal, snapshots, Redis and the files of the folder, and it is not read meanwhile."""

from __future__ import annotations

import fcntl
import random
import sqlite3

import pytest

from agent_memory._concurrency import async_gather, async_sleep, async_spawn
from agent_memory.memory import AsyncMemorySystem, IndexSettings, MemorySettings, SqliteSettings, SyncSettings
from agent_memory.redis.asyncio import Redis as AsyncRedis

AGENT = "agent"
MARK = "ERASED-MARK"
SMALL = MemorySettings(index=IndexSettings(snapshot_entries=1), sync=SyncSettings(max_staleness_s=1e-9))
JOURNALLED = MemorySettings(journal=True, sqlite=SqliteSettings(busy_timeout_s=0.05))


def files_holding(folder, mark=MARK):
    return [str(path) for path in folder.rglob("*") if path.is_file() and mark.encode() in path.read_bytes()]


@pytest.fixture
async def memory(tmp_path):
    async with AsyncMemorySystem(tmp_path / "memory", redis=None, config=SMALL) as opened:
        yield opened


async def until(condition):
    """Waits for a condition; the test's own timeout bounds it."""
    while not condition():
        await async_sleep(0.01)


@pytest.mark.parametrize("kind", ["agent", "user"])
async def test_what_the_journal_took_is_erased_with_the_rest(tmp_path, kind):
    async with AsyncMemorySystem(tmp_path, redis=None, config=JOURNALLED) as memory:
        await memory.store(AGENT, "nothing special")
        other = sqlite3.connect(tmp_path / "memories.sqlite", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        note = await memory.store(AGENT, f"{MARK} of the user", user_id="ann", durability="journal")
        assert note.durability == "journal"
        other.execute("ROLLBACK")
        other.close()
        await async_sleep(0.3)  # SQL is asked again
        assert await memory.delete_user("ann") == 1 if kind == "user" else await memory.delete_agent(AGENT) == 1
        assert len(memory._lifecycle.parts.journal) == 0
        assert files_holding(memory._resources.directory.journal) == [], "not even what it has removed"
        assert await memory.get(AGENT, note) is None
        assert await memory.retrieve(AGENT, MARK) == [] if kind == "agent" else True
        assert await memory.count(AGENT, user_id="ann") == 0
        await memory.maintain()
    assert files_holding(tmp_path) == []


async def test_what_another_process_journalled_is_not_read_once_it_is_erased(tmp_path):
    async with (
        AsyncMemorySystem(tmp_path, redis=None, config=JOURNALLED) as memory,
        AsyncMemorySystem(tmp_path, redis=None) as eraser,
    ):
        await memory.store(AGENT, "nothing special")
        other = sqlite3.connect(tmp_path / "memories.sqlite", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        note = await memory.store(AGENT, "of the user", durability="journal")
        other.execute("ROLLBACK")
        other.close()
        await eraser.delete_agent(AGENT)
        await async_sleep(0.3)
        assert await memory.get(AGENT, note) is None
        assert len(memory._lifecycle.parts.journal) == 0


@pytest.mark.parametrize("kind", ["agent", "user"])
async def test_an_erasure_waits_for_the_snapshot_that_another_process_writes(memory, tmp_path, kind):
    for _ in range(3):
        await memory.store(AGENT, "secret", user_id="ann")
    await memory.retrieve(AGENT, "secret")
    assert (await memory.maintain()).snapshots == 1
    snapshots = tmp_path / "memory" / "snapshots"
    (whole,) = snapshots.iterdir()
    with snapshots.with_name("index.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as the writer of a snapshot does
        task = async_spawn(memory.delete_user, "ann") if kind == "user" else async_spawn(memory.delete_agent, AGENT)
        while not await memory._lifecycle.parts.sql.store.erasures():
            await async_sleep(0.01)
        await async_sleep(0.1)
        assert not task.is_done()
        written = whole.with_name(whole.name.replace(".1.", ".1.9"))
        written.write_bytes(b"another snapshot")
        left = whole.with_name(whole.name + ".4711.0.tmp")
        left.write_bytes(b"of a process that died")
    await task.join()
    assert list(snapshots.iterdir()) == []


@pytest.mark.parametrize("kind", ["agent", "user"])
async def test_no_snapshot_is_written_of_what_is_being_erased(memory, tmp_path, kind):
    await memory.store(AGENT, "secret", user_id="ann")
    await memory.retrieve(AGENT, "secret")
    await memory._lifecycle.parts.sql.store.begin_erasure(kind, "ann" if kind == "user" else AGENT)
    assert await memory._lifecycle.parts.indexes.save_snapshots() == 0
    assert (await memory.maintain()).erased == 1
    assert list((tmp_path / "memory").rglob("*.snapshot")) == []


async def test_an_erasure_that_was_interrupted_is_finished_everywhere(valkey, tmp_path):
    async with AsyncRedis(**valkey.connection_kwargs) as client:
        memory = await AsyncMemorySystem(tmp_path, redis=client, config=SMALL).open()
        hers = await memory.store(AGENT, f"{MARK} of ann", user_id="ann")
        await memory.retrieve(AGENT, MARK)
        await memory.maintain()
        await memory._lifecycle.parts.clean.flush()
        await memory._lifecycle.parts.sql.store.begin_erasure("user", "ann")  # and the process dies
        async with AsyncMemorySystem(tmp_path, redis=client, config=SMALL) as other:
            assert (await other.maintain()).erased == 1
            assert await other.get(AGENT, hers) is None
            assert await other.retrieve(AGENT, MARK) == []
        assert [key for key in await client.keys("*:m:*") if MARK.encode() in await client.get(key)] == []
        await memory.close()
    assert files_holding(tmp_path) == []


async def test_what_could_not_be_erased_in_redis_is_erased_when_it_is_back(valkey, proxy, tmp_path):
    between = proxy((valkey.connection_kwargs["host"], valkey.connection_kwargs["port"]))
    options = {**valkey.connection_kwargs, "host": between.host, "port": between.port, "socket_timeout": 0.2}
    async with AsyncRedis(**options) as client, AsyncMemorySystem(tmp_path, redis=client) as memory:
        note = await memory.store(AGENT, "secret", user_id="ann")
        await memory._lifecycle.parts.clean.flush()
        between.black_hole()
        assert await memory.delete_agent(AGENT) == 1
        between.heal()
        await async_sleep(0.3)
        await memory.sync()
        assert await memory.get(AGENT, note) is None
        async with AsyncRedis(**valkey.connection_kwargs) as direct:
            assert await direct.keys("*:m:*") == []


async def test_a_log_that_is_being_read_is_emptied_later(memory, tmp_path):
    for number in range(3):
        await memory.store(AGENT, f"{MARK} {number}")
    reader = sqlite3.connect(tmp_path / "memory" / "memories.sqlite", isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM memories").fetchone()
    memory._lifecycle.parts.sql.store._engine.settings = SqliteSettings(busy_timeout_s=0.05)
    assert await memory.delete_agent(AGENT) == 3
    assert files_holding(tmp_path) != []
    assert (tmp_path / "memory" / "erasure.pending").exists()
    reader.execute("COMMIT")
    reader.close()
    async with AsyncMemorySystem(tmp_path / "memory", redis=None) as other:
        await other.maintain()
        assert files_holding(tmp_path) == []
    assert not (tmp_path / "memory" / "erasure.pending").exists()


@pytest.mark.parametrize("redis", ["embedded", None])
async def test_erased_text_is_in_no_file(tmp_path, redis):
    """Of a user with many memories among others': long and short, changed, deleted, moved; pages are split and merged."""
    chance = random.Random(7)
    lengths = [5, 50, 300, 3_000, 20_000]
    async with AsyncMemorySystem(tmp_path, redis=redis, config=SMALL) as memory:
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
            ids = await memory.store_many(f"agent{batch % 3}", entries)
            for number in chance.sample(range(1, 200, 2), 20):
                await memory.update(f"agent{batch % 3}", ids[number], content=f"{MARK} anew " + "y" * 500)
            for number in chance.sample(range(200), 20):
                await memory.delete(f"agent{batch % 3}", ids[number])
        for agent_id in ("agent0", "agent1", "agent2"):
            await memory.retrieve(agent_id, MARK)
        await memory.maintain()
        await memory.delete_user("ann")
        await until(lambda: not files_holding(tmp_path))  # the server removes its old file a moment later
        assert await memory.count(user_id="bob") > 500
        assert await memory.delete_agent("agent0") > 100
        await memory.maintain()
    assert files_holding(tmp_path) == []


async def test_own_writes_that_wait_for_a_search_do_not_survive_an_erasure_elsewhere(memory, tmp_path):
    await memory.retrieve(AGENT, "anything")
    await memory.store_many(AGENT, [{"content": "zqmark"}, {"content": "zqmark again"}])
    async with AsyncMemorySystem(tmp_path / "memory", redis=None) as other:
        assert await other.delete_agent(AGENT) == 2
    await memory.store(AGENT, "new")
    await memory.retrieve(AGENT, "zqmark")
    assert (await memory.maintain()).snapshots == 1
    assert files_holding(tmp_path, "zqmark") == []


async def test_the_snapshot_that_knows_a_user_by_deleted_memories_goes_with_the_user(memory, tmp_path):
    hers = await memory.store(AGENT, "zqmark of hers", user_id="ann")
    await memory.store(AGENT, "another")
    await memory.retrieve(AGENT, "zqmark")
    await memory.maintain()
    await memory.delete(AGENT, hers)
    assert files_holding(tmp_path, "zqmark") != []
    assert await memory.delete_user("ann") == 0
    assert files_holding(tmp_path, "zqmark") == []


async def test_many_erasures_at_once_share_what_they_do_to_files(tmp_path):
    async with AsyncMemorySystem(tmp_path, redis=None, config=SMALL) as memory:
        users = [f"user{number}" for number in range(40)]
        for user in users:
            await memory.store(AGENT, f"{MARK} of {user}", user_id=user)
        await memory.retrieve(AGENT, MARK)
        store = memory._lifecycle.parts.sql.store
        scrub, scrubs = store.scrub, []

        async def count():
            scrubs.append(None)
            return await scrub()

        store.scrub = count
        saving = async_spawn(memory._lifecycle.parts.indexes.save_snapshots)
        assert await async_gather(*[async_spawn(memory.delete_user, user) for user in users]) == [1] * len(users)
        await saving.join()
        assert len(scrubs) < len(users)
        assert files_holding(tmp_path) == []


async def test_a_damaged_memory_does_not_keep_a_system_from_closing(tmp_path):
    memory = await AsyncMemorySystem(tmp_path, redis=None, config=SMALL).open()
    await memory.store(AGENT, "one")
    await memory.retrieve(AGENT, "one")
    await memory.store(AGENT, "another")
    other = sqlite3.connect(tmp_path / "memories.sqlite")
    other.execute("UPDATE memories SET content = x'00' WHERE seq = 2")
    other.commit()
    other.close()
    await memory.close()
    async with AsyncMemorySystem(tmp_path, redis=None, config=SMALL) as again:
        assert await again.count(AGENT) == 2
