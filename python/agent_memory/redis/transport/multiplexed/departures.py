"""Whether a large write leaves the socket: on a slow link that takes longer than any answer, and is no silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from agent_memory.redis.transport.proof import acknowledged_bytes

if TYPE_CHECKING:
    import asyncio
    import contextvars

__all__ = ["LARGE_WRITE_BYTES", "Departures", "Sender"]

LARGE_WRITE_BYTES: Final = 262_144
"""Of a write beyond this it is watched whether it leaves."""
LARGE_COMMAND_BYTES: Final = 16_384
"""A write with a command, or a pipeline's window, beyond this is relieved by the second connection where it leaves slowly. A
burst of small commands is not: they leave as the server executes them, which another connection does not speed up."""
DEPARTURES_INTERVAL_S: Final = 0.02
"""How often that is looked at, while such a write is under way."""


class Sender(Protocol):
    """The part of the connection that is used here."""

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def written(self) -> int:
        """Bytes handed to the socket so far."""
        ...

    def leaves_slowly(self) -> None:
        """A large command is still leaving."""
        ...

    def has_left(self, now_s: float) -> None:
        """Everything has left."""
        ...


class Departures:
    """What has left of one connection's stream. A timer runs only while a large write is under way."""

    __slots__ = (
        "_context",
        "_departed",
        "_first_byte",
        "_large_upto",
        "_looked_s",
        "_loop",
        "_sender",
        "_socket",
        "_timer",
        "last_left_s",
        "leaving",
    )

    def __init__(
        self,
        sender: Sender,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
    ) -> None:
        self._sender = sender
        self._socket = transport
        self._loop = loop
        self._context = context
        # What the handshake has sent is acknowledged by its replies: our stream begins behind it. TLS counts other bytes.
        secret = transport.get_extra_info("sslcontext") is not None
        self._first_byte = None if secret else acknowledged_bytes(transport.get_extra_info("socket"))
        self._timer: asyncio.TimerHandle | None = None
        self._departed = 0  # how many bytes had left when they were last seen to
        self._looked_s = 0.0  # when that was last looked at
        self._large_upto = 0  # where the last write with a large command ends in our stream
        self.last_left_s = 0.0
        """When bytes of a large write were last seen to leave, by the loop's clock."""
        self.leaving = False
        """Whether a large command is known to leave slowly."""

    def watch(self, largest: int, now_s: float) -> None:
        """A large write was handed over; the largest of its commands has so many bytes."""
        if largest > LARGE_COMMAND_BYTES:
            self._large_upto = self._sender.written
        if self._timer is None:
            self._departed, self._looked_s = self._count(), now_s
            self._timer = self._loop.call_later(DEPARTURES_INTERVAL_S, self._look, True, context=self._context)

    def acknowledged(self) -> int | None:
        """How many bytes of our stream the peer's kernel has acknowledged; None where it does not say."""
        if self._first_byte is None:
            return None
        acknowledged = acknowledged_bytes(self._socket.get_extra_info("socket"))
        return None if acknowledged is None else acknowledged - self._first_byte

    def stop(self) -> None:
        """The connection is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _count(self) -> int:
        """How many bytes of our stream have left, so far as the peer's kernel has said, or else ours."""
        acknowledged = self.acknowledged()
        if acknowledged is not None:
            return acknowledged
        return self._sender.written - self._socket.get_write_buffer_size()

    def _look(self, first: bool = False) -> None:
        self._timer = None
        sender = self._sender
        departed = self._count()
        gone = departed >= sender.written
        if sender.closed or (first and gone):
            return  # it left at once, as most do: its silence began when it was handed over
        now_s = self._loop.time()
        if departed != self._departed:
            self._departed = departed
            # A loop that was blocked looks late: that says nothing of when they left.
            self.last_left_s = min(now_s, self._looked_s + 2.0 * DEPARTURES_INTERVAL_S)
        self._looked_s = now_s
        self.leaving = departed < self._large_upto
        if gone:
            sender.has_left(now_s)
            return
        if self.leaving:
            sender.leaves_slowly()
        self._timer = self._loop.call_later(DEPARTURES_INTERVAL_S, self._look, context=self._context)
