"""The health check of an idle connection (`health_check_interval`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from agent_memory.redis.transport.common import PING

if TYPE_CHECKING:
    import asyncio
    import contextvars

__all__ = ["Checked", "HealthCheck"]


class Checked(Protocol):
    """What is asked of the connection."""

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def in_flight(self) -> int:
        """Unanswered commands."""
        ...

    @property
    def last_read_s(self) -> float:
        """When bytes last arrived."""
        ...

    def send(self, packed: bytes) -> Any:
        """Send one packed command."""
        ...


class HealthCheck:
    """After an idle interval sends a PING: a connection that died in silence is then replaced before it is needed."""

    __slots__ = ("_connection", "_context", "_interval_s", "_loop", "_read_at_check_s", "_timer")

    def __init__(
        self, connection: Checked, interval_s: float, loop: asyncio.AbstractEventLoop, context: contextvars.Context
    ) -> None:
        self._connection = connection
        self._interval_s = interval_s
        self._loop = loop
        self._context = context
        self._read_at_check_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def stop(self) -> None:
        """The connection is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._interval_s:
            self._timer = self._loop.call_later(self._interval_s, self._check, context=self._context)

    def _check(self) -> None:
        connection = self._connection
        if connection.closed:
            return
        if not connection.in_flight and connection.last_read_s == self._read_at_check_s:
            connection.send(PING)
        self._read_at_check_s = connection.last_read_s
        self._arm()
