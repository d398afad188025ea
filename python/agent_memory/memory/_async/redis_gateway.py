"""The tier in Redis with what its calls have shown: calls while it is away are answered None at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import RedisError

from agent_memory._concurrency import AsyncTask, async_spawn
from agent_memory.memory._async.redis_tier import AsyncRedisTier
from agent_memory.memory._availability import Availability
from agent_memory.memory.errors import MemoryStoreUnavailableError

__all__ = ["REDIS_ERRORS", "AsyncRedisGateway", "redis_unread"]

REOPEN_INTERVAL_S: Final = 1.0
"""Between two looks for the embedded server, while it is away."""

REDIS_ERRORS: Final = (RedisError, OSError)


class AsyncRedisGateway:
    """Calls of the tier in Redis. Any number of tasks may use one object.

    `tier` is None for a system without Redis. `on_lost` is called in the background while Redis is away, at most once in
    REOPEN_INTERVAL_S.
    """

    def __init__(self, tier: AsyncRedisTier | None, on_lost: Callable[[], Any] | None = None) -> None:
        self.tier = tier
        self.availability = Availability("Redis")
        self._on_lost = on_lost
        self._mutex = threading.Lock()
        self._finding: AsyncTask[Any] | None = None
        self._find_at = 0.0

    def is_away(self) -> bool:
        """Whether a call failed a moment ago, so that the next one is not made."""
        return self.availability.is_away()

    async def ask(self, function: Any, *args: Any, **options: Any) -> Any:
        """Calls a method of the tier; returns None where Redis is away, or there is none."""
        if self.tier is None or self.is_away():
            return None
        try:
            answer = await function(*args, **options)
        except REDIS_ERRORS as error:
            self.failed(error)
            return None
        self.availability.answered()
        return answer

    def failed(self, error: BaseException) -> None:
        """A call of the tier failed as calls to a server that is away do."""
        self.availability.failed(error)
        # The embedded server may have ended with the process that owned it: another process has to start one.
        if self._on_lost is None or time.monotonic() < self._find_at:
            return
        with self._mutex:
            if self._finding is None or self._finding.is_done():
                self._find_at = time.monotonic() + REOPEN_INTERVAL_S
                self._finding = async_spawn(self._on_lost, name="agent-memory-server")

    async def close(self) -> None:
        """Waits for a search for the server that is under way."""
        if self._finding is not None:
            await self._finding.join()


def redis_unread() -> MemoryStoreUnavailableError:
    """SQL does not have it, or not in the version that is known, and Redis cannot be asked."""
    return MemoryStoreUnavailableError("Redis is away, which alone may have this memory until SQL gets it")
