"""Channels in use that have to be dealt with when they come back, without a test for it on the hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_memory._interruptible import LiveSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_memory._interruptible import Line
    from agent_memory.redis.transport.blocking.channel import Channel

__all__ = ["Recall"]


class Recall:
    """The channels that one thing has to be done with. While there are any, it stands in the queue of waiters.

    Returning a channel looks whether anything waits, so it comes by the place where the channel is dealt with.
    """

    __slots__ = ("_line", "_reason", "channels", "pending")

    def __init__(self, line: Line, reason: str) -> None:
        self._line = line
        self._reason = reason
        self.channels: LiveSet[Channel] = LiveSet()
        self.pending = False
        """Whether there may be any."""

    def add(self, channels: Iterable[Channel]) -> None:
        """Recall these. The caller holds the lock of the pool."""
        self.channels.update(channels)
        if self.channels and not self.pending:
            self.pending = True
            self._line[self._reason] = None

    def end(self) -> None:
        """Leave the line when all have come back. The caller holds the lock of the pool."""
        if self.pending and not self.channels:
            self.pending = False
            self._line.pop(self._reason, None)
