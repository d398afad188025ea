# Generated from ../_async/store.py by tools/generate_sync.py: edit that file, not this one.

"""The SQLite store as threads see it. It acts by `_engine.py`; its methods are those of `stores/_sync/protocol.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

from agent_memory import _check
from agent_memory._concurrency import in_thread
from agent_memory.memory._copy import Copy
from agent_memory.memory.entries import Tier
from agent_memory.memory.settings import LongTermSettings, SqliteSettings
from agent_memory.memory.stores import _compression
from agent_memory.memory.stores.operations import (
    Access,
    AgentState,
    Candidate,
    ChangePage,
    Cursor,
    EmbeddingSpace,
    Erasure,
    MemoryQuery,
    NamespaceCount,
    Operation,
    QueryPage,
    StoreStats,
    Unembedded,
    WriteResult,
)
from agent_memory.memory.stores.sqlite import _maintaining
from agent_memory.memory.stores.sqlite._engine import SqliteEngine
from agent_memory.memory.stores.sqlite._waiters import Waiter

__all__ = ["SqliteStore"]


def _clock_us() -> int:
    return time.time_ns() // 1_000


class SqliteStore:
    """Memories in a SQLite file, with the methods of `MemoryStore`, which documents them.

    - `path`: the file; made if missing, in a folder that exists.
    - `config`: the `SqliteSettings`; default `SqliteSettings()`.
    - `long_term`: how long-term memory is stored; default `LongTermSettings()`.
    - `clock_us`: gives microseconds since the epoch, for versions and expiry; default: the system's clock.

    Write-ahead log, `synchronous=FULL`, 16 KiB pages. Several processes of one machine may use one file, and any number of
    threads one store. A cancelled change may have been made, a long `write` also in part. Raises MemoryStoreUnavailableError
    where the file cannot be opened, read or written, and MemoryStoreClosedError before `open()`. The constructor raises
    TypeError or ValueError for an argument outside its rule.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        config: SqliteSettings | None = None,
        long_term: LongTermSettings | None = None,
        clock_us: Callable[[], int] = _clock_us,
    ) -> None:
        _check.path("path", path)
        if config is not None:
            _check.instance("config", config, SqliteSettings)
        if long_term is not None:
            _check.instance("long_term", long_term, LongTermSettings)
        _check.function("clock_us", clock_us)
        self._engine = SqliteEngine(path, config or SqliteSettings(), long_term or LongTermSettings(), clock_us)

    @classmethod
    def of_engine(cls, engine: SqliteEngine) -> Self:
        """For the package: a store on an `engine` that was made before; one engine has one store."""
        store = cls.__new__(cls)
        store._engine = engine
        return store

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self._engine.path)!r}>"

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Opens the file, and brings its schema up to date; raises MemorySchemaError for a foreign or newer one."""
        in_thread(self._engine.open)

    def close(self) -> None:
        """Writes what waits, then closes."""
        in_thread(self._engine.close)

    # --- writes ---------------------------------------------------------------------------------------------------------

    def write(self, operations: Sequence[Operation]) -> list[WriteResult]:
        """Applies operations in their order; returns when all are committed and synced."""
        engine = self._engine
        done: list[WriteResult] = []
        while len(done) < len(operations):
            pending = engine.submit_direct(operations, len(done))
            part = None if pending is None else engine.results(pending)
            if part is None:
                waiter = Waiter()
                engine.submit(waiter, operations[len(done) :])
                part = waiter.wait()
            done += part
        return done

    def record_accesses(self, accesses: Iterable[Access]) -> None:
        """Adds to the statistics of use."""
        given = list(accesses)
        waiter = Waiter()
        self._engine.submit_function(waiter, lambda connection: _maintaining.record_accesses(connection, given))
        waiter.wait()

    def expire(self, now_s: float, *, limit: int = 1_000) -> list[WriteResult]:
        """Leaves tombstones for at most `limit` memories with `expires_at <= now`; returns them."""
        engine = self._engine
        waiter = Waiter()
        engine.submit_function(
            waiter,
            lambda connection: _maintaining.expire(
                connection, engine.compression, engine.clock_us(), engine.writer_number, now_s, limit
            ),
        )
        results: list[WriteResult] = waiter.wait()
        return results

    def begin_erasure(self, kind: Literal["agent", "user"], name: str) -> Erasure:
        """Sets the erasure fence: earlier writes are rejected, and an agent's rows become unreadable."""
        engine = self._engine
        waiter = Waiter()
        engine.submit_function(
            waiter,
            lambda connection: _maintaining.begin_erasure(connection, engine.clock_us(), kind, name),
        )
        erasure: Erasure = waiter.wait()
        return erasure

    def erase(self, kind: Literal["agent", "user"], name: str, *, limit: int = 1_000) -> Erasure:
        """Erases at most `limit` memories of an erasure that was begun."""
        engine = self._engine
        waiter = Waiter()
        engine.submit_function(
            waiter,
            lambda connection: _maintaining.erase(
                connection, engine.compression, engine.clock_us(), engine.writer_number, kind, name, limit
            ),
        )
        erasure: Erasure = waiter.wait()
        return erasure

    def purge_tombstones(self, before_us: int, *, limit: int = 1_000) -> int:
        """Forgets at most `limit` tombstones with a version below `before_us`; returns how many."""
        waiter = Waiter()
        self._engine.submit_function(
            waiter, lambda connection: _maintaining.purge_tombstones(connection, before_us, limit)
        )
        purged: int = waiter.wait()
        return purged

    def train_dictionary(self, *, force: bool = False) -> int | None:
        """Trains a dictionary on long-term memory, where there is enough of it and no dictionary yet (or `force`)."""
        engine = self._engine
        settings = engine.long_term
        if not settings.compression_level or not settings.dictionary_bytes or (engine.compression.newest and not force):
            return None
        samples = engine.read(lambda reader: reader.dictionary_samples(_compression.DICTIONARY_SAMPLES))
        if len(samples) < _compression.MIN_DICTIONARY_SAMPLES:
            return None
        data = in_thread(engine.compression.train, samples)
        if data is None:
            return None
        waiter = Waiter()
        engine.submit_function(
            waiter,
            lambda connection: _maintaining.add_dictionary(connection, engine.compression, engine.clock_us(), data),
        )
        number: int = waiter.wait()
        return number

    # --- reads ----------------------------------------------------------------------------------------------------------

    def get(self, ids: Sequence[str], *, vectors: bool = True, damaged: list[str] | None = None) -> list[Copy | None]:
        """The copies held, tombstones among them, in the order of `ids`. Without `vectors` the checksum goes unchecked.

        Damaged ones are raised, or added to the list.
        """
        if not ids:
            return []
        return self._engine.read(lambda reader: reader.get(ids, vectors, damaged))

    def get_by_key(
        self, agent_id: str, key: str, namespace: Sequence[str] = (), user_id: str | None = None
    ) -> Copy | None:
        """The memory that a user's key names; without `user_id` that of no user."""
        now = self._engine.clock_us() / 1e6
        return self._engine.read(lambda reader: reader.get_by_key(agent_id, key, namespace, user_id, now))

    def query(
        self, query: MemoryQuery, *, limit: int = 1_000, cursor: Cursor | None = None, vectors: bool = True
    ) -> QueryPage:
        """At most `limit` (1..10,000) copies, in the query's order."""
        now = self._engine.clock_us() / 1e6
        return self._engine.read(lambda reader: reader.query(query, now, limit, cursor, vectors))

    def count(self, query: MemoryQuery) -> int:
        """How many memories match."""
        now = self._engine.clock_us() / 1e6
        return self._engine.read(lambda reader: reader.count(query, now))

    def changes(self, agent_id: str, after_seq: int = 0, *, limit: int = 1_000, vectors: bool = True) -> ChangePage:
        """What changed after `after_seq`. From 0 on it is everything the agent has."""
        return self._engine.read(lambda reader: reader.changes(agent_id, after_seq, limit, vectors))

    def agent(self, agent_id: str) -> AgentState | None:
        """The agent's row; None where nothing was ever written."""
        return self._engine.read(lambda reader: reader.agent(agent_id))

    def agents(self, *, touched_after_us: int = 0, limit: int = 1_000) -> list[AgentState]:
        """Agents in the order in which they were touched last."""
        return self._engine.read(lambda reader: reader.agents(touched_after_us, limit))

    def namespaces(
        self, agent_id: str, prefix: Sequence[str] = (), *, limit: int = 1_000, offset: int = 0
    ) -> list[NamespaceCount]:
        """The namespaces in use that begin with `prefix`, sorted."""
        now = self._engine.clock_us() / 1e6
        return self._engine.read(lambda reader: reader.namespaces(agent_id, prefix, now, limit, offset))

    def aged(self, tier: Tier, created_before_us: int, *, limit: int = 500) -> list[Candidate]:
        """The oldest memories of all agents in STM or IM that were first stored before a time."""
        return self._engine.read(lambda reader: reader.aged(tier, created_before_us, limit))

    def crowded(self, tier: Tier, max_entries: int, *, limit: int = 100) -> list[AgentState]:
        """Agents that have more than `max_entries` memories in a tier."""
        return self._engine.read(lambda reader: reader.crowded(tier, max_entries, limit))

    def oldest(self, agent_id: str, tier: Tier, *, limit: int = 500) -> list[Candidate]:
        """The memories of one agent in STM or IM that were stored first."""
        return self._engine.read(lambda reader: reader.oldest(agent_id, tier, limit))

    def accesses(self, ids: Sequence[str]) -> list[Access]:
        """The statistics of those ids that have any."""
        return self._engine.read(lambda reader: reader.accesses(ids))

    def user_agents(self, user_id: str) -> list[str]:
        """The agents that hold anything of a user: expired memories and tombstones, too."""
        return self._engine.read(lambda reader: reader.user_agents(user_id))

    def scrub(self) -> bool:
        """Writes a database of up to `vacuum_bytes` anew and empties its log: nothing erased is in a file then.

        False: another connection is in the way, or the disk is full; try again.
        """
        return in_thread(self._engine.scrub)

    def erasures(self) -> list[Erasure]:
        """Those that were begun and are not finished."""
        return self._engine.read(lambda reader: reader.erasures())

    def check_writable(self) -> None:
        """Takes the write lock and releases it; raises MemoryStoreUnavailableError. A full disk is not noticed."""
        waiter = Waiter()
        self._engine.submit_function(waiter, lambda _: None)
        waiter.wait()

    def check_integrity(self) -> list[str]:
        """What SQLite's `quick_check` finds: it reads the whole file."""
        return self._engine.read(lambda reader: reader.check_integrity())

    def embedding_space(self) -> EmbeddingSpace | None:
        """The space of the vectors; None while there was none."""
        return self._engine.read(lambda reader: reader.embedding_space())

    def note_embedding_space(self, space: EmbeddingSpace) -> EmbeddingSpace:
        """Begins the next space, or notes model and completion of the present one; returns the present one."""
        waiter = Waiter()
        self._engine.submit_function(waiter, lambda connection: _maintaining.note_embedding_space(connection, space))
        present: EmbeddingSpace = waiter.wait()
        return present

    def unembedded(
        self,
        space: EmbeddingSpace,
        which: Literal["pending", "earlier", "missing"],
        after_row: int,
        *,
        limit: int = 500,
    ) -> list[Unembedded]:
        """Memories without a vector of `space`, in the order of their rows, after one of them."""
        return self._engine.read(lambda reader: reader.unembedded(space, which, after_row, limit))

    def stats(self) -> StoreStats:
        """Counters since `open()`."""
        return self._engine.stats()
