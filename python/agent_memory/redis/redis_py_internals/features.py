"""What differs between the versions of redis-py in use (6.4, 7, 8), decided by what this one has, never by its number.

Each name below is redis-py's own where it has it, else what gives the same behaviour. The rest of the package imports them
from here and knows nothing of versions.
"""

from __future__ import annotations

import enum
import inspect
import random
import selectors
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis._parsers.base import BaseParser
from redis.asyncio.retry import Retry as AsyncRetry
from redis.exceptions import ConnectionError as RedisPyConnectionError
from redis.exceptions import ResponseError
from redis.retry import Retry

__all__ = [
    "DEFAULT_RETRY_BASE",
    "DEFAULT_RETRY_CAP",
    "DEFAULT_RETRY_COUNT",
    "DEFAULT_SOCKET_TIMEOUT",
    "AsyncReplicaNotFoundError",
    "DriverInfo",
    "ReplicaNotFoundError",
    "RequestPolicy",
    "add_in_use",
    "announce_slots",
    "announce_slots_async",
    "async_call_with_retry",
    "async_has_input",
    "call_with_retry",
    "code_of",
    "default_timeouts",
    "determine_nodes",
    "disconnect_pool",
    "driver_arguments",
    "get_response_callbacks",
    "has_input",
    "is_asynchronous",
    "is_error_reply",
    "is_open",
    "metrics_are_on",
    "no_maintenance_notifications",
    "parse_pubsub_subscriptions",
    "policies_of",
    "startup_nodes_of",
    "takes_maintenance",
]

if TYPE_CHECKING:
    from redis._defaults import DEFAULT_RETRY_BASE, DEFAULT_RETRY_CAP, DEFAULT_RETRY_COUNT, DEFAULT_SOCKET_TIMEOUT
    from redis._parsers.commands import RequestPolicy
    from redis._parsers.response_callbacks import get_response_callbacks
    from redis.commands.helpers import parse_pubsub_subscriptions
    from redis.driver_info import DriverInfo
else:
    try:
        from redis._defaults import DEFAULT_RETRY_BASE, DEFAULT_RETRY_CAP, DEFAULT_RETRY_COUNT, DEFAULT_SOCKET_TIMEOUT
        from redis._parsers.response_callbacks import get_response_callbacks
    except ImportError:  # before 8.0: other defaults, of which no time-out is one, and no `legacy_responses`
        from redis._parsers.helpers import _RedisCallbacks, _RedisCallbacksRESP2, _RedisCallbacksRESP3

        DEFAULT_RETRY_BASE, DEFAULT_RETRY_CAP, DEFAULT_RETRY_COUNT, DEFAULT_SOCKET_TIMEOUT = 1, 10, 3, 5

        def get_response_callbacks(user_protocol: int | None, legacy_responses: bool = True) -> Mapping[str, Any]:
            del legacy_responses
            return _RedisCallbacks | (_RedisCallbacksRESP3 if user_protocol == 3 else _RedisCallbacksRESP2)

    try:
        from redis.driver_info import DriverInfo
    except ImportError:  # before 7.2
        DriverInfo = None

    try:
        from redis.commands.helpers import parse_pubsub_subscriptions
    except ImportError:  # before 8.0: channels and keywords, no `Subscription` objects
        from redis.commands.helpers import list_or_args

        def parse_pubsub_subscriptions(args: tuple[Any, ...], kwargs: Mapping[Any, Any]) -> dict[Any, Any]:
            return dict.fromkeys(list_or_args(args[0], args[1:]) if args else ()) | dict(kwargs)

    try:
        from redis._parsers.commands import RequestPolicy
    except ImportError:  # before 7.1

        class RequestPolicy(enum.Enum):
            DEFAULT_KEYLESS = "default_keyless"
            DEFAULT_KEYED = "default_keyed"


AsyncReplicaNotFoundError: Any = getattr(
    redis.asyncio.sentinel, "ReplicaNotFoundError", redis.asyncio.sentinel.SlaveNotFoundError
)
ReplicaNotFoundError: Any = getattr(redis.sentinel, "ReplicaNotFoundError", redis.sentinel.SlaveNotFoundError)


# --- connections ------------------------------------------------------------------------------------------------------


def is_asynchronous(pool: Any) -> bool:
    """Whether a pool is one of asyncio, also where its method is in a decorator that hides it, as before 8.0."""
    return inspect.iscoroutinefunction(inspect.unwrap(pool.get_connection))


def is_open(connection: Any) -> bool:
    """Whether redis-py's connection has a socket. Blocking ones do not say so themselves before 8.0."""
    connected = getattr(connection, "is_connected", None)
    return connection._sock is not None if connected is None else bool(connected)


def has_input(connection: Any, reader: Any, timeout_s: float) -> bool:
    """Whether there is something to read (the end of the stream counts) within `timeout_s`, of which nothing is taken.

    `reader` is the connection's, around hiredis. Before 8.0 redis-py's own `can_read()` takes a reply out of it.
    """
    if not hasattr(connection._parser, "_next_response"):
        return bool(connection.can_read(timeout=timeout_s))
    sock = connection._sock
    if sock is None:
        raise RedisPyConnectionError("closed on this side")
    if reader.has_data() or (hasattr(sock, "pending") and sock.pending()):
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(timeout_s))


async def async_has_input(connection: Any, reader: Any) -> bool:
    """The same for asyncio, without waiting. Before 8.0 redis-py's `can_read_destructive()` drops what it finds."""
    if hasattr(connection, "can_read"):
        return bool(await connection.can_read())
    stream = connection._reader
    if stream is None:
        raise RedisPyConnectionError("closed on this side")
    return (reader is not None and reader.has_data()) or bool(stream._buffer) or stream.at_eof()


_ENDS_ALL: Final = "inuse_connections" not in inspect.signature(redis.BlockingConnectionPool.disconnect).parameters


def disconnect_pool(pool: Any, disconnect: Callable[..., Any], in_use: bool) -> Any:
    """Call the pool's own `disconnect` for its idle connections, or with `in_use` for all; on asyncio to be awaited.

    That of a BlockingConnectionPool takes no argument before 7.0 and ends all.
    """
    if not _ENDS_ALL or not isinstance(pool, redis.BlockingConnectionPool):
        return disconnect(in_use)
    if in_use:
        return disconnect()
    for connection in filter(None, [*pool.pool.queue]):
        connection.disconnect()
    return None


def add_in_use(pool: Any, connection: Any) -> None:
    """Have a pool count a connection that was made beside `get_connection()`. Those with a queue of them do before 7.0."""
    if hasattr(pool, "_in_use_connections"):
        pool._in_use_connections.add(connection)


def driver_arguments(version: str) -> dict[str, Any]:
    """The arguments by which a connection names redis-py, its version, and this package in `version` as what stands on it."""
    if DriverInfo is None:
        return {"lib_name": f"redis-py(agent-memory_v{version})", "lib_version": redis.__version__}
    driver = DriverInfo(lib_version=redis.__version__)
    driver.add_upstream_driver("agent-memory", version)
    return {"driver_info": driver}


def _parameters_of(kind: type) -> frozenset[str]:
    bases = [base.__dict__["__init__"] for base in kind.__mro__ if "__init__" in base.__dict__ and base is not object]
    return frozenset().union(*(inspect.signature(initialiser).parameters for initialiser in bases))


_TAKES_MAINTENANCE: Final = {
    asynchronous: "maint_notifications_config" in _parameters_of(kind)
    for asynchronous, kind in ((False, redis.Connection), (True, redis.asyncio.Connection))
}


def takes_maintenance(asynchronous: bool) -> bool:
    """Whether redis-py's connections know maintenance notifications: for threads since 7.0, on asyncio since 8.0."""
    return _TAKES_MAINTENANCE[asynchronous]


def no_maintenance_notifications() -> Any:
    """The setting that saves the handshake the question whether the server announces its maintenance."""
    from redis.maint_notifications import MaintNotificationsConfig

    return MaintNotificationsConfig(enabled=False)


def _own_default(kind: Any) -> Any:
    return inspect.signature(kind.__init__).parameters["socket_timeout"].default


_HAS_TIMEOUTS: Final = {
    False: _own_default(redis.Redis) is not None,
    True: _own_default(redis.asyncio.Redis) is not None,
}


def default_timeouts(asynchronous: bool) -> Mapping[str, Any]:
    """The time-outs that redis-py's clients do not have by default, but ours do; none since 8.0, where they have the same."""
    if _HAS_TIMEOUTS[asynchronous]:
        return {}
    return {"socket_timeout": DEFAULT_SOCKET_TIMEOUT, "socket_connect_timeout": DEFAULT_SOCKET_TIMEOUT}


# --- retries ----------------------------------------------------------------------------------------------------------


class _NotRepeatedError(BaseException):
    """Takes an error past a Retry, which looks at Exceptions alone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


_ASKS, _ASYNC_ASKS = (
    "is_retryable" in inspect.signature(kind.call_with_retry).parameters for kind in (Retry, AsyncRetry)
)


def call_with_retry(
    retry: Any, attempt: Callable[[], Any], note: Callable[[Any], Any], may_repeat: Callable[[Exception], bool]
) -> Any:
    """`retry.call_with_retry()`, which repeats nothing that `may_repeat(error)` forbids: `is_retryable` where it has that.

    Threads have it since 7.0, asyncio since 7.2.
    """
    if _ASKS:
        return retry.call_with_retry(attempt, note, is_retryable=may_repeat)

    def attempt_once() -> Any:
        try:
            return attempt()
        except Exception as error:
            if may_repeat(error):
                raise
            raise _NotRepeatedError(error) from None

    try:
        return retry.call_with_retry(attempt_once, note)
    except _NotRepeatedError as past:
        raise past.error from past.error.__cause__


async def async_call_with_retry(
    retry: Any, attempt: Callable[[], Any], note: Callable[[Any], Any], may_repeat: Callable[[Exception], bool]
) -> Any:
    """The same for asyncio."""
    if _ASYNC_ASKS:
        return await retry.call_with_retry(attempt, note, is_retryable=may_repeat)

    async def attempt_once() -> Any:
        try:
            return await attempt()
        except Exception as error:
            if may_repeat(error):
                raise
            raise _NotRepeatedError(error) from None

    try:
        return await retry.call_with_retry(attempt_once, note)
    except _NotRepeatedError as past:
        raise past.error from past.error.__cause__


# --- errors and metrics -----------------------------------------------------------------------------------------------


_CODES: Final[Mapping[type, str]] = {
    kind: code for code, kind in BaseParser.EXCEPTION_CLASSES.items() if isinstance(kind, type)
}
"""The classes of errors that redis-py makes of certain first words, which it takes out of the text."""


def code_of(error: BaseException) -> str:
    """The first word of the error reply that redis-py made `error` of, where its text has lost it; else empty.

    Since 7.2 the error has it as `status_code`; before, its class tells.
    """
    code: str | None = getattr(error, "status_code", _CODES.get(type(error)))
    return code or ""


def is_error_reply(error: BaseException) -> bool:
    """Whether redis-py made `error`, which came out of a read, of an error reply."""
    return isinstance(error, ResponseError) or bool(code_of(error))


def metrics_are_on() -> bool:
    """Whether redis-py's observability counts messages: then its own path has to be taken. Before 7.2 it has none."""
    if _observability is None:
        return False
    return _observability().get_provider_manager() is not None


_observability: Any = None
try:
    from redis.observability.providers import get_observability_instance as _observability
except ImportError:
    pass


# --- clusters ---------------------------------------------------------------------------------------------------------

_slots_events: Any = None
try:
    from redis.event import AfterSlotsCacheRefreshEvent, AsyncAfterSlotsCacheRefreshEvent

    _slots_events = (AfterSlotsCacheRefreshEvent, AsyncAfterSlotsCacheRefreshEvent)
except ImportError:  # before 8.0 no subscriber follows its slots
    pass


def announce_slots(client: Any) -> None:
    """Tell redis-py's subscribers of a cluster that slots have moved; raises what a listener raises."""
    if _slots_events is not None:
        client._event_dispatcher.dispatch(_slots_events[0]())


async def announce_slots_async(client: Any) -> None:
    """The same for asyncio."""
    if _slots_events is not None:
        await client._event_dispatcher.dispatch_async(_slots_events[1]())


def startup_nodes_of(client: Any) -> list[Any]:
    """The nodes that an asyncio cluster client asks first. Before 7.0 its manager alone has them."""
    nodes = getattr(client, "startup_nodes", None)
    return list(client.nodes_manager.startup_nodes.values()) if nodes is None else nodes


def policies_of(client: Any) -> Any:
    """What resolves a command's policies of requests and replies; None before 7.1, where the flags of commands say all."""
    return getattr(client, "_policy_resolver", None)


def determine_nodes(client: Any, args: tuple[Any, ...], policy: Any, flag: Any, *, asynchronous: bool) -> Any:
    """The nodes that a command is for; on asyncio to be awaited. `flag` is the caller's `target_nodes`."""
    named = {"node_flag" if asynchronous else "nodes_flag": flag}
    if policies_of(client) is not None:
        return client._determine_nodes(*args, request_policy=policy, **named)
    if policy is RequestPolicy.DEFAULT_KEYLESS:
        return [random.choice(client.get_primaries())]  # any of them will do
    return client._determine_nodes(*args, **named)
