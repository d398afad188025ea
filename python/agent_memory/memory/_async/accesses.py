"""Statistics of use: collected in this process, written in batches, never by a read itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory.settings import MaintenanceSettings
from agent_memory.memory.stores.operations import Access

__all__ = ["AsyncAccesses"]

MAX_PENDING: Final = 10_000
"""The most memories whose use waits to be written."""

INTERVAL_S: Final = 10.0
"""Seconds between two writes of the statistics."""


class AsyncAccesses:
    """The uses of memories that wait to be written. Any number of tasks may use one object."""

    def __init__(self, sql: AsyncSqlGateway, settings: MaintenanceSettings) -> None:
        self._sql = sql
        self._settings = settings
        self._pending: dict[str, list[float]] = {}
        """Number of uses, and the time of the last one, by id."""
        self.dropped = 0

    def note(self, ids: Sequence[str]) -> None:
        """Counts a use of each id, to be written later; beyond `MAX_PENDING` ids further ones are dropped."""
        if not self._settings.counts_uses:
            return
        now = time.time()
        for memory_id in ids:
            entry = self._pending.get(memory_id)
            if entry is not None:
                entry[0] += 1
                entry[1] = now
            elif len(self._pending) < MAX_PENDING:
                self._pending[memory_id] = [1, now]
            else:
                self.dropped += 1

    async def flush(self) -> int:
        """Writes the statistics of use; returns of how many memories. What SQL does not take waits for the next time."""
        pending, self._pending = self._pending, {}
        if not pending:
            return 0
        accesses = [Access(memory_id, int(uses), last) for memory_id, (uses, last) in pending.items()]
        try:
            await self._sql.change(self._sql.store.record_accesses, accesses)
        except BaseException:
            self._take_back(pending)
            raise
        return len(pending)

    def _take_back(self, pending: dict[str, list[float]]) -> None:
        for memory_id, (uses, last) in pending.items():
            entry = self._pending.get(memory_id)
            if entry is not None:
                entry[0] += uses
                entry[1] = max(entry[1], last)
            elif len(self._pending) < MAX_PENDING:
                self._pending[memory_id] = [uses, last]
            else:
                self.dropped += int(uses)
