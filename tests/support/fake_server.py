"""A server that speaks RESP and does whatever a test tells it to: answer wrongly, late, in drips, or not at all.

Real servers come from `servers`; this one is for what they refuse to do on demand. It listens on loopback, answers the
handshake of redis-py, and hands every other command to a function of the test.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

__all__ = ["FakeConnection", "FakeServer", "bulk", "error", "integer"]

HANDSHAKE = frozenset({b"HELLO", b"AUTH", b"CLIENT", b"SELECT"})
HELLO_REPLY = (
    b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n"
    b"$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
)


def bulk(value: bytes) -> bytes:
    """A string reply."""
    return b"$%d\r\n%s\r\n" % (len(value), value)


def integer(value: int) -> bytes:
    """A number reply."""
    return b":%d\r\n" % value


def error(text: str) -> bytes:
    """An error reply; `text` begins with its code."""
    return b"-%s\r\n" % text.encode()


class FakeConnection:
    """The server's end of one connection; for the function that answers."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        """Connections are counted from 0."""
        self._reader = sock.makefile("rb")

    def read_command(self) -> list[bytes] | None:
        """The next command's arguments; None at the end of the stream."""
        header = self._reader.readline()
        if not header:
            return None
        arguments = []
        for _ in range(int(header[1:])):
            length = int(self._reader.readline()[1:])
            arguments.append(self._reader.read(length))
            self._reader.read(2)
        return arguments

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def reset(self) -> None:
        """End the connection with a reset instead of an end of stream."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._reader.close()
        self.sock.close()


class FakeServer:
    """Listens on 127.0.0.1 from `with` to its end.

    `answer(command, connection)` gets every command that is not part of the handshake, in a thread of that connection, and
    returns the bytes of the reply; None sends nothing. It may use the connection as it likes. `handshake` takes the place
    of the answers to the handshake in the same way.
    """

    def __init__(
        self,
        answer: Callable[[list[bytes], FakeConnection], bytes | None],
        *,
        handshake: Callable[[list[bytes], FakeConnection], bytes | None] | None = None,
    ) -> None:
        self._answer = answer
        self._handshake = handshake or answer_handshake
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received: list[Sequence[bytes]] = []
        """Every command after the handshakes, in the order of arrival."""
        self.connections: list[FakeConnection] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self.connections):
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # ended already
        for thread in list(self._threads):
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} goes on"

    @property
    def connection_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for a client."""
        return {"host": "127.0.0.1", "port": self.port}

    def count(self, name: bytes) -> int:
        """How often a command of this name has arrived."""
        return sum(command[0] == name for command in self.received)

    def _run(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name=f"fake server: {target.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        for number in itertools.count():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = FakeConnection(sock, number)
            self.connections.append(connection)
            self._run(self._serve, connection)

    def _serve(self, connection: FakeConnection) -> None:
        try:
            while (command := connection.read_command()) is not None:
                if command[0] in HANDSHAKE:
                    reply = self._handshake(command, connection)
                else:
                    self.received.append(command)
                    reply = self._answer(command, connection)
                if reply is not None:
                    connection.send(reply)
        except (OSError, ValueError):
            pass  # either end has closed it
        finally:
            connection.close()


def answer_handshake(command: list[bytes], connection: FakeConnection) -> bytes:
    """What a server in good order answers."""
    return HELLO_REPLY if command[0] == b"HELLO" else b"+OK\r\n"
