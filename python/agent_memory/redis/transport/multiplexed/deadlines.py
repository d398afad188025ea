"""Where deadlines are kept: one timer per connection sweeps its slots; none is armed per call."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    import contextvars
    from collections import deque

    from agent_memory.redis.transport.multiplexed.marks import Mark

__all__ = ["Deadlines", "Swept"]

LATE_SWEEP_S: Final = 0.05
"""A sweep that runs this late means that the loop was blocked: replies may be waiting in the kernel, so let it read first."""


class Swept(Protocol):
    """What the sweep needs of its connection."""

    closed: bool
    sweeping: bool
    """Set by the sweep: whether a write has no sweep to begin, because one is armed or there is no deadline."""

    @property
    def answered(self) -> int:
        """The absolute number of the oldest slot."""
        ...

    @property
    def last_moved_s(self) -> float:
        """When bytes last arrived or left."""
        ...

    @property
    def patience_s(self) -> float:
        """How long commands are waited for while bytes move."""
        ...

    def late(self, moving: bool) -> Exception:
        """What a slot past its deadline fails with."""
        ...

    def report_silence(self) -> None:
        """No byte has moved for as long as the oldest command is late."""
        ...


class Deadlines:
    """The sweep of one connection: fails the slots past their deadline and notices a silent server."""

    __slots__ = (
        "_at_s",
        "_connection",
        "_context",
        "_deferred",
        "_expired",
        "_loop",
        "_marks",
        "_slots",
        "_timeout_s",
        "_timer",
    )

    def __init__(
        self,
        connection: Swept,
        marks: deque[Mark],
        slots: deque[Any],
        timeout_s: float | None,
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
    ) -> None:
        self._connection = connection
        self._marks = marks
        self._slots = slots
        self._loop = loop
        self._context = context
        self._timer: asyncio.TimerHandle | None = None
        self._at_s = 0.0
        self._deferred = False
        self._expired = 0  # absolute number up to which the slots have been failed
        self.change_to(timeout_s)

    def change_to(self, timeout_s: float | None) -> None:
        """Commands have this timeout from now on. Only while nothing is in flight."""
        self._timeout_s = timeout_s
        self._connection.sweeping = timeout_s is None

    def begin(self, now_s: float) -> None:
        """A write has left while no sweep was armed."""
        if self._timeout_s is not None:
            self._arm(now_s + self._timeout_s)

    def stop(self) -> None:
        """The connection is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at_s: float) -> None:
        self._at_s = at_s
        self._timer = self._loop.call_at(at_s, self._sweep, context=self._context)
        self._connection.sweeping = True

    def _sweep(self) -> None:
        """Fail the slots past their deadline, notice a silent server, and come back when the next deadline is due."""
        self._timer = None
        connection, timeout_s = self._connection, self._timeout_s
        if connection.closed or timeout_s is None:
            return
        if not self._marks:
            connection.sweeping = False  # the next write begins it again
            return
        now_s = self._loop.time()
        if now_s - self._at_s > LATE_SWEEP_S and not self._deferred:
            self._deferred = True  # only once: in a loop that is always late the deadlines hold all the same
            self._arm(now_s)
            return
        self._deferred = False
        silent_since_s = max(connection.last_moved_s, self._marks[0][1])
        silent = silent_since_s <= now_s - timeout_s
        allowed_s = timeout_s if silent else max(timeout_s, connection.patience_s)
        upto = self._expired
        next_s = now_s + timeout_s
        for slots_upto, written_s, _, _ in self._marks:
            if written_s > now_s - allowed_s:
                next_s = written_s + allowed_s
                break
            upto = slots_upto
        self._expire(upto, moving=not silent)
        if silent:
            connection.report_silence()
            if connection.closed:
                return
        self._arm(next_s if silent else min(next_s, silent_since_s + timeout_s))

    def _expire(self, upto: int, *, moving: bool) -> None:
        answered = self._connection.answered
        first = max(self._expired, answered) - answered
        for slot in list(itertools.islice(self._slots, first, max(first, upto - answered))):
            if not slot.done():
                slot.set_exception(self._connection.late(moving))
        self._expired = max(self._expired, upto)
