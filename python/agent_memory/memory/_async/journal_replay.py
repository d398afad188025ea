"""The way from the journal into SQL."""

from __future__ import annotations

import threading

from agent_memory._concurrency import AsyncTask, async_spawn
from agent_memory.memory._async.indexes import AsyncIndexes
from agent_memory.memory._async.journal import AsyncMemoryJournal
from agent_memory.memory._async.loader import AsyncDataLoader
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._outcomes import holds, repeated
from agent_memory.memory.errors import MemoryStoreUnavailableError
from agent_memory.memory.reports import SyncReport
from agent_memory.memory.settings import SyncSettings

__all__ = ["AsyncJournalReplay"]


class AsyncJournalReplay:
    """Brings what the journal holds into SQL; does nothing without a journal. Any number of tasks may use one object."""

    def __init__(
        self,
        sql: AsyncSqlGateway,
        journal: AsyncMemoryJournal | None,
        loader: AsyncDataLoader,
        indexes: AsyncIndexes,
        settings: SyncSettings,
    ) -> None:
        self._sql = sql
        self._journal = journal
        self._loader = loader
        self._indexes = indexes
        self._settings = settings
        self._mutex = threading.Lock()
        self._task: AsyncTask[None] | None = None

    async def sync(self, report: SyncReport) -> None:
        """Brings what the journal holds into SQL."""
        journal = self._journal
        if journal is None:
            return
        try:
            while waiting := journal.oldest(self._settings.batch_entries):
                results = await self._sql.write([repeated(copy) for copy in waiting])
                changed: dict[str, list[str]] = {}
                for copy, result in zip(waiting, results, strict=True):
                    self._loader.forget_absent(copy.id)
                    if holds(result, copy):
                        report.synced += 1
                    else:
                        changed.setdefault(copy.agent_id, []).append(copy.id)
                        report.beaten += 1
                journal.settle(waiting)
                for agent_id, ids in changed.items():
                    await self._indexes.forget_beaten(agent_id, ids)
        except MemoryStoreUnavailableError:
            report.remaining = True

    async def run(self) -> None:
        """As `sync`, without a report."""
        await self.sync(SyncReport())

    def begin(self) -> None:
        """SQL is here: what the journal holds goes there soon."""
        if not self._journal:
            return
        with self._mutex:
            if self._task is None or self._task.is_done():
                self._task = async_spawn(self.run, name="agent-memory-journal")

    async def close(self) -> None:
        """Waits for a replay that is under way; what the journal holds stays in it."""
        if self._task is not None:
            await self._task.join()
