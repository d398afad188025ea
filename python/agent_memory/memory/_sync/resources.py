# Generated from ../_async/resources.py by tools/generate_sync.py: edit that file, not this one.

"""Opening and closing what a memory system stands on: SQL, Redis, the journal."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_memory._concurrency import in_thread
from agent_memory.errors import RecoveryJournalError
from agent_memory.memory._directory import MemoryDirectory
from agent_memory.memory._sync.journal import MemoryJournal
from agent_memory.memory._sync.parts import Parts, Sources, assembled
from agent_memory.memory._sync.redis_connection import RedisConnection
from agent_memory.memory._sync.redis_gateway import RedisGateway
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.errors import MemorySystemError
from agent_memory.memory.settings import MemorySettings
from agent_memory.memory.stores._sync.protocol import MemoryStore
from agent_memory.memory.stores.sqlite import SqliteStore

__all__ = ["Resources"]


class Resources:
    """What the arguments of a memory system name, opened and closed one at a time."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        redis: Any,
        store: str | MemoryStore | None,
        embed: Callable[[list[str]], Any] | None,
        settings: MemorySettings,
    ) -> None:
        self.directory = MemoryDirectory(path)
        self._redis = redis
        self._store = store
        self._embed = embed
        self._settings = settings
        self._connection = RedisConnection(redis, self.directory)

    def open(self) -> Parts:
        """The objects of a system over what was opened. Where this fails nothing stays open."""
        is_embedded = self._redis == "embedded"
        try:
            tier = self._connection.open()
            store = self._make_store()
            store.open()
            try:
                journal = in_thread(self._open_journal)
            except BaseException:
                store.close()
                raise
        except BaseException:
            self._connection.close()
            raise
        parts = assembled(
            Sources(
                sql=SqlGateway(store),
                redis=RedisGateway(tier, self._connection.find_server if is_embedded else None),
                journal=journal,
                directory=self.directory,
                embed=self._embed,
                settings=self._settings,
                owns_server=is_embedded,
            )
        )
        try:
            parts.embedding.refresh()
            parts.replay.run()
        except BaseException:
            self.close(parts)
            raise
        return parts

    def close(self, parts: Parts) -> None:
        """Ends background work, finishes what waits, and closes what was opened."""
        parts.service.stop()
        try:
            parts.accesses.flush()
        except MemorySystemError:
            pass  # statistics only
        parts.clean.flush()
        parts.replay.close()
        parts.redis.close()
        try:
            parts.indexes.save_snapshots()
        except (OSError, MemorySystemError):
            pass  # they save time, nothing else
        parts.sql.store.close()
        if parts.journal is not None:
            in_thread(parts.journal.close)
        self._connection.close()

    def abandon(self, parts: Parts | None) -> None:
        """In a child of fork(): nothing of the parent's comes along, neither its threads nor its connections."""
        if parts is not None and parts.journal is not None:
            parts.journal.abandon()
        self.directory = MemoryDirectory(self.directory.path)
        self._connection = RedisConnection(self._redis, self.directory)

    def _open_journal(self) -> MemoryJournal | None:
        if not self._settings.journal:
            return None
        self.directory.make()
        try:
            return MemoryJournal(self.directory.journal, self._identity(), self._settings.sync.max_unsynced_bytes)
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

    def _make_store(self) -> MemoryStore:
        given = self._store
        if given is not None and not isinstance(given, str):
            return given
        if given is None or given.startswith("sqlite:///"):
            file = self.directory.database if given is None else Path(given.removeprefix("sqlite:///"))
            self.directory.make()
            return SqliteStore(file, config=self._settings.sqlite, long_term=self._settings.long_term)
        return _postgres_store(given, self._settings)  # `check_system` has seen to it


def _postgres_store(url: str, settings: MemorySettings) -> MemoryStore:
    try:
        module = importlib.import_module("agent_memory.memory.stores.postgres")
    except ImportError as error:
        raise MemorySystemError(str(error)) from error
    made: MemoryStore = module.PostgresStore(url, config=settings.postgres, long_term=settings.long_term)
    return made
