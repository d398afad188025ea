"""The names of redis-py (8.1) that are not public API and that this package needs all the same, in one place.

redis-py connects and handshakes; the transports take over the socket afterwards. What that takes of redis-py's inside is
here and nowhere else, so that a new redis-py is checked by reading one file.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
import socket
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

import hiredis
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis._defaults import DEFAULT_RETRY_BASE, DEFAULT_RETRY_CAP, DEFAULT_RETRY_COUNT, DEFAULT_SOCKET_TIMEOUT
from redis._parsers.base import BaseParser
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser, _HiredisParser
from redis._parsers.response_callbacks import get_response_callbacks
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.client import EMPTY_RESPONSE, NEVER_DECODE, CaseInsensitiveDict
from redis.connection import HiredisRespSerializer, parse_url
from redis.credentials import StreamingCredentialProvider
from redis.driver_info import DriverInfo
from redis.event import AfterPooledConnectionsInstantiationEvent, AfterPubSubConnectionInstantiationEvent, ClientType
from redis.exceptions import (
    AuthenticationError,
    DataError,
    InvalidResponse,
    MaxConnectionsError,
    RedisError,
    ResponseError,
    WatchError,
)
from redis.exceptions import ConnectionError as RedisPyConnectionError
from redis.exceptions import TimeoutError as RedisPyTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.observability.providers import get_observability_instance
from redis.retry import Retry
from redis.utils import SENTINEL, str_if_bytes

from agent_memory._core import ReplyScanner, monotonic_ns, pack_command
from agent_memory.errors import ClientClosedError, Outcome

__all__ = [
    "DROPPED",
    "DEFAULT_SOCKET_TIMEOUT",
    "EMPTY_RESPONSE",
    "NEVER_DECODE",
    "NOT_ENOUGH_DATA",
    "SENTINEL",
    "AsyncConnection",
    "BaseParser",
    "CaseInsensitiveDict",
    "PushNotification",
    "announce_subscriber",
    "as_parsed",
    "as_text",
    "async_as_parsed",
    "async_can_read",
    "async_check_health",
    "async_connect",
    "async_connect_again",
    "async_connect_pinned",
    "async_disconnect_idle",
    "async_drop",
    "async_health_check_is_due",
    "async_lease",
    "async_read_push",
    "blocking_connect",
    "callbacks_after_fallback",
    "can_read",
    "check_health",
    "connect_again",
    "connect_pinned",
    "detach_stream",
    "disconnect_idle",
    "detach_socket",
    "drop",
    "drop_idle",
    "end_with_client",
    "fill_arguments",
    "given_retry",
    "guard_connections",
    "health_check_is_due",
    "hide_arguments",
    "is_stock_async_pool",
    "is_stock_connection",
    "is_stock_pool",
    "lease",
    "lost_while_watching",
    "mark_unsent",
    "message_class",
    "metrics_are_on",
    "new_async_connection",
    "new_connection",
    "no_async_retries",
    "no_maintenance_notifications",
    "no_retries",
    "on_close",
    "on_disconnect",
    "on_renewal",
    "flag_of_text",
    "parse_reply_error",
    "pool_from_url",
    "read_push",
    "register_for_renewal",
    "reply_reader",
    "shut_down",
    "service_of",
    "take_renewal",
    "trust_async_pool",
    "trust_pool",
    "use_codec",
    "waits_for_place",
]

PushNotification = hiredis.PushNotification


def parse_reply_error(text: str) -> Exception:
    """redis-py's exception for the text of an error reply."""
    try:
        return cast(Exception, BaseParser.parse_error(text))
    except (ValueError, LookupError):  # MOVED and ASK without the address that they are made of
        return ResponseError(text)


def callbacks_after_fallback(asked: int | None, legacy_responses: bool) -> dict[str, Any]:
    """The callbacks that give RESP2 replies the shapes that the client would have shown over RESP3.

    Redis-py has three such shapes: today's (no protocol named), RESP3's own, and the unified one; the last two are what its
    unified RESP2 callbacks make.
    """
    legacy = legacy_responses and asked is None
    callbacks: Any = get_response_callbacks(user_protocol=2, legacy_responses=legacy)
    return dict(CaseInsensitiveDict(callbacks))


def is_stock_pool(pool: Any) -> bool:
    """Whether the pool and its connections are redis-py's own, so that a transport may connect in the pool's place."""
    return type(pool) in _STOCK_POOLS and pool.connection_class in _STOCK_CONNECTIONS and pool.cache is None


def waits_for_place(pool: Any) -> bool:
    """Whether the pool says itself, by its `timeout` (None: for ever), how long a call waits for a connection."""
    return isinstance(pool, redis.BlockingConnectionPool | redis.asyncio.BlockingConnectionPool)


def is_stock_connection(connection_class: Any) -> bool:
    """Whether the connections of a pool are redis-py's own, or ours: it is known what they take."""
    return connection_class in _STOCK_CONNECTIONS or connection_class in _STOCK_ASYNC_CONNECTIONS


def is_stock_async_pool(pool: Any) -> bool:
    """The same for an asyncio pool."""
    return type(pool) in _STOCK_ASYNC_POOLS and pool.connection_class in _STOCK_ASYNC_CONNECTIONS


def on_disconnect(pool: Any, close: Callable[[bool], None]) -> None:
    """Call `close(in_use)` before the pool's own `disconnect(in_use)` and `reset()`, which know nothing of our connections.

    Pools come from outside and are shared, so it is this one pool that learns of them, not its class.
    """
    # The pool must not refer to itself: it would live on, with its connections, until the garbage collector comes.
    disconnect, reset = _weakly_bound(pool, "disconnect"), _weakly_bound(pool, "reset")

    def disconnect_all(inuse_connections: bool = True) -> Any:
        close(inuse_connections)
        return disconnect(inuse_connections)

    def reset_all() -> None:
        close(True)
        reset()

    pool.disconnect, pool.reset = disconnect_all, reset_all


def mark_unsent(pool: Any) -> None:
    """Have errors of `pool.get_connection()` say that nothing was sent: the caller has no connection yet.

    For pools whose connections redis-py uses by itself, so that nothing else tells connecting from what comes after. It asks
    for a connection once a call, before the first attempt of its own retries. Pools come from outside: it is this one pool.
    """
    if getattr(pool, "_agent_memory_marks_unsent", None) is True:
        return
    get_connection = _weakly_bound(pool, "get_connection")
    is_coroutine = inspect.iscoroutinefunction(pool.get_connection)

    def leave_mark(error: BaseException) -> None:
        if isinstance(error, RedisPyConnectionError | RedisPyTimeoutError | OSError):
            error.outcome = Outcome.NOT_SENT  # type: ignore[union-attr]

    if is_coroutine:

        async def async_get_marked(*args: Any, **kwargs: Any) -> Any:
            try:
                return await get_connection(*args, **kwargs)
            except Exception as error:
                leave_mark(error)
                raise

        pool.get_connection = async_get_marked
    else:

        def get_marked(*args: Any, **kwargs: Any) -> Any:
            try:
                return get_connection(*args, **kwargs)
            except Exception as error:
                leave_mark(error)
                raise

        pool.get_connection = get_marked
    pool._agent_memory_marks_unsent = True


def on_close(pool: Any, end: Callable[[], None]) -> None:
    """Call `end()` before the pool's own `close()` or `aclose()`, which `disconnect()` cannot be told from."""
    for name in ("close", "aclose"):
        if callable(getattr(type(pool), name, None)):
            setattr(pool, name, _preceded(end, _weakly_bound(pool, name)))


def _preceded(first: Callable[[], None], then: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        first()
        return then(*args)

    return call


def _weakly_bound(owner: Any, name: str) -> Callable[..., Any]:
    """The method `name` of `owner`, which it does not keep alive."""
    method = getattr(owner, name)
    if getattr(method, "__self__", None) is not owner:
        return cast("Callable[..., Any]", method)
    weak = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        bound = weak()
        assert bound is not None  # it is called through its owner
        return bound(*args)

    return call


def on_renewal(pool: Any, renew: Callable[[bytes], None], asynchronous: bool) -> None:
    """Call `renew(packed AUTH)` when the pool's streaming credential provider has new credentials, in the provider's thread.

    It is the pool that is told: redis-py registers its pools with the provider, and providers keep a single callback.
    """
    provider = pool.connection_kwargs.get("credential_provider")
    if not isinstance(provider, StreamingCredentialProvider):
        return
    re_auth = _weakly_bound(pool, "re_auth_callback")

    def tell(token: Any) -> None:
        user = token.try_get("oid")
        words = (token.get_value(),) if user is None else (user, token.get_value())
        renew(pack_command(("AUTH", *words)))

    if asynchronous:

        async def async_re_auth_all(token: Any) -> None:
            tell(token)
            await re_auth(token)

        pool.re_auth_callback = async_re_auth_all
    else:

        def re_auth_all(token: Any) -> None:
            tell(token)
            re_auth(token)

        pool.re_auth_callback = re_auth_all


def register_for_renewal(client: Any, *, given: bool, asynchronous: bool) -> None:
    """Have a pool that was given to the client told of renewed credentials, as redis-py has it for pools of its own; once."""
    pool = client.connection_pool
    provider = pool.connection_kwargs.get("credential_provider")
    if not isinstance(provider, StreamingCredentialProvider) or "_agent_memory_is_told" in pool.__dict__:
        return
    pool._agent_memory_is_told = True
    if given:
        kind = ClientType.ASYNC if asynchronous else ClientType.SYNC
        client._event_dispatcher.dispatch(AfterPooledConnectionsInstantiationEvent([pool], kind, provider))


def take_renewal(connection: Any) -> tuple[Any, ...] | None:
    """The AUTH, as words, that is due on a connection in use since credentials were renewed; None when none is."""
    token = connection._re_auth_token
    if token is None:
        return None
    connection._re_auth_token = None
    user = token.try_get("oid")
    return ("AUTH", token.get_value()) if user is None else ("AUTH", user, token.get_value())


_STOCK_POOLS: set[Any] = {
    redis.ConnectionPool,
    redis.BlockingConnectionPool,
    redis.sentinel.SentinelConnectionPool,
}
_STOCK_CONNECTIONS: set[Any] = {
    redis.Connection,
    redis.SSLConnection,
    redis.UnixDomainSocketConnection,
    redis.sentinel.SentinelManagedConnection,
    redis.sentinel.SentinelManagedSSLConnection,
}
_STOCK_ASYNC_POOLS: set[Any] = {
    redis.asyncio.ConnectionPool,
    redis.asyncio.BlockingConnectionPool,
    redis.asyncio.sentinel.SentinelConnectionPool,
}
_STOCK_ASYNC_CONNECTIONS: set[Any] = {
    redis.asyncio.Connection,
    redis.asyncio.SSLConnection,
    redis.asyncio.UnixDomainSocketConnection,
    redis.asyncio.sentinel.SentinelManagedConnection,
    redis.asyncio.sentinel.SentinelManagedSSLConnection,
}


def trust_pool(pool_class: type, *connection_classes: type) -> None:
    """Count a pool and connections of our own as redis-py's: a transport may connect in their place."""
    _STOCK_POOLS.add(pool_class)
    _STOCK_CONNECTIONS.update(connection_classes)


def trust_async_pool(pool_class: type, *connection_classes: type) -> None:
    """The same for asyncio."""
    _STOCK_ASYNC_POOLS.add(pool_class)
    _STOCK_ASYNC_CONNECTIONS.update(connection_classes)


def service_of(arguments: dict[str, Any]) -> str | None:
    """The name of the service that the connections of a Sentinel pool go to; None for other pools."""
    return getattr(arguments.get("connection_pool"), "service_name", None)


def as_text(value: Any) -> str:
    """A word of a reply, whether it was decoded or not."""
    return str(str_if_bytes(value))


# A notice that a server is about to move would relax the timeouts of a redis-py connection; ours are swept elsewhere.
_MAINTENANCE_ARGUMENTS = frozenset(
    {
        "maint_notifications_pool_handler",
        "maintenance_notification_hash",
        "orig_host_address",
        "orig_socket_timeout",
        "orig_socket_connect_timeout",
        "oss_cluster_maint_notifications_handler",
    }
)


def _arguments(pool: Any) -> dict[str, Any]:
    # Retries are the guard's: redis-py's default of ten inside each of ours would multiply. Health checks would send a
    # PING of their own into a stream that is ours.
    arguments = {name: value for name, value in pool.connection_kwargs.items() if name not in _MAINTENANCE_ARGUMENTS}
    arguments["health_check_interval"] = 0
    _fill_driver(arguments, arguments)
    arguments["maint_notifications_config"] = no_maintenance_notifications()
    return arguments


class _Unasked(Retry):
    """The retries of a pool that was told nothing of them: none, because the guard retries."""


class _AsyncUnasked(AsyncRetry):
    """The same for asyncio."""


def no_retries() -> Retry:
    """redis-py's way of saying "once"."""
    return _Unasked(NoBackoff(), 0)


def no_async_retries() -> AsyncRetry:
    """The same for asyncio."""
    return _AsyncUnasked(NoBackoff(), 0)


def given_retry(pool: Any, own: Mapping[str, Any]) -> Any:
    """A copy of the `retry` that the caller gave for this pool, with the `retry_on_error` added; None where none was given.

    `own` are those that were given to a client beside the pool; they win. Errors without a Retry get redis-py's default one.
    """
    settings = pool.connection_kwargs
    retry = own.get("retry") or settings.get("retry")
    errors = own.get("retry_on_error") or settings.get("retry_on_error")
    if isinstance(retry, _Unasked | _AsyncUnasked):
        retry = None
    if retry is None and not errors:
        return None
    retry = _retry_for_errors(pool) if retry is None else copy.deepcopy(retry)  # a backoff has a state of its own
    if errors:
        retry.update_supported_errors(list(errors))
    return retry


def _retry_for_errors(pool: Any) -> Any:
    kind: Any = AsyncRetry if inspect.iscoroutinefunction(pool.get_connection) else Retry
    return kind(ExponentialWithJitterBackoff(base=DEFAULT_RETRY_BASE, cap=DEFAULT_RETRY_CAP), DEFAULT_RETRY_COUNT)


def pool_from_url(pool_class: Any, url: str, arguments: dict[str, Any], *, asynchronous: bool) -> Any:
    """A pool for the URL and for `arguments`, over which the URL's query wins; filled as `fill_arguments` says."""
    filled = arguments | parse_url(url)
    names = filled.keys() - arguments.keys()
    fill_arguments(filled, asynchronous=asynchronous)
    pool = pool_class.from_url(url, **{name: value for name, value in filled.items() if name not in names})
    for name in _TEXT_FLAGS.intersection(pool.connection_kwargs):
        value = pool.connection_kwargs[name]
        if isinstance(value, str):
            pool.connection_kwargs[name] = flag_of_text(value)
    return pool


def flag_of_text(text: str) -> bool:
    """A switch in a URL's query, read as redis-py reads those that it knows."""
    return text.upper() not in {"0", "F", "FALSE", "N", "NO", ""}


_TEXT_FLAGS = frozenset({"decode_responses", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled"})
"""Switches that redis-py leaves as text, which is true whatever it says."""


def fill_arguments(arguments: dict[str, Any], given: Mapping[str, Any] | None = None, *, asynchronous: bool) -> None:
    """Choose for a new pool what our clients want otherwise than redis-py, where the caller has not chosen.

    No retries of redis-py's, which would multiply ours; no question about maintenance; and the driver's name and version
    without parsing the package's metadata once more for each client or connection, which takes as long as connecting.
    """
    given = arguments if given is None else given  # by position, too
    if "retry" not in given:
        arguments["retry"] = no_async_retries() if asynchronous else no_retries()
    if given.get("maint_notifications_config") is None:
        arguments["maint_notifications_config"] = no_maintenance_notifications()
    _fill_driver(arguments, given)


def _fill_driver(arguments: dict[str, Any], given: Mapping[str, Any]) -> None:
    if given.keys().isdisjoint(_DRIVER_ARGUMENTS):
        arguments["driver_info"] = DriverInfo(lib_version=redis.__version__)


_DRIVER_ARGUMENTS = frozenset({"driver_info", "lib_name", "lib_version"})


def hide_arguments(pool: Any) -> None:
    """Leave what `fill_arguments` chose, which the user did not ask for, out of the pool's repr."""
    pool.OMIT_REPR_KEYS = pool.OMIT_REPR_KEYS | {"retry", "driver_info"}


def no_maintenance_notifications() -> MaintNotificationsConfig:
    """The setting that saves the handshake the question whether the server announces its maintenance."""
    return MaintNotificationsConfig(enabled=False)


class _Packer(HiredisRespSerializer):
    """Packs by our own packer: hiredis' ends the process where a signal handler raises while it asks a number for its text."""

    def pack(self, *args: Any) -> list[bytes]:
        name, *others = args
        words = (name if isinstance(name, str) else bytes(name)).split()
        try:
            return [pack_command((*words, *map(_as_number_text, others)))]
        except TypeError as error:
            raise DataError(str(error)) from None


def _as_number_text(word: Any) -> Any:
    # Our packer leaves other numbers to the caller: an IntEnum is what str() says. A bool is refused, as redis-py does.
    return str(word) if isinstance(word, int) and type(word) not in (int, bool) else word


class _ScanningReader:
    """A hiredis reader that is given no attribute of RESP3, and nothing behind what is no reply."""

    __slots__ = ("_reader", "_scanner")

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._scanner = ReplyScanner()

    def feed(self, data: Any, offset: int = 0, count: int | None = None) -> None:
        """As hiredis'."""
        parts = self._scanner.scan(data, offset, len(data) - offset if count is None else count)
        if parts is not None:
            for part_offset, part_count in parts:
                self._reader.feed(data, part_offset, part_count)
        elif count is None:
            self._reader.feed(data)
        else:
            self._reader.feed(data, offset, count)

    def gets(self, *args: Any) -> Any:
        """As hiredis'; raises InvalidResponse where nothing comes any more because the stream is none of replies."""
        reply = self._reader.gets(*args)
        if reply is NOT_ENOUGH_DATA:
            violation = self._scanner.violation
            if violation is not None:
                raise InvalidResponse(violation)
        return reply

    def has_data(self) -> bool:
        """Whether something has come that has not been taken, also where it is only the beginning of a reply."""
        return self._reader.has_data() or not self._scanner.is_between_replies


class _ScanningParser(_HiredisParser):
    def on_connect(self, connection: Any, **kwargs: Any) -> None:
        cast(Any, super()).on_connect(connection, **kwargs)
        self._reader = cast(Any, _ScanningReader(self._reader))


class _AsyncScanningParser(_AsyncHiredisParser):
    __slots__ = ()

    def on_connect(self, connection: Any) -> None:
        cast(Any, super()).on_connect(connection)
        self._reader = cast(Any, _ScanningReader(self._reader))


_SCANNING: dict[type, type] = {_HiredisParser: _ScanningParser, _AsyncHiredisParser: _AsyncScanningParser}


def guard_connections(pool: Any) -> None:
    """Have the connections that redis-py makes for the pool pack by our packer, and scan what they are sent; once."""
    if "make_connection" in pool.__dict__ or not hasattr(pool, "make_connection"):
        return
    make = pool.make_connection
    counts = getattr(type(pool), "make_connection", None) is redis.ConnectionPool.make_connection

    def make_guarded() -> Any:
        connection = make()
        use_codec(connection)
        return connection

    def make_connection() -> Any:
        try:
            return make_guarded()
        except BaseException as error:
            if counts and _recount(pool) and isinstance(error, MaxConnectionsError):
                return make_guarded()
            raise

    pool.make_connection = make_connection


def _recount(pool: Any) -> bool:
    """Tell redis-py's pool how many connections it has; gives whether it had counted more.

    It counts a connection before it makes it: interrupted or refused there, it would miss a place for ever.
    """
    with pool._lock:
        there = len(pool._available_connections) + len(pool._in_use_connections)
        has_fewer: bool = there < pool._created_connections
        if has_fewer:
            pool._created_connections = there
    return has_fewer


def use_codec(connection: Any) -> None:
    """Have a connection of redis-py's pack by our packer, and scan what it is sent."""
    connection = getattr(connection, "_conn", connection)  # the one behind a cache
    if type(getattr(connection, "_command_packer", None)) is HiredisRespSerializer:
        connection._command_packer = _PACKER
    parser = getattr(connection, "_parser", None)
    scanning = _SCANNING.get(type(parser))
    if parser is not None and scanning is not None:
        parser.__class__ = scanning
        if getattr(parser, "_reader", None) is not None:  # connected already
            parser._reader = _ScanningReader(parser._reader)


_PACKER = _Packer()


def new_connection(pool: Any) -> redis.Connection:
    """An unconnected connection as `pool` would make it, without retries of its own."""
    connection = pool.connection_class(**_arguments(pool))
    use_codec(connection)
    connection.retry = no_retries()
    return cast(redis.Connection, connection)


def new_async_connection(pool: Any) -> AsyncConnection:
    """The same for asyncio."""
    connection = pool.connection_class(**_arguments(pool))
    use_codec(connection)
    connection.retry = no_async_retries()
    return cast(AsyncConnection, connection)


class _Handshake:
    """Follows the handshake of one connection: who greets, and that nothing comes that was not asked for.

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

    def let_go(self) -> None:
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
        """Make sure, at the end or after redis-py's `error`, that whoever sits there greeted as a Redis that speaks RESP3."""
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


def _hello_was_refused(error: ResponseError, connection: Any) -> bool:
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
        handshake.let_go()


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
        if not _hello_was_refused(error, connection):
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
        handshake.let_go()


async def async_connect(connection: AsyncConnection) -> None:
    """The same for asyncio, without a deadline: the caller has one."""
    try:
        await _async_connect_once(connection)
    except ResponseError as error:
        await connection.disconnect(nowait=True)
        if not _hello_was_refused(error, connection):
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


# --- subscribers: connections that stay redis-py's; what the asyncio source and its sync twin call alike ----------------


def reply_reader(connection: Any) -> Any:
    """The hiredis reader of a connection whose parser is redis-py's own around hiredis; else None."""
    parser = connection._parser
    kind = type(parser)
    # Who patches read_response wants to see every reply.
    return parser._reader if kind in _HIREDIS_PARSERS and kind.read_response in _HIREDIS_READS else None


_HIREDIS_PARSERS = frozenset({*_SCANNING, *_SCANNING.values()})
_HIREDIS_READS = frozenset({_HiredisParser.read_response, _AsyncHiredisParser.read_response})


def metrics_are_on() -> bool:
    """Whether redis-py's observability counts messages: then its own path has to be taken."""
    return get_observability_instance().get_provider_manager() is not None


def message_class(connection: Any) -> type:
    """The class of list that a published message arrives as."""
    return PushNotification if int(connection.get_protocol()) == 3 else list


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


def _is_reply(error: RedisError) -> bool:
    return isinstance(error, ResponseError) or getattr(error, "status_code", None) is not None


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
            connection._parser.read_from_socket(timeout=timeout_s)
    except RedisPyTimeoutError:
        return NOT_ENOUGH_DATA
    except AttributeError as error:
        if connection._sock is not None:
            raise
        # Another thread has disconnected it meanwhile, its parser included.
        raise RedisPyConnectionError("closed on this side") from error
    except RedisError as error:
        if _is_reply(error):
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
        if _is_reply(error):
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
    return bool(connection.can_read(timeout=timeout_s))


async def async_can_read(connection: Any, timeout_s: float) -> bool:
    """The same for asyncio."""
    if await connection.can_read():
        return True
    await asyncio.sleep(timeout_s)  # the loop reads meanwhile
    return bool(await connection.can_read())


def drop(connection: Any) -> None:
    """Close a connection that has failed; never raises."""
    try:
        connection.disconnect()
    except (OSError, RedisError):
        pass


async def async_drop(connection: Any) -> None:
    """The same for asyncio."""
    try:
        await connection.disconnect(nowait=True)
    except (OSError, RedisError):
        pass


def lost_while_watching(error: BaseException) -> bool:
    """Whether redis-py says by this WatchError that the connection was lost, not that a watched key has changed."""
    return isinstance(error, WatchError) and "occurred while watching" in str(error)


def disconnect_idle(client: Any) -> None:
    """Close what redis-py has for the client and is not in use: the idle connections of its pool, and its own one."""
    if client.connection is not None:
        client.connection.disconnect()
    if isinstance(client.connection_pool, redis.ConnectionPool):
        client.connection_pool.disconnect(False)


async def async_disconnect_idle(client: Any) -> None:
    """The same for asyncio."""
    if client.connection is not None:
        await client.connection.disconnect(nowait=True)
    if isinstance(client.connection_pool, redis.asyncio.ConnectionPool):
        await client.connection_pool.disconnect(False)


def connect_again(connection: Any) -> None:
    """Connect a connection of a pool once more, its connect callbacks included."""
    connection.connect()


async def async_connect_again(connection: Any) -> None:
    """The same for asyncio."""
    task = asyncio.current_task()
    cancellations = task.cancelling() if task is not None else 0
    await connection.connect()
    if task is not None and task.cancelling() > cancellations:
        # redis-py sends through asyncio.wait_for, which before Python 3.12 may lose a cancellation.
        raise asyncio.CancelledError


def connect_pinned(client: Any) -> None:
    """Connect the one connection of a client again where it was lost, before anything is sent; one caller at a time."""
    with client.single_connection_lock:
        client.connection.connect()


async def async_connect_pinned(client: Any) -> None:
    """The same for asyncio."""
    async with client._single_conn_lock:
        await client.connection.connect()


def lease(pool: Any) -> Any:
    """A connected connection of the pool; from a server that refuses HELLO one that speaks RESP2."""
    try:
        return pool.get_connection()
    except Exception as error:
        if not isinstance(error, ResponseError):
            raise
        with pool._lock:  # who counts the connections meanwhile would not find this one
            connection = pool.make_connection()
            if not _hello_was_refused(error, connection):
                raise
            connection.protocol = 2
            pool._in_use_connections.add(connection)
        connection.connect()
        return connection
    except BaseException:
        drop_idle(pool)
        raise


def drop_idle(pool: Any) -> None:
    """Close redis-py's idle connections after an interruption.

    Struck in a handshake, redis-py puts a connection back as if that had ended: its replies would be the next caller's.
    """
    type(pool).disconnect(pool, False)


async def async_lease(pool: Any) -> Any:
    """The same for asyncio."""
    try:
        return await pool.get_connection()
    except ResponseError as error:
        connection = pool.make_connection()
        if not _hello_was_refused(error, connection):
            raise
        connection.protocol = 2
        pool._in_use_connections.add(connection)
        await async_connect(connection)
        return connection


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
