"""The worker of the recovery queue: a task, or a daemon thread in the sync client, that drains when something has changed.

It waits for events (a write was queued, the circuit changed, resume, close), for the next due time, or for the time the guard
names while the circuit is open. It is started by the first write that is queued.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Protocol

from agent_memory._concurrency import AsyncEvent, AsyncHome, AsyncTask, async_spawn

if TYPE_CHECKING:
    from agent_memory._core import Guard

__all__ = ["AsyncDrainOwner", "AsyncWorker"]


class AsyncDrainOwner(Protocol):
    """What the worker works for; it does not keep it alive while nothing waits."""

    def take_over(self) -> None:
        """A worker begins: what its predecessor held is released."""
        ...

    async def drain(self) -> float | None:
        """Sends what is due; returns the seconds until there is more to do, None for not before an event."""
        ...

    def is_waiting(self) -> bool:
        """Whether anything is queued."""
        ...


class AsyncWorker:
    """Starts, wakes, pauses and ends the worker of one client. Safe to use from any thread."""

    def __init__(self, owner: weakref.ref[AsyncDrainOwner], guard: Guard, client_name: str) -> None:
        self._owner = owner
        self._guard = guard
        self._name = f"agent_memory recovery of {client_name}"
        self._home = AsyncHome()
        self.is_paused = False
        """Whether nothing is to be sent for now."""
        self.start_afresh()

    def start_afresh(self) -> None:
        """In a child of fork(): the worker and its locks stayed with the parent."""
        self._mutex = threading.Lock()
        self._wake = AsyncEvent()
        self._stopped = AsyncEvent()
        self.task: AsyncTask[None] | None = None
        """The running worker."""

    @property
    def is_stopped(self) -> bool:
        """Whether the worker has been stopped."""
        return self._stopped.is_set()

    def settle(self) -> None:
        """The running event loop is a place where the worker may live, which may run again."""
        self._home.settle()
        self._stopped.clear()

    def start(self) -> None:
        """There is something to do for the worker."""
        self._stopped.clear()
        self._home.post(self._ensure_running)
        self._wake.set()

    def note_queued(self, is_first: bool) -> None:
        """A write was queued: starts the worker, unless it sleeps until something else changes."""
        task = self.task
        if task is None or task.is_done() or is_first or not (self.is_paused or self._guard.state == "open"):
            self.start()

    def wake_up(self) -> None:
        """Something has changed."""
        self._wake.set()

    def stop(self) -> None:
        """Has the worker end when it has finished what it is trying."""
        self._stopped.set()
        self._wake.set()

    async def join(self, timeout_s: float) -> None:
        """Waits for the end of a stopped worker."""
        task = self.task
        if task is not None:
            await task.join(timeout_s)

    def _ensure_running(self) -> None:
        with self._mutex:
            if self.task is None or self.task.is_done():
                owner = self._owner()
                if owner is not None:
                    owner.take_over()
                self.task = async_spawn(self._work, self._wake, self._stopped, name=self._name)

    async def _work(self, wake: AsyncEvent, stopped: AsyncEvent) -> None:
        """The worker's life; it does not keep a client alive for which nothing waits."""
        try:
            while not stopped.is_set():
                # Cleared before looking: what happens after this line wakes the wait below.
                wake.clear()
                owner = self._owner()
                if owner is None:
                    return
                pause_s = await owner.drain()
                if not owner.is_waiting():
                    # Nothing waits, so nothing is lost if the client is abandoned meanwhile: its end wakes the wait.
                    del owner
                await wake.wait(pause_s)
        except BaseException:
            # This event loop ends. Another one that the client lives in goes on with what waits.
            owner = self._owner()
            if owner is not None and owner.is_waiting() and not stopped.is_set():
                with self._mutex:
                    self.task = None
                self._home.post_elsewhere(self._ensure_running)
            raise
