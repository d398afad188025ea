"""The waiters for a write: threads and tasks. A writer thread answers many of them at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

__all__ = ["AsyncWaiter", "Waiter", "deliver_all"]


class Waiter:
    """A thread waits. Answered once, from any thread."""

    __slots__ = ("_error", "_lock", "_result")

    def __init__(self) -> None:
        # A lock that is held is the cheapest thing a thread can wait for.
        self._lock = threading.Lock()
        self._lock.acquire()
        self._result: Any = None
        self._error: BaseException | None = None

    def deliver(self, result: Any, error: BaseException | None) -> None:
        """Answers; the second answer of two is lost."""
        self._result, self._error = result, error
        if self._lock.locked():
            self._lock.release()

    def wait(self) -> Any:
        """The result, or raises the error."""
        self._lock.acquire()
        if self._error is not None:
            raise self._error
        return self._result


class AsyncWaiter:
    """A task waits, in the event loop in which it was made. Answered once, from any thread."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    async def wait(self) -> Any:
        """The result, or raises the error. Cancelled, it leaves; what it waited for is done all the same."""
        return await self.future


Answer = tuple[Waiter | AsyncWaiter, Any, BaseException | None]


def deliver_all(answers: Iterable[Answer]) -> None:
    """Answers all of them: an event loop is woken once for all its tasks."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for answer in answers:
        waiter = answer[0]
        if isinstance(waiter, Waiter):
            waiter.deliver(answer[1], answer[2])
        else:
            by_loop.setdefault(waiter.loop, []).append(answer)
    for loop, answered in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, answered)
        except RuntimeError:
            pass  # the loop is closed: no waiter is left


def _resolve(answers: list[Answer]) -> None:
    for waiter, result, error in answers:
        future = waiter.future  # type: ignore[union-attr]
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
