"""Connecting and handshaking by redis-py, within a deadline; then the socket or stream is taken out of its connection."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.connection import Connection as AsyncConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisPyConnectionError

from agent_memory._core import monotonic_ns
from agent_memory.redis.redis_py_internals.codec import reply_reader, use_codec
from agent_memory.redis.redis_py_internals.replies import PushNotification
from agent_memory.redis.redis_py_internals.retries import no_async_retries, no_retries
from agent_memory.redis.redis_py_internals.settings import connection_arguments

__all__ = [
    "AsyncConnection",
    "async_connect",
    "blocking_connect",
    "detach_socket",
    "detach_stream",
    "hello_was_refused",
    "new_async_connection",
    "new_connection",
    "shut_down",
]


def new_connection(pool: Any) -> redis.Connection:
    """An unconnected connection as `pool` would make it, without retries of its own."""
    connection = pool.connection_class(**connection_arguments(pool))
    use_codec(connection)
    connection.retry = no_retries()
    return cast(redis.Connection, connection)


def new_async_connection(pool: Any) -> AsyncConnection:
    """The same for asyncio."""
    connection = pool.connection_class(**connection_arguments(pool))
    use_codec(connection)
    connection.retry = no_async_retries()
    return cast(AsyncConnection, connection)


class _Handshake:
    """Follows the handshake of one connection: the greeting, and that nothing comes that was not asked for.

    Redis-py looks at the answer to HELLO sometimes, at those to CLIENT SETINFO never, so that a reply too many would become the
    reply of the first command.
    """

    def __init__(self, connection: Any, *, asynchronous: bool) -> None:
        self._connection = connection
        self._greeting: Any = None
        self._is_greeted = False
        self._unanswered = 0
        self._send, self._read = connection.send_command, connection.read_response
        connection.send_command = self._send_command
        connection.read_response = self._async_read_response if asynchronous else self._read_response

    def release(self) -> None:
        """The handshake is over."""
        for name in ("send_command", "read_response"):
            self._connection.__dict__.pop(name, None)

    def _send_command(self, *args: Any, **kwargs: Any) -> Any:
        self._unanswered += 1
        return self._send(*args, **kwargs)

    def _read_response(self, *args: Any, **kwargs: Any) -> Any:
        self._unanswered -= 1
        return self._note(self._read(*args, **kwargs))

    async def _async_read_response(self, *args: Any, **kwargs: Any) -> Any:
        self._unanswered -= 1
        return self._note(await self._read(*args, **kwargs))

    def _note(self, reply: Any) -> Any:
        if not self._is_greeted:
            self._greeting, self._is_greeted = reply, True
        if not self._unanswered:
            self._check_rest()
        return reply

    def _check_rest(self) -> None:
        reader = reply_reader(self._connection)
        while reader is not None and reader.has_data():
            if not isinstance(reader.gets(), PushNotification):  # a part of something is none either
                raise RedisPyConnectionError("the handshake was answered with more than was asked for")

    def check(self, error: AttributeError | None = None) -> None:
        """Make sure, at the end or after redis-py's `error`, that the peer greeted as a Redis that speaks RESP3."""
        if int(self._connection.protocol) != 3 or not self._is_greeted:
            return
        greeting = self._greeting
        if not isinstance(greeting, dict):
            raise RedisPyConnectionError(f"HELLO was answered with {greeting!r:.100}") from error
        if 3 not in (greeting.get("proto"), greeting.get(b"proto")):
            raise RedisPyConnectionError("HELLO 3 was answered in another version of the protocol") from error


def _seen_through(error: AuthenticationError) -> Exception:
    """The same error where the server refused; where redis-py made it of an answer that is no refusal, what that is."""
    if str(error) == "Invalid Username or Password":
        return RedisPyConnectionError("AUTH was answered with neither OK nor an error")
    return error


def hello_was_refused(error: ResponseError, connection: Any) -> bool:
    # Servers before 6.0 do not know HELLO, a proxy may not pass it, an ACL may forbid it, -NOPROTO says "not version 3".
    return int(connection.protocol) == 3 and ("hello" in str(error).lower() or "NOPROTO" in str(error))


class _BoundedSocket:
    """A socket whose every call ends at one point in time: a handshake in drips must not take longer than it may."""

    def __init__(self, sock: socket.socket, deadline_ns: int) -> None:
        self.sock = sock
        self._deadline_ns = deadline_ns

    def _shorten(self) -> None:
        left_s = (self._deadline_ns - monotonic_ns()) / 1e9
        if left_s <= 0:
            raise TimeoutError("timed out")
        timeout_s = self.sock.gettimeout()
        if timeout_s is None or left_s < timeout_s:
            self.sock.settimeout(left_s)

    def recv_into(self, *args: Any) -> int:
        self._shorten()
        return self.sock.recv_into(*args)

    def recv(self, *args: Any) -> bytes:
        self._shorten()
        return self.sock.recv(*args)

    def sendall(self, *args: Any) -> None:
        self._shorten()
        self.sock.sendall(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


def _connect_once(connection: Any) -> None:
    if connection.redis_connect_func is not None:
        connection.connect()
        return
    handshake = _Handshake(connection, asynchronous=False)
    try:
        connection.connect()
        handshake.check()
    except AttributeError as error:
        handshake.check(error)
        raise
    except AuthenticationError as error:
        raise _seen_through(error) from None
    finally:
        handshake.release()


def _connect_within(connection: redis.Connection, deadline_ns: int | None) -> None:
    connection_: Any = connection
    if deadline_ns is None:
        _connect_once(connection)
        return
    left_s = max(0.001, (deadline_ns - monotonic_ns()) / 1e9)
    asked_s = connection_.socket_connect_timeout
    connection_.socket_connect_timeout = left_s if asked_s is None else min(asked_s, left_s)
    connect: Any = type(connection)._connect
    connection_._connect = lambda: _BoundedSocket(connect(connection), deadline_ns)
    try:
        _connect_once(connection)
        connection_._sock = connection_._sock.sock
    finally:
        del connection_._connect


def blocking_connect(connection: redis.Connection, deadline_ns: int | None) -> None:
    """Connect and handshake until `deadline_ns` (of `monotonic_ns()`; None: without end); a server that refuses HELLO gets
    RESP2. Raises redis-py's errors.
    """
    try:
        _connect_within(connection, deadline_ns)
    except ResponseError as error:
        connection.disconnect()
        if not hello_was_refused(error, connection):
            raise
        connection.protocol = 2
        _connect_within(connection, deadline_ns)


async def _async_connect_once(connection: AsyncConnection) -> None:
    if connection.redis_connect_func is not None:
        await connection.connect()
        return
    handshake = _Handshake(connection, asynchronous=True)
    try:
        await connection.connect()
        handshake.check()
    except AuthenticationError as error:
        raise _seen_through(error) from None
    except AttributeError as error:
        handshake.check(error)
        raise
    except RedisPyConnectionError as error:
        # redis-py handshakes over a unix socket while it still counts as connecting, and wraps what the server answers.
        if isinstance(error.__cause__, RedisError):
            raise error.__cause__ from None
        raise
    finally:
        handshake.release()


async def async_connect(connection: AsyncConnection) -> None:
    """The same for asyncio, without a deadline: the caller has one."""
    try:
        await _async_connect_once(connection)
    except ResponseError as error:
        await connection.disconnect(nowait=True)
        if not hello_was_refused(error, connection):
            raise
        connection.protocol = 2
        await _async_connect_once(connection)


def detach_socket(connection: redis.Connection) -> socket.socket:
    """The connected socket of a connection; the connection keeps it too, so that disconnect() still closes it."""
    return cast(socket.socket, connection._sock)


def shut_down(connection: Any) -> None:
    """End what another thread sends or receives on a connection, which stays that thread's to close; never raises."""
    sock: Any = None if connection is None else connection._sock
    if isinstance(sock, _BoundedSocket):
        sock = sock.sock
    if sock is None:
        return
    try:
        # TLS's own shutdown() would have the other thread read what is encrypted.
        shutdown = socket.socket.shutdown if isinstance(sock, socket.socket) else type(sock).shutdown
        shutdown(sock, socket.SHUT_RDWR)
    except (OSError, AttributeError):
        pass  # it is not connected any more


def detach_stream(connection: AsyncConnection) -> tuple[asyncio.Transport, asyncio.StreamWriter]:
    """Take the asyncio transport out of a freshly connected connection.

    Returns the transport and the StreamWriter, which must be kept as long as the transport: its finaliser closes it.
    Afterwards the connection counts itself as not connected.
    """
    writer, reader = connection._writer, connection._reader
    assert writer is not None
    assert reader is not None
    if cast(Any, reader)._buffer:
        raise RedisPyConnectionError("the handshake was answered with more than was asked for")
    connection._reader = connection._writer = None
    connection._parser.on_disconnect()
    return cast(asyncio.Transport, writer.transport), writer
