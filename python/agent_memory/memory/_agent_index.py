"""One agent's index: what is ranked, and which versions are known. `_async/indexes.py` loads it and follows the feed."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np

from agent_memory.memory._copy import EMBEDDED, SEARCHED_TEXT, Copy, text_of
from agent_memory.memory.settings import IndexSettings
from agent_memory.memory.stores.operations import EmbeddingSpace
from agent_memory.scoring import MemoryIndex
from agent_memory.scoring._settings import AttributeValue

__all__ = ["DELETED", "AgentIndex", "DimensionsLearnedError", "attributes_of", "model_in"]

MAX_PENDING: Final = 4_096
"""Own writes that wait to be applied; at this number the writer applies them."""

MAX_EXPECTED: Final = 1_000
"""Versions remembered that SQL has told of, but whose copies have not come yet."""

DELETED: Final = 1 << 60
"""Added to the version of a tombstone: greater than every living one."""


def attributes_of(copy: Copy) -> dict[str, AttributeValue | list[AttributeValue]]:
    """What the filters of a retrieval look at."""
    found: dict[str, AttributeValue | list[AttributeValue]] = {}
    if copy.memory_type:
        found["memory_type"] = copy.memory_type
    if copy.user_id:
        found["user_id"] = copy.user_id
    if copy.session_id:
        found["session_id"] = copy.session_id
    if copy.namespace:
        end = -1
        while (end := copy.namespace.find("/", end + 1)) >= 0:
            found[f"namespace:{copy.namespace[: end + 1]}"] = True
    if copy.tags:
        for tag in json.loads(copy.tags):
            found[f"tag:{tag}"] = True
    if copy.metadata:
        for name, value in json.loads(copy.metadata).items():
            if "\x1f" in name or name in (SEARCHED_TEXT, EMBEDDED):
                continue
            if isinstance(value, (str, int, float, bool)):
                found[f"metadata.{name}"] = value
            elif isinstance(value, list):
                # A filter matches any of them.
                found[f"metadata.{name}"] = [one for one in value if isinstance(one, (str, int, float, bool))]
    return found


class AgentIndex:
    """One agent's index and what this process knows of the versions in it. Any thread may use it."""

    def __init__(self, settings: IndexSettings, space: EmbeddingSpace | None = None) -> None:
        self._settings = settings
        self._space = space
        self._mutex = threading.RLock()
        self.index: MemoryIndex | None = None
        self.dimensions = space.dimensions if space is not None else settings.dimensions or 0
        self.versions: dict[str, int] = {}
        self.dirty: dict[str, int] = {}
        self.cursor = 0
        self.generation = 0
        self.hint: int | None = None
        self.refreshed_at = 0.0
        self.is_loaded = False
        self.is_behind = False  # SQL could not be asked for what is new
        self.saved_at_seq = 0
        self._pending: list[Copy] = []
        self._floors: dict[str, int] = {}

    def __len__(self) -> int:
        return 0 if self.index is None else len(self.index)

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        return len(self) * (self.dimensions * 6 + 500) + 120 * len(self.versions)

    def add(self, copy: Copy, *, is_dirty: bool = False) -> None:
        """An own write, or a copy that was met: applied with the next search."""
        with self._mutex:
            if is_dirty:
                self.dirty[copy.id] = copy.version
            self._pending.append(copy)
            if len(self._pending) >= MAX_PENDING:
                self.apply_pending()

    def reset(self, generation: int) -> None:
        """Begins again, in a generation: the agent was erased, or what is missing was purged from the feed."""
        with self._mutex:
            self.index, self.versions, self.cursor, self.generation = None, {}, 0, generation
            # What SQL has accepted meanwhile, or was erased with the agent, comes by the feed or not at all.
            dirty = self.dirty
            self._pending = [
                copy for copy in self._pending if copy.generation >= generation or dirty.get(copy.id) == copy.version
            ]

    def apply_pending(self) -> None:
        """Applies own writes."""
        with self._mutex:
            pending, self._pending = self._pending, []
            if pending:
                self.apply(pending)

    def apply(self, copies: Sequence[Copy], *, is_from_sql: bool = False) -> None:
        """Takes copies in, tombstones out; older ones than known do nothing."""
        with self._mutex:
            latest: dict[str, Copy] = {}
            versions = self.versions
            for copy in copies:
                if 0 < copy.generation < self.generation:
                    continue  # an own write that waited while the agent was erased elsewhere
                key = copy.version + DELETED if copy.deleted else copy.version
                known = versions.get(copy.id, 0)
                if is_from_sql and copy.id in self.dirty and known < DELETED:
                    # A dirty copy that lost, or that SQL holds by now.
                    if key >= self.dirty[copy.id]:
                        del self.dirty[copy.id]
                elif key <= known:
                    continue
                versions[copy.id] = key
                latest[copy.id] = copy
            gone = [memory_id for memory_id, copy in latest.items() if copy.deleted]
            if gone and self.index is not None:
                self.index.delete(gone)
            self._upsert([copy for copy in latest.values() if not copy.deleted])

    def _upsert(self, copies: list[Copy]) -> None:
        if not copies:
            return
        index = self._index_for(copies)
        width = self.dimensions * 4
        first = 0 if self._space is None else self._space.first_version
        with_vectors: list[Copy] = []
        bare: list[Copy] = []
        for copy in copies:
            # A vector of an earlier space, or one that waits to be made, is none.
            is_comparable = len(copy.vector) == width and width and copy.version >= first
            (with_vectors if is_comparable else bare).append(copy)
        for batch in (with_vectors, bare):
            if not batch:
                continue
            vectors = None
            if batch is with_vectors:
                vectors = np.frombuffer(b"".join([copy.vector for copy in batch]), dtype="<f4")
                vectors = vectors.reshape(len(batch), self.dimensions)
            has_attributes = any(
                copy.metadata or copy.tags or copy.memory_type or copy.user_id or copy.session_id or copy.namespace
                for copy in batch
            )
            has_sessions = any(copy.session_id for copy in batch)
            index.upsert(
                [copy.id for copy in batch],
                vectors,
                [text_of(copy) for copy in batch],
                [copy.importance for copy in batch],
                [copy.timestamp for copy in batch],
                [attributes_of(copy) for copy in batch] if has_attributes else None,
                [_sequence_of(copy) for copy in batch] if has_sessions else None,
            )

    def _index_for(self, copies: list[Copy]) -> MemoryIndex:
        """The index; made when it is needed, and again when the first vector tells how many dimensions there are."""
        if not self.dimensions:
            self.dimensions = next((len(copy.vector) // 4 for copy in copies if len(copy.vector) > 1), 0)
            if self.dimensions and self.index is not None:
                raise DimensionsLearnedError
        if self.index is None:
            settings = self._settings
            self.index = MemoryIndex(
                self.dimensions or 1,
                similarity=settings.similarity,
                language=settings.language,
                model=model_in(settings, self._space),
            )
        return self.index

    def known_versions(self, ids: Sequence[str]) -> dict[str, int]:
        """Versions below which a clean copy of Redis is stale."""
        versions, floors = self.versions, self._floors
        if not floors:
            return {memory_id: versions.get(memory_id, 0) for memory_id in ids}
        return {memory_id: max(versions.get(memory_id, 0), floors.get(memory_id, 0)) for memory_id in ids}

    def expect(self, memory_id: str, version: int) -> None:
        """Lower copies of Redis are misses from now on: SQL has answered with this version."""
        with self._mutex:
            self._floors[memory_id] = max(version, self._floors.get(memory_id, 0))
            while len(self._floors) > MAX_EXPECTED:
                self._floors.pop(next(iter(self._floors)))

    def leave_out(self, memory_id: str) -> None:
        """A damaged memory is not ranked any more."""
        with self._mutex:
            if self.index is not None:
                self.index.delete([memory_id])

    def forget_dirty(self, memory_id: str) -> None:
        """A dirty copy got lost: what SQL holds counts again."""
        with self._mutex:
            # Also where it waits to be applied; what SQL has accepted has a place in the feed.
            self._pending = [copy for copy in self._pending if copy.id != memory_id or copy.seq]
            if self.dirty.pop(memory_id, None) is not None and self.versions.get(memory_id, 0):
                self.versions.pop(memory_id, None)
                if self.index is not None:
                    self.index.delete([memory_id])


def model_in(settings: IndexSettings, space: EmbeddingSpace | None) -> str:
    """The name that an index and its snapshots have for the model: another one in each space of the database."""
    return settings.model if space is None or space.number == 1 else f"{settings.model}#{space.number}"


class DimensionsLearnedError(Exception):
    """The first vector came after texts without one: the index is made again."""


def _sequence_of(copy: Copy) -> tuple[str, int] | None:
    """The sequence a memory lends words in: its user's session. Without a step, the order of storing is the step."""
    if not copy.session_id:
        return None
    name = f"{copy.user_id}\x1f{copy.session_id}" if copy.user_id else copy.session_id
    return name, copy.created_us if copy.step is None else copy.step
