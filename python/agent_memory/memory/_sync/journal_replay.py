# Generated from ../_async/journal_replay.py by tools/generate_sync.py: edit that file, not this one.

"""The way from the journal into SQL."""

from __future__ import annotations

import threading

from agent_memory._concurrency import Task, spawn
from agent_memory.memory._outcomes import holds, repeated
from agent_memory.memory._sync.indexes import Indexes
from agent_memory.memory._sync.journal import MemoryJournal
from agent_memory.memory._sync.loader import DataLoader
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.errors import MemoryStoreUnavailableError
from agent_memory.memory.reports import SyncReport
from agent_memory.memory.settings import SyncSettings

__all__ = ["JournalReplay"]


class JournalReplay:
    """Brings what the journal holds into SQL; does nothing without a journal. Any number of threads may use one object."""

    def __init__(
        self,
        sql: SqlGateway,
        journal: MemoryJournal | None,
        loader: DataLoader,
        indexes: Indexes,
        settings: SyncSettings,
    ) -> None:
        self._sql = sql
        self._journal = journal
        self._loader = loader
        self._indexes = indexes
        self._settings = settings
        self._mutex = threading.Lock()
        self._task: Task[None] | None = None

    def sync(self, report: SyncReport) -> None:
        """Brings what the journal holds into SQL."""
        journal = self._journal
        if journal is None:
            return
        try:
            while waiting := journal.oldest(self._settings.batch_entries):
                results = self._sql.write([repeated(copy) for copy in waiting])
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
                    self._indexes.forget_beaten(agent_id, ids)
        except MemoryStoreUnavailableError:
            report.remaining = True

    def run(self) -> None:
        """As `sync`, without a report."""
        self.sync(SyncReport())

    def begin(self) -> None:
        """SQL is here: what the journal holds goes there soon."""
        if not self._journal:
            return
        with self._mutex:
            if self._task is None or self._task.is_done():
                self._task = spawn(self.run, name="agent-memory-journal")

    def close(self) -> None:
        """Waits for a replay that is under way; what the journal holds stays in it."""
        if self._task is not None:
            self._task.join()
