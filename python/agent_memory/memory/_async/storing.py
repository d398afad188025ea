"""Storing, changing and deleting memories: from a caller's arguments to writes, and from their answers to ids and errors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent_memory.memory._arguments import changed_copy, copy_from, copy_of, levels_of
from agent_memory.memory._async.embedding import AsyncEmbedding
from agent_memory.memory._async.journal import AsyncMemoryJournal
from agent_memory.memory._async.journal_replay import AsyncJournalReplay
from agent_memory.memory._async.reading import AsyncReader
from agent_memory.memory._async.redis_gateway import AsyncRedisGateway
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._async.synchronisation import AsyncSynchronisation
from agent_memory.memory._async.writing import AsyncWriter
from agent_memory.memory._loaded_indexes import LoadedIndexes
from agent_memory.memory._outcomes import Written
from agent_memory.memory.entries import Durability, MemoryId
from agent_memory.memory.errors import (
    AgentErasedError,
    DurabilityError,
    MemoryConflictError,
    MemoryDeletedError,
)
from agent_memory.memory.reports import SyncReport
from agent_memory.memory.settings import MemorySettings
from agent_memory.memory.stores.operations import Put, WriteStatus

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AsyncStoring"]

UPDATE_ATTEMPTS: Final = 32
"""How often an update without `if_version` begins again because another writer was faster."""

STORED_AT_ONCE: Final = 500
"""Memories in one call of the store."""


class AsyncStoring:
    """Stores, updates and deletes memories. Any number of tasks may use one object."""

    def __init__(
        self,
        sql: AsyncSqlGateway,
        redis: AsyncRedisGateway,
        journal: AsyncMemoryJournal | None,
        reader: AsyncReader,
        writer: AsyncWriter,
        replay: AsyncJournalReplay,
        synchronisation: AsyncSynchronisation,
        embedding: AsyncEmbedding,
        loaded: LoadedIndexes,
        settings: MemorySettings,
    ) -> None:
        self._sql = sql
        self._redis = redis
        self._journal = journal
        self._reader = reader
        self._writer = writer
        self._replay = replay
        self._synchronisation = synchronisation
        self._embedding = embedding
        self._loaded = loaded
        self._settings = settings
        self._levels = (settings.durability, settings.minimum or settings.durability)

    async def store(
        self,
        agent_id: str,
        content: Any,
        durability: Durability | None,
        minimum: Durability | None,
        attributes: Any,
    ) -> MemoryId:
        """Stores a memory; takes `attributes` over, a dict of keywords of `MemoryAttributes`."""
        if durability is None and minimum is None:
            durability, minimum = self._levels
        else:
            durability, minimum = levels_of(durability, minimum, self._levels, self._journal is not None)
        if self._embedding.is_possible and attributes.get("embedding") is None and isinstance(content, str):
            attributes["embedding"] = (await self._embedding.make_or_wait([content]))[0]
        now_us = time.time_ns() // 1_000
        copy = copy_of(agent_id, content, attributes, now_us, self._writer.number, self._settings.deduplicate)
        await self._embedding.admit([copy])
        # A key, an idempotency key or equal content can be found by SQL only.
        if durability == "redis" and (copy.key or copy.idempotency_key or copy.content_hash):
            durability = "sql"
        written = await self._writer.put(Put(copy), durability, minimum)
        return self._stored(written)

    def _minimum(self, minimum: Durability | None) -> Durability:
        """The weakest level that a change or a deletion may reach."""
        return levels_of("sql", minimum or self._levels[1], self._levels, self._journal is not None)[1]

    def _stored(self, written: Written) -> MemoryId:
        result = written.result
        status = result.status
        if status is WriteStatus.ERASED:
            raise AgentErasedError("the agent or user was erased after this write began")
        if status is WriteStatus.EXISTING and not result.existed:
            raise MemoryDeletedError(result.id)
        if status not in (WriteStatus.APPLIED, WriteStatus.EXISTING):
            raise DurabilityError(written.durability, f"it was refused: {status.name.lower()}")
        if written.copy is not None:
            self._loaded.learn(written.copy, is_dirty=written.durability != "sql")
        return MemoryId(result.id, result.version, written.durability)

    async def store_many(
        self, agent_id: str, given: list[dict[str, Any]], vectors: NDArray[np.float32] | None
    ) -> list[MemoryId]:
        """Stores many memories, as `new_memories` gives them; returns their ids in order."""
        await self._embed_missing(given, vectors)
        now_us = int(time.time() * 1e6)
        is_deduplicated = self._settings.deduplicate
        made = [
            copy_from(
                agent_id,
                entry,
                None if vectors is None else vectors[at],
                now_us,
                at,
                self._writer.number,
                is_deduplicated,
            )
            for at, entry in enumerate(given)
        ]
        await self._embedding.admit(made)
        stored: list[MemoryId] = []
        for start in range(0, len(made), STORED_AT_ONCE):
            written = await self._writer.put_many([Put(copy) for copy in made[start : start + STORED_AT_ONCE]])
            stored += [self._stored(one) for one in written]
        return stored

    async def _embed_missing(self, entries: list[dict[str, Any]], vectors: Any) -> None:
        if not self._embedding.is_possible or vectors is not None:
            return
        wanting = [one for one in entries if one.get("embedding") is None and isinstance(one.get("content"), str)]
        for start in range(0, len(wanting), STORED_AT_ONCE):
            part = wanting[start : start + STORED_AT_ONCE]
            for entry, vector in zip(
                part, await self._embedding.make_or_wait([one["content"] for one in part]), strict=True
            ):
                entry["embedding"] = vector

    async def update(
        self,
        agent_id: str,
        memory_id: str,
        changes: dict[str, Any],
        if_version: int | None,
        minimum: Durability | None,
    ) -> MemoryId:
        """Makes `changes`, as `changed_copy` takes them, over a version of a memory; over a later one if another was faster."""
        weakest = self._minimum(minimum)
        content = changes.get("content")
        if self._embedding.is_possible and changes.get("embedding") is None and isinstance(content, str):
            changes["embedding"] = (await self._embedding.make_or_wait([content]))[0]
        attempt = 0
        while True:
            base = await self._reader.read_one(agent_id, memory_id)
            if base is None:
                raise KeyError(memory_id)
            if if_version is not None and base.version != if_version:
                raise MemoryConflictError(memory_id, if_version, base.version)
            changed = changed_copy(base, changes, time.time(), self._writer.number)
            await self._embedding.admit([changed])
            written = await self._writer.put(Put(changed, base.version), "sql", weakest, base.version)
            status = written.result.status
            if status is WriteStatus.DELETED:
                raise KeyError(memory_id)
            retries = status in (WriteStatus.CONFLICT, WriteStatus.STALE, WriteStatus.ABSENT)
            if retries and self._journal:
                await self._replay.run()
            if status is WriteStatus.ABSENT and self._redis.tier is not None:
                # Redis has a copy that SQL has not got yet.
                await self._synchronisation.sync_agent(agent_id, [memory_id], SyncReport())
            if status is WriteStatus.CONFLICT and if_version is not None:
                raise MemoryConflictError(memory_id, if_version, written.result.version)
            if not retries:
                return self._stored(written)
            self._loaded.expect(agent_id, memory_id, written.result.version)
            attempt += 1
            if attempt == UPDATE_ATTEMPTS:
                raise MemoryConflictError(memory_id, base.version, written.result.version)

    async def delete(self, agent_id: str, memory_id: str, if_version: int | None, minimum: Durability | None) -> bool:
        """Deletes a memory for good; returns whether there was one."""
        weakest = self._minimum(minimum)
        index = self._loaded.peek(agent_id)
        known = 0 if index is None else index.known_versions([memory_id])[memory_id]
        written = await self._writer.delete(agent_id, memory_id, if_version, weakest, known)
        if written.result.status is WriteStatus.ABSENT and written.result.existed:
            # Redis has a copy that SQL has not got yet.
            await self._synchronisation.sync_agent(agent_id, [memory_id], SyncReport())
            written = await self._writer.delete(agent_id, memory_id, if_version, weakest, known, is_synced=True)
        result = written.result
        if result.status is WriteStatus.CONFLICT and if_version is not None:
            raise MemoryConflictError(memory_id, if_version, result.version)
        if written.copy is not None:
            self._loaded.learn(written.copy, is_dirty=written.durability != "sql")
        # A memory that only Redis had is known by its index.
        is_dirty = index is not None and memory_id in index.dirty
        return result.status is WriteStatus.APPLIED and (result.existed or is_dirty)

    async def delete_many(self, agent_id: str, ids: Sequence[str]) -> int:
        """Deletes memories for good, a batch in one transaction; returns how many there were."""
        deleted = 0
        for start in range(0, len(ids), STORED_AT_ONCE):
            for written in await self._writer.delete_many(agent_id, ids[start : start + STORED_AT_ONCE]):
                deleted += written.result.status is WriteStatus.APPLIED and written.result.existed
                if written.copy is not None:
                    self._loaded.learn(written.copy)
        return deleted

    async def renew(self, agent_id: str, lives: Mapping[str, tuple[int, float]]) -> None:
        """Gives memories that still have the version named a new `ttl_s`; those that were changed meanwhile keep theirs."""
        now = time.time()
        puts = [
            Put(changed_copy(row, {"ttl_s": lives[row.id][1]}, now, self._writer.number), row.version)
            for row in await self._sql.ask(self._sql.store.get, list(lives))
            if row is not None and not row.deleted and row.agent_id == agent_id and row.version == lives[row.id][0]
        ]
        for written in await self._writer.put_many(puts) if puts else []:
            if written.copy is not None:
                self._loaded.learn(written.copy)
