"""Opening and closing what a memory system stands on: SQL, Redis, the journal."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_memory._concurrency import async_in_thread
from agent_memory.errors import RecoveryJournalError
from agent_memory.memory._async.journal import AsyncMemoryJournal
from agent_memory.memory._async.parts import AsyncParts, AsyncSources, async_assembled
from agent_memory.memory._async.redis_connection import AsyncRedisConnection
from agent_memory.memory._async.redis_gateway import AsyncRedisGateway
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._directory import MemoryDirectory
from agent_memory.memory.errors import MemorySystemError
from agent_memory.memory.settings import MemorySettings
from agent_memory.memory.stores._async.protocol import AsyncMemoryStore
from agent_memory.memory.stores.sqlite import AsyncSqliteStore

__all__ = ["AsyncResources"]


class AsyncResources:
    """What the arguments of a memory system name, opened and closed one at a time."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        redis: Any,
        store: str | AsyncMemoryStore | None,
        embed: Callable[[list[str]], Any] | None,
        settings: MemorySettings,
    ) -> None:
        self.directory = MemoryDirectory(path)
        self._redis = redis
        self._store = store
        self._embed = embed
        self._settings = settings
        self._connection = AsyncRedisConnection(redis, self.directory)

    async def open(self) -> AsyncParts:
        """The objects of a system over what was opened. Where this fails nothing stays open."""
        is_embedded = self._redis == "embedded"
        try:
            tier = await self._connection.open()
            store = self._make_store()
            await store.open()
            try:
                journal = await async_in_thread(self._open_journal)
            except BaseException:
                await store.close()
                raise
        except BaseException:
            await self._connection.close()
            raise
        parts = async_assembled(
            AsyncSources(
                sql=AsyncSqlGateway(store),
                redis=AsyncRedisGateway(tier, self._connection.find_server if is_embedded else None),
                journal=journal,
                directory=self.directory,
                embed=self._embed,
                settings=self._settings,
                owns_server=is_embedded,
            )
        )
        try:
            await parts.embedding.refresh()
            await parts.replay.run()
        except BaseException:
            await self.close(parts)
            raise
        return parts

    async def close(self, parts: AsyncParts) -> None:
        """Ends background work, finishes what waits, and closes what was opened."""
        await parts.service.stop()
        try:
            await parts.accesses.flush()
        except MemorySystemError:
            pass  # statistics only
        await parts.clean.flush()
        await parts.replay.close()
        await parts.redis.close()
        try:
            await parts.indexes.save_snapshots()
        except (OSError, MemorySystemError):
            pass  # they save time, nothing else
        await parts.sql.store.close()
        if parts.journal is not None:
            await async_in_thread(parts.journal.close)
        await self._connection.close()

    def abandon(self, parts: AsyncParts | None) -> None:
        """In a child of fork(): nothing of the parent's comes along, neither its threads nor its connections."""
        if parts is not None and parts.journal is not None:
            parts.journal.abandon()
        self.directory = MemoryDirectory(self.directory.path)
        self._connection = AsyncRedisConnection(self._redis, self.directory)

    def _open_journal(self) -> AsyncMemoryJournal | None:
        if not self._settings.journal:
            return None
        self.directory.make()
        try:
            return AsyncMemoryJournal(self.directory.journal, self._identity(), self._settings.sync.max_unsynced_bytes)
        except RecoveryJournalError as error:
            raise MemorySystemError(f"the journal could not be opened: {error}") from error

    def _identity(self) -> str:
        """The name of the database in the journal: no part of a URL that may be a password stands in it."""
        given = self._store
        if given is None:
            given = "sqlite"
        elif not isinstance(given, str):
            given = type(given).__name__
        return "agent-memory:" + hashlib.sha256(given.encode()).hexdigest()[:32]

    def _make_store(self) -> AsyncMemoryStore:
        given = self._store
        if given is not None and not isinstance(given, str):
            return given
        if given is None or given.startswith("sqlite:///"):
            file = self.directory.database if given is None else Path(given.removeprefix("sqlite:///"))
            self.directory.make()
            return AsyncSqliteStore(file, config=self._settings.sqlite, long_term=self._settings.long_term)
        return _postgres_store(given, self._settings)  # `check_system` has seen to it


def _postgres_store(url: str, settings: MemorySettings) -> AsyncMemoryStore:
    try:
        module = importlib.import_module("agent_memory.memory.stores.postgres")
    except ImportError as error:
        raise MemorySystemError(str(error)) from error
    made: AsyncMemoryStore = module.AsyncPostgresStore(url, config=settings.postgres, long_term=settings.long_term)
    return made
