# Generated from ../_async/maintenance.py by tools/generate_sync.py: edit that file, not this one.

"""One pass over everything that ages: tiers, expiry, erasures that were begun, tombstones, embeddings that wait, snapshots."""

from __future__ import annotations

import time

from agent_memory._concurrency import sleep
from agent_memory.memory._sync.accesses import Accesses
from agent_memory.memory._sync.embedding import Embedding
from agent_memory.memory._sync.erasure import Eraser
from agent_memory.memory._sync.indexes import Indexes
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory._sync.synchronisation import Synchronisation
from agent_memory.memory._sync.tier_moves import TierMoves
from agent_memory.memory.reports import MaintenanceReport
from agent_memory.memory.settings import MaintenanceSettings

__all__ = ["Maintenance"]


class Maintenance:
    """Maintenance of one memory system. Any number of threads may use one object."""

    def __init__(
        self,
        sql: SqlGateway,
        synchronisation: Synchronisation,
        accesses: Accesses,
        erasure: Eraser,
        moves: TierMoves,
        embedding: Embedding,
        indexes: Indexes,
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

    def run(self) -> MaintenanceReport:
        """One pass: synchronise, move memories between tiers, expire, finish erasures, purge, write snapshots."""
        report = MaintenanceReport(sync=self._synchronisation.sync())
        store, change, pause_s = self._sql.store, self._sql.change, self._settings.pause_s
        now = time.time()
        report.accesses = self._accesses.flush()
        report.erased += self._erasure.finish_begun()
        while results := change(store.expire, now, limit=self._settings.batch_entries):
            report.expired += len(results)
            sleep(pause_s)
        self._moves.run(now, report)
        horizon_us = int((now - self._settings.tombstone_ttl_s) * 1e6)
        while purged := change(store.purge_tombstones, horizon_us):
            report.purged_tombstones += purged
            sleep(pause_s)
        if report.moved["STM to LTM"] or report.moved["IM to LTM"]:
            change(store.train_dictionary)
        report.embedded = self._embedding.catch_up()
        report.snapshots = self._indexes.save_snapshots()
        return report
