"""The arguments of redis-py's pools and connections: what our clients choose otherwise, and pools made of URLs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.connection import parse_url

from agent_memory._core import __version__ as VERSION  # noqa: N812
from agent_memory.redis.redis_py_internals.features import (
    DEFAULT_SOCKET_TIMEOUT,
    default_timeouts,
    driver_arguments,
    is_asynchronous,
    no_maintenance_notifications,
    takes_maintenance,
)
from agent_memory.redis.redis_py_internals.retries import no_async_retries, no_retries

__all__ = [
    "DEFAULT_SOCKET_TIMEOUT",
    "blocking_pool_like",
    "connection_arguments",
    "fill_arguments",
    "flag_of_text",
    "hide_arguments",
    "no_maintenance_notifications",
    "pool_from_url",
]

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


def connection_arguments(pool: Any) -> dict[str, Any]:
    # Retries are the guard's: redis-py's default of ten inside each of ours would multiply. Health checks would send a
    # PING of their own into a stream that is ours.
    arguments = {name: value for name, value in pool.connection_kwargs.items() if name not in _MAINTENANCE_ARGUMENTS}
    arguments["health_check_interval"] = 0
    _fill_driver(arguments, arguments)
    if takes_maintenance(is_asynchronous(pool)):
        arguments["maint_notifications_config"] = no_maintenance_notifications()
    return arguments


_BLOCKING_KINDS: tuple[tuple[tuple[type, type], Any], ...] = (
    # The more special first: redis-py's SSLConnection is a Connection.
    ((redis.UnixDomainSocketConnection, redis.asyncio.UnixDomainSocketConnection), redis.UnixDomainSocketConnection),
    ((redis.SSLConnection, redis.asyncio.SSLConnection), redis.SSLConnection),
    ((redis.Connection, redis.asyncio.Connection), redis.Connection),
)
_OF_ONE_WORLD = frozenset({"retry", "retry_on_error", "redis_connect_func", "connection_pool", "event_dispatcher"})


def blocking_pool_like(pool: Any) -> tuple[str, Callable[[], Any]] | None:
    """What kind of connections the pool has, and what makes a blocking pool for one connection to the same server.

    None for a pool whose address is not fixed, and for connections that are not derived from redis-py's. Does not refer to
    the pool.
    """
    given, kind = getattr(pool, "connection_kwargs", None), getattr(pool, "connection_class", None)
    if not isinstance(given, dict) or not isinstance(kind, type) or hasattr(pool, "service_name"):
        return None
    blocking = next((blocking for classes, blocking in _BLOCKING_KINDS if issubclass(kind, classes)), None)
    if blocking is None:
        return None
    accepted = _accepted_by(blocking) - _OF_ONE_WORLD - _MAINTENANCE_ARGUMENTS
    chosen = {name: value for name, value in given.items() if name in accepted}

    def make_pool() -> Any:
        arguments = dict(chosen)
        fill_arguments(arguments, asynchronous=False)
        for timeout in ("socket_timeout", "socket_connect_timeout"):
            if arguments.get(timeout) is None:
                arguments[timeout] = DEFAULT_SOCKET_TIMEOUT
        return redis.ConnectionPool(connection_class=blocking, max_connections=1, **arguments)

    return blocking.__name__, make_pool


@functools.cache  # of three classes
def _accepted_by(kind: type) -> frozenset[str]:
    bases = [base for base in kind.__mro__ if "__init__" in base.__dict__ and base is not object]
    parameters = [inspect.signature(base.__init__).parameters for base in bases]  # type: ignore[misc]
    return frozenset().union(*parameters)


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
    without parsing the package's metadata once more for each client or connection, which takes as long as connecting. And
    the time-outs that redis-py has by default since 8.0.
    """
    given = arguments if given is None else given  # by position, too
    if "retry" not in given:
        arguments["retry"] = no_async_retries() if asynchronous else no_retries()
    if given.get("maint_notifications_config") is None and takes_maintenance(asynchronous):
        arguments["maint_notifications_config"] = no_maintenance_notifications()
    arguments.update({name: value for name, value in default_timeouts(asynchronous).items() if name not in given})
    _fill_driver(arguments, given)


def _fill_driver(arguments: dict[str, Any], given: Mapping[str, Any]) -> None:
    if given.keys().isdisjoint(_DRIVER_ARGUMENTS):
        arguments.update(driver_arguments(VERSION))


_DRIVER_ARGUMENTS = frozenset({"driver_info", "lib_name", "lib_version"})


def hide_arguments(pool: Any) -> None:
    """Leave what `fill_arguments` chose, which the user did not ask for, out of the pool's repr."""
    if hasattr(pool, "OMIT_REPR_KEYS"):  # redis-py 7's asyncio pools show all
        pool.OMIT_REPR_KEYS = pool.OMIT_REPR_KEYS | {"retry", *_DRIVER_ARGUMENTS}
