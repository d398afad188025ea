"""Where deadlines are kept: one timer per connection sweeps its slots; none is armed per call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    import contextvars

__all__ = ["Deadlines", "Swept"]

LATE_SWEEP_S: Final = 0.05
"""A sweep that runs this late means that the loop was blocked: replies may be waiting in the kernel, so let it read first."""


class Swept(Protocol):
    """What the sweep needs of its connection."""

    sweeping: bool
    """Set by the sweep: whether a write has no sweep to begin, because one is armed or there is no deadline."""

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        ...

    def sweep(
        self, now_s: float, moved_s: float, timeout_s: float, patience_s: float, /
    ) -> tuple[bool, list[Any], float] | None:
        """Whether it was silent, the slots whose time is over, when to look again; None where nothing is under way."""
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
        "_loop",
        "_timeout_s",
        "_timer",
    )

    def __init__(
        self,
        connection: Swept,
        timeout_s: float | None,
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._context = context
        self._timer: asyncio.TimerHandle | None = None
        self._at_s = 0.0
        self._deferred = False
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
        now_s = self._loop.time()
        if now_s - self._at_s > LATE_SWEEP_S and not self._deferred:
            self._deferred = True  # only once: in a loop that is always late the deadlines hold all the same
            self._arm(now_s)
            return
        self._deferred = False
        swept = connection.sweep(now_s, connection.last_moved_s, timeout_s, connection.patience_s)
        if swept is None:
            connection.sweeping = False  # the next write begins it again
            return
        silent, late, next_s = swept
        for slot in late:
            if not slot.done():
                slot.set_exception(connection.late(moving=not silent))
        if silent:
            connection.report_silence()
            if connection.closed:
                return
        self._arm(next_s)
