# Generated from ../_async/synchronisation.py by tools/generate_sync.py: edit that file, not this one.

"""Dirty copies go to SQL, SQL's feed to Redis, and what is due leaves Redis.

Every step is a compare and set (R5, R6): any number of processes may do the same at the same time, at the price of doing it
twice (R7).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from agent_memory._concurrency import gather, spawn
from agent_memory.memory._copy_rules import Stamp
from agent_memory.memory._outcomes import holds, repeated
from agent_memory.memory._redis_scripts import MAX_ENTRIES
from agent_memory.memory._sync.clean_copies import CleanCopies
from agent_memory.memory._sync.dirty_copies import DirtyCopies
from agent_memory.memory._sync.erasure import Eraser
from agent_memory.memory._sync.feed import Feed
from agent_memory.memory._sync.indexes import Indexes
from agent_memory.memory._sync.journal_replay import JournalReplay
from agent_memory.memory._sync.loader import DataLoader
from agent_memory.memory._sync.redis_gateway import RedisGateway
from agent_memory.memory._sync.redis_tier import BUCKETS
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.entries import Tier
from agent_memory.memory.errors import MemoryStoreUnavailableError
from agent_memory.memory.reports import SyncReport
from agent_memory.memory.settings import SyncSettings
from agent_memory.memory.stores.operations import WriteStatus

__all__ = ["Synchronisation"]

PARTS_AT_ONCE: Final = 3
"""The most parts of one bucket that are synchronised concurrently; a part has at most `SyncSettings.batch_entries` copies."""

PARTS_OF_A_LOOK: Final = 8
"""The most parts for which one look at a bucket reads ids."""


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
        tier = self._redis.tier
        assert tier is not None
        seen: set[tuple[str, str]] = set()
        size = min(self._settings.batch_entries, MAX_ENTRIES)
        while True:
            members = self._redis.ask(tier.dirty_members, bucket, limit=PARTS_OF_A_LOOK * size)
            if members is None:
                report.remaining = True
                return
            fresh = [member for member in members if member not in seen]
            if not fresh:
                report.remaining |= bool(members)
                return
            seen.update(fresh)
            by_agent: dict[str, list[str]] = {}
            for agent_id, memory_id in fresh:
                by_agent.setdefault(agent_id, []).append(memory_id)
            parts = deque(
                (agent_id, ids[start : start + size])
                for agent_id, ids in by_agent.items()
                for start in range(0, len(ids), size)
            )
            self._sync_parts(parts, report)

    def _sync_parts(self, parts: deque[tuple[str, list[str]]], report: SyncReport) -> None:
        """Brings parts into SQL, some at a time: while SQL writes one, Redis answers about others."""
        if len(parts) == 1:
            self.sync_agent(*parts.popleft(), report)
            return
        reports = [SyncReport() for _ in range(min(PARTS_AT_ONCE, len(parts)))]
        workers = [spawn(self._work_off, parts, one, name="agent-memory-sync-part") for one in reports]
        try:
            gather(*workers)
        finally:
            parts.clear()
            for one in reports:
                report.synced += one.synced
                report.beaten += one.beaten
                report.remaining |= one.remaining

    def _work_off(self, parts: deque[tuple[str, list[str]]], report: SyncReport) -> None:
        while True:
            try:
                agent_id, ids = parts.popleft()
            except IndexError:
                return
            try:
                self.sync_agent(agent_id, ids, report)
            except BaseException:
                parts.clear()  # what has stopped this one would stop the others
                raise

    def sync_agent(self, agent_id: str, ids: Sequence[str], report: SyncReport) -> None:
        """Brings dirty copies of one agent, at most MAX_ENTRIES, into SQL."""
        tier = self._redis.tier
        assert tier is not None
        epoch = self._clean.epoch_for(agent_id)
        reply = self._redis.ask(tier.read, agent_id, ids)
        if reply is None or epoch is None:
            report.remaining = True
            return
        if reply.damaged:
            self._dirty.quarantine(agent_id, reply.damaged)
        dirty = [
            copy for copy, is_dirty in zip(reply.copies, reply.dirty, strict=True) if copy is not None and is_dirty
        ]
        if not dirty:
            return
        operations = [repeated(copy) for copy in dirty]
        results = self._sql.write(operations)
        seen: list[tuple[str, Stamp, Stamp]] = []
        changed: list[str] = []
        for copy, result in zip(dirty, results, strict=True):
            self._loader.forget_absent(copy.id)
            stamp = copy.stamp
            if holds(result, copy):
                seen.append((copy.id, stamp, stamp))
                report.synced += 1
            else:
                # Beaten, deleted, erased, or standing for another memory: what SQL holds counts.
                is_gone = result.status is not WriteStatus.STALE
                version = max(result.version, copy.version + 1)
                seen.append((copy.id, stamp, Stamp(is_gone, version, 0)))
                changed.append(copy.id)
                report.beaten += 1
        for start in range(0, len(seen), MAX_ENTRIES):
            part = seen[start : start + MAX_ENTRIES]
            answer = self._redis.ask(tier.mark, agent_id, part, epoch, self._clean.residency_s(Tier.STM))
            if answer is None:
                report.remaining = True
            else:
                self._dirty.note_bytes(agent_id, answer.number)
        self._indexes.forget_beaten(agent_id, changed)

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
