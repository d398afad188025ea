# Generated from ../_async/indexes.py by tools/generate_sync.py: edit that file, not this one.

"""The indexes of this process: one per agent, covering all tiers, following SQL's change feed.

States of an agent's index
- *absent*: nothing is known; the first retrieval loads it, one at a time, from a snapshot and the feed or from the feed alone.
- *loaded*: it knows every row up to its cursor, this process's own writes, and the dirty copies it has met.
Beyond `max_bytes` the least recently used agent's index becomes absent again.

Rules
- A copy is applied if it is greater than what is known of its id; own writes wait in `pending` and are applied in one
  batch when somebody searches.
- What is known of dirty copies may get lost with Redis: a refresh first asks Redis what is dirty, then reads SQL's feed, and
  forgets dirty copies that are in neither.
- No snapshot of what is being erased: who saves one holds the folder's lock (shared), and asks SQL under it whether an erasure
  is under way; who erases takes it (exclusive) once SQL knows of the erasure, and then removes the snapshots. So one that is
  being written is waited for, and one that is begun later is of an index that has followed the feed past the erasure.
- A snapshot is written when the feed has brought `snapshot_entries` and more, beside the database, with its place in the feed
  in its name; whoever loads it reads the feed from there.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

from agent_memory._concurrency import KeyedLocks, in_thread
from agent_memory.memory._agent_index import AgentIndex, DimensionsLearnedError, model_in
from agent_memory.memory._copy import Copy
from agent_memory.memory._sync.copies import Copies
from agent_memory.memory.errors import MemoryStoreUnavailableError
from agent_memory.memory.stores.operations import EmbeddingSpace
from agent_memory.scoring import MemoryIndex

__all__ = ["Indexes"]


class Indexes:
    """The indexes of all agents that this process has been asked about."""

    def __init__(self, copies: Copies, snapshots: Path | None) -> None:
        self._copies = copies
        self._settings = copies.settings.index
        self._snapshots = snapshots
        self._mutex = threading.Lock()
        self._agents: OrderedDict[str, AgentIndex] = OrderedDict()
        self._loading = KeyedLocks()
        self._deleting = KeyedLocks()
        self._space: EmbeddingSpace | None = None
        self.loads = 0
        self.refreshes = 0
        self.evicted = 0

    # --- looking up ---

    def peek(self, agent_id: str) -> AgentIndex | None:
        """The agent's index if it is loaded, or about to be."""
        return self._agents.get(agent_id)

    def learn(self, copy: Copy, *, is_dirty: bool = False) -> None:
        """An own write. Agents whose index is absent learn of it from the feed."""
        index = self._agents.get(copy.agent_id)
        if index is not None:
            try:
                index.add(copy, is_dirty=is_dirty)
            except DimensionsLearnedError:
                self.drop(copy.agent_id)
        elif is_dirty:
            self._copies.dirty_agents.setdefault(copy.agent_id)

    def on_hint(self, agent_id: str, hint: int) -> None:
        """Redis' hint after a put of this process; if nobody else did meanwhile, it stands for nothing new."""
        index = self._agents.get(agent_id)
        if index is not None and index.hint is not None and hint == index.hint + 1:
            index.hint = hint

    def set_space(self, space: EmbeddingSpace) -> None:
        """The vectors of the database are of this space from now on; indexes of another one are made anew."""
        with self._mutex:
            before, self._space = self._space, space
            if before is not None and before.number != space.number:
                for agent_id, index in self._agents.items():
                    if index.dirty:
                        self._copies.dirty_agents.setdefault(agent_id)
                self._agents.clear()

    def drop(self, agent_id: str) -> None:
        """Makes an agent's index absent."""
        with self._mutex:
            self._agents.pop(agent_id, None)

    @property
    def size_bytes(self) -> int:
        """About how much memory all of them take."""
        return sum(index.size_bytes for index in list(self._agents.values()))

    def __len__(self) -> int:
        return len(self._agents)

    # --- loading and following ---

    def get(self, agent_id: str) -> AgentIndex:
        """The agent's index, loaded. Raises MemoryStoreUnavailableError where it must be loaded and SQL is away."""
        index = self._agents.get(agent_id)
        if index is None or not index.is_loaded:
            with self._loading.hold(agent_id):
                index = self._agents.get(agent_id)
                if index is None or not index.is_loaded:
                    index = self._load(agent_id)
        with self._mutex:
            if agent_id in self._agents:
                self._agents.move_to_end(agent_id)
        return index

    def _load(self, agent_id: str) -> AgentIndex:
        index = AgentIndex(self._settings, self._space)
        with self._mutex:
            # From now on own writes are added to it, beside what the feed brings.
            self._agents[agent_id] = index
        try:
            while True:
                try:
                    self._load_snapshot(agent_id, index)
                    self._refresh(agent_id, index)
                    index.apply_pending()
                    break
                except DimensionsLearnedError:
                    dimensions = index.dimensions
                    index = AgentIndex(self._settings, self._space)
                    index.dimensions = dimensions
                    with self._mutex:
                        self._agents[agent_id] = index
        except MemoryStoreUnavailableError:
            # SQL is away: what Redis holds dirty is all that can be found now. The next retrieval tries again.
            self._learn_dirty(agent_id, index)
            return index
        except BaseException:
            self.drop(agent_id)
            raise
        index.is_loaded = True
        self.loads += 1
        self._make_room(agent_id)
        return index

    def _make_room(self, keep: str) -> None:
        while self.size_bytes > self._settings.max_bytes:
            with self._mutex:
                oldest = next((agent_id for agent_id in self._agents if agent_id != keep), None)
                if oldest is None:
                    return
                del self._agents[oldest]
                self.evicted += 1

    def settled(self, agent_id: str, index: AgentIndex) -> AgentIndex:
        """The agent's index with this process's own writes in it."""
        try:
            index.apply_pending()
        except DimensionsLearnedError:
            self.drop(agent_id)
            return self.get(agent_id)
        return index

    def refresh(self, agent_id: str, index: AgentIndex) -> None:
        """Brings an index up to date: dirty copies of Redis, then SQL's feed. It may be another object afterwards."""
        try:
            self._refresh(agent_id, index)
        except DimensionsLearnedError:
            self.drop(agent_id)
            self.get(agent_id)
        except MemoryStoreUnavailableError:
            index.is_behind = True
            raise

    def _refresh(self, agent_id: str, index: AgentIndex) -> None:
        self.refreshes += 1
        journalled = self._learn_journalled(agent_id, index)
        lost = set(index.dirty) - journalled
        if lost or agent_id in self._copies.dirty_agents:
            lost -= self._learn_dirty(agent_id, index)
        self._follow(agent_id, index)
        for memory_id in lost:
            if memory_id in index.dirty:
                index.forget_dirty(memory_id)
                rows = self._copies.loader.load(agent_id, [memory_id])
                index.apply(list(rows.values()), is_from_sql=True)
        index.refreshed_at = time.monotonic()
        index.is_behind = False

    def _follow(self, agent_id: str, index: AgentIndex) -> None:
        copies = self._copies
        while True:
            page = copies.ask_sql(
                copies.store.changes, agent_id, index.cursor, limit=min(self._settings.feed_entries, 10_000)
            )
            if page.reset or (index.generation and page.generation != index.generation):
                index.reset(page.generation)
                if page.reset:
                    continue
            index.generation = page.generation
            for memory_id in page.damaged:
                copies.damage.note(memory_id, "SQL")
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
        journal = self._copies.journal
        copies = journal.of_agent(agent_id) if journal is not None else []
        for copy in copies:
            index.add(copy, is_dirty=True)
        if copies:
            index.apply_pending()
        return {copy.id for copy in copies}

    def _learn_dirty(self, agent_id: str, index: AgentIndex) -> set[str]:
        """Takes in what is dirty in Redis; returns which ids that are."""
        copies = self._copies
        if copies.tier is None:
            return set()
        ids = copies.ask_redis(copies.tier.dirty_ids, agent_id)
        if ids is None:
            return set(index.dirty)  # nobody knows: keep what is known
        copies.dirty_agents.pop(agent_id, None)
        if not ids:
            return set()
        reply = copies.ask_redis(copies.tier.read, agent_id, ids)
        if reply is None:
            return set(index.dirty)
        for memory_id in reply.damaged:
            copies.damage.note(memory_id, "Redis")
        for copy in reply.copies:
            if copy is not None:
                index.add(copy, is_dirty=True)
        index.apply_pending()
        return set(ids)

    # --- snapshots ---

    def _snapshot_paths(self, agent_id: str) -> list[Path]:
        assert self._snapshots is not None
        name = quote(agent_id, safe="")
        if len(name) > 150:
            return []
        # Names may hold dots, and what a glob finds may be of another agent.
        paths = [path for path in self._snapshots.glob("*.snapshot") if path.name.rsplit(".", 4)[0] == name]
        return sorted(paths, key=_seq_of)

    def _load_snapshot(self, agent_id: str, index: AgentIndex) -> None:
        if self._snapshots is None:
            return
        paths = self._snapshot_paths(agent_id)
        if not paths:
            return
        path = paths[-1]
        model = model_in(self._settings, self._space)
        try:
            loaded = in_thread(lambda: MemoryIndex.load(path, vectors="mapped", model=model))
        except (OSError, ValueError):
            return  # it is read from the feed instead
        if not loaded.has_present_rules or loaded.language != self._settings.language:
            return  # its words were found by other rules: the feed has the texts
        _, generation, seq, has_vectors, _ = path.name.rsplit(".", 4)
        index.index = loaded
        index.dimensions = loaded.dimensions if has_vectors == "v" else index.dimensions
        index.generation, index.cursor, index.saved_at_seq = int(generation), int(seq), int(seq)

    def save_snapshots(self) -> int:
        """Writes snapshots of large indexes that have moved since; returns how many."""
        saved = 0
        for agent_id, index in list(self._agents.items()):
            threshold = self._settings.snapshot_entries
            moved = index.cursor - index.saved_at_seq
            if index.is_loaded and len(index) >= threshold and moved >= max(1, len(index) // 10):
                saved += self.save_snapshot(agent_id, index)
        return saved

    def save_snapshot(self, agent_id: str, index: AgentIndex) -> int:
        """Writes a snapshot of an agent's index; returns 1, or 0 where there is no place for it."""
        if self._snapshots is None or index.index is None or len(quote(agent_id, safe="")) > 150:
            return 0
        lock = in_thread(self._lock_snapshots, fcntl.LOCK_SH)
        try:
            if not self._may_be_saved(agent_id, index):
                lock.close()
                return 0
        except BaseException:
            lock.close()
            raise
        # What is saved holds at least what the cursor says; more of it does no harm, since the feed brings it again.
        seq, kept = index.cursor, index.index
        name = f"{quote(agent_id, safe='')}.{index.generation}.{seq}.{'v' if index.dimensions else 't'}.snapshot"
        path = self._snapshots / name

        def save() -> None:
            with lock:  # kept until the file is there, also where the caller is cancelled
                kept.save(path)

        in_thread(save)
        index.saved_at_seq = seq
        for old in self._snapshot_paths(agent_id):
            if old != path and _seq_of(old) < seq:
                old.unlink(missing_ok=True)
        return 1

    def _may_be_saved(self, agent_id: str, index: AgentIndex) -> bool:
        """Whether an index, brought up to date, holds nothing but what SQL holds and nothing that is being erased."""
        try:
            erasures = self._copies.ask_sql(self._copies.store.erasures)
            if any(erasure.kind == "user" or erasure.name == agent_id for erasure in erasures):
                return False
            self._refresh(agent_id, index)
        except (MemoryStoreUnavailableError, DimensionsLearnedError):
            return False
        return self._agents.get(agent_id) is index and index.index is not None and not index.dirty

    def _lock_snapshots(self, kind: int) -> BinaryIO:
        assert self._snapshots is not None
        self._snapshots.mkdir(parents=True, exist_ok=True)
        file = open(os.open(self._snapshots.with_name("index.lock"), os.O_RDWR | os.O_CREAT, 0o600), "r+b")  # noqa: SIM115
        try:
            fcntl.flock(file, kind)
        except BaseException:
            file.close()
            raise
        return file

    def delete_snapshots(self, agent_id: str) -> int:
        """Removes an agent's snapshots, those that are being written too; returns how many there were."""
        if self._snapshots is None:
            return 0
        # One at a time: those who wait for the folder's lock must not have all threads, of which whoever saves needs one.
        with self._deleting.hold("snapshots"):
            return in_thread(self._delete_snapshots, agent_id)

    def _delete_snapshots(self, agent_id: str) -> int:
        assert self._snapshots is not None
        if not self._snapshots.is_dir():
            return 0
        with self._lock_snapshots(fcntl.LOCK_EX):
            paths = self._snapshot_paths(agent_id)
            # Of processes that died while they wrote: nobody writes now.
            left = [path for path in self._snapshots.glob("*.snapshot.*.tmp") if self._agent_of(path) == agent_id]
            for path in (*paths, *left):
                path.unlink(missing_ok=True)
        return len(paths)

    def delete_snapshots_of_user(self, user_id: str) -> int:
        """Removes the snapshots that know of a user, also by memories that were deleted since; returns how many."""
        if self._snapshots is None:
            return 0
        with self._deleting.hold("snapshots"):
            return in_thread(self._delete_snapshots_of_user, user_id)

    def _delete_snapshots_of_user(self, user_id: str) -> int:
        assert self._snapshots is not None
        if not self._snapshots.is_dir():
            return 0
        with self._lock_snapshots(fcntl.LOCK_EX):
            files = [*self._snapshots.glob("*.snapshot"), *self._snapshots.glob("*.snapshot.*.tmp")]
            # Attributes stand in a snapshot as they are. Another user's whose name holds this one is written anew, no more.
            paths = [path for path in files if _holds(path, user_id.encode())]
            for path in paths:
                path.unlink(missing_ok=True)
        return len(paths)

    @staticmethod
    def _agent_of(path: Path) -> str:
        """Whose snapshot a file is, whole or not."""
        return unquote(path.name[: path.name.rindex(".snapshot")].rsplit(".", 3)[0])

    def stats(self) -> Mapping[str, Any]:
        """What is loaded, and how it came to be."""
        return {
            "agents": len(self._agents),
            "memories": sum(len(index) for index in list(self._agents.values())),
            "bytes": self.size_bytes,
            "loads": self.loads,
            "refreshes": self.refreshes,
            "evicted": self.evicted,
        }


def _holds(path: Path, text: bytes) -> bool:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(text) >= 0


def _seq_of(path: Path) -> int:
    try:
        return int(path.name.rsplit(".", 3)[1])
    except (IndexError, ValueError):
        return -1
