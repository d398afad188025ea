"""Reading on a subscriber's connection, which stays redis-py's; what the asyncio source and its sync twin call alike."""

from __future__ import annotations

import asyncio
import math
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.credentials import StreamingCredentialProvider
from redis.event import AfterPubSubConnectionInstantiationEvent, ClientType
from redis.exceptions import ConnectionError as RedisPyConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisPyTimeoutError

from agent_memory.errors import ClientClosedError
from agent_memory.redis.redis_py_internals.codec import reply_reader
from agent_memory.redis.redis_py_internals.features import async_has_input, has_input, is_error_reply, metrics_are_on
from agent_memory.redis.redis_py_internals.replies import PushNotification

__all__ = [
    "DROPPED",
    "announce_subscriber",
    "as_parsed",
    "async_as_parsed",
    "async_can_read",
    "async_check_health",
    "async_health_check_is_due",
    "async_read_push",
    "async_wait_for_input",
    "can_read",
    "check_health",
    "end_with_client",
    "handle_pushes",
    "health_check_is_due",
    "metrics_are_on",
    "normalized",
    "read_push",
    "sending_lock",
    "shut_down",
    "wait_for_input",
]


_LOOK_S = 0.01


def normalized(subscriber: Any, names: dict[Any, Any]) -> dict[Any, Any]:
    """Channels by their names as messages show them."""
    return dict(subscriber._normalize_keys(names))


def as_parsed(connection: Any, reply: Any) -> Any:
    """What redis-py's parser makes of a reply that was taken from its reader; an error reply as a value.

    `DROPPED` for a push that its handler made nothing of: None is a reply.
    """
    if not isinstance(reply, PushNotification):
        return reply
    handled = connection._parser.handle_push_response(reply)
    return DROPPED if handled is None else handled


async def async_as_parsed(connection: Any, reply: Any) -> Any:
    """The same for asyncio."""
    if not isinstance(reply, PushNotification):
        return reply
    handled = await connection._parser.handle_push_response(reply)
    return DROPPED if handled is None else handled


DROPPED: Any = object()


def _note_read(connection: Any, now_s: float) -> None:
    if connection.health_check_interval:
        connection.next_health_check = now_s + connection.health_check_interval


def read_push(connection: Any, timeout_s: float | None) -> Any:
    """The next reply or push, an error reply as a value; NOT_ENOUGH_DATA for none within `timeout_s` (None: wait for ever)."""
    reader = reply_reader(connection)
    try:
        if reader is None:
            return connection.read_response(timeout=timeout_s, disconnect_on_error=False, push_request=True)
        while (reply := reader.gets()) is NOT_ENOUGH_DATA:
            if not connection._parser.read_from_socket(timeout=timeout_s, raise_on_timeout=False):
                return NOT_ENOUGH_DATA
    except RedisPyTimeoutError:
        return NOT_ENOUGH_DATA
    except AttributeError as error:
        if connection._sock is not None:
            raise
        # Another thread has disconnected it meanwhile, its parser included.
        raise RedisPyConnectionError("closed on this side") from error
    except RedisError as error:
        if is_error_reply(error):
            return error
        raise
    _note_read(connection, time.monotonic())
    return as_parsed(connection, reply)


async def async_read_push(connection: Any, timeout_s: float | None) -> Any:
    """The same for asyncio."""
    reader = reply_reader(connection)
    try:
        if reader is None:
            patience_s = math.inf if timeout_s is None else timeout_s
            reply = await connection.read_response(timeout=patience_s, disconnect_on_error=False, push_request=True)
            return NOT_ENOUGH_DATA if reply is None else reply
        async with asyncio.timeout(timeout_s):
            while (reply := reader.gets()) is NOT_ENOUGH_DATA:
                await connection._parser.read_from_socket()
    except TimeoutError:
        return NOT_ENOUGH_DATA
    except RedisError as error:
        if is_error_reply(error):
            return error
        raise
    _note_read(connection, asyncio.get_running_loop().time())
    return await async_as_parsed(connection, reply)


def health_check_is_due(connection: Any) -> bool:
    """Whether redis-py's `health_check_interval` asks for a PING."""
    return bool(connection.health_check_interval) and time.monotonic() > connection.next_health_check


async def async_health_check_is_due(connection: Any) -> bool:
    """The same for asyncio."""
    return bool(connection.health_check_interval) and asyncio.get_running_loop().time() > connection.next_health_check


def check_health(connection: Any) -> None:
    """PING and wait for the answer, if that is due."""
    connection.check_health()


async def async_check_health(connection: Any) -> None:
    """The same for asyncio."""
    await connection.check_health()


def end_with_client(error: BaseException, _subscriber: Any, thread: Any) -> None:
    """What redis-py's thread of a subscriber does with an error: it ends quietly where its client was closed."""
    if not isinstance(error, ClientClosedError):
        raise error
    thread.stop()


def can_read(connection: Any, timeout_s: float) -> bool:
    """Whether there is something to read (the end of the stream counts) within `timeout_s`."""
    reader = reply_reader(connection)
    return bool(connection.can_read(timeout=timeout_s)) if reader is None else has_input(connection, reader, timeout_s)


async def async_can_read(connection: Any, timeout_s: float) -> bool:
    """The same for asyncio."""
    reader = reply_reader(connection)
    if await async_has_input(connection, reader):
        return True
    await asyncio.sleep(timeout_s)  # the loop reads meanwhile
    return await async_has_input(connection, reader)


def announce_subscriber(subscriber: Any, asynchronous: bool) -> None:
    """Tell redis-py's event listeners of a subscriber's connection.

    Not where credentials are streamed: redis-py's listener would read the answer to its AUTH from between the messages.
    """
    connection = subscriber.connection
    if isinstance(connection.credential_provider, StreamingCredentialProvider):
        return
    kind = ClientType.ASYNC if asynchronous else ClientType.SYNC
    event = AfterPubSubConnectionInstantiationEvent(connection, subscriber.connection_pool, kind, subscriber._lock)
    subscriber._event_dispatcher.dispatch(event)


def handle_pushes(connection: Any, handler: Callable[..., Any]) -> None:
    """Have the connection's parser hand every push to `handler`."""
    connection._parser.set_pubsub_push_handler(handler)


def sending_lock(subscriber: Any) -> Any:
    """The lock under which redis-py's subscribers send, and its listeners re-authenticate them."""
    return subscriber._lock


def wait_for_input(connections: list[Any], timeout_s: float) -> None:
    """Wait until one of the connections has something to read, at most `timeout_s`; what was received has been parsed."""
    sockets = [sock for connection in connections if (sock := connection._sock) is not None]
    if not sockets:
        time.sleep(timeout_s)
        return
    poll = select.poll()
    try:
        for sock in sockets:
            poll.register(sock, select.POLLIN)
    except ValueError:
        return  # another thread has closed it meanwhile, which is something to look at
    poll.poll(timeout_s * 1e3)


async def async_wait_for_input(connections: list[Any], timeout_s: float) -> None:
    """The same for asyncio. Reads into the parsers; errors are left to the next read."""
    parsers = [connection._parser for connection in connections if reply_reader(connection) is not None]
    if not parsers:
        await asyncio.sleep(min(timeout_s, _LOOK_S))
        return
    # Being cancelled, such a read leaves what arrives in its stream.
    reading = [asyncio.ensure_future(parser.read_from_socket()) for parser in parsers]
    try:
        await asyncio.wait(reading, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


def shut_down(connection: Any) -> None:
    """End a connection from any thread, so that its reader finds it lost; never raises."""
    try:
        if hasattr(connection, "_sock"):
            ended = connection._sock
        else:
            writer = connection._writer
            ended = None if writer is None else writer.get_extra_info("socket")
        if ended is not None:
            # Not SSLSocket's own: that would go on in plain text.
            with socket.fromfd(ended.fileno(), ended.family, ended.type) as copy:
                copy.shutdown(socket.SHUT_RDWR)
    except (OSError, ValueError):
        pass
