"""One pass over everything that ages: tiers, expiry, erasures that were begun, tombstones, embeddings that wait, snapshots."""

from __future__ import annotations

import time

from agent_memory._concurrency import async_sleep
from agent_memory.memory._async.accesses import AsyncAccesses
from agent_memory.memory._async.embedding import AsyncEmbedding
from agent_memory.memory._async.erasure import AsyncEraser
from agent_memory.memory._async.indexes import AsyncIndexes
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._async.synchronisation import AsyncSynchronisation
from agent_memory.memory._async.tier_moves import AsyncTierMoves
from agent_memory.memory.reports import MaintenanceReport
from agent_memory.memory.settings import MaintenanceSettings

__all__ = ["AsyncMaintenance"]


class AsyncMaintenance:
    """Maintenance of one memory system. Any number of tasks may use one object."""

    def __init__(
        self,
        sql: AsyncSqlGateway,
        synchronisation: AsyncSynchronisation,
        accesses: AsyncAccesses,
        erasure: AsyncEraser,
        moves: AsyncTierMoves,
        embedding: AsyncEmbedding,
        indexes: AsyncIndexes,
        settings: MaintenanceSettings,
    ) -> None:
        self._sql = sql
        self._synchronisation = synchronisation
        self._accesses = accesses
        self._erasure = erasure
        self._moves = moves
        self._embedding = embedding
        self._indexes = indexes
        self._settings = settings

    async def run(self) -> MaintenanceReport:
        """One pass: synchronise, move memories between tiers, expire, finish erasures, purge, write snapshots."""
        report = MaintenanceReport(sync=await self._synchronisation.sync())
        store, change, pause_s = self._sql.store, self._sql.change, self._settings.pause_s
        now = time.time()
        report.accesses = await self._accesses.flush()
        report.erased += await self._erasure.finish_begun()
        while results := await change(store.expire, now, limit=self._settings.batch_entries):
            report.expired += len(results)
            await async_sleep(pause_s)
        await self._moves.run(now, report)
        horizon_us = int((now - self._settings.tombstone_ttl_s) * 1e6)
        while purged := await change(store.purge_tombstones, horizon_us):
            report.purged_tombstones += purged
            await async_sleep(pause_s)
        if report.moved["STM to LTM"] or report.moved["IM to LTM"]:
            await change(store.train_dictionary)
        report.embedded = await self._embedding.catch_up()
        report.snapshots = await self._indexes.save_snapshots()
        return report
