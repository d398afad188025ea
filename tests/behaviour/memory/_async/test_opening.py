"""A memory system opens by itself when it is first used: once, whole or not at all, and not after it was closed."""

from __future__ import annotations

import inspect

import pytest

from agent_memory._concurrency import AsyncEvent, async_gather, async_sleep, async_spawn
from agent_memory.memory import (
    AsyncMemorySystem,
    MemoryHealth,
    MemorySettings,
    MemoryStoreClosedError,
    MemoryStoreUnavailableError,
)
from agent_memory.memory.stores.sqlite import AsyncSqliteStore

JOURNALLED = MemorySettings(journal=True)


class Watched:
    """A store that counts its openings and closings, and fails to open a given number of times."""

    def __init__(self, path, failures=0):
        self._store = AsyncSqliteStore(path)
        self.failures = failures
        self.opened = self.closed = 0
        self.is_opening = AsyncEvent()
        self.may_open = AsyncEvent()
        self.may_open.set()

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def open(self):
        self.opened += 1
        self.is_opening.set()
        await self.may_open.wait()
        if self.failures:
            self.failures -= 1
            raise MemoryStoreUnavailableError("the database is away")
        await self._store.open()

    async def close(self):
        self.closed += 1
        await self._store.close()


@pytest.fixture
async def watched(tmp_path):
    (tmp_path / "memory").mkdir()
    return Watched(tmp_path / "memory" / "memories.sqlite")


async def drained(iterator):
    return [one async for one in iterator]


USES = {
    "store": lambda memory: memory.store("a", "x"),
    "store_many": lambda memory: memory.store_many("a", [{"content": "x"}]),
    "get": lambda memory: memory.get("a", "none"),
    "get_by_key": lambda memory: memory.get_by_key("a", "none"),
    "delete": lambda memory: memory.delete("a", "none"),
    "retrieve": lambda memory: memory.retrieve("a", "x"),
    "query": lambda memory: drained(memory.query("a")),
    "query of a tier": lambda memory: drained(memory.short_term.query("a")),
    "history": lambda memory: memory.history("a"),
    "count": lambda memory: memory.count("a"),
    "namespaces": lambda memory: memory.namespaces("a"),
    "forget": lambda memory: memory.forget("a", user_id="u"),
    "delete_agent": lambda memory: memory.delete_agent("a"),
    "delete_user": lambda memory: memory.delete_user("u"),
    "export": lambda memory: drained(memory.export("a")),
    "import_": lambda memory: memory.import_([]),
    "sync": lambda memory: memory.sync(),
    "maintain": lambda memory: memory.maintain(),
    "rebuild_indices": lambda memory: memory.rebuild_indices("a"),
    "check_health": lambda memory: memory.check_health(),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
async def test_every_first_use_opens_the_system_and_none_after_it_was_closed(use, tmp_path):
    memory = AsyncMemorySystem(tmp_path / "memory", redis=None)
    assert not (tmp_path / "memory").exists()
    await use(memory)
    assert await memory.check_health()
    await memory.close()
    with pytest.raises(MemoryStoreClosedError, match="was closed"):
        await use(memory)
    async with memory:
        await use(memory)


async def test_figures_and_health_are_plain_calls_that_open_nothing(tmp_path, watched):
    memory = AsyncMemorySystem(tmp_path / "memory", redis=None, store=watched)
    assert not any(inspect.iscoroutinefunction(method) for method in (memory.stats, memory.health))
    closed = MemoryHealth(healthy=False, state="not open", sql="unknown", redis="unknown")
    assert (memory.health(), memory.stats()) == (closed, {"open": False})
    assert not memory.health()
    async with memory:
        assert memory.health()
        assert memory.health() == await memory.check_health() == MemoryHealth(True, "healthy", "here", "none")
        figures = memory.stats()
        assert figures["open"]
        assert figures["store"]["engine"] == "sqlite"
    assert (memory.health(), memory.stats()) == (closed, {"open": False})
    with pytest.raises(MemoryStoreClosedError, match="was closed"):
        await memory.check_health()
    assert watched.opened == 1


async def test_the_default_system_needs_nothing_to_be_called_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory = AsyncMemorySystem()
    stored = await memory.store("agent", "likes tea", durability="redis")
    assert stored.durability == "redis"
    assert [entry.content for entry in await memory.retrieve("agent", "tea")] == ["likes tea"]
    await memory.close()
    assert memory._resources.directory.server is None


async def test_many_at_once_share_one_opening(watched, tmp_path):
    memory = AsyncMemorySystem(tmp_path / "memory", redis=None, store=watched)
    watched.may_open.clear()
    calls = [async_spawn(memory.store, "a", f"{number}") for number in range(30)]
    calls.append(async_spawn(memory.open))
    await watched.is_opening.wait()
    watched.may_open.set()
    await async_gather(*calls)
    assert (watched.opened, await memory.count("a")) == (1, 30)
    await memory.close()
    assert watched.closed == 1


async def test_an_opening_that_fails_leaves_nothing_and_the_next_use_tries_again(watched, tmp_path):
    watched.failures = 2
    memory = AsyncMemorySystem(tmp_path / "memory", store=watched, config=JOURNALLED)
    for _ in range(2):
        with pytest.raises(MemoryStoreUnavailableError):
            await memory.store("a", "x")
        assert memory._resources.directory.server is None
        assert not (tmp_path / "memory" / "server.json").exists()
    stored = await memory.store("a", "x", durability="redis")
    assert (stored.durability, watched.opened) == ("redis", 3)
    await memory.close()
    async with AsyncMemorySystem(tmp_path / "memory", config=JOURNALLED) as successor:
        assert (await successor.get("a", stored)).content == "x"
        assert successor._resources.directory.server is not None


async def test_all_callers_of_an_opening_learn_that_it_failed(watched, tmp_path):
    watched.failures = 1
    watched.may_open.clear()
    memory = AsyncMemorySystem(tmp_path / "memory", redis=None, store=watched)
    calls = [async_spawn(memory.count, "a") for _ in range(5)]
    await watched.is_opening.wait()
    while memory._lifecycle._opening.waiting < 5:
        await async_sleep(0.001)
    watched.may_open.set()
    for call in calls:
        with pytest.raises(MemoryStoreUnavailableError):
            await call.result()
    assert watched.opened == 1
    assert await memory.count("a") == 0
    await memory.close()


async def test_close_waits_for_an_opening_and_keeps_the_system_closed(watched, tmp_path):
    watched.may_open.clear()
    memory = AsyncMemorySystem(tmp_path / "memory", redis=None, store=watched)
    opening = async_spawn(memory.open)
    await watched.is_opening.wait()
    closing = async_spawn(memory.close)
    while not memory._lifecycle._is_closed:
        await async_sleep(0.001)
    watched.may_open.set()
    await async_gather(opening, closing)
    assert (watched.opened, watched.closed) == (1, 1)
    with pytest.raises(MemoryStoreClosedError):
        await memory.count("a")


async def test_start_opens_again_what_was_closed(tmp_path):
    memory = AsyncMemorySystem(tmp_path / "memory", redis=None)
    await memory.close()
    await memory.start()
    assert await memory.store("a", "x")
    assert memory.stats()["service"]["running"]
    await memory.close()
