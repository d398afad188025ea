"""One connected blocking socket with its buffer and its reply reader, owned by one call at a time."""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from redis import exceptions as redis_py

from agent_memory._core import ReplyScanner, Wire
from agent_memory.redis.redis_py_internals.handshake import detach_socket, shut_down
from agent_memory.redis.transport.common import RECEIVE_BUFFER_BYTES, new_reader, set_user_timeout
from agent_memory.redis.transport.proof import all_acknowledged

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.redis.exactly_once.tickets import Stream

__all__ = ["Channel"]

_RELIABLE_KERNEL_TIMEOUTS: Final = struct.calcsize("ll") == 16  # timeval of 64-bit Linux and macOS


class Channel:
    """A connected, handshaken socket, its buffer and its reply reader; owned by one call at a time."""

    __slots__ = (
        "__weakref__",
        "buffer",
        "connection",
        "gets",
        "given_up",
        "has_data",
        "hung_up",
        "kernel_timeouts",
        "last_used_ns",
        "moved",
        "protocol",
        "reader",
        "receive_into",
        "scanned",
        "scanner",
        "send",
        "sock",
        "stream",
        "timeout_s",
        "wire",
    )

    def __init__(self, connection: Any, timeout_s: float | None, now_ns: int) -> None:
        sock = detach_socket(connection)
        self.connection = connection
        self.protocol = int(connection.protocol)
        self.stream: Stream | None = None
        """What exactly once knows of the connection; None without it."""
        self.hung_up = False
        """Whether this side ended it while it was in use."""
        self.kernel_timeouts = _RELIABLE_KERNEL_TIMEOUTS and type(sock).__module__ == "socket"
        self.sock = sock
        if self.kernel_timeouts:
            sock.settimeout(None)
        self.use(Wire(sock) if self.kernel_timeouts else sock)
        self._read_afresh()
        self.scanner = ReplyScanner()
        self.scanned = False
        """Whether the scanner has seen what was received since the last command was sent."""
        self.buffer = bytearray(RECEIVE_BUFFER_BYTES)
        self.last_used_ns = now_ns
        self.given_up = False
        """Whether it was closed for good, and its unanswered commands are known to be of unknown outcome."""
        self.moved = False
        """Whether bytes have moved in the call under way; kept for those off the common path only."""
        self.timeout_s: float | None = -1.0  # unlike any value, so that the first set_timeout acts
        set_user_timeout(sock)
        self.set_timeout(timeout_s)

    def _read_afresh(self) -> None:
        reader = new_reader(self.connection.encoder)
        self.reader = reader
        self.gets: Callable[..., Any] = reader.gets
        self.has_data: Callable[[], bool] = reader.has_data

    def feed(self, count: int) -> None:
        """Give the reader what is for it of the first `count` bytes of the buffer."""
        self.scanned = True
        parts = self.scanner.scan(self.buffer, 0, count)
        if parts is None:
            self.reader.feed(self.buffer, 0, count)
            return
        for offset, length in parts:
            self.reader.feed(self.buffer, offset, length)

    def feed_again(self, count: int) -> bool:
        """Whether the reader was rightly given all of the first bytes after a command; else it begins anew with its part."""
        self.scanned = True
        parts = self.scanner.scan(self.buffer, 0, count)
        if parts is None:
            return True
        self._read_afresh()
        for offset, length in parts:
            self.reader.feed(self.buffer, offset, length)
        return False

    def check_scanned(self) -> None:
        """Raise InvalidResponse where the stream has ended as one of replies."""
        violation = self.scanner.violation
        if violation is not None:
            raise redis_py.InvalidResponse(violation)

    def use(self, wire: Any) -> None:
        """Send and receive by this object, the socket or one that stands for it."""
        self.wire = wire
        self.send: Callable[[Any], int] = wire.send
        self.receive_into: Callable[[Any], int] = wire.recv_into

    def set_timeout(self, timeout_s: float | None) -> None:
        """Bound every later send and receive; None waits for ever."""
        if timeout_s == self.timeout_s:
            return
        if self.kernel_timeouts:
            self.wire.set_timeout(timeout_s)
        else:
            self.sock.settimeout(timeout_s)
        self.timeout_s = timeout_s

    def is_fresh(self) -> bool:
        """Whether an idle channel may be used: open, and with nothing to read (no command is unanswered)."""
        try:
            if self.kernel_timeouts:
                self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                return False  # end of stream, or bytes that belong to no command
            poller = select.poll()
            poller.register(self.sock, select.POLLIN)
            return not poller.poll(0)
        except (BlockingIOError, InterruptedError):
            return True
        except (OSError, ValueError):
            return False

    def never_arrived(self) -> bool:
        """After an end of stream: whether it is proven that the last command was not received whole."""
        return type(self.wire) in (Wire, socket.socket) and not all_acknowledged(self.sock)

    def hang_up(self) -> None:
        """End the round trip of another thread, which then closes the socket; never raises.

        Closed by this thread, the socket's number could be another connection's by the time the other thread reads from it.
        """
        self.hung_up = True
        shut_down(self.connection)

    def close(self) -> None:
        """Close the socket; never raises."""
        try:
            self.connection.disconnect()
        except Exception:
            pass
