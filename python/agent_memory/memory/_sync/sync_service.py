# Generated from ../_async/sync_service.py by tools/generate_sync.py: edit that file, not this one.

"""What goes on in the background, between `start()` and `stop()`: synchronisation, maintenance, statistics of use."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from agent_memory._concurrency import Event, Task, spawn
from agent_memory.memory._sync.accesses import INTERVAL_S, Accesses
from agent_memory.memory._sync.maintenance import Maintenance
from agent_memory.memory._sync.redis_gateway import REDIS_ERRORS, RedisGateway
from agent_memory.memory._sync.synchronisation import Synchronisation
from agent_memory.memory.errors import MemoryStoreUnavailableError, MemorySystemError
from agent_memory.memory.settings import MemorySettings

__all__ = ["SyncService"]

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S: Final = 30.0
"""Between two looks at all buckets; in between only those are looked at in which this process has seen something."""


class SyncService:
    """Runs the background work of one memory system in the intervals of its settings.

    Any number of threads may use one service. A failed round is counted (`failures`) and repeated after the interval. A
    cancelled `stop()` does not wait for the work, which ends all the same.
    """

    def __init__(
        self,
        redis: RedisGateway,
        synchronisation: Synchronisation,
        maintenance: Maintenance,
        accesses: Accesses,
        settings: MemorySettings,
    ) -> None:
        """Made by the memory system, of the parts whose work it runs."""
        self._redis = redis
        self._synchronisation = synchronisation
        self._maintenance = maintenance
        self._accesses = accesses
        self._settings = settings
        self._stop = Event()
        self._tasks: list[Task[None]] = []
        self._swept_at = 0.0
        self.failures = 0
        """Rounds that failed, since the service was made."""

    def start(self) -> None:
        """Begins the background work; does nothing while it runs."""
        if self._tasks:
            return
        self._stop.clear()
        self._tasks = [
            spawn(self._run, self._round, self._settings.sync.interval_s, name="agent-memory-sync"),
            spawn(
                self._run, self._maintenance.run, self._settings.maintenance.interval_s, name="agent-memory-maintain"
            ),
        ]
        if self._settings.maintenance.counts_uses:
            self._tasks.append(spawn(self._run, self._accesses.flush, INTERVAL_S, name="agent-memory-accesses"))

    def stop(self) -> None:
        """Ends the background work, after the rounds that are under way; does nothing while none runs."""
        self._stop.set()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.join()

    @property
    def is_running(self) -> bool:
        """Whether work goes on in the background."""
        return bool(self._tasks)

    def _round(self) -> None:
        now = time.monotonic()
        every = now - self._swept_at >= SWEEP_INTERVAL_S or self._redis.availability.away_s is not None
        report = self._synchronisation.sync(every_bucket=every)
        if every and not report.remaining:
            self._swept_at = now

    def _run(self, work: Any, interval_s: float) -> None:
        while not self._stop.wait(interval_s):
            try:
                work()
            except (MemorySystemError, *REDIS_ERRORS) as error:
                self.failures += 1
                if not isinstance(error, MemoryStoreUnavailableError):
                    logger.warning("background work of agent memory failed: %s", type(error).__name__)
            except Exception:
                self.failures += 1
                logger.exception("background work of agent memory failed")
