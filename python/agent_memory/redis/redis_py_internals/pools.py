"""redis-py's connection pools: which are its own, and what one pool tells our transports."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.exceptions import ConnectionError as RedisPyConnectionError
from redis.exceptions import MaxConnectionsError
from redis.exceptions import TimeoutError as RedisPyTimeoutError

from agent_memory.errors import Outcome
from agent_memory.redis.redis_py_internals.codec import use_codec
from agent_memory.redis.redis_py_internals.features import disconnect_pool, is_asynchronous

__all__ = [
    "guard_connections",
    "is_stock_async_pool",
    "is_stock_connection",
    "is_stock_pool",
    "mark_unsent",
    "on_close",
    "on_disconnect",
    "service_of",
    "trust_async_pool",
    "trust_pool",
    "waits_for_place",
    "weakly_bound",
]


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
    disconnect, reset, weak = weakly_bound(pool, "disconnect"), weakly_bound(pool, "reset"), weakref.ref(pool)

    def disconnect_all(inuse_connections: bool = True) -> Any:
        close(inuse_connections)
        return disconnect_pool(weak(), disconnect, inuse_connections)

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
    get_connection = weakly_bound(pool, "get_connection")
    is_coroutine = is_asynchronous(pool)

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
    """Call `end()` before the pool's own `close()` or `aclose()`, from which `disconnect()` cannot be distinguished."""
    for name in ("close", "aclose"):
        if callable(getattr(type(pool), name, None)):
            setattr(pool, name, _preceded(end, weakly_bound(pool, name)))


def _preceded(first: Callable[[], None], then: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        first()
        return then(*args)

    return call


def weakly_bound(owner: Any, name: str) -> Callable[..., Any]:
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
