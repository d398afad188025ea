"""Refusals of invalid arguments of the drop-in clients: by parameter, rule and value, before anything is made of them.

redis-py takes most of them as they are and fails at the first connection, if at all. What it can use it may be given: a port
or a database as text stays valid. Values that may be secret are named by their type.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from redis.asyncio.connection import ConnectionPool as AsyncConnectionPool
from redis.connection import ConnectionPool

from agent_memory import _check
from agent_memory._core import Guard
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.exactly_once.settings import settings_of
from agent_memory.redis.redis_py_internals.pools import is_stock_connection

__all__ = [
    "check_client",
    "check_connection",
    "check_guarding",
    "check_named",
    "check_pool",
    "own_arguments",
    "parameters_of",
]

_OWN: Final = ("resilience", "guard", "exactly_once")
_WITH_A_POOL: Final = frozenset(
    """
    connection_pool single_connection_client retry retry_on_error client_name event_dispatcher credential_provider
    auto_close_connection_pool
    """.split()
)
"""What is used beside a pool that is given; everything else of redis-py's arguments is the pool's own."""


def own_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments out that the drop-in clients have beyond redis-py's."""
    return {name: arguments.pop(name) for name in _OWN if name in arguments}


def check_client(
    client: type, positional: tuple[Any, ...], named: Mapping[str, Any], *, asynchronous: bool
) -> Mapping[str, Any]:
    """Raises ValueError or TypeError for the first argument of a client's constructor that is outside its rule.

    `client` is redis-py's class, whose constructor gives positional arguments their names. Returns them all by name.
    """
    given = {**dict(zip(parameters_of(client), positional, strict=False)), **named} if positional else named
    check_named(given, asynchronous=asynchronous)
    pool = given.get("connection_pool")
    if pool is not None:
        _check_given_pool(pool, asynchronous)
        _check_beside_pool(client, given, pool)
        check_pool(pool, asynchronous=asynchronous)
    return given


def check_guarding(resilience: object = None, guard: object = None, exactly_once: Any = False) -> None:
    """The same for what this package adds."""
    settings_of(exactly_once)
    if resilience is not None and not isinstance(resilience, ResiliencePolicy):
        raise ValueError(f"resilience must be a ResiliencePolicy or None, got {resilience!r}")
    if guard is not None and not isinstance(guard, Guard):
        raise ValueError(f"guard must be a Guard or None, got {guard!r}")


def check_named(arguments: Mapping[str, Any], *, asynchronous: bool) -> None:
    """Raises ValueError for the first of redis-py's arguments that is outside its rule; unknown ones are left alone."""
    for name, value in arguments.items():
        if name in _RULES:
            _RULES[name](name, value)
        elif name == "retry":
            _retry(value, asynchronous)


def check_pool(pool: Any, *, asynchronous: bool) -> None:
    """The same for the settings of a pool with redis-py's own connections, unknown ones included; once for each pool."""
    if not is_stock_connection(getattr(pool, "connection_class", None)):
        return  # what its connections take is its own affair
    if pool.__dict__.get("_agent_memory_is_checked"):
        return
    check_named(
        {name: pool.__dict__[name] for name in ("timeout",) if name in pool.__dict__}, asynchronous=asynchronous
    )
    check_connection(pool.connection_class, pool.connection_kwargs, asynchronous=asynchronous)
    pool._agent_memory_is_checked = True


def check_connection(connection_class: type, arguments: Mapping[str, Any], *, asynchronous: bool) -> None:
    """Raises TypeError for an argument that the connection class does not have, ValueError for one outside its rule."""
    known = _parameters_of_all(connection_class)
    for name in arguments:
        if name not in known:
            raise TypeError(
                f"{name} must be a parameter of {connection_class.__name__}, got an unexpected keyword argument {name!r}"
            )
    check_named(arguments, asynchronous=asynchronous)


def _check_given_pool(pool: Any, asynchronous: bool) -> None:
    wrong, module = (ConnectionPool, "redis.asyncio") if asynchronous else (AsyncConnectionPool, "redis")
    if isinstance(pool, wrong) or not hasattr(pool, "get_connection"):
        raise ValueError(
            f"connection_pool must be a pool of {module}, got {type(pool).__module__}.{type(pool).__name__}"
        )


def _check_beside_pool(client: type, given: Mapping[str, Any], pool: Any) -> None:
    """An argument that the pool would win over in silence is refused, unless it says the same or only the default."""
    settings = getattr(pool, "connection_kwargs", None)
    if not isinstance(settings, Mapping):
        return
    defaults = _defaults_of(client)
    for name, value in given.items():
        if name in _WITH_A_POOL or name not in defaults or value is None or value == defaults[name]:
            continue
        if name == "max_connections":
            has = getattr(pool, name, None)
        elif name == "ssl":
            has = any(setting.startswith("ssl_") for setting in settings)
        else:
            has = settings.get("path" if name == "unix_socket_path" else name, defaults[name])
        if value != has:
            shown = type(value).__name__ if name in _SECRET else repr(value)
            raise ValueError(f"{name} must be left out with connection_pool=, which has its own, got {shown}")


def parameters_of(kind: type) -> tuple[str, ...]:
    """The names of the parameters of a class's constructor, in their order."""
    known = _PARAMETERS.get(kind)
    if known is None:
        known = _PARAMETERS[kind] = tuple(_defaults_of(kind))
    return known


def _defaults_of(kind: type) -> dict[str, Any]:
    known = _DEFAULTS.get(kind)
    if known is None:
        parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
        named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        known = _DEFAULTS[kind] = {one.name: one.default for one in named if one.name != "self"}
    return known


def _parameters_of_all(kind: type) -> Collection[str]:
    """The parameters of a class that hands what it does not know to its bases."""
    known = _OF_ALL.get(kind)
    if known is None:
        bases = [base for base in kind.__mro__ if "__init__" in base.__dict__ and base is not object]
        known = _OF_ALL[kind] = _OF_POOLS.union(*(_defaults_of(base) for base in bases))
    return known


_OF_POOLS: Final = frozenset({"cache", "cache_config", "connection_pool"})
"""What redis-py's pools keep among the arguments of their connections for themselves."""

# Keyed by redis-py's classes and ours: a handful.
_PARAMETERS: dict[type, tuple[str, ...]] = {}
_DEFAULTS: dict[type, dict[str, Any]] = {}
_OF_ALL: dict[type, Collection[str]] = {}

# --- the rules ---


def _optional(rule: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value is not None:
            rule(name, value)

    return check


def _whole(low: int, high: int | None = None) -> Callable[[str, Any], None]:
    """A whole number, or its digits: redis-py takes both."""

    def check(name: str, value: Any) -> None:
        number: Any = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        _check.whole(name, number, low, high)

    return check


def _count(name: str, value: Any) -> None:
    _check.whole(name, value, 1)


def _seconds(name: str, value: Any) -> None:
    _check.above(name, value, 0)


def _seconds_or_zero(name: str, value: Any) -> None:
    _check.at_least(name, value, 0)


def _secret(name: str, value: Any) -> None:
    if not isinstance(value, str | bytes):
        raise ValueError(f"{name} must be str or bytes, got a {type(value).__name__}")


def _path(name: str, value: Any) -> None:
    if not isinstance(value, str | bytes) or not value:
        raise ValueError(f"{name} must be a non-empty str, got {value!r}")


def _errors(name: str, value: Any) -> None:
    classes = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if not all(isinstance(one, type) and issubclass(one, Exception) for one in classes) or classes == [value]:
        raise ValueError(f"{name} must be a list of exception classes, got {value!r}")


def _retry(value: Any, asynchronous: bool) -> None:
    if value is None:
        return
    module = "redis.asyncio.retry" if asynchronous else "redis.retry"
    call = getattr(value, "call_with_retry", None)
    if not callable(call) or inspect.iscoroutinefunction(call) is not asynchronous:
        given = f"{type(value).__module__}.{type(value).__name__}"
        raise ValueError(f"retry must be a {module}.Retry or None, got a {given}")


def _provider(name: str, value: Any) -> None:
    if not hasattr(value, "get_credentials"):
        raise ValueError(f"{name} must be a redis.CredentialProvider or None, got a {type(value).__name__}")


_SECRET: Final = frozenset({"password", "ssl_password", "credential_provider"})
_RULES: Final[Mapping[str, Callable[[str, Any], None]]] = {
    "host": _check.text,
    "port": _whole(0, 65_535),
    "db": _optional(_whole(0)),
    "path": _path,
    "unix_socket_path": _optional(_path),
    "username": _optional(_secret),
    "password": _optional(_secret),
    "ssl_password": _optional(_secret),
    "socket_timeout": _optional(_seconds),
    "socket_connect_timeout": _optional(_seconds),
    "socket_read_size": _whole(1),
    "socket_keepalive": _optional(_check.flag),
    "health_check_interval": _optional(_seconds_or_zero),
    "max_connections": _optional(_count),
    "encoding": _check.text,
    "encoding_errors": _check.text,
    "decode_responses": _check.flag,
    "legacy_responses": _check.flag,
    "single_connection_client": _check.flag,
    "ssl": _check.flag,
    "retry_on_timeout": _optional(_check.flag),  # kombu says None
    "retry_on_error": _optional(_errors),
    "timeout": _optional(_seconds_or_zero),
    "client_name": _optional(_check.text),
    "redis_connect_func": _optional(_check.function),
    "credential_provider": _optional(_provider),
}
