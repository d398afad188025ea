"""Calls of many that become one, without a timer and without a delay.

- `AsyncBatcher`, `Batcher`: whoever comes while a call of the same key is under way travels with the next; one that comes
  alone goes at once.
- `AsyncTurns`, `Turns`: the calls that tasks make in one turn of their event loop travel together, however many are under way;
  a thread's calls are its own.

The classes of a pair are alike and written by hand, because tasks and threads wait differently.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

__all__ = ["MAX_WAITING", "AsyncBatcher", "AsyncTurns", "Batcher", "Turns"]

T = TypeVar("T")
R = TypeVar("R")

MAX_WAITING: Final = 100_000
"""The most items that wait in one batcher; one more raises BufferError."""

_Waiting = list[tuple[T, "asyncio.Future[R]"]]


class AsyncBatcher(Generic[T, R]):
    """`await call(key, item)` gives the item's result of `function(items)`, called with up to `max_items` of one key.

    One call of a key is under way at a time in each event loop. What `function` raises is raised to all of the call.
    """

    def __init__(self, function: Callable[[Sequence[T]], Awaitable[Sequence[R]]], max_items: int) -> None:
        self._function = function
        self._max_items = max_items
        self._waiting: dict[Hashable, _Waiting[T, R]] = {}
        self._count = 0
        self._runners: set[asyncio.Task[None]] = set()

    async def call(self, key: Hashable, item: T) -> R:
        """The result of `item`; raises BufferError where MAX_WAITING items wait."""
        if self._count >= MAX_WAITING:
            raise BufferError(f"items that wait must be at most {MAX_WAITING}, got one more")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        place = (id(loop), key)
        waiting = self._waiting.get(place)
        self._count += 1
        if waiting is None:
            self._waiting[place] = [(item, future)]
            runner = loop.create_task(self._run(place))
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)
        else:
            waiting.append((item, future))
        return await future

    async def _run(self, place: Hashable) -> None:
        while waiting := self._waiting[place]:
            batch = waiting[: self._max_items]
            del waiting[: self._max_items]
            self._count -= len(batch)
            try:
                results = await self._function([item for item, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                        future.exception()  # whoever was cancelled does not ask for it
                if not isinstance(error, Exception):
                    del self._waiting[place]
                    raise
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        del self._waiting[place]


class _Seat(Generic[T, R]):
    __slots__ = ("error", "item", "leads", "ready", "result")

    def __init__(self, item: T) -> None:
        self.item = item
        self.ready = threading.Lock()
        self.ready.acquire()
        self.leads = False  # whether its turn to lead has come
        self.result: tuple[R] | None = None
        self.error: Exception | None = None


class Batcher(Generic[T, R]):
    """`call(key, item)` gives the item's result of `function(items)`, called with up to `max_items` of one key.

    A thread that comes while none is at work for its key works for itself; then the first of those that came meanwhile works
    for all of them, and so on. A thread that is interrupted (KeyboardInterrupt) leaves the line. If it was at work for others,
    the first of them does that work again, so `function` must be idempotent.
    """

    def __init__(self, function: Callable[[Sequence[T]], Sequence[R]], max_items: int) -> None:
        self._function = function
        self._max_items = max_items
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, list[_Seat[T, R]]] = {}
        self._count = 0

    def call(self, key: Hashable, item: T) -> R:
        """The result of `item`; raises BufferError where MAX_WAITING items wait."""
        seat: _Seat[T, R] = _Seat(item)
        with self._lock:
            if self._count >= MAX_WAITING:
                raise BufferError(f"items that wait must be at most {MAX_WAITING}, got one more")
            self._count += 1
            waiting = self._waiting.get(key)
            leads = waiting is None
            if waiting is None:
                self._waiting[key] = [seat]
            else:
                waiting.append(seat)
            seat.leads = leads
        try:
            if not leads:
                seat.ready.acquire()
            if seat.error is None and seat.result is None:  # it has not been done: it is this thread's turn to lead
                self._lead(key, seat)
        except BaseException:
            self._leave(key, seat)
            raise
        if seat.error is not None:
            raise seat.error
        assert seat.result is not None
        return seat.result[0]

    def _lead(self, key: Hashable, own: _Seat[T, R]) -> None:
        with self._lock:
            waiting = self._waiting[key]
            batch = waiting[: self._max_items]
            del waiting[: self._max_items]
            self._count -= len(batch)
        try:
            results = self._function([seat.item for seat in batch])
            for seat, result in zip(batch, results, strict=True):
                seat.result = (result,)
        except Exception as error:
            for seat in batch:
                seat.error = error
        except BaseException:
            # An interruption is this thread's alone: the others are in the line again, in their order.
            with self._lock:
                others = [seat for seat in batch if seat is not own]
                waiting[:0] = others
                self._count += len(others)
            raise
        self._hand_over(key)
        for seat in batch:
            seat.ready.release()

    def _hand_over(self, key: Hashable) -> None:
        with self._lock:
            waiting = self._waiting[key]
            if not waiting:
                del self._waiting[key]
                return
            successor = waiting[0]
            successor.leads = True
        successor.ready.release()

    def _leave(self, key: Hashable, seat: _Seat[T, R]) -> None:
        """An interrupted thread leaves the line; if it was its turn to lead, the next one's has come."""
        with self._lock:
            waiting = self._waiting.get(key, [])
            if seat in waiting:
                waiting.remove(seat)
                self._count -= 1
            must_hand_over = seat.leads and seat.result is None and seat.error is None
        if must_hand_over:
            self._hand_over(key)


class AsyncTurns(Generic[T, R]):
    """`await call(item)` gives the item's result of `function(items)`, called with what came in one turn of the event loop.

    A result that is an exception is raised to its caller; what `function` raises is raised to all. A caller that is cancelled
    leaves; what it asked for is done all the same.
    """

    def __init__(self, function: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]]) -> None:
        self._function = function
        self._waiting: dict[asyncio.AbstractEventLoop, _Waiting[T, R]] = {}
        self._runners: set[asyncio.Task[None]] = set()

    async def call(self, item: T) -> R:
        """The result of `item`; raises BufferError where MAX_WAITING items came in this turn."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        waiting = self._waiting.get(loop)
        if waiting is None:
            self._waiting[loop] = [(item, future)]
            runner = loop.create_task(self._run(loop))
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)
        elif len(waiting) < MAX_WAITING:
            waiting.append((item, future))
        else:
            raise BufferError(f"items of one turn must be at most {MAX_WAITING}, got one more")
        return await future

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._waiting.pop(loop)
        results: Sequence[R | Exception]
        try:
            results = await self._function([item for item, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


class Turns(Generic[T, R]):
    """`call(item)` gives the item's result of `function([item])`, or raises it where it is an exception."""

    def __init__(self, function: Callable[[Sequence[T]], Sequence[R | Exception]]) -> None:
        self._function = function

    def call(self, item: T) -> R:
        """The result of `item`."""
        (result,) = self._function([item])
        if isinstance(result, Exception):
            raise result
        return result
