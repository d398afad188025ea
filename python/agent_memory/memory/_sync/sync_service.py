# Generated from ../_async/sync_service.py by tools/generate_sync.py: edit that file, not this one.

"""What goes on in the background: dirty copies to SQL, the change feed to Redis, memories from tier to tier.

`SyncService` does each of these once when asked (`sync`, `follow`, `evict`, `maintain`), and all of them in their
intervals between `start()` and `stop()`. Every step is a compare and set (R5, R6): any number of processes may do the same
at the same time, at the price of doing it twice (R7).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agent_memory._concurrency import (
    Event,
    KeyedLocks,
    Task,
    give_way,
    in_thread,
    sleep,
    spawn,
)
from agent_memory.memory._copy import Copy
from agent_memory.memory._copy_rules import Stamp
from agent_memory.memory._directory import MemoryDirectory
from agent_memory.memory._redis_scripts import MAX_ENTRIES
from agent_memory.memory._sync.copies import REDIS_ERRORS, Copies
from agent_memory.memory._sync.indexes import Indexes
from agent_memory.memory._sync.redis_tier import BUCKETS, DamagedCopy
from agent_memory.memory.entries import Tier
from agent_memory.memory.errors import MemoryStoreUnavailableError, MemorySystemError
from agent_memory.memory.reports import MaintenanceReport, SyncReport
from agent_memory.memory.stores.operations import (
    Access,
    Candidate,
    Delete,
    Erasure,
    Move,
    Put,
    WriteResult,
    WriteStatus,
)

__all__ = ["SyncService"]

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S: Final = 30.0
"""Between two looks at all buckets; in between only those are looked at in which this process has seen something."""

MAX_CANDIDATES: Final = 10_000
"""Memories that are looked up at a time to be moved in batches: finding those of one agent sorts all of its tier."""

TURN_ENTRIES: Final = 32
"""Memories that a background pass handles without letting callers in between."""

Moved = dict[Tier, dict[str, list[str]]]
"""Ids by new tier and agent."""


class SyncService:
    """Synchronisation and maintenance of one memory system. Any number of threads may call it."""

    def __init__(
        self, copies: Copies, indexes: Indexes, directory: MemoryDirectory, *, owns_server: bool = False
    ) -> None:
        self._copies = copies
        self._directory = directory
        self._owns_server = owns_server
        self.on_maintenance: Callable[[], Any] | None = None
        self._owed_redis: dict[str, str] = {}
        self._traces = self._scrubbed = 0
        """How often something has left traces in files, and up to which of these they are gone."""
        self._scrubbing = KeyedLocks()
        self._indexes = indexes
        self._settings = copies.settings
        self._stop = Event()
        self._tasks: list[Task[None]] = []
        self._buckets: set[int] = set()
        self._swept_at = 0.0
        self._touched_us = 0
        self._accesses: dict[str, list[float]] = {}
        self.dropped_accesses = 0
        self.dirty_entries = 0
        self.rounds = 0
        self.failures = 0

    # --- use of memories ---

    def note_accesses(self, ids: Sequence[str]) -> None:
        """Counts a use of each id, to be written later; beyond `max_pending` ids further ones are dropped."""
        settings = self._settings.accesses
        if not settings.enabled:
            return
        now = time.time()
        for memory_id in ids:
            entry = self._accesses.get(memory_id)
            if entry is not None:
                entry[0] += 1
                entry[1] = now
            elif len(self._accesses) < settings.max_pending:
                self._accesses[memory_id] = [1, now]
            else:
                self.dropped_accesses += 1

    def flush_accesses(self) -> int:
        """Writes the statistics of use; returns of how many memories. What SQL does not take waits for the next time."""
        pending, self._accesses = self._accesses, {}
        if not pending:
            return 0
        accesses = [Access(memory_id, int(uses), last) for memory_id, (uses, last) in pending.items()]
        try:
            self._copies.change_sql(self._copies.store.record_accesses, accesses)
        except BaseException:
            self._take_back(pending)
            raise
        return len(pending)

    def _take_back(self, pending: dict[str, list[float]]) -> None:
        for memory_id, (uses, last) in pending.items():
            entry = self._accesses.get(memory_id)
            if entry is not None:
                entry[0] += uses
                entry[1] = max(entry[1], last)
            elif len(self._accesses) < self._settings.accesses.max_pending:
                self._accesses[memory_id] = [uses, last]
            else:
                self.dropped_accesses += int(uses)

    # --- dirty copies, the feed, residency ---

    def sync(self, *, every_bucket: bool = True) -> SyncReport:
        """Brings dirty copies into SQL, lets Redis follow SQL's feed, and evicts what is due."""
        report = SyncReport()
        copies = self._copies
        self.sync_journal(report)
        if copies.tier is None:
            return report
        self.rounds += 1
        buckets = list(range(BUCKETS)) if every_bucket else sorted(self._buckets.union(copies.dirty_buckets()))
        sizes = copies.ask_redis(copies.tier.sizes, buckets)
        if sizes is None:
            report.remaining = True
            return report
        self._pay_redis()
        now_us = copies.tier.now_us()
        busy = [(bucket, size) for bucket, size in zip(buckets, sizes, strict=True) if size[0] or size[2]]
        self._buckets = {bucket for bucket, _ in busy}
        copies.note_sizes({bucket: size[1] for bucket, size in zip(buckets, sizes, strict=True)})
        self.dirty_entries = sum(size[0] for _, size in busy)
        try:
            self._follow_agents(report)
            for bucket, (dirty, _, _) in busy:
                if dirty:
                    self._sync_bucket(bucket, report)
        except MemoryStoreUnavailableError:
            report.remaining = True
        for bucket, (_, _, clean) in busy:
            if clean:
                self._evict_bucket(bucket, now_us, report)
        return report

    def sync_journal(self, report: SyncReport) -> None:
        """Brings what the journal holds into SQL."""
        copies, journal = self._copies, self._copies.journal
        if journal is None:
            return
        try:
            while waiting := journal.oldest(self._settings.sync.batch_entries):
                results = copies.write_sql([_absolute(copy) for copy in waiting])
                changed: dict[str, list[str]] = {}
                for copy, result in zip(waiting, results, strict=True):
                    copies.loader.forget_absent(copy.id)
                    if _holds(result, copy):
                        report.synced += 1
                    else:
                        changed.setdefault(copy.agent_id, []).append(copy.id)
                        report.beaten += 1
                journal.settle(waiting)
                for agent_id, ids in changed.items():
                    self._forget_beaten(agent_id, ids)
        except MemoryStoreUnavailableError:
            report.remaining = True

    def replay(self) -> None:
        """As `sync_journal`, where nobody asks for a report."""
        self.sync_journal(SyncReport())

    def _forget_beaten(self, agent_id: str, ids: Sequence[str]) -> None:
        """What SQL holds counts: the index learns it."""
        index = self._indexes.peek(agent_id)
        if index is not None:
            for memory_id in ids:
                index.forget_dirty(memory_id)
            self._indexes.refresh(agent_id, index)

    def _sync_bucket(self, bucket: int, report: SyncReport) -> None:
        copies = self._copies
        tier = copies.tier
        assert tier is not None
        seen: set[tuple[str, str]] = set()
        while True:
            members = copies.ask_redis(tier.dirty_members, bucket, limit=self._settings.sync.batch_entries)
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
            for agent_id, ids in by_agent.items():
                for start in range(0, len(ids), MAX_ENTRIES):
                    self.sync_agent(agent_id, ids[start : start + MAX_ENTRIES], report)

    def sync_agent(self, agent_id: str, ids: Sequence[str], report: SyncReport) -> None:
        """Brings dirty copies of one agent, at most MAX_ENTRIES, into SQL."""
        copies = self._copies
        tier = copies.tier
        assert tier is not None
        epoch = copies.epoch_for(agent_id)
        reply = copies.ask_redis(tier.read, agent_id, ids)
        if reply is None or epoch is None:
            report.remaining = True
            return
        if reply.damaged:
            self.quarantine(agent_id, reply.damaged)
        dirty = [
            copy for copy, is_dirty in zip(reply.copies, reply.dirty, strict=True) if copy is not None and is_dirty
        ]
        if not dirty:
            return
        operations = [_absolute(copy) for copy in dirty]
        results = copies.write_sql(operations)
        seen: list[tuple[str, Stamp, Stamp]] = []
        changed: list[str] = []
        for copy, result in zip(dirty, results, strict=True):
            copies.loader.forget_absent(copy.id)
            if _holds(result, copy):
                seen.append((copy.id, copy.stamp, copy.stamp))
                report.synced += 1
            else:
                # Beaten, deleted, erased, or standing for another memory: what SQL holds counts.
                is_gone = result.status is not WriteStatus.STALE
                version = max(result.version, copy.version + 1)
                seen.append((copy.id, copy.stamp, Stamp(is_gone, version, 0)))
                changed.append(copy.id)
                report.beaten += 1
        for start in range(0, len(seen), MAX_ENTRIES):
            part = seen[start : start + MAX_ENTRIES]
            answer = copies.ask_redis(tier.mark, agent_id, part, epoch, copies.residency_s(Tier.STM))
            if answer is None:
                report.remaining = True
            else:
                copies.note_dirty(agent_id, answer.number)
        self._forget_beaten(agent_id, changed)

    def quarantine(self, agent_id: str, damaged: Mapping[str, DamagedCopy]) -> int:
        """Takes damaged copies of Redis, which SQL need not have, out of the way of synchronisation. They stay there."""
        copies = self._copies
        assert copies.tier is not None
        for memory_id in damaged:
            copies.damage.note(memory_id, "Redis")
        return copies.ask_redis(copies.tier.quarantine, agent_id, damaged) or 0

    def _follow_agents(self, report: SyncReport) -> None:
        """Lets Redis follow the feeds of agents that were touched since the last round."""
        copies = self._copies
        while True:
            # Commits may become visible a little out of order: the overlap covers that.
            states = copies.ask_sql(
                copies.store.agents, touched_after_us=max(0, self._touched_us - 1_000_000), limit=1_000
            )
            for state in states:
                if state.touched_us + 2_000_000 >= self._touched_us:
                    self.follow(state.agent_id, report)
            newest = max((state.touched_us for state in states), default=0)
            if len(states) < 1_000 or newest <= self._touched_us:
                self._touched_us = max(newest, self._touched_us)
                return
            self._touched_us = newest

    def follow(self, agent_id: str, report: SyncReport) -> None:
        """Lets Redis follow one agent's feed."""
        copies = self._copies
        tier = copies.tier
        if tier is None:
            return
        epoch = copies.epoch_for(agent_id)
        state = None if epoch is None else copies.ask_redis(tier.read, agent_id, ())
        if state is None or epoch is None or state.epoch != epoch:
            return
        cursor = state.cursor
        while True:
            page = copies.ask_sql(copies.store.changes, agent_id, cursor, limit=MAX_ENTRIES, vectors=False)
            for memory_id in page.damaged:
                copies.damage.note(memory_id, "SQL")
            if page.reset and cursor:
                # Rows have been purged that Redis has not been told about: its copies of this agent all go.
                copies.ask_redis(tier.erase_clean, agent_id)
                return
            if page.copies:
                stamps = [(copy.id, copy.stamp) for copy in page.copies]
                answer = copies.ask_redis(tier.follow, agent_id, stamps, page.seq, epoch)
                if answer is None or "e" in answer.letters:
                    return
                report.followed += len(stamps)
            cursor = page.seq
            if not page.more:
                return

    def _evict_bucket(self, bucket: int, now_us: int, report: SyncReport) -> None:
        copies = self._copies
        tier = copies.tier
        assert tier is not None
        while members := copies.ask_redis(tier.due_members, bucket, now_us):
            by_agent: dict[str, list[str]] = {}
            for agent_id, memory_id in members:
                by_agent.setdefault(agent_id, []).append(memory_id)
            evicted = 0
            for agent_id, ids in by_agent.items():
                answer = copies.ask_redis(tier.evict, agent_id, ids, now_us)
                evicted += 0 if answer is None else answer.letters.count("o")
            report.evicted += evicted
            if not evicted:
                return

    # --- maintenance ---

    def maintain(self) -> MaintenanceReport:
        """One pass: synchronise, move memories between tiers, expire, finish erasures, purge, write snapshots."""
        report = MaintenanceReport(sync=self.sync())
        settings = self._settings
        store, ask, change = self._copies.store, self._copies.ask_sql, self._copies.change_sql
        now = time.time()
        report.accesses = self.flush_accesses()
        for erasure in ask(store.erasures):
            report.erased += self.finish_erasure(erasure)
        self.scrub()
        while results := change(store.expire, now, limit=settings.maintenance.batch_entries):
            report.expired += len(results)
            sleep(settings.maintenance.pause_s)
        for tier, ttl_s in ((Tier.STM, settings.short_term.ttl_s), (Tier.IM, settings.intermediate.ttl_s)):
            self._move_aged(tier, int((now - ttl_s) * 1e6), report)
        for tier, limit in (
            (Tier.STM, settings.short_term.max_entries),
            (Tier.IM, settings.intermediate.max_entries),
        ):
            self._move_crowded(tier, limit, report)
        horizon_us = int((now - settings.maintenance.tombstone_ttl_s) * 1e6)
        while purged := change(store.purge_tombstones, horizon_us):
            report.purged_tombstones += purged
            sleep(settings.maintenance.pause_s)
        if report.moved["STM to LTM"] or report.moved["IM to LTM"]:
            change(store.train_dictionary)
        if self.on_maintenance is not None:
            report.embedded = self.on_maintenance()
        report.snapshots = self._indexes.save_snapshots()
        return report

    def _move_aged(self, tier: Tier, before_us: int, report: MaintenanceReport) -> None:
        ask, store = self._copies.ask_sql, self._copies.store
        while candidates := ask(store.aged, tier, before_us, limit=MAX_CANDIDATES):
            if not self._move_all(tier, candidates, report):
                return

    def _move_crowded(self, tier: Tier, limit: int, report: MaintenanceReport) -> None:
        ask, store = self._copies.ask_sql, self._copies.store
        while states := ask(store.crowded, tier, limit):
            moved = 0
            for state in states:
                excess = state.counts[tier] - limit
                while excess > 0:
                    count = min(excess, MAX_CANDIDATES)
                    oldest = ask(store.oldest, state.agent_id, tier, limit=count)
                    done = self._move_all(tier, oldest, report)
                    moved += done
                    excess -= count
                    if not done:
                        break
            if not moved:
                return

    def _move_all(self, tier: Tier, candidates: Sequence[Candidate], report: MaintenanceReport) -> int:
        """Moves them in batches, with a pause after each; Redis is told of one batch while SQL has the next one."""
        settings = self._settings.maintenance
        done = 0
        telling: Task[None] | None = None
        for start in range(0, len(candidates), settings.batch_entries):
            moved = self._move_in_sql(tier, candidates[start : start + settings.batch_entries])
            if telling is not None:
                telling.join()
            telling = spawn(self._tell_redis, moved, name="agent-memory-relabel")
            for target, by_agent in moved.items():
                count = sum(map(len, by_agent.values()))
                report.moved[f"{tier.name} to {target.name}"] += count
                done += count
            sleep(settings.pause_s)
        if telling is not None:
            telling.join()
        return done

    def _target(self, tier: Tier, candidate: Candidate) -> Tier:
        if tier is Tier.STM and candidate.importance >= self._settings.intermediate.min_importance:
            return Tier.IM
        return Tier.LTM

    def _move_in_sql(self, tier: Tier, candidates: Sequence[Candidate]) -> Moved:
        """Puts the label of the next tier on memories of one tier that have not changed."""
        moves: list[Move] = []
        for start in range(0, len(candidates), TURN_ENTRIES):
            turn = candidates[start : start + TURN_ENTRIES]
            moves += [Move(one.id, one.agent_id, one.version, self._target(tier, one)) for one in turn]
            give_way()
        results = self._copies.write_sql(moves)
        to_intermediate: dict[str, list[str]] = {}
        to_long_term: dict[str, list[str]] = {}
        applied = WriteStatus.APPLIED
        for start in range(0, len(moves), TURN_ENTRIES):
            stop = start + TURN_ENTRIES
            for move, result in zip(moves[start:stop], results[start:stop], strict=True):
                if result.status is applied:
                    by_agent = to_intermediate if move.tier is Tier.IM else to_long_term
                    by_agent.setdefault(move.agent_id, []).append(move.id)
            give_way()
        moved = {Tier.IM: to_intermediate, Tier.LTM: to_long_term}
        return {target: by_agent for target, by_agent in moved.items() if by_agent}

    def _tell_redis(self, moved: Moved) -> None:
        """The labels in Redis, which are advice, and the end of residency of what is in long-term memory now."""
        copies = self._copies
        if copies.tier is None:
            return
        for tier, by_agent in moved.items():
            for agent_id, ids in by_agent.items():
                for start in range(0, len(ids), TURN_ENTRIES):
                    part = ids[start : start + TURN_ENTRIES]
                    if tier is Tier.LTM:
                        copies.ask_redis(copies.tier.evict, agent_id, part)
                    else:
                        copies.ask_redis(copies.tier.relabel, agent_id, part, tier, copies.residency_s(tier))

    def finish_erasure(self, erasure: Erasure) -> int:
        """Erases what is left of an agent or user, of which SQL knows already; returns how many memories.

        Copies go before the rows do: journal, index, snapshots, Redis. What they leave in files goes last (`scrub`).
        """
        copies, kind, name = self._copies, erasure.kind, erasure.name
        agents = [name] if kind == "agent" else copies.ask_sql(copies.store.user_agents, name)
        if copies.tier is not None:
            for agent_id in agents:
                copies.ask_redis(copies.tier.end_epoch, agent_id)
        in_thread(self._directory.note_erasure)
        if copies.journal is not None:
            owner = "agent_id" if kind == "agent" else "user_id"
            copies.journal.erase(erasure.fence_version, **{owner: name})
        for agent_id in agents:
            self._indexes.drop(agent_id)
            self._indexes.delete_snapshots(agent_id)
            if copies.tier is not None and not self._erase_in_redis(kind, agent_id):
                self._owed_redis[agent_id] = kind
        if kind == "user":
            self._indexes.delete_snapshots_of_user(name)
        erased: int = int(erasure.erased)
        while True:
            progress = copies.change_sql(copies.store.erase, kind, name)
            erased += int(progress.erased)
            if not progress.remaining:
                break
            sleep(self._settings.maintenance.pause_s)
        for agent_id in agents:
            self._indexes.drop(agent_id)
            if kind == "user":
                self.follow(agent_id, SyncReport())
        self._traces += 1
        self.scrub()
        return erased

    def _erase_in_redis(self, kind: str, agent_id: str) -> bool:
        tier = self._copies.tier
        assert tier is not None
        # Of an agent of which a user goes, all clean copies are misses from now on; those of others are loaded again.
        return self._copies.ask_redis(tier.erase if kind == "agent" else tier.erase_clean, agent_id) is not None

    def _pay_redis(self) -> None:
        """Erases in Redis what could not be erased there while it was away."""
        for agent_id, kind in list(self._owed_redis.items()):
            if self._erase_in_redis(kind, agent_id):
                self._owed_redis.pop(agent_id, None)
                self._traces += 1

    def scrub(self) -> None:
        """Takes the traces of erasures out of files: SQLite's log, the journal, the append-only file of the embedded server.

        What can't be done now is done by the next maintenance, of any process that has the folder. Erasures that end while
        files are scrubbed wait, and share the next turn.
        """
        wanted = self._traces
        with self._scrubbing.hold("files"):
            # Here, too, as what another process has erased is let go of.
            is_journal_done = self._copies.journal is None or self._copies.journal.scrub()
            if self._scrubbed < wanted or in_thread(self._directory.has_noted_erasure):
                self._scrub_files(is_journal_done)

    def _scrub_files(self, is_journal_done: bool) -> None:
        copies, traces = self._copies, self._traces
        is_done = is_journal_done and bool(copies.ask_sql(copies.store.scrub)) and not self._owed_redis
        if self._owns_server and copies.tier is not None:
            is_done &= bool(copies.ask_redis(copies.tier.rewrite_append_file))
        if is_done:
            self._scrubbed = traces
            in_thread(self._directory.forget_erasure)

    # --- in the background ---

    def start(self) -> None:
        """Begins to work in the intervals of the settings; does nothing where that has begun."""
        if self._tasks:
            return
        self._stop.clear()
        self._tasks = [
            spawn(self._run, self._round, self._settings.sync.interval_s, name="agent-memory-sync"),
            spawn(self._run, self.maintain, self._settings.maintenance.interval_s, name="agent-memory-maintain"),
        ]
        if self._settings.accesses.enabled:
            interval_s = self._settings.accesses.interval_s
            self._tasks.append(spawn(self._run, self.flush_accesses, interval_s, name="agent-memory-accesses"))

    def stop(self) -> None:
        """Ends the work in the background; what is under way is finished."""
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
        every = now - self._swept_at >= SWEEP_INTERVAL_S or self._copies.redis.away_s is not None
        report = self.sync(every_bucket=every)
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


def _holds(result: WriteResult, copy: Copy) -> bool:
    """Whether SQL holds this very version now."""
    return result.status is WriteStatus.APPLIED or (
        result.status is WriteStatus.STALE and result.version == copy.version
    )


def _absolute(copy: Copy) -> Put | Delete:
    if copy.deleted:
        return Delete(copy.id, copy.agent_id, copy.version, copy.writer, generation=copy.generation)
    return Put(copy)
