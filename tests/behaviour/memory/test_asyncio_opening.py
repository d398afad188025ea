"""Tasks that wait for a memory system to open are cancelled: the others continue, and nothing stays open without a user."""

from __future__ import annotations

import asyncio

import pytest

from agent_memory.memory import AsyncMemorySystem
from agent_memory.memory.stores.sqlite import AsyncSqliteStore


class Slow:
    """A store whose opening waits for `may_open`."""

    def __init__(self, path):
        self._store = AsyncSqliteStore(path)
        self.opened = self.closed = 0
        self.may_open = asyncio.Event()
        self.is_closed = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def open(self):
        self.opened += 1
        await self.may_open.wait()
        await self._store.open()

    async def close(self):
        await self._store.close()
        self.closed += 1
        self.is_closed.set()


@pytest.fixture
async def slow(tmp_path):
    return Slow(tmp_path / "memories.sqlite")


async def begun(call):
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    return task


async def cancel(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_first_use_leaves_the_others_alone(slow, tmp_path):
    memory = AsyncMemorySystem(tmp_path, redis=None, store=slow)
    first, second = await begun(memory.count("a")), await begun(memory.count("a"))
    await cancel(first)
    slow.may_open.set()
    assert await second == 0
    assert slow.opened == 1
    await memory.close()


async def test_a_first_use_with_a_deadline_that_is_too_short_opens_for_the_next(slow, tmp_path):
    memory = AsyncMemorySystem(tmp_path, redis=None, store=slow)
    await cancel(await begun(memory.count("a")))
    slow.may_open.set()
    assert await memory.count("a") == 0
    assert slow.opened == 1
    await memory.close()


async def test_a_cancelled_open_is_undone(slow, tmp_path):
    memory = AsyncMemorySystem(tmp_path, redis=None, store=slow)
    await cancel(await begun(memory.open()))
    slow.may_open.set()
    await slow.is_closed.wait()
    assert (slow.opened, slow.closed, memory._lifecycle.parts is not None) == (1, 1, False)
    async with memory:
        assert await memory.count("a") == 0


async def test_a_cancelled_open_is_kept_for_another_caller(slow, tmp_path):
    memory = AsyncMemorySystem(tmp_path, redis=None, store=slow)
    opening, use = await begun(memory.open()), await begun(memory.count("a"))
    await cancel(opening)
    slow.may_open.set()
    assert await use == 0
    assert slow.opened == 1
    await memory.close()
