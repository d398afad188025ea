"""Waiting for a writer of the core: one eventfd per event loop, a condition for threads. Both worlds, by hand.

The writer commits a batch and then signals once. In an event loop the signal makes a descriptor readable, and all whose
tickets are done by then go on; no thread of the loop ever waits for the disk.

The writer is woken once for what the tasks of one turn of the loop ask for, or for `GROUP` of them: a commit for each would
cost more than all else, and to wait for the whole of a long turn would leave the disk idle meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory._core import Journal

__all__ = ["AsyncCommits", "AsyncJournalCommits", "JournalCommits"]

GROUP: Final = 64
"""So many new waiters wake the writer before the turn of the loop is over."""


class _Source(Protocol):
    """A writer of the core that gives out tickets."""

    def wake(self) -> None: ...
    def done(self) -> int: ...
    def add_signal(self, fd: int) -> int: ...
    def remove_signal(self, signal: int) -> None: ...


class AsyncCommits:
    """Waits until tickets of one writer are done, in any number of event loops."""

    __slots__ = ("_last", "_lock", "_loops", "_source")

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopCommits] = weakref.WeakKeyDictionary()
        # The loop that waited last and its tickets: nearly always there is one.
        self._last: tuple[Callable[[], asyncio.AbstractEventLoop | None], _LoopCommits] | None = None

    async def wait(self, ticket: int) -> None:
        """Returns when a ticket is done."""
        if self._source.done() < ticket:
            await self._here().add(ticket)

    def _here(self) -> _LoopCommits:
        loop = asyncio.get_running_loop()
        last = self._last
        return last[1] if last is not None and last[0]() is loop else self._of(loop)

    def _of(self, loop: asyncio.AbstractEventLoop) -> _LoopCommits:
        with self._lock:
            here = self._loops.get(loop)
            if here is None:
                here = self._loops[loop] = _LoopCommits(self._source, loop)
            self._last = (weakref.ref(loop), here)
            return here

    def close(self) -> None:
        """Frees the descriptors. No waiter is left once the writer is closed."""
        with self._lock:
            for loop, here in list(self._loops.items()):
                here.close(loop)
            self._loops.clear()
            self._last = None


class AsyncJournalCommits(AsyncCommits):
    """Waits for tickets of one journal, in any number of event loops."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self._journal = journal

    async def wait(self, ticket: int) -> None:
        """Returns when a ticket is done; raises the RecoveryJournalError it failed with."""
        if self._journal.done() < ticket:
            await self._here().add(ticket)
        failure = self._journal.failure(ticket)
        if failure is not None:
            raise failure


class _LoopCommits:
    """The waiters of one event loop, in the order of their tickets."""

    def __init__(self, source: _Source, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._unannounced = 0  # waiters for whom the writer has not been woken
        self._reading, self._writing = _make_signal()
        self._signal = source.add_signal(self._writing)
        loop.add_reader(self._reading, self._on_signal)
        # The descriptors of a loop that is dropped without a word are closed with it.
        self._finalizer = weakref.finalize(self, _close_signal, source, self._signal, self._reading, self._writing)

    def add(self, ticket: int) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((ticket, future))
        self._unannounced += 1
        if self._unannounced == 1:
            loop.call_soon(self._wake_writer)
        elif self._unannounced >= GROUP:
            self._wake_writer()
        if self._source.done() >= ticket:
            self._tell()  # it was done between two looks, and its signal may have been heard already
        return future

    def _wake_writer(self) -> None:
        if self._unannounced:
            self._unannounced = 0
            self._source.wake()

    def _on_signal(self) -> None:
        try:
            os.read(self._reading, 4096)
        except BlockingIOError:
            pass
        self._tell()

    def _tell(self) -> None:
        done = self._source.done()
        waiting = self._waiting
        while waiting and waiting[0][0] <= done:
            future = waiting.popleft()[1]
            if not future.done():
                future.set_result(None)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed():
            try:
                if asyncio.get_running_loop() is loop:
                    loop.remove_reader(self._reading)
                    self._on_signal()
                    self._finalizer()
                else:
                    loop.call_soon_threadsafe(self.close, loop)
                return
            except RuntimeError:
                loop.call_soon_threadsafe(self.close, loop)
                return
        self._finalizer()


def _make_signal() -> tuple[int, int]:
    if hasattr(os, "eventfd"):
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return descriptor, descriptor
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    return reading, writing


def _close_signal(source: _Source, signal: int, reading: int, writing: int) -> None:
    source.remove_signal(signal)
    for descriptor in {reading, writing}:
        os.close(descriptor)


class JournalCommits:
    """Waits for tickets of one journal, in any number of threads."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def wait(self, ticket: int) -> None:
        """Returns when a ticket is done; raises the RecoveryJournalError it failed with."""
        self._journal.wait(ticket)
        failure = self._journal.failure(ticket)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Nothing to free."""
