"""Who waits for a turn to be sent, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_memory.redis.transport.multiplexed.order import Touch, touch_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from agent_memory.redis.transport.multiplexed.connection import MultiplexedConnection

__all__ = ["Waiter"]


class Waiter:
    """Somebody who waits for his turn: what sends for him when it has come, since when he waits, what his commands do."""

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
