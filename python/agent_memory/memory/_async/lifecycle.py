"""Opening a memory system once, however many callers come at a time, and closing it."""

from __future__ import annotations

import threading

from agent_memory import _at_fork
from agent_memory._concurrency import AsyncKeyedLocks, AsyncTask, async_spawn
from agent_memory.memory._async.parts import AsyncParts
from agent_memory.memory._async.resources import AsyncResources
from agent_memory.memory.errors import MemoryStoreClosedError

__all__ = ["AsyncLifecycle"]


class _Opening:
    """One opening of a system, and how many callers wait for it."""

    def __init__(self) -> None:
        self.task: AsyncTask[AsyncParts | None]
        self.waiting = 0
        self.is_kept = False
        """Whether it stays open when its callers were cancelled: the next use needs it, too."""


class AsyncLifecycle:
    """Whether a system is open. Any number of tasks may use one object.

    A system that was never closed is opened by its first use; after `close()` only by `open()`. A child of fork() opens anew.
    """

    def __init__(self, resources: AsyncResources) -> None:
        self._resources = resources
        self.parts: AsyncParts | None = None
        """What is open; None while the system is closed, or being opened or closed."""
        self._is_closed = False
        self._mutex = threading.Lock()
        """Guards the others."""
        self._opening: _Opening | None = None
        self._changing = AsyncKeyedLocks()
        """Held while it is being opened or closed."""
        _at_fork.in_child(self._after_fork)

    async def open(self) -> None:
        """Opens it; undone where the caller is cancelled and no other caller waits for the same opening."""
        with self._mutex:
            self._is_closed = False
        await self._join_opening(is_asked_for=True)

    async def opened(self) -> AsyncParts:
        """For every use: what is open, opened first where it is not. Raises MemoryStoreClosedError after `close()`."""
        parts = self.parts
        return await self._join_opening(is_asked_for=False) if parts is None else parts

    async def _join_opening(self, *, is_asked_for: bool) -> AsyncParts:
        """Waits until it is open; callers that come at one time share one opening, which goes on when one of them leaves.

        An opening by `open()` that no caller waits for any more is undone: its caller cannot close what it never got.
        """
        while True:
            with self._mutex:
                if self.parts is not None:
                    return self.parts
                if self._is_closed:
                    raise MemoryStoreClosedError("the memory system was closed: open() it again")
                opening = self._opening
                if opening is None or opening.task.is_done():
                    opening = self._opening = _Opening()
                    opening.task = async_spawn(self._open, opening, name="agent-memory-open")
                opening.waiting += 1
                opening.is_kept |= not is_asked_for
            try:
                opened = await opening.task.result()
            finally:
                with self._mutex:
                    opening.waiting -= 1
            if opened is not None:
                return opened  # also where it was closed again since: opening it has succeeded

    async def _open(self, opening: _Opening) -> AsyncParts | None:
        """What was opened; None where no caller waits for it any more."""
        async with self._changing.hold("state"):
            parts = await self._resources.open()
            with self._mutex:
                is_wanted = opening.is_kept or opening.waiting > 0
                self.parts = parts if is_wanted else None
            if is_wanted:
                return parts
            await self._resources.close(parts)
            return None

    async def close(self) -> None:
        """Closes what is open, after an opening that is under way. Does nothing when closed."""
        with self._mutex:
            self._is_closed = True
            opening = self._opening
        if opening is not None:
            await opening.task.join()
        async with self._changing.hold("state"):
            parts, self.parts = self.parts, None
            if parts is not None:
                await self._resources.close(parts)

    def _after_fork(self) -> None:
        parts, self.parts = self.parts, None
        self._mutex, self._changing, self._opening = threading.Lock(), AsyncKeyedLocks(), None
        self._resources.abandon(parts)
