"""The objects of an open memory system, and how they are put together: each is given what it needs, and knows no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent_memory.memory._async.accesses import AsyncAccesses
from agent_memory.memory._async.clean_copies import AsyncCleanCopies
from agent_memory.memory._async.dirty_copies import AsyncDirtyCopies
from agent_memory.memory._async.embedding import AsyncEmbedding
from agent_memory.memory._async.erasure import AsyncEraser
from agent_memory.memory._async.feed import AsyncFeed
from agent_memory.memory._async.indexes import AsyncIndexes
from agent_memory.memory._async.journal import AsyncMemoryJournal
from agent_memory.memory._async.journal_replay import AsyncJournalReplay
from agent_memory.memory._async.loader import AsyncDataLoader
from agent_memory.memory._async.maintenance import AsyncMaintenance
from agent_memory.memory._async.queries import AsyncQueries
from agent_memory.memory._async.reading import AsyncReader
from agent_memory.memory._async.redis_gateway import AsyncRedisGateway
from agent_memory.memory._async.retrieval import AsyncRetrieval
from agent_memory.memory._async.snapshots import AsyncSnapshots
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._async.storing import AsyncStoring
from agent_memory.memory._async.sync_service import AsyncSyncService
from agent_memory.memory._async.synchronisation import AsyncSynchronisation
from agent_memory.memory._async.tier_moves import AsyncTierMoves
from agent_memory.memory._async.transfer import AsyncTransfer
from agent_memory.memory._async.writing import AsyncWriter
from agent_memory.memory._damage import Damage
from agent_memory.memory._directory import MemoryDirectory
from agent_memory.memory._loaded_indexes import LoadedIndexes
from agent_memory.memory.settings import MemorySettings

__all__ = ["AsyncParts", "AsyncSources", "async_assembled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncSources:
    """What a memory system is put together from: open stores, and what the caller gave."""

    sql: AsyncSqlGateway
    redis: AsyncRedisGateway
    journal: AsyncMemoryJournal | None
    directory: MemoryDirectory
    embed: Callable[[list[str]], Any] | None
    settings: MemorySettings
    owns_server: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncParts:
    """The objects of an open memory system."""

    sql: AsyncSqlGateway
    redis: AsyncRedisGateway
    journal: AsyncMemoryJournal | None
    damage: Damage
    loaded: LoadedIndexes
    clean: AsyncCleanCopies
    dirty: AsyncDirtyCopies
    loader: AsyncDataLoader
    snapshots: AsyncSnapshots
    indexes: AsyncIndexes
    replay: AsyncJournalReplay
    reader: AsyncReader
    writer: AsyncWriter
    embedding: AsyncEmbedding
    accesses: AsyncAccesses
    erasure: AsyncEraser
    synchronisation: AsyncSynchronisation
    maintenance: AsyncMaintenance
    service: AsyncSyncService
    storing: AsyncStoring
    queries: AsyncQueries
    retrieval: AsyncRetrieval
    transfer: AsyncTransfer


def async_assembled(sources: AsyncSources) -> AsyncParts:
    """The objects of a memory system over open stores. None of them has done anything yet."""
    sql, redis, journal, settings = sources.sql, sources.redis, sources.journal, sources.settings
    damage, loaded = Damage(), LoadedIndexes(settings.index)
    clean = AsyncCleanCopies(sql, redis, settings, loaded.note_hint)
    dirty = AsyncDirtyCopies(redis, settings.sync, damage, loaded.note_hint)
    loader = AsyncDataLoader(sql, clean, damage, settings.sync)
    snapshots = AsyncSnapshots(sources.directory.snapshots, settings.index)
    indexes = AsyncIndexes(loaded, sql, redis, journal, loader, snapshots, damage, settings)
    replay = AsyncJournalReplay(sql, journal, loader, indexes, settings.sync)
    reader = AsyncReader(sql, redis, dirty, loader, journal, replay, loaded, damage)
    writer = AsyncWriter(sql, redis, clean, dirty, loader, journal, replay)
    embedding = AsyncEmbedding(sql, writer, damage, settings, sources.embed, loaded.set_space, loaded.learn)
    accesses = AsyncAccesses(sql, settings.maintenance)
    feed = AsyncFeed(sql, redis, clean, damage)
    erasure = AsyncEraser(
        sql, redis, journal, loaded, snapshots, feed, sources.directory, settings.maintenance,
        owns_server=sources.owns_server,
    )  # fmt: skip
    synchronisation = AsyncSynchronisation(
        sql, redis, clean, dirty, loader, indexes, replay, feed, erasure, settings.sync
    )
    moves = AsyncTierMoves(sql, redis, clean, settings)
    maintenance = AsyncMaintenance(
        sql, synchronisation, accesses, erasure, moves, embedding, indexes, settings.maintenance
    )
    queries = AsyncQueries(sql, damage)
    return AsyncParts(
        sql=sql,
        redis=redis,
        journal=journal,
        damage=damage,
        loaded=loaded,
        clean=clean,
        dirty=dirty,
        loader=loader,
        snapshots=snapshots,
        indexes=indexes,
        replay=replay,
        reader=reader,
        writer=writer,
        embedding=embedding,
        accesses=accesses,
        erasure=erasure,
        synchronisation=synchronisation,
        maintenance=maintenance,
        service=AsyncSyncService(redis, synchronisation, maintenance, accesses, settings),
        storing=AsyncStoring(sql, redis, journal, reader, writer, replay, synchronisation, embedding, loaded, settings),
        queries=queries,
        retrieval=AsyncRetrieval(indexes, reader, embedding, accesses),
        transfer=AsyncTransfer(queries, writer, embedding, loaded),
    )
