"""`install()`: this package's clients under redis-py's names, for a process whose frameworks make their clients themselves."""

from __future__ import annotations

import threading
from typing import Any, Final

import redis
import redis.asyncio
import redis.asyncio.client
import redis.asyncio.sentinel
import redis.client
import redis.sentinel

from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis import asyncio as ours_asyncio
from agent_memory.redis import client as ours
from agent_memory.redis import sentinel as ours_sentinel
from agent_memory.redis.asyncio import sentinel as ours_asyncio_sentinel
from agent_memory.redis.client_arguments import check_guarding
from agent_memory.redis.default_policy import choose_default
from agent_memory.redis.originals import AsyncRedisPy, AsyncRedisPySentinel, RedisPy, RedisPySentinel

__all__ = ["INSTALLED_RESILIENCE", "install", "is_installed", "uninstall"]

INSTALLED_RESILIENCE: Final = ResiliencePolicy(circuit_scope="endpoint")
"""The policy of `install()`: the default one, with one circuit for each server."""

_REPLACED: Final[tuple[tuple[Any, str, type, type], ...]] = (
    *((module, name, RedisPy, ours.Redis) for module in (redis, redis.client) for name in ("Redis", "StrictRedis")),
    *(
        (module, name, AsyncRedisPy, ours_asyncio.Redis)
        for module in (redis.asyncio, redis.asyncio.client)
        for name in ("Redis", "StrictRedis")
    ),
    *((module, "Sentinel", RedisPySentinel, ours_sentinel.Sentinel) for module in (redis, redis.sentinel)),
    *(
        (module, "Sentinel", AsyncRedisPySentinel, ours_asyncio_sentinel.Sentinel)
        for module in (redis.asyncio, redis.asyncio.sentinel)
    ),
)
"""Module, name, redis-py's class, ours. `from_url` of `redis` and `redis.asyncio` looks the class up by these names."""

_mutex: Final = threading.Lock()


def install(*, resilience: ResiliencePolicy | None = INSTALLED_RESILIENCE) -> None:
    """Put this package's clients under redis-py's names, for the whole process, until `uninstall()`.

    `redis.Redis`, `redis.StrictRedis`, `redis.Sentinel`, `redis.from_url`, the same of `redis.asyncio`, and these classes in
    `redis.client`, `redis.sentinel` and their asyncio twins. Call it before the modules that use redis-py are imported:
    `from redis import Redis` copies the name as it is at that moment. Clients that exist already are left as they are.

    A name under which something else stands (a mock, another library's class) is left to it. Cluster clients, pools,
    connections, `Pipeline` and `PubSub` keep redis-py's names; clients made here give their own pipelines and subscribers.

    `resilience` (INSTALLED_RESILIENCE: the default policy with one circuit for each server) is that of every drop-in client
    that is made without `resilience=` from now on; None: no guard.

    Calling it again sets `resilience` again and replaces names that were put back meanwhile. Raises ValueError for a
    `resilience` of another type. Thread-safe.
    """
    check_guarding(resilience)
    with _mutex:
        choose_default(resilience)
        for module, name, theirs, replacement in _REPLACED:
            if getattr(module, name) is theirs:
                setattr(module, name, replacement)


def uninstall() -> None:
    """Put redis-py's classes back under their names, and the default policy back; without `install()` it does nothing.

    Clients that were made meanwhile stay what they are. A name under which something else stands by now is left to it.
    Thread-safe.
    """
    with _mutex:
        choose_default(DEFAULT_RESILIENCE)
        for module, name, theirs, replacement in _REPLACED:
            if getattr(module, name) is replacement:
                setattr(module, name, theirs)


def is_installed() -> bool:
    """Whether `redis.Redis` and `redis.asyncio.Redis` are this package's classes now."""
    return redis.Redis is ours.Redis and redis.asyncio.Redis is ours_asyncio.Redis
