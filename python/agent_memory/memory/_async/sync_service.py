"""What goes on in the background, between `start()` and `stop()`: synchronisation, maintenance, statistics of use."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from agent_memory._concurrency import AsyncEvent, AsyncTask, async_spawn
from agent_memory.memory._async.accesses import INTERVAL_S, AsyncAccesses
from agent_memory.memory._async.maintenance import AsyncMaintenance
from agent_memory.memory._async.redis_gateway import REDIS_ERRORS, AsyncRedisGateway
from agent_memory.memory._async.synchronisation import AsyncSynchronisation
from agent_memory.memory.errors import MemoryStoreUnavailableError, MemorySystemError
from agent_memory.memory.settings import MemorySettings

__all__ = ["AsyncSyncService"]

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S: Final = 30.0
"""Between two looks at all buckets; in between only those are looked at in which this process has seen something."""


class AsyncSyncService:
    """Runs the background work of one memory system in the intervals of its settings.

    Any number of tasks may use one service. A failed round is counted (`failures`) and repeated after the interval. A
    cancelled `stop()` does not wait for the work, which ends all the same.
    """

    def __init__(
        self,
        redis: AsyncRedisGateway,
        synchronisation: AsyncSynchronisation,
        maintenance: AsyncMaintenance,
        accesses: AsyncAccesses,
        settings: MemorySettings,
    ) -> None:
        """Made by the memory system, of the parts whose work it runs."""
        self._redis = redis
        self._synchronisation = synchronisation
        self._maintenance = maintenance
        self._accesses = accesses
        self._settings = settings
        self._stop = AsyncEvent()
        self._tasks: list[AsyncTask[None]] = []
        self._swept_at = 0.0
        self.failures = 0
        """Rounds that failed, since the service was made."""

    async def start(self) -> None:
        """Begins the background work; does nothing while it runs."""
        if self._tasks:
            return
        self._stop.clear()
        self._tasks = [
            async_spawn(self._run, self._round, self._settings.sync.interval_s, name="agent-memory-sync"),
            async_spawn(
                self._run, self._maintenance.run, self._settings.maintenance.interval_s, name="agent-memory-maintain"
            ),
        ]
        if self._settings.maintenance.counts_uses:
            self._tasks.append(async_spawn(self._run, self._accesses.flush, INTERVAL_S, name="agent-memory-accesses"))

    async def stop(self) -> None:
        """Ends the background work, after the rounds that are under way; does nothing while none runs."""
        self._stop.set()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await task.join()

    @property
    def is_running(self) -> bool:
        """Whether work goes on in the background."""
        return bool(self._tasks)

    async def _round(self) -> None:
        now = time.monotonic()
        every = now - self._swept_at >= SWEEP_INTERVAL_S or self._redis.availability.away_s is not None
        report = await self._synchronisation.sync(every_bucket=every)
        if every and not report.remaining:
            self._swept_at = now

    async def _run(self, work: Any, interval_s: float) -> None:
        while not await self._stop.wait(interval_s):
            try:
                await work()
            except (MemorySystemError, *REDIS_ERRORS) as error:
                self.failures += 1
                if not isinstance(error, MemoryStoreUnavailableError):
                    logger.warning("background work of agent memory failed: %s", type(error).__name__)
            except Exception:
                self.failures += 1
                logger.exception("background work of agent memory failed")
