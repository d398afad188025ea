"""Refusals of invalid arguments of the resilient clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent_memory._check import above, at_least, flag, text, whole
from agent_memory._core import Guard
from agent_memory.policy import Priority, RecoveryConfig, RetryPolicy
from agent_memory.redis.client_arguments import check_named, parameters_of
from agent_memory.redis.exactly_once.settings import settings_of
from agent_memory.storage.cluster_arguments import OF_A_CLUSTER

__all__ = ["client_arguments", "connection_arguments", "exactly_once", "policies", "priority"]


def client_arguments(
    *,
    client_name: str,
    host: str,
    port: int,
    db: int,
    socket_timeout: float | None,
    socket_connect_timeout: float | None,
    circuit_threshold: int,
    circuit_reset_timeout: float,
    critical_retry_attempts: int,
    retry_base_delay: float,
    retry_max_delay: float,
    max_connections: int,
    health_check_interval: float,
    probe_interval_s: float | None,
    double_await: bool,
    decode_responses: bool,
    connection_name: str | None,
) -> None:
    """Raises ValueError for the first argument of a resilient client that is outside its rule."""
    text("client_name", client_name)
    if "://" in client_name:
        # Not repeated in the message: it may hold a password.
        raise ValueError("client_name must be a name, got a URL: from_url() takes a URL, and client_name= beside it")
    if isinstance(host, int) and not isinstance(host, bool):
        raise ValueError(
            f"host must be a non-empty str, got {host!r}: the first parameter is client_name, so write host= and port= by name"
        )
    text("host", host)
    whole("port", port, 0, 65_535)
    whole("db", db, 0)
    whole("circuit_threshold", circuit_threshold, 1, 2**32 - 1)
    above("circuit_reset_timeout", circuit_reset_timeout, 0)
    whole("critical_retry_attempts", critical_retry_attempts, 0)
    at_least("retry_base_delay", retry_base_delay, 0)
    at_least("retry_max_delay", retry_max_delay, 0)
    whole("max_connections", max_connections, 1)
    at_least("health_check_interval", health_check_interval, 0)
    flag("double_await", double_await)
    flag("decode_responses", decode_responses)
    if connection_name is not None:
        text("connection_name", connection_name)
    optional = {
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": socket_connect_timeout,
        "probe_interval_s": probe_interval_s,
    }
    for parameter, seconds in optional.items():
        if seconds is not None:
            above(parameter, seconds, 0)


def priority(value: Any) -> Priority:
    """The Priority that `value` is, or the number of. Raises ValueError for another."""
    if isinstance(value, bool) or value not in Priority.__members__.values():
        raise ValueError(f"priority must be a Priority, got {value!r}")
    return Priority(value)


def policies(*, retry_policy: object, guard: object, recovery: object, client: object) -> None:
    """Raises ValueError for the first policy of a resilient client that is none, and a client that cannot be one."""
    if isinstance(client, str | bytes | int | float | Mapping | Sequence | type):
        # By its type: a URL may hold a password.
        raise ValueError(f"client must be a redis-py-compatible object or None, got {type(client).__name__}")
    for parameter, value, kind in (
        ("retry_policy", retry_policy, RetryPolicy),
        ("guard", guard, Guard),
        ("recovery", recovery, RecoveryConfig),
    ):
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{parameter} must be a {kind.__name__} or None, got {value!r}")


def exactly_once(value: Any, client: object) -> None:
    """Raises ValueError for a wrong `exactly_once=`, and for one beside an injected client, which has its own."""
    if settings_of(value) is not None and client is not None:
        raise ValueError(
            f"exactly_once must be left out with client=, which has its own, got {value!r}: make the client with it"
        )


_NOT_FOR_RESILIENT: Final = {
    "retry": "retry_policy= says how commands are retried",
    "retry_on_error": "retry_policy= says how commands are retried",
    "connection_pool": "give client=Redis(connection_pool=...) for a pool of your own",
}


def connection_arguments(
    client_class: type,
    client: object,
    arguments: Mapping[str, Any],
    secrets: Mapping[str, Any],
    *,
    asynchronous: bool,
    is_cluster: bool = False,
) -> None:
    """Raises TypeError or ValueError for the first of redis-py's arguments that is unknown, unused or outside its rule.

    `client` is the injected client, which has a connection of its own; `client_class` is redis-py's class.
    """
    known = {*parameters_of(client_class), *(OF_A_CLUSTER if is_cluster else ())}
    for name, value in arguments.items():
        if name in _NOT_FOR_RESILIENT:
            raise ValueError(f"{name} must be left out, {_NOT_FOR_RESILIENT[name]}, got a {type(value).__name__}")
        if name not in known:
            raise TypeError(
                f"{name} must be a parameter of this client or of redis-py's, got an unexpected keyword argument {name!r}"
            )
        if client is not None:
            raise ValueError(
                f"{name} must be left out with client=, which has its own connection, got a {type(value).__name__}"
            )
    check_named({**arguments, **secrets}, asynchronous=asynchronous)
