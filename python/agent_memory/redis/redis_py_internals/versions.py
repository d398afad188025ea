"""What redis-py 7 has elsewhere, or not at all: its place is known here alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import redis.asyncio.sentinel
import redis.sentinel

if TYPE_CHECKING:
    from redis._defaults import DEFAULT_RETRY_BASE, DEFAULT_RETRY_CAP, DEFAULT_RETRY_COUNT, DEFAULT_SOCKET_TIMEOUT
    from redis._parsers.response_callbacks import get_response_callbacks
else:
    try:
        from redis._defaults import DEFAULT_RETRY_BASE, DEFAULT_RETRY_CAP, DEFAULT_RETRY_COUNT, DEFAULT_SOCKET_TIMEOUT
        from redis._parsers.response_callbacks import get_response_callbacks
    except ImportError:  # redis-py 7: the same values, but no time-out by default, and no `legacy_responses`
        from redis._parsers.helpers import _RedisCallbacks, _RedisCallbacksRESP2, _RedisCallbacksRESP3

        DEFAULT_RETRY_BASE, DEFAULT_RETRY_CAP, DEFAULT_RETRY_COUNT, DEFAULT_SOCKET_TIMEOUT = 1, 10, 3, 5

        def get_response_callbacks(user_protocol: int | None, legacy_responses: bool = True) -> Mapping[str, Any]:
            del legacy_responses
            return _RedisCallbacks | (_RedisCallbacksRESP3 if user_protocol == 3 else _RedisCallbacksRESP2)


__all__ = [
    "DEFAULT_RETRY_BASE",
    "DEFAULT_RETRY_CAP",
    "DEFAULT_RETRY_COUNT",
    "DEFAULT_SOCKET_TIMEOUT",
    "AsyncReplicaNotFoundError",
    "ReplicaNotFoundError",
    "get_response_callbacks",
    "is_open",
]

AsyncReplicaNotFoundError: Any = getattr(
    redis.asyncio.sentinel, "ReplicaNotFoundError", redis.asyncio.sentinel.SlaveNotFoundError
)
ReplicaNotFoundError: Any = getattr(redis.sentinel, "ReplicaNotFoundError", redis.sentinel.SlaveNotFoundError)


def is_open(connection: Any) -> bool:
    """Whether redis-py's connection has a socket. Blocking ones of redis-py 7 do not say so themselves."""
    connected = getattr(connection, "is_connected", None)
    return connection._sock is not None if connected is None else bool(connected)
