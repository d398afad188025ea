"""What the memory system takes for `redis=`, and what it refuses before anything is opened."""

from __future__ import annotations

import inspect
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from redis.asyncio.cluster import RedisCluster as AsyncioRedisCluster
from redis.cluster import RedisCluster

from agent_memory.redis.originals import AsyncRedisPy, RedisPy

__all__ = ["check_redis", "check_redis_client"]

_SCHEMES: Final = ("redis", "rediss", "unix")
_SYNC_CLIENTS: Final = (RedisPy, RedisCluster)
_ASYNCIO_CLIENTS: Final = (AsyncRedisPy, AsyncioRedisCluster)
_FALSE: Final = frozenset(("", "0", "f", "false", "n", "no"))
"""What redis-py reads as False in a URL."""


def check_redis(given: object, is_asyncio: bool) -> None:
    """Refuses what is no client of the right kind, no URL of a server, not `"embedded"` and not None.

    Raises TypeError and ValueError. A URL is not repeated in the message: it may hold a password.
    """
    if given is None or given == "embedded":
        return
    if not isinstance(given, str):
        check_redis_client(given, is_asyncio)
        return
    parts = urlsplit(given)
    if parts.scheme not in _SCHEMES:
        raise ValueError(
            "redis must be 'embedded', a redis://, rediss:// or unix:// URL, a client or None, got another string"
        )
    if parse_qs(parts.query).get("decode_responses", [""])[-1].lower() not in _FALSE:
        raise ValueError("redis must be a URL without decode_responses (copies are bytes), got one with it")


def check_redis_client(client: Any, is_asyncio: bool) -> None:
    """Refuses a client of the other world, and one that decodes replies."""
    name = f"{type(client).__module__}.{type(client).__qualname__}"
    wanted = "an asyncio client (redis.asyncio)" if is_asyncio else "a blocking client (redis.Redis, not redis.asyncio)"
    execute = getattr(client, "execute_command", None)
    if not callable(execute) or not callable(getattr(client, "pipeline", None)):
        raise TypeError(f"redis must be {wanted}, a URL, 'embedded' or None, got {name}")
    if is_asyncio:
        fits = not isinstance(client, _SYNC_CLIENTS)
    else:
        fits = not isinstance(client, _ASYNCIO_CLIENTS) and not inspect.iscoroutinefunction(execute)
    if not fits:
        other = "MemorySystem" if is_asyncio else "AsyncMemorySystem"
        raise TypeError(f"redis must be {wanted}, got {name}, which is for {other}")
    if _decodes(client):
        raise ValueError(f"redis must be a client with decode_responses=False (copies are bytes), got {name} with True")


def _decodes(client: Any) -> bool:
    if callable(getattr(client, "get_encoder", None)):
        return getattr(client.get_encoder(), "decode_responses", False) is True
    pool = getattr(client, "connection_pool", None)
    kwargs = getattr(pool, "connection_kwargs", None)
    return isinstance(kwargs, dict) and kwargs.get("decode_responses") is True
