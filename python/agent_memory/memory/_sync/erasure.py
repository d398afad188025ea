# Generated from ../_async/erasure.py by tools/generate_sync.py: edit that file, not this one.

"""Erasing an agent or a user: from SQL, Redis, journal, indexes, snapshots, and from the files that they leave traces in."""

from __future__ import annotations

from agent_memory._concurrency import KeyedLocks, in_thread, sleep
from agent_memory.memory._directory import MemoryDirectory
from agent_memory.memory._loaded_indexes import LoadedIndexes
from agent_memory.memory._sync.feed import Feed
from agent_memory.memory._sync.journal import MemoryJournal
from agent_memory.memory._sync.redis_gateway import RedisGateway
from agent_memory.memory._sync.snapshots import Snapshots
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.reports import SyncReport
from agent_memory.memory.settings import MaintenanceSettings
from agent_memory.memory.stores.operations import Erasure

__all__ = ["Eraser"]


class Eraser:
    """Erases what SQL knows is to be erased. Any number of threads may use one object.

    `owns_server`: whether the append-only file of the server in Redis is to be scrubbed, too.
    """

    def __init__(
        self,
        sql: SqlGateway,
        redis: RedisGateway,
        journal: MemoryJournal | None,
        loaded: LoadedIndexes,
        snapshots: Snapshots,
        feed: Feed,
        directory: MemoryDirectory,
        settings: MaintenanceSettings,
        *,
        owns_server: bool,
    ) -> None:
        self._sql = sql
        self._redis = redis
        self._journal = journal
        self._loaded = loaded
        self._snapshots = snapshots
        self._feed = feed
        self._directory = directory
        self._settings = settings
        self._owns_server = owns_server
        self._owed_redis: dict[str, str] = {}
        self._traces = self._scrubbed = 0
        """How often something has left traces in files, and up to which of these they are gone."""
        self._scrubbing = KeyedLocks()

    def erase(self, kind: str, name: str) -> int:
        """Erases an agent (`"agent"`) or a user (`"user"`), unreadable once this has begun; returns how many
        memories.
        """
        return self.finish(self._sql.change(self._sql.store.begin_erasure, kind, name))

    def finish_begun(self) -> int:
        """Finishes the erasures that any process has begun; returns how many memories were erased."""
        erased = 0
        for erasure in self._sql.ask(self._sql.store.erasures):
            erased += self.finish(erasure)
        self.scrub()
        return erased

    def finish(self, erasure: Erasure) -> int:
        """Erases what is left of an agent or user, of which SQL knows already; returns how many memories.

        Copies go before the rows do: journal, index, snapshots, Redis. What they leave in files goes last (`scrub`).
        """
        kind, name = erasure.kind, erasure.name
        agents = [name] if kind == "agent" else self._sql.ask(self._sql.store.user_agents, name)
        if self._redis.tier is not None:
            for agent_id in agents:
                self._redis.ask(self._redis.tier.end_epoch, agent_id)
        in_thread(self._directory.note_erasure)
        if self._journal is not None:
            owner = "agent_id" if kind == "agent" else "user_id"
            self._journal.erase(erasure.fence_version, **{owner: name})
        for agent_id in agents:
            self._loaded.drop(agent_id)
            self._snapshots.delete(agent_id)
            if self._redis.tier is not None and not self._erase_in_redis(kind, agent_id):
                self._owed_redis[agent_id] = kind
        if kind == "user":
            self._snapshots.delete_of_user(name)
        erased: int = int(erasure.erased)
        while True:
            progress = self._sql.change(self._sql.store.erase, kind, name)
            erased += int(progress.erased)
            if not progress.remaining:
                break
            sleep(self._settings.pause_s)
        for agent_id in agents:
            self._loaded.drop(agent_id)
            if kind == "user":
                self._feed.follow(agent_id, SyncReport())
        self._traces += 1
        self.scrub()
        return erased

    def _erase_in_redis(self, kind: str, agent_id: str) -> bool:
        tier = self._redis.tier
        assert tier is not None
        # Of an agent of which a user goes, all clean copies are misses from now on; those of others are loaded again.
        return self._redis.ask(tier.erase if kind == "agent" else tier.erase_clean, agent_id) is not None

    def pay_redis(self) -> None:
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
            # Here, too, as what another process has erased is dropped.
            is_journal_done = self._journal is None or self._journal.scrub()
            if self._scrubbed < wanted or in_thread(self._directory.has_noted_erasure):
                self._scrub_files(is_journal_done)

    def _scrub_files(self, is_journal_done: bool) -> None:
        traces = self._traces
        is_done = is_journal_done and bool(self._sql.ask(self._sql.store.scrub)) and not self._owed_redis
        if self._owns_server and self._redis.tier is not None:
            is_done &= bool(self._redis.ask(self._redis.tier.rewrite_append_file))
        if is_done:
            self._scrubbed = traces
            in_thread(self._directory.forget_erasure)
