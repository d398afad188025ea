"""The SQLite store as tasks see it. It acts by `_engine.py`; its methods are those of `stores/_async/protocol.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

from agent_memory import _check
from agent_memory._concurrency import async_in_thread
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
from agent_memory.memory.stores.sqlite._waiters import AsyncWaiter

__all__ = ["AsyncSqliteStore"]


def _clock_us() -> int:
    return time.time_ns() // 1_000


class AsyncSqliteStore:
    """Memories in a SQLite file, with the methods of `AsyncMemoryStore`, which documents them.

    - `path`: the file; made if missing, in a folder that exists.
    - `config`: the `SqliteSettings`; default `SqliteSettings()`.
    - `long_term`: how long-term memory is stored; default `LongTermSettings()`.
    - `clock_us`: gives microseconds since the epoch, for versions and expiry; default: the system's clock.

    Write-ahead log, `synchronous=FULL`, 16 KiB pages. Several processes of one machine may use one file, and any number of
    tasks one store. A cancelled change may have been made, a long `write` also in part. Raises MemoryStoreUnavailableError
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

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Opens the file, and brings its schema up to date; raises MemorySchemaError for a foreign or newer one."""
        await async_in_thread(self._engine.open)

    async def close(self) -> None:
        """Writes what waits, then closes."""
        await async_in_thread(self._engine.close)

    # --- writes ---------------------------------------------------------------------------------------------------------

    async def write(self, operations: Sequence[Operation]) -> list[WriteResult]:
        """Applies operations in their order; returns when all are committed and synced."""
        engine = self._engine
        done: list[WriteResult] = []
        while len(done) < len(operations):
            pending = engine.submit_direct(operations, len(done))
            part = None if pending is None else await engine.async_results(pending)
            if part is None:
                waiter = AsyncWaiter()
                engine.submit(waiter, operations[len(done) :])
                part = await waiter.wait()
            done += part
        return done

    async def record_accesses(self, accesses: Iterable[Access]) -> None:
        """Adds to the statistics of use."""
        given = list(accesses)
        waiter = AsyncWaiter()
        self._engine.submit_function(waiter, lambda connection: _maintaining.record_accesses(connection, given))
        await waiter.wait()

    async def expire(self, now_s: float, *, limit: int = 1_000) -> list[WriteResult]:
        """Leaves tombstones for at most `limit` memories with `expires_at <= now`; returns them."""
        engine = self._engine
        waiter = AsyncWaiter()
        engine.submit_function(
            waiter,
            lambda connection: _maintaining.expire(
                connection, engine.compression, engine.clock_us(), engine.writer_number, now_s, limit
            ),
        )
        results: list[WriteResult] = await waiter.wait()
        return results

    async def begin_erasure(self, kind: Literal["agent", "user"], name: str) -> Erasure:
        """Sets the erasure fence: earlier writes are rejected, and an agent's rows become unreadable."""
        engine = self._engine
        waiter = AsyncWaiter()
        engine.submit_function(
            waiter,
            lambda connection: _maintaining.begin_erasure(connection, engine.clock_us(), kind, name),
        )
        erasure: Erasure = await waiter.wait()
        return erasure

    async def erase(self, kind: Literal["agent", "user"], name: str, *, limit: int = 1_000) -> Erasure:
        """Erases at most `limit` memories of an erasure that was begun."""
        engine = self._engine
        waiter = AsyncWaiter()
        engine.submit_function(
            waiter,
            lambda connection: _maintaining.erase(
                connection, engine.compression, engine.clock_us(), engine.writer_number, kind, name, limit
            ),
        )
        erasure: Erasure = await waiter.wait()
        return erasure

    async def purge_tombstones(self, before_us: int, *, limit: int = 1_000) -> int:
        """Forgets at most `limit` tombstones with a version below `before_us`; returns how many."""
        waiter = AsyncWaiter()
        self._engine.submit_function(
            waiter, lambda connection: _maintaining.purge_tombstones(connection, before_us, limit)
        )
        purged: int = await waiter.wait()
        return purged

    async def train_dictionary(self, *, force: bool = False) -> int | None:
        """Trains a dictionary on long-term memory, where there is enough of it and no dictionary yet (or `force`)."""
        engine = self._engine
        settings = engine.long_term
        if not settings.compression_level or not settings.dictionary_bytes or (engine.compression.newest and not force):
            return None
        samples = await engine.async_read(lambda reader: reader.dictionary_samples(_compression.DICTIONARY_SAMPLES))
        if len(samples) < _compression.MIN_DICTIONARY_SAMPLES:
            return None
        data = await async_in_thread(engine.compression.train, samples)
        if data is None:
            return None
        waiter = AsyncWaiter()
        engine.submit_function(
            waiter,
            lambda connection: _maintaining.add_dictionary(connection, engine.compression, engine.clock_us(), data),
        )
        number: int = await waiter.wait()
        return number

    # --- reads ----------------------------------------------------------------------------------------------------------

    async def get(
        self, ids: Sequence[str], *, vectors: bool = True, damaged: list[str] | None = None
    ) -> list[Copy | None]:
        """The copies held, tombstones among them, in the order of `ids`. Without `vectors` the checksum goes unchecked.

        Damaged ones are raised, or added to the list.
        """
        if not ids:
            return []
        return await self._engine.async_read(lambda reader: reader.get(ids, vectors, damaged))

    async def get_by_key(
        self, agent_id: str, key: str, namespace: Sequence[str] = (), user_id: str | None = None
    ) -> Copy | None:
        """The memory that a user's key names; without `user_id` that of no user."""
        now = self._engine.clock_us() / 1e6
        return await self._engine.async_read(lambda reader: reader.get_by_key(agent_id, key, namespace, user_id, now))

    async def query(
        self, query: MemoryQuery, *, limit: int = 1_000, cursor: Cursor | None = None, vectors: bool = True
    ) -> QueryPage:
        """At most `limit` (1..10,000) copies, in the query's order."""
        now = self._engine.clock_us() / 1e6
        return await self._engine.async_read(lambda reader: reader.query(query, now, limit, cursor, vectors))

    async def count(self, query: MemoryQuery) -> int:
        """How many memories match."""
        now = self._engine.clock_us() / 1e6
        return await self._engine.async_read(lambda reader: reader.count(query, now))

    async def changes(
        self, agent_id: str, after_seq: int = 0, *, limit: int = 1_000, vectors: bool = True
    ) -> ChangePage:
        """What changed after `after_seq`. From 0 on it is everything the agent has."""
        return await self._engine.async_read(lambda reader: reader.changes(agent_id, after_seq, limit, vectors))

    async def agent(self, agent_id: str) -> AgentState | None:
        """The agent's row; None where nothing was ever written."""
        return await self._engine.async_read(lambda reader: reader.agent(agent_id))

    async def agents(self, *, touched_after_us: int = 0, limit: int = 1_000) -> list[AgentState]:
        """Agents in the order in which they were touched last."""
        return await self._engine.async_read(lambda reader: reader.agents(touched_after_us, limit))

    async def namespaces(
        self, agent_id: str, prefix: Sequence[str] = (), *, limit: int = 1_000, offset: int = 0
    ) -> list[NamespaceCount]:
        """The namespaces in use that begin with `prefix`, sorted."""
        now = self._engine.clock_us() / 1e6
        return await self._engine.async_read(lambda reader: reader.namespaces(agent_id, prefix, now, limit, offset))

    async def aged(self, tier: Tier, created_before_us: int, *, limit: int = 500) -> list[Candidate]:
        """The oldest memories of all agents in STM or IM that were first stored before a time."""
        return await self._engine.async_read(lambda reader: reader.aged(tier, created_before_us, limit))

    async def crowded(self, tier: Tier, max_entries: int, *, limit: int = 100) -> list[AgentState]:
        """Agents that have more than `max_entries` memories in a tier."""
        return await self._engine.async_read(lambda reader: reader.crowded(tier, max_entries, limit))

    async def oldest(self, agent_id: str, tier: Tier, *, limit: int = 500) -> list[Candidate]:
        """The memories of one agent in STM or IM that were stored first."""
        return await self._engine.async_read(lambda reader: reader.oldest(agent_id, tier, limit))

    async def accesses(self, ids: Sequence[str]) -> list[Access]:
        """The statistics of those ids that have any."""
        return await self._engine.async_read(lambda reader: reader.accesses(ids))

    async def user_agents(self, user_id: str) -> list[str]:
        """The agents that hold anything of a user: expired memories and tombstones, too."""
        return await self._engine.async_read(lambda reader: reader.user_agents(user_id))

    async def scrub(self) -> bool:
        """Writes a database of up to `vacuum_bytes` anew and empties its log: nothing erased is in a file then.

        False: another connection is in the way, or the disk is full; try again.
        """
        return await async_in_thread(self._engine.scrub)

    async def erasures(self) -> list[Erasure]:
        """Those that were begun and are not finished."""
        return await self._engine.async_read(lambda reader: reader.erasures())

    async def check_writable(self) -> None:
        """Takes the write lock and releases it; raises MemoryStoreUnavailableError. A full disk is not noticed."""
        waiter = AsyncWaiter()
        self._engine.submit_function(waiter, lambda _: None)
        await waiter.wait()

    async def check_integrity(self) -> list[str]:
        """What SQLite's `quick_check` finds: it reads the whole file."""
        return await self._engine.async_read(lambda reader: reader.check_integrity())

    async def embedding_space(self) -> EmbeddingSpace | None:
        """The space of the vectors; None while there was none."""
        return await self._engine.async_read(lambda reader: reader.embedding_space())

    async def note_embedding_space(self, space: EmbeddingSpace) -> EmbeddingSpace:
        """Begins the next space, or notes model and completion of the present one; returns the present one."""
        waiter = AsyncWaiter()
        self._engine.submit_function(waiter, lambda connection: _maintaining.note_embedding_space(connection, space))
        present: EmbeddingSpace = await waiter.wait()
        return present

    async def unembedded(
        self,
        space: EmbeddingSpace,
        which: Literal["pending", "earlier", "missing"],
        after_row: int,
        *,
        limit: int = 500,
    ) -> list[Unembedded]:
        """Memories without a vector of `space`, in the order of their rows, after one of them."""
        return await self._engine.async_read(lambda reader: reader.unembedded(space, which, after_row, limit))

    def stats(self) -> StoreStats:
        """Counters since `open()`."""
        return self._engine.stats()
