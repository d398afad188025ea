# Generated from ../_async/indexes.py by tools/generate_sync.py: edit that file, not this one.

"""Loading the indexes of this process, which cover all tiers, and following SQL's change feed.

States of an agent's index
- *absent*: nothing is known; the first retrieval loads it, one at a time, from a snapshot and the feed or from the feed alone.
- *loaded*: it knows every row up to its cursor, this process's own writes, and the dirty copies it has met.

Rules
- A copy is applied if it is greater than what is known of its id; own writes wait in `pending` and are applied in one
  batch by the next search.
- What is known of dirty copies may get lost with Redis: a refresh first asks Redis what is dirty, then reads SQL's feed, and
  forgets dirty copies that are in neither.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from agent_memory._concurrency import KeyedLocks, in_thread
from agent_memory.memory._agent_index import AgentIndex, DimensionsLearnedError
from agent_memory.memory._damage import Damage
from agent_memory.memory._loaded_indexes import LoadedIndexes
from agent_memory.memory._sync.journal import MemoryJournal
from agent_memory.memory._sync.loader import DataLoader
from agent_memory.memory._sync.redis_gateway import RedisGateway
from agent_memory.memory._sync.snapshots import Snapshots
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.errors import MemoryStoreUnavailableError
from agent_memory.memory.settings import MemorySettings

__all__ = ["Indexes"]

FEED_ENTRIES: Final = 10_000
"""Changes read from the feed at a time."""


class Indexes:
    """Brings indexes up to date. Any number of threads may use one object."""

    def __init__(
        self,
        loaded: LoadedIndexes,
        sql: SqlGateway,
        redis: RedisGateway,
        journal: MemoryJournal | None,
        loader: DataLoader,
        snapshots: Snapshots,
        damage: Damage,
        settings: MemorySettings,
    ) -> None:
        self._loaded = loaded
        self._sql = sql
        self._redis = redis
        self._journal = journal
        self._loader = loader
        self._snapshots = snapshots
        self._damage = damage
        self._settings = settings.index
        self._max_staleness_s = settings.sync.max_staleness_s
        self._loading = KeyedLocks()
        self.loads = 0
        self.refreshes = 0

    def get(self, agent_id: str) -> AgentIndex:
        """The agent's index, loaded. Raises MemoryStoreUnavailableError where it must be loaded and SQL is away."""
        index = self._loaded.peek(agent_id)
        if index is None or not index.is_loaded:
            with self._loading.hold(agent_id):
                index = self._loaded.peek(agent_id)
                if index is None or not index.is_loaded:
                    index = self._load(agent_id)
        self._loaded.touch(agent_id)
        return index

    def _load(self, agent_id: str) -> AgentIndex:
        index = self._loaded.new(agent_id)
        try:
            while True:
                try:
                    self._snapshots.load(agent_id, index, self._loaded.space)
                    self._refresh(agent_id, index)
                    index.apply_pending()
                    break
                except DimensionsLearnedError:
                    index = self._loaded.new(agent_id, index.dimensions)
        except MemoryStoreUnavailableError:
            # SQL is away: what Redis holds dirty is all that can be found now. The next retrieval tries again.
            self._learn_dirty(agent_id, index)
            return index
        except BaseException:
            self._loaded.drop(agent_id)
            raise
        index.is_loaded = True
        self.loads += 1
        self._loaded.make_room(agent_id)
        return index

    def settled(self, agent_id: str, index: AgentIndex) -> AgentIndex:
        """The agent's index with this process's own writes in it."""
        try:
            index.apply_pending()
        except DimensionsLearnedError:
            self._loaded.drop(agent_id)
            return self.get(agent_id)
        return index

    # --- following ---

    def fresh(self, agent_id: str) -> AgentIndex:
        """The agent's index, at most `max_staleness_s` behind SQL while SQL is here."""
        index = self.get(agent_id)
        if time.monotonic() - index.refreshed_at > self._max_staleness_s:
            self.try_refresh(agent_id, index)
            index = self.get(agent_id)
        return index

    def try_refresh(self, agent_id: str, index: AgentIndex) -> bool:
        """Brings the index up to date; returns whether SQL could be asked."""
        self._loaded.dirty_agents.setdefault(agent_id)
        try:
            self.refresh(agent_id, index)
        except MemoryStoreUnavailableError:
            index.refreshed_at = time.monotonic()
            return False
        return True

    def refresh(self, agent_id: str, index: AgentIndex) -> None:
        """Brings an index up to date: dirty copies of Redis, then SQL's feed. It may be another object afterwards."""
        try:
            self._refresh(agent_id, index)
        except DimensionsLearnedError:
            self._loaded.drop(agent_id)
            self.get(agent_id)
        except MemoryStoreUnavailableError:
            index.is_behind = True
            raise

    def _refresh(self, agent_id: str, index: AgentIndex) -> None:
        self.refreshes += 1
        journalled = self._learn_journalled(agent_id, index)
        lost = set(index.dirty) - journalled
        if lost or agent_id in self._loaded.dirty_agents:
            lost -= self._learn_dirty(agent_id, index)
        self._follow(agent_id, index)
        for memory_id in lost:
            if memory_id in index.dirty:
                index.forget_dirty(memory_id)
                rows = self._loader.load(agent_id, [memory_id])
                index.apply(list(rows.values()), is_from_sql=True)
        index.refreshed_at = time.monotonic()
        index.is_behind = False

    def forget_beaten(self, agent_id: str, ids: Sequence[str]) -> None:
        """What SQL holds of these ids counts: a loaded index learns it."""
        index = self._loaded.peek(agent_id)
        if index is not None:
            for memory_id in ids:
                index.forget_dirty(memory_id)
            self.refresh(agent_id, index)

    def _follow(self, agent_id: str, index: AgentIndex) -> None:
        while True:
            page = self._sql.ask(self._sql.store.changes, agent_id, index.cursor, limit=FEED_ENTRIES)
            if page.reset or (index.generation and page.generation != index.generation):
                index.reset(page.generation)
                if page.reset:
                    continue
            index.generation = page.generation
            for memory_id in page.damaged:
                self._damage.note(memory_id, "SQL")
                index.leave_out(memory_id)
            if page.copies:
                if len(page.copies) > 1_000:
                    in_thread(lambda copies=page.copies: index.apply(copies, is_from_sql=True))
                else:
                    index.apply(page.copies, is_from_sql=True)
            index.cursor = max(index.cursor, page.seq)
            if not page.more:
                return

    def _learn_journalled(self, agent_id: str, index: AgentIndex) -> set[str]:
        """Takes in what this process's journal holds; returns which ids that are."""
        journal = self._journal
        copies = journal.of_agent(agent_id) if journal is not None else []
        for copy in copies:
            index.add(copy, is_dirty=True)
        if copies:
            index.apply_pending()
        return {copy.id for copy in copies}

    def _learn_dirty(self, agent_id: str, index: AgentIndex) -> set[str]:
        """Takes in what is dirty in Redis; returns which ids that are."""
        if self._redis.tier is None:
            return set()
        ids = self._redis.ask(self._redis.tier.dirty_ids, agent_id)
        if ids is None:
            return set(index.dirty)  # unknown: keep what is known
        self._loaded.dirty_agents.pop(agent_id, None)
        if not ids:
            return set()
        reply = self._redis.ask(self._redis.tier.read, agent_id, ids)
        if reply is None:
            return set(index.dirty)
        for memory_id in reply.damaged:
            self._damage.note(memory_id, "Redis")
        for copy in reply.copies:
            if copy is not None:
                index.add(copy, is_dirty=True)
        index.apply_pending()
        return set(ids)

    # --- snapshots ---

    def save_snapshots(self) -> int:
        """Writes snapshots of large indexes that have moved since; returns how many."""
        saved = 0
        for agent_id, index in self._loaded.items():
            threshold = self._settings.snapshot_entries
            moved = index.cursor - index.saved_at_seq
            if index.is_loaded and len(index) >= threshold and moved >= max(1, len(index) // 10):
                saved += self._snapshots.save(agent_id, index, partial(self._may_be_saved, agent_id, index))
        return saved

    def _may_be_saved(self, agent_id: str, index: AgentIndex) -> bool:
        """Whether an index, brought up to date, holds nothing but what SQL holds and nothing that is being erased."""
        try:
            erasures = self._sql.ask(self._sql.store.erasures)
            if any(erasure.kind == "user" or erasure.name == agent_id for erasure in erasures):
                return False
            self._refresh(agent_id, index)
        except (MemoryStoreUnavailableError, DimensionsLearnedError):
            return False
        return self._loaded.peek(agent_id) is index and index.index is not None and not index.dirty

    def stats(self) -> Mapping[str, Any]:
        """What is loaded, and how it came to be."""
        return {
            "agents": len(self._loaded),
            "memories": sum(len(index) for _, index in self._loaded.items()),
            "bytes": self._loaded.size_bytes,
            "loads": self.loads,
            "refreshes": self.refreshes,
            "evicted": self._loaded.evicted,
        }
