"""A cache backend for Django: `CACHES = {"default": {"BACKEND": "agent_memory.integrations.django.RedisCache", …}}`."""

from __future__ import annotations

import threading
from typing import Any, Final

from django.core.cache.backends.redis import RedisCache as DjangoRedisCache  # type: ignore[import-untyped]
from django.core.cache.backends.redis import RedisCacheClient as DjangoRedisCacheClient

from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis import INSTALLED_RESILIENCE, Redis

__all__ = ["RedisCache", "RedisCacheClient"]

MAX_POOLS: Final = 64
"""Bound of pools kept for the caches of this process. Beyond it the oldest is dropped; caches that have it keep it."""

_mutex: Final = threading.Lock()
_pools: Final[list[tuple[str, dict[str, Any], Any]]] = []
"""URL, options, pool. Django has a cache object for each thread, whose pools would not know of each other."""


class RedisCacheClient(DjangoRedisCacheClient):  # type: ignore[misc]  # Django is untyped
    """Django's client of a cache on `agent_memory.redis.Redis`, with one pool for each server in this process.

    `resilience` (INSTALLED_RESILIENCE: the default policy with one circuit for each server) is the `ResiliencePolicy` of its
    calls; None: no guard. All else is as for Django's. Raises ValueError for a `resilience` of another type. Thread-safe.
    """

    def __init__(
        self, servers: list[str], *, resilience: ResiliencePolicy | None = INSTALLED_RESILIENCE, **options: Any
    ) -> None:
        super().__init__(servers, **options)
        self._resilience = resilience

    def get_client(self, key: Any = None, *, write: bool = False) -> Redis[bytes]:
        """The client for a call; `key` is for subclasses that choose a server by it."""
        return Redis(connection_pool=self._get_connection_pool(write), resilience=self._resilience)

    def _get_connection_pool(self, write: bool) -> Any:
        index = self._get_connection_pool_index(write)
        if index not in self._pools:
            self._pools[index] = self._shared_pool(self._servers[index])
        return self._pools[index]

    def _shared_pool(self, url: str) -> Any:
        with _mutex:
            for known_url, options, pool in _pools:
                if known_url == url and type(pool) is self._pool_class and options == self._pool_options:
                    return pool
            pool = self._pool_class.from_url(url, **self._pool_options)
            _pools.append((url, self._pool_options, pool))
            del _pools[:-MAX_POOLS]
            return pool


class RedisCache(DjangoRedisCache):  # type: ignore[misc]
    """Django's Redis cache backend on the clients of this package.

    Takes the settings of `django.core.cache.backends.redis.RedisCache`, and `resilience` in its OPTIONS. Its calls raise
    `CircuitOpenError` (a `redis.ConnectionError`) at once while the circuit of the server is open.
    """

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = RedisCacheClient
