# Generated from ../_async/parts.py by tools/generate_sync.py: edit that file, not this one.

"""The objects of an open memory system, and how they are put together: each is given what it needs, and knows no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent_memory.memory._damage import Damage
from agent_memory.memory._directory import MemoryDirectory
from agent_memory.memory._loaded_indexes import LoadedIndexes
from agent_memory.memory._sync.accesses import Accesses
from agent_memory.memory._sync.clean_copies import CleanCopies
from agent_memory.memory._sync.dirty_copies import DirtyCopies
from agent_memory.memory._sync.embedding import Embedding
from agent_memory.memory._sync.erasure import Eraser
from agent_memory.memory._sync.feed import Feed
from agent_memory.memory._sync.indexes import Indexes
from agent_memory.memory._sync.journal import MemoryJournal
from agent_memory.memory._sync.journal_replay import JournalReplay
from agent_memory.memory._sync.loader import DataLoader
from agent_memory.memory._sync.maintenance import Maintenance
from agent_memory.memory._sync.queries import Queries
from agent_memory.memory._sync.reading import Reader
from agent_memory.memory._sync.redis_gateway import RedisGateway
from agent_memory.memory._sync.retrieval import Retrieval
from agent_memory.memory._sync.snapshots import Snapshots
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory._sync.storing import Storing
from agent_memory.memory._sync.sync_service import SyncService
from agent_memory.memory._sync.synchronisation import Synchronisation
from agent_memory.memory._sync.tier_moves import TierMoves
from agent_memory.memory._sync.transfer import Transfer
from agent_memory.memory._sync.writing import Writer
from agent_memory.memory.settings import MemorySettings

__all__ = ["Parts", "Sources", "assembled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a memory system is put together from: open stores, and what the caller gave."""

    sql: SqlGateway
    redis: RedisGateway
    journal: MemoryJournal | None
    directory: MemoryDirectory
    embed: Callable[[list[str]], Any] | None
    settings: MemorySettings
    owns_server: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The objects of an open memory system."""

    sql: SqlGateway
    redis: RedisGateway
    journal: MemoryJournal | None
    damage: Damage
    loaded: LoadedIndexes
    clean: CleanCopies
    dirty: DirtyCopies
    loader: DataLoader
    snapshots: Snapshots
    indexes: Indexes
    replay: JournalReplay
    reader: Reader
    writer: Writer
    embedding: Embedding
    accesses: Accesses
    erasure: Eraser
    synchronisation: Synchronisation
    maintenance: Maintenance
    service: SyncService
    storing: Storing
    queries: Queries
    retrieval: Retrieval
    transfer: Transfer


def assembled(sources: Sources) -> Parts:
    """The objects of a memory system over open stores. None of them has done anything yet."""
    sql, redis, journal, settings = sources.sql, sources.redis, sources.journal, sources.settings
    damage, loaded = Damage(), LoadedIndexes(settings.index)
    clean = CleanCopies(sql, redis, settings, loaded.note_hint)
    dirty = DirtyCopies(redis, settings.sync, damage, loaded.note_hint)
    loader = DataLoader(sql, clean, damage, settings.sync)
    snapshots = Snapshots(sources.directory.snapshots, settings.index)
    indexes = Indexes(loaded, sql, redis, journal, loader, snapshots, damage, settings)
    replay = JournalReplay(sql, journal, loader, indexes, settings.sync)
    reader = Reader(sql, redis, dirty, loader, journal, replay, loaded, damage)
    writer = Writer(sql, redis, clean, dirty, loader, journal, replay)
    embedding = Embedding(sql, writer, damage, settings, sources.embed, loaded.set_space, loaded.learn)
    accesses = Accesses(sql, settings.maintenance)
    feed = Feed(sql, redis, clean, damage)
    erasure = Eraser(
        sql, redis, journal, loaded, snapshots, feed, sources.directory, settings.maintenance,
        owns_server=sources.owns_server,
    )  # fmt: skip
    synchronisation = Synchronisation(sql, redis, clean, dirty, loader, indexes, replay, feed, erasure, settings.sync)
    moves = TierMoves(sql, redis, clean, settings)
    maintenance = Maintenance(sql, synchronisation, accesses, erasure, moves, embedding, indexes, settings.maintenance)
    queries = Queries(sql, damage)
    return Parts(
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
        service=SyncService(redis, synchronisation, maintenance, accesses, settings),
        storing=Storing(sql, redis, journal, reader, writer, replay, synchronisation, embedding, loaded, settings),
        queries=queries,
        retrieval=Retrieval(indexes, reader, embedding, accesses),
        transfer=Transfer(queries, writer, embedding, loaded),
    )
