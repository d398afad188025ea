# Generated from ../_async/synchronisation.py by tools/generate_sync.py: edit that file, not this one.

"""Dirty copies go to SQL, SQL's feed to Redis, and what is due leaves Redis.

Every step is a compare and set (R5, R6): any number of processes may do the same at the same time, at the price of doing it
twice (R7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent_memory._concurrency import Event, gather, spawn
from agent_memory.memory._copy_rules import Stamp
from agent_memory.memory._outcomes import holds, repeated
from agent_memory.memory._redis_scripts import MAX_ENTRIES
from agent_memory.memory._sync.clean_copies import CleanCopies
from agent_memory.memory._sync.dirty_copies import DirtyCopies
from agent_memory.memory._sync.dirty_parts import DirtyPart, DirtyParts, Turn
from agent_memory.memory._sync.erasure import Eraser
from agent_memory.memory._sync.feed import Feed
from agent_memory.memory._sync.indexes import Indexes
from agent_memory.memory._sync.journal_replay import JournalReplay
from agent_memory.memory._sync.loader import DataLoader
from agent_memory.memory._sync.redis_gateway import RedisGateway
from agent_memory.memory._sync.redis_tier import BUCKETS, DirtyReply, Synced
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.entries import Tier
from agent_memory.memory.errors import MemoryStoreUnavailableError
from agent_memory.memory.reports import SyncReport
from agent_memory.memory.settings import SyncSettings
from agent_memory.memory.stores.operations import WriteResult, WriteStatus

__all__ = ["Synchronisation"]

PARTS_AT_ONCE: Final = 4
"""The most parts of one bucket that are synchronised concurrently; a part has at most `SyncSettings.batch_entries` copies."""


class Synchronisation:
    """Brings SQL and Redis together. Any number of threads may use one object."""

    def __init__(
        self,
        sql: SqlGateway,
        redis: RedisGateway,
        clean: CleanCopies,
        dirty: DirtyCopies,
        loader: DataLoader,
        indexes: Indexes,
        replay: JournalReplay,
        feed: Feed,
        erasure: Eraser,
        settings: SyncSettings,
    ) -> None:
        self._sql = sql
        self._redis = redis
        self._clean = clean
        self._dirty = dirty
        self._loader = loader
        self._indexes = indexes
        self._replay = replay
        self._feed = feed
        self._erasure = erasure
        self._settings = settings
        self._buckets: set[int] = set()
        """Those in which the last round has seen something."""
        self.dirty_entries = 0
        self.rounds = 0

    def sync(self, *, every_bucket: bool = True) -> SyncReport:
        """Brings dirty copies into SQL, lets Redis follow SQL's feed, and evicts what is due."""
        report = SyncReport()
        self._replay.sync(report)
        if self._redis.tier is None:
            return report
        self.rounds += 1
        buckets = list(range(BUCKETS)) if every_bucket else sorted(self._buckets.union(self._dirty.buckets()))
        sizes = self._redis.ask(self._redis.tier.sizes, buckets)
        if sizes is None:
            report.remaining = True
            return report
        self._erasure.pay_redis()
        now_us = self._redis.tier.now_us()
        busy = [(bucket, size) for bucket, size in zip(buckets, sizes, strict=True) if size[0] or size[2]]
        self._buckets = {bucket for bucket, _ in busy}
        self._dirty.note_sizes({bucket: size[1] for bucket, size in zip(buckets, sizes, strict=True)})
        self.dirty_entries = sum(size[0] for _, size in busy)
        try:
            self._feed.follow_agents(report)
            for bucket, (dirty, _, _) in busy:
                if dirty:
                    self._sync_bucket(bucket, report)
        except MemoryStoreUnavailableError:
            report.remaining = True
        for bucket, (_, _, clean) in busy:
            if clean:
                self._evict_bucket(bucket, now_us, report)
        return report

    def _sync_bucket(self, bucket: int, report: SyncReport) -> None:
        tier = self._redis.tier
        assert tier is not None
        self._sync_members(bucket, report)
        # Parts end in any order: which of their answers about the bytes came last says nothing.
        sizes = self._redis.ask(tier.sizes, [bucket])
        if sizes is not None:
            self._dirty.note_sizes({bucket: sizes[0][1]})

    def _sync_members(self, bucket: int, report: SyncReport) -> None:
        parts = DirtyParts(self._redis, bucket, min(self._settings.batch_entries, MAX_ENTRIES))
        while parts.look():
            if len(parts) == 1:
                self._work_off(parts, report)
            else:
                self._work_together(parts, report)
        report.remaining |= parts.are_left

    def _work_together(self, parts: DirtyParts, report: SyncReport) -> None:
        """Brings parts into SQL, some at a time: while SQL writes one, Redis answers about others."""
        reports = [SyncReport() for _ in range(min(PARTS_AT_ONCE, len(parts)))]
        workers = [spawn(self._work_off, parts, one, name="agent-memory-sync-part") for one in reports]
        try:
            gather(*workers)
        finally:
            parts.stop()
            for one in reports:
                report.synced += one.synced
                report.beaten += one.beaten
                report.remaining |= one.remaining

    def _work_off(self, parts: DirtyParts, report: SyncReport) -> None:
        while (part := parts.take()) is not None:
            try:
                self._sync_part(part, report)
            except BaseException:
                parts.stop()  # what has stopped this one would stop the others
                raise
            finally:
                parts.finish(part)

    def sync_agent(self, agent_id: str, ids: list[str], report: SyncReport) -> None:
        """Brings dirty copies of one agent, at most MAX_ENTRIES, into SQL."""
        self._sync_part(DirtyPart(agent_id, ids, Turn(Event(), Event()), None), report)

    def _sync_part(self, part: DirtyPart, report: SyncReport) -> None:
        """Reads dirty copies from Redis, writes them to SQL, and marks them in Redis.

        Parts that are marked in the order of SQL's feed are known to Redis: it need not follow the feed there.
        """
        agent_id, ids, turn, before = part
        tier = self._redis.tier
        assert tier is not None
        epoch = self._clean.epoch_for(agent_id)
        reply = self._redis.ask(tier.read_dirty, agent_id, ids)
        if reply is None or epoch is None:
            report.remaining = True
            return
        if reply.damaged:
            self._dirty.quarantine(agent_id, reply.damaged)
        if not reply.copies:
            return
        operations = [repeated(copy) for copy in reply.copies]
        if before is not None:
            before.written.wait()
        turn.written.set()
        results = self._sql.write(operations)
        if before is not None:
            before.done.wait()
        self._mark(agent_id, reply, results, epoch, report)

    def _mark(
        self, agent_id: str, read: DirtyReply, results: Sequence[WriteResult], epoch: str, report: SyncReport
    ) -> None:
        tier = self._redis.tier
        assert tier is not None
        dirty = read.copies
        greater: dict[int, Stamp] = {}
        seqs: list[int] = []
        for at, (copy, result) in enumerate(zip(dirty, results, strict=True)):
            self._loader.forget_absent(copy.id)
            if not holds(result, copy):
                # Beaten, deleted, erased, or standing for another memory: what SQL holds counts.
                is_gone = result.status is not WriteStatus.STALE
                greater[at] = Stamp(is_gone, max(result.version, copy.version + 1), 0)
            elif result.seq and result.id == copy.id:
                seqs.append(result.seq)
        report.synced += len(dirty) - len(greater)
        report.beaten += len(greater)
        synced = Synced([copy.id for copy in dirty], read.orders, greater, seqs)
        answer = self._redis.ask(tier.mark, agent_id, synced, epoch, self._clean.residency_s(Tier.STM))
        if answer is None:
            report.remaining = True
        else:
            self._dirty.note_bytes(agent_id, answer.number)
        self._indexes.forget_beaten(agent_id, [dirty[at].id for at in greater])

    def _evict_bucket(self, bucket: int, now_us: int, report: SyncReport) -> None:
        tier = self._redis.tier
        assert tier is not None
        while members := self._redis.ask(tier.due_members, bucket, now_us):
            by_agent: dict[str, list[str]] = {}
            for agent_id, memory_id in members:
                by_agent.setdefault(agent_id, []).append(memory_id)
            evicted = 0
            for agent_id, ids in by_agent.items():
                answer = self._redis.ask(tier.evict, agent_id, ids, now_us)
                evicted += 0 if answer is None else answer.letters.count("o")
            report.evicted += evicted
            if not evicted:
                return
