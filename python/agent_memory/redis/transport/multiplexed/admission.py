"""Callers that wait for their turn: no connection stands, or the one that they may take has no room.

First come, first served. When there is room for a caller its command leaves before it wakes, so that no later caller can
overtake it.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
from typing import TYPE_CHECKING, Any

from agent_memory.errors import ConnectionLimitError, Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.transport.multiplexed.connection import MAX_IN_FLIGHT
from agent_memory.redis.transport.multiplexed.order import Touch, touch_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.redis.transport.multiplexed.connection import MultiplexedConnection

__all__ = ["Admission", "Waiter", "forget"]


class Waiter:
    """One entry of the admission queue: future, send callback, enqueue time, and what its commands touch."""

    __slots__ = ("_touch", "behind", "future", "packed", "send", "since_s")

    def __init__(
        self,
        future: asyncio.Future[asyncio.Future[Any]],
        send: Callable[[MultiplexedConnection], asyncio.Future[Any]],
        since_s: float,
        packed: bytes,
        behind: MultiplexedConnection | None,
    ) -> None:
        self.future = future
        self.send = send
        self.since_s = since_s
        self.packed = packed
        self.behind = behind
        """Where the commands are that it has to follow: windows of one pipeline stay in order."""
        self._touch: Touch | None = None

    @property
    def touch(self) -> Touch:
        """What its commands do, looked at when it is first asked for."""
        if self._touch is None:
            self._touch = touch_of(self.packed)
        return self._touch


class Admission:
    """The queue of waiters of one event loop. As many as there are tasks that wait: each holds one place."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float | None,
        endpoint: str,
        carriers: Callable[[], tuple[MultiplexedConnection | None, MultiplexedConnection | None]],
    ) -> None:
        """`carriers` gives the shared and the second connection."""
        self._loop = loop
        self._timeout_s = timeout_s
        self._endpoint = endpoint
        self._carriers = carriers
        self.waiters: collections.deque[Waiter] = collections.deque()
        self._timer: asyncio.TimerHandle | None = None
        self._progress: tuple[Any, ...] | None = None  # what the last sweep saw

    def join(self, waiter: Waiter) -> None:
        """It waits from now on."""
        self.waiters.append(waiter)
        if self._timer is None and self._timeout_s is not None:
            self._arm(self._timeout_s)

    async def result(self, waiter: Waiter, until_s: float | None) -> asyncio.Future[Any]:
        """What its `send` has returned, when its turn has come; until `until_s` of the loop's clock."""
        future = waiter.future
        try:
            if until_s is None:
                return await future
            async with asyncio.timeout_at(until_s):
                return await future
        except TimeoutError:
            if not future.cancelled():
                return future.result()  # it was sent at the last moment: the reply has a deadline of its own
            raise self._no_turn(waiter.since_s) from None
        except BaseException:
            if not future.cancel() and not future.cancelled() and future.exception() is None:
                forget(future.result())  # it was sent at the last moment
            raise

    def admit(self, connection: MultiplexedConnection) -> None:
        """There may be room in the shared connection: send for the waiters in their order, then open the fast path."""
        waiters = self.waiters
        while waiters and connection.has_room():
            one = waiters.popleft()
            if not one.future.done():
                one.future.set_result(one.send(connection))
        connection.accepting = connection.has_room() > 0

    def take(self) -> collections.deque[Waiter]:
        """All waiters, in their order: for `SecondConnection`, which sends for them one by one."""
        waiters, self.waiters = self.waiters, collections.deque()
        return waiters

    def put_back(self, waiters: collections.deque[Waiter]) -> None:
        """Those of them whose turn has not come; others may have come meanwhile."""
        waiters.extend(self.waiters)
        self.waiters = waiters

    def fail(self, error: Exception) -> None:
        """All of them fail."""
        for waiter in self.take():
            if not waiter.future.done():
                waiter.future.set_exception(_another(error))

    def stop(self) -> None:
        """No sweep until the next caller waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(delay_s, self._sweep, context=contextvars.Context())

    def _sweep(self) -> None:
        """Fail the waiters whose time is over: `socket_timeout` without a connection or progress, else twice that."""
        self._timer = None
        timeout_s = self._timeout_s
        if timeout_s is None:
            return
        both = self._carriers()
        progress = None if both[0] is None else tuple(one and (id(one), one.answered, one.last_moved_s) for one in both)
        moving = progress is not None and progress != self._progress
        self._progress = progress
        waiters = self.waiters
        due_s = self._loop.time() - timeout_s * (2.0 if moving else 1.0)
        while waiters and waiters[0].since_s <= due_s:
            waiter = waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(self._no_turn(waiter.since_s))
        if waiters:
            self._arm(timeout_s / 4)

    def _no_turn(self, since_s: float) -> Exception:
        """What a caller fails with that has waited for its turn since then."""
        recently_s = self._loop.time() - (self._timeout_s or 0.0) / 2.0
        if any(one and (one.last_read_s > since_s or one.last_moved_s > recently_s) for one in self._carriers()):
            # The server answers, only not as fast as it is asked: that says nothing against it.
            bound = f"{MAX_IN_FLIGHT} commands in flight, or others of the same keys,"
            return ConnectionLimitError(f"{bound} left no room in time", endpoint=self._endpoint)
        return RedisTimeoutError("no connection in time", outcome=Outcome.NOT_SENT, endpoint=self._endpoint)


def forget(future: asyncio.Future[Any] | None) -> None:
    """The reply is not waited for any more: make its slot an orphan, or its error one that was seen."""
    if future is not None and not future.cancel() and not future.cancelled():
        future.exception()


def _another(error: Exception) -> Exception:
    """An equal exception for the next waiter: one instance raised by many tasks would grow its traceback."""
    if isinstance(error, RedisUnavailableError | RedisTimeoutError):
        twin = type(error)(*error.args, outcome=error.outcome, endpoint=error.endpoint)
        twin.__cause__ = error.__cause__
        return twin
    return error
