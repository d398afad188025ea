"""Calls of many that become one, without a timer and without a delay.

- `AsyncBatcher`, `Batcher`: calls during a call of the same key are batched into the next one; a call that comes
  alone goes at once.
- `AsyncTurns`, `Turns`: the calls that tasks make in one turn of their event loop travel together, however many are under way;
  a thread's calls are its own.

The classes of a pair are alike and written by hand, because tasks and threads wait differently.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Final, Generic, TypeVar

from agent_memory._interruptible import LOOK_AGAIN_S

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
                        future.exception()  # a cancelled waiter does not read it
                if not isinstance(error, Exception):
                    del self._waiting[place]
                    raise
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        del self._waiting[place]


class _Seat(Generic[T, R]):
    __slots__ = ("error", "item", "ready", "result")

    def __init__(self, item: T) -> None:
        self.item = item
        self.ready = threading.Lock()
        self.ready.acquire()
        self.result: tuple[R] | None = None
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


class _Line(Generic[T, R]):
    """The seats of one key, in their order, until they are done, and the thread at work for them (held weakly)."""

    __slots__ = ("leader", "seats")

    def __init__(self) -> None:
        self.seats: dict[_Seat[T, R], None] = {}
        self.leader: weakref.ref[_Lead] | None = None

    def is_led(self) -> bool:
        return self.leader is not None and self.leader() is not None


class _Lead:
    __slots__ = ("__weakref__",)


class Batcher(Generic[T, R]):
    """`call(key, item)` gives the item's result of `function(items)`, called with up to `max_items` of one key.

    A thread that comes while none is at work for its key works for itself; then the first of those that came meanwhile works
    for all of them, and so on. A thread that is interrupted (KeyboardInterrupt) leaves the line. If it was at work for others,
    the first of them does that work again, so `function` must be idempotent; if it could not even say that it leaves, they
    notice after LOOK_AGAIN_S.
    """

    def __init__(self, function: Callable[[Sequence[T]], Sequence[R]], max_items: int) -> None:
        self._function = function
        self._max_items = max_items
        self._lock = threading.Lock()
        self._lines: dict[Hashable, _Line[T, R]] = {}
        self._count = 0

    def call(self, key: Hashable, item: T) -> R:
        """The result of `item`; raises BufferError where MAX_WAITING items wait."""
        seat: _Seat[T, R] = _Seat(item)
        lead: _Lead | None = None
        line: _Line[T, R] | None = None
        try:
            with self._lock:
                if self._count >= MAX_WAITING:
                    raise BufferError(f"items that wait must be at most {MAX_WAITING}, got one more")
                line = self._lines.get(key)
                if line is None:
                    line = self._lines[key] = _Line()
                line.seats[seat] = None
                self._count += 1
                if not line.is_led():
                    lead = _Lead()
                    line.leader = weakref.ref(lead)
            while not seat.is_done:
                if lead is None and not seat.ready.acquire(timeout=LOOK_AGAIN_S) and line.is_led():
                    continue
                if seat.is_done:
                    break
                if lead is None:
                    lead = self._claim(line)
                if lead is not None:
                    self._work(key, line)
                    lead = None
        except BaseException:
            lead = None
            if line is not None:
                self._leave(key, line, seat)
            raise
        if seat.error is not None:
            raise seat.error
        assert seat.result is not None
        return seat.result[0]

    def _claim(self, line: _Line[T, R]) -> _Lead | None:
        lead = _Lead()
        with self._lock:
            if line.is_led():
                return None
            line.leader = weakref.ref(lead)
        return lead

    def _work(self, key: Hashable, line: _Line[T, R]) -> None:
        with self._lock:
            waiting = (seat for seat in line.seats if not seat.is_done)
            batch = list(itertools.islice(waiting, self._max_items))
        try:
            results = self._function([seat.item for seat in batch])
            for seat, result in zip(batch, results, strict=True):
                seat.result = (result,)
        except Exception as error:
            for seat in batch:
                seat.error = error
        # What is done leaves the line only now: a thread that takes over from an interrupted one finds all seats in it.
        self._hand_over(key, line, batch)
        for seat in batch:
            _wake(seat)

    def _hand_over(self, key: Hashable, line: _Line[T, R], done: Sequence[_Seat[T, R]]) -> None:
        with self._lock:
            line.leader = None
            for seat in done:
                if seat in line.seats:
                    del line.seats[seat]
                    self._count -= 1
            successor = next(iter(line.seats), None)
            if successor is None and self._lines.get(key) is line:
                del self._lines[key]
                if not self._lines:
                    self._count = 0  # also where an interruption came between
        if successor is not None:
            _wake(successor)

    def _leave(self, key: Hashable, line: _Line[T, R], seat: _Seat[T, R]) -> None:
        """An interrupted thread leaves the line; if no thread works for it now, the next seat takes over."""
        with self._lock:
            is_led = line.is_led()
            if is_led and seat in line.seats:
                del line.seats[seat]
                self._count -= 1
        if not is_led:
            self._hand_over(key, line, [seat])


def _wake(seat: _Seat[Any, Any]) -> None:
    try:
        seat.ready.release()
    except RuntimeError:
        pass  # it was woken already


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
