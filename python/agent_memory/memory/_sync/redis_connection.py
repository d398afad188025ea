# Generated from ../_async/redis_connection.py by tools/generate_sync.py: edit that file, not this one.

"""The client of a memory system: the caller's, one of a URL, or one of the embedded server in the system's folder."""

from __future__ import annotations

import logging
from typing import Any

from agent_memory._concurrency import in_thread
from agent_memory.embedded import ServerError, ServerInUseError
from agent_memory.memory._directory import MemoryDirectory
from agent_memory.memory._sync.redis_tier import RedisTier
from agent_memory.memory.errors import MemorySystemError
from agent_memory.redis import Redis

__all__ = ["RedisConnection"]

logger = logging.getLogger(__name__)


class RedisConnection:
    """One opening of the tier in Redis. `redis`: a client, a URL, `"embedded"`, or None for no Redis."""

    def __init__(self, redis: Any, directory: MemoryDirectory) -> None:
        self._redis = redis
        self._directory = directory
        self._tier: RedisTier | None = None
        self._server_kwargs: dict[str, Any] = {}

    def open(self) -> RedisTier | None:
        """The tier; None where there is no Redis. A client is made, but sends nothing yet."""
        redis = self._redis
        if redis is None:
            return None
        if redis == "embedded":
            try:
                self._server_kwargs = in_thread(self._directory.open_server)
            except ServerInUseError as error:
                # Another process holds the folder and its server does not answer: the next call that misses it looks again.
                logger.warning("no embedded server yet, going on without Redis: %s", error)
                self._server_kwargs = self._directory.nowhere
            client = Redis(**self._server_kwargs)
        else:
            client = Redis.from_url(redis) if isinstance(redis, str) else redis
        self._tier = RedisTier(client)
        return self._tier

    def find_server(self) -> None:
        """Starts the embedded server again, or the one of an owner that has gone, or attaches to a new owner's."""
        try:
            kwargs = in_thread(self._directory.open_server, 0.0)
        except (MemorySystemError, ServerError, OSError) as error:
            logger.warning("the embedded server is away, and no other was found or started: %s", type(error).__name__)
            return
        tier = self._tier
        if kwargs == self._server_kwargs or tier is None:
            return
        self._server_kwargs = kwargs
        before, tier.client = tier.client, Redis(**kwargs)
        before.close()

    def close(self) -> None:
        """Closes the client, unless it is the caller's, and the embedded server, where this process owns it."""
        tier, self._tier = self._tier, None
        if tier is not None and isinstance(self._redis, str):
            tier.client.close()
        in_thread(self._directory.close)
