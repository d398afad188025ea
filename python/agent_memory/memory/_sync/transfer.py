# Generated from ../_async/transfer.py by tools/generate_sync.py: edit that file, not this one.

"""Export and import: an agent's memories as JSON lines, and back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Final

from agent_memory._concurrency import Task, give_way, spawn
from agent_memory.memory._copy import Copy
from agent_memory.memory._copy_rules import is_expired
from agent_memory.memory._export_lines import NEEDS_NEW_ID, ImportCount, imported, renewed
from agent_memory.memory._loaded_indexes import LoadedIndexes
from agent_memory.memory._sync.embedding import Embedding
from agent_memory.memory._sync.queries import Queries
from agent_memory.memory._sync.writing import Writer
from agent_memory.memory.reports import ImportReport
from agent_memory.memory.stores.operations import MemoryQuery, Put

__all__ = ["Transfer"]

logger = logging.getLogger(__name__)

IMPORTED_AT_ONCE: Final = 500
"""Memories in one call of the store; as many are read while it is under way."""

READ_AT_ONCE: Final = 50
"""Lines after which others get a turn."""


class Transfer:
    """Writes and reads lines of an export. Any number of threads may use one object."""

    def __init__(self, queries: Queries, writer: Writer, embedding: Embedding, loaded: LoadedIndexes) -> None:
        self._queries = queries
        self._writer = writer
        self._embedding = embedding
        self._loaded = loaded

    def pages(self, agent_id: str) -> Iterator[list[Copy]]:
        """All of an agent's memories in the order of their last changes: `exported` makes a line of each."""
        return self._queries.pages(MemoryQuery(agent_id=agent_id, order_by="seq"))

    def import_(self, lines: Iterable[str], new_ids: bool) -> ImportReport:
        """Stores what lines of an export stand for; what is skipped is counted and logged."""
        report = ImportCount()
        stored: Task[Exception | None] | None = None
        waiting: list[Put] = []
        try:
            for number, line in enumerate(lines):
                if number % READ_AT_ONCE == 0:
                    give_way()
                if not line.strip():
                    continue
                copy = imported(line)
                if is_expired(copy.expires_at, time.time()):
                    report.skip("expired")
                    continue
                waiting.append(Put(copy))
                if len(waiting) >= IMPORTED_AT_ONCE:
                    _end(stored)
                    # While SQL writes them, the next lines are read.
                    stored = spawn(self._tried_batch, waiting, report, new_ids, name="agent-memory-import")
                    waiting = []
        except Exception:
            if stored is not None:
                stored.join()
            raise
        _end(stored)
        if waiting:
            self._import_batch(waiting, report, new_ids)
        if report.skipped:
            logger.warning("import_ skipped memories: %s", report.skipped)
        return report.report()

    def _tried_batch(self, puts: list[Put], report: ImportCount, new_ids: bool) -> Exception | None:
        try:
            self._import_batch(puts, report, new_ids)
        except Exception as error:  # raised by the caller, unless it has left
            return error
        return None

    def _import_batch(self, puts: list[Put], report: ImportCount, new_ids: bool) -> None:
        again: list[Put] = []
        self._embedding.admit([put.copy for put in puts])
        for put, written in zip(puts, self._writer.put_many(puts), strict=True):
            if written.copy is not None:
                self._loaded.learn(written.copy)
            if new_ids and put.copy.version and written.result.status in NEEDS_NEW_ID:
                again.append(Put(renewed(put.copy, int(time.time() * 1e6), self._writer.number)))
            else:
                report.add(put.copy, written.result)
        if again:
            self._import_batch(again, report, new_ids)


def _end(stored: Task[Exception | None] | None) -> None:
    """Waits for a batch; raises what it met."""
    error = None if stored is None else stored.result()
    if error is not None:
        raise error
