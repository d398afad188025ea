"""Export and import: an agent's memories as JSON lines, and back."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final

from agent_memory._concurrency import AsyncTask, async_give_way, async_spawn
from agent_memory.memory._async.embedding import AsyncEmbedding
from agent_memory.memory._async.queries import AsyncQueries
from agent_memory.memory._async.writing import AsyncWriter
from agent_memory.memory._copy import Copy
from agent_memory.memory._copy_rules import is_expired
from agent_memory.memory._export_lines import NEEDS_NEW_ID, ImportCount, imported, renewed
from agent_memory.memory._loaded_indexes import LoadedIndexes
from agent_memory.memory.reports import ImportReport
from agent_memory.memory.stores.operations import MemoryQuery, Put

__all__ = ["AsyncTransfer"]

logger = logging.getLogger(__name__)

IMPORTED_AT_ONCE: Final = 500
"""Memories in one call of the store; as many are read while it is under way."""

READ_AT_ONCE: Final = 50
"""Lines after which others get a turn."""


class AsyncTransfer:
    """Writes and reads lines of an export. Any number of tasks may use one object."""

    def __init__(
        self, queries: AsyncQueries, writer: AsyncWriter, embedding: AsyncEmbedding, loaded: LoadedIndexes
    ) -> None:
        self._queries = queries
        self._writer = writer
        self._embedding = embedding
        self._loaded = loaded

    def pages(self, agent_id: str) -> AsyncIterator[list[Copy]]:
        """All of an agent's memories in the order of their last changes: `exported` makes a line of each."""
        return self._queries.pages(MemoryQuery(agent_id=agent_id, order_by="seq"))

    async def import_(self, lines: Iterable[str], new_ids: bool) -> ImportReport:
        """Stores what lines of an export stand for; what is skipped is counted and logged."""
        report = ImportCount()
        stored: AsyncTask[Exception | None] | None = None
        waiting: list[Put] = []
        try:
            for number, line in enumerate(lines):
                if number % READ_AT_ONCE == 0:
                    await async_give_way()
                if not line.strip():
                    continue
                copy = imported(line)
                if is_expired(copy.expires_at, time.time()):
                    report.skip("expired")
                    continue
                waiting.append(Put(copy))
                if len(waiting) >= IMPORTED_AT_ONCE:
                    await _end(stored)
                    # While SQL writes them, the next lines are read.
                    stored = async_spawn(self._tried_batch, waiting, report, new_ids, name="agent-memory-import")
                    waiting = []
        except Exception:
            if stored is not None:
                await stored.join()
            raise
        await _end(stored)
        if waiting:
            await self._import_batch(waiting, report, new_ids)
        if report.skipped:
            logger.warning("import_ skipped memories: %s", report.skipped)
        return report.report()

    async def _tried_batch(self, puts: list[Put], report: ImportCount, new_ids: bool) -> Exception | None:
        try:
            await self._import_batch(puts, report, new_ids)
        except Exception as error:  # raised by the caller, unless it has left
            return error
        return None

    async def _import_batch(self, puts: list[Put], report: ImportCount, new_ids: bool) -> None:
        again: list[Put] = []
        await self._embedding.admit([put.copy for put in puts])
        for put, written in zip(puts, await self._writer.put_many(puts), strict=True):
            if written.copy is not None:
                self._loaded.learn(written.copy)
            if new_ids and put.copy.version and written.result.status in NEEDS_NEW_ID:
                again.append(Put(renewed(put.copy, int(time.time() * 1e6), self._writer.number)))
            else:
                report.add(put.copy, written.result)
        if again:
            await self._import_batch(again, report, new_ids)


async def _end(stored: AsyncTask[Exception | None] | None) -> None:
    """Waits for a batch; raises what it met."""
    error = None if stored is None else await stored.result()
    if error is not None:
        raise error
