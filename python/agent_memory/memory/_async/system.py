"""`AsyncMemorySystem`: memories of agents, stored durably, found by relevance, kept in three tiers.

What happens where
- a write: `_async_copies` (SQL, or Redis where it may), then the index of this process;
- a retrieval: the index ranks, contents come from Redis, then SQL (`_async_copies.AsyncDataLoader`);
- a query: SQL;
- in the background: `_async_sync_service`.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from agent_memory import _at_fork
from agent_memory._concurrency import ASYNC, AsyncKeyedLocks, AsyncTask, async_in_thread, async_settle, async_spawn
from agent_memory.embedded import ServerError, ServerInUseError
from agent_memory.errors import RecoveryJournalError
from agent_memory.memory import _arguments
from agent_memory.memory._agent_index import AgentIndex
from agent_memory.memory._async.check import AsyncCheck
from agent_memory.memory._async.copies import AsyncCopies
from agent_memory.memory._async.embedding import AsyncEmbedding
from agent_memory.memory._async.indexes import AsyncIndexes
from agent_memory.memory._async.journal import AsyncMemoryJournal
from agent_memory.memory._async.redis_tier import AsyncRedisTier
from agent_memory.memory._async.sync_service import AsyncSyncService
from agent_memory.memory._availability import Written
from agent_memory.memory._copy import Copy, entry_of, make_copy, new_id
from agent_memory.memory._copy_rules import is_expired
from agent_memory.memory._directory import MemoryDirectory
from agent_memory.memory._redis_argument import check_redis
from agent_memory.memory.entries import Durability, MemoryEntry, MemoryId, Tier
from agent_memory.memory.errors import (
    AgentErasedError,
    DurabilityError,
    MemoryConflictError,
    MemoryDeletedError,
    MemoryStoreClosedError,
    MemoryStoreUnavailableError,
    MemorySystemError,
)
from agent_memory.memory.reports import CheckReport, Health, ImportReport, MaintenanceReport, ReembedReport, SyncReport
from agent_memory.memory.settings import DEFAULT_MEMORY_SETTINGS, MemorySettings
from agent_memory.memory.stores._async.protocol import AsyncMemoryStore
from agent_memory.memory.stores.operations import MemoryQuery, NamespaceCount, Put, WriteStatus
from agent_memory.memory.stores.sqlite import AsyncSqliteStore
from agent_memory.policy import Priority
from agent_memory.redis.asyncio import Redis as AsyncRedis
from agent_memory.scoring import Filters, ScoreWeights, SearchResult
from agent_memory.scoring._settings import DEFAULT_DECAY, DEFAULT_WEIGHTS, Decay, Diversity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "AsyncIntermediateMemory",
    "AsyncLongTermMemory",
    "AsyncMemorySystem",
    "AsyncShortTermMemory",
]

_UPDATE_ATTEMPTS: Final = 32
"""How often an update without `if_version` begins again because somebody else was faster."""

_WITHOUT_MATCH: Final = ScoreWeights(similarity=0, lexical=0, recency=1, importance=1)
"""What ranks memories where none matches."""

_BATCH: Final = 500
"""Memories in one call of the store by `store_many`, `forget` and `import_`."""

logger = logging.getLogger(__name__)

_UNSET: Final = _arguments.UNSET


class _AsyncTierMemory:
    """One tier of a memory system: a view on the memories with its label."""

    tier: Tier

    def __init__(self, system: AsyncMemorySystem) -> None:
        self._system = system

    async def count(self, agent_id: str) -> int:
        """How many memories of the agent are in this tier."""
        return await self._system.count(agent_id, tiers=(self.tier,))

    def query(self, agent_id: str, **conditions: Any) -> AsyncIterator[MemoryEntry]:
        """As `AsyncMemorySystem.query`, in this tier."""
        return self._system.query(agent_id, tiers=(self.tier,), **conditions)


class AsyncShortTermMemory(_AsyncTierMemory):
    """Recent memories, whole, in Redis and in SQL: where every memory begins."""

    tier = Tier.STM


class AsyncIntermediateMemory(_AsyncTierMemory):
    """Older memories that are still in Redis."""

    tier = Tier.IM


class AsyncLongTermMemory(_AsyncTierMemory):
    """Memories in SQL alone, compressed; in Redis only while they are used."""

    tier = Tier.LTM


class _Opening:
    """One opening of a system, and who waits for it."""

    def __init__(self) -> None:
        self.task: AsyncTask[None]
        self.waiting = 0
        self.is_kept = False
        """Whether it stays open when its callers were cancelled: the next use needs it, too."""


class AsyncMemorySystem:
    """Memories of agents in three tiers over Redis and SQL.

        async with AsyncMemorySystem() as memory:
            await memory.store("agent-1", "The user lives in Lisbon.", importance=0.8)
            for entry in await memory.retrieve("agent-1", "Where does the user live?", k=3):
                print(entry.score, entry.content)

    - `path`: the folder of the embedded server, of the SQLite file and of index snapshots; made if missing. One process owns
      the server, others on the machine attach to it.
    - `redis`: an asyncio client, redis-py compatible and without `decode_responses` (ours, or a RedisCluster; it stays the
      caller's), a URL, `"embedded"` (default: a private server in `path`), or None for no Redis.
    - `store`: `"sqlite:///FILE"`, `"postgresql://..."`, a store object of `agent_memory.memory.stores` (opened and closed
      here), or None for SQLite in `path`.
    - `embed`: called with a list of texts in a thread (or a coroutine function); gives an array of shape
      (len(texts), dimensions). With it, memories and questions without an embedding get one; where it fails, memories are
      stored all the same, found by words, and embedded later (`maintain()`). Its model is named by `IndexSettings.model`.
    - `config`: the `MemorySettings`.

    The first use opens it, once, however many callers come at a time; `async with` closes it at its end, and `close()` does
    where it is used without. Nothing runs in the background before `start()`. Any number of tasks may use one object. Methods
    raise ValueError and TypeError for bad arguments before anything changes, MemoryStoreUnavailableError where SQL is away and
    needed, DurabilityError where a write did not reach the level asked for, MemoryStoreClosedError after `close()`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "./agent_memory",
        *,
        redis: Any = "embedded",
        store: str | AsyncMemoryStore | None = None,
        embed: Callable[[list[str]], Any] | None = None,
        config: MemorySettings = DEFAULT_MEMORY_SETTINGS,
    ) -> None:
        if isinstance(path, str) and "://" in path:
            # Not repeated in the message: it may hold a password.
            raise ValueError("path must be a folder, got a URL: a database is given as store=, a server as redis=")
        if embed is not None and not callable(embed):
            raise TypeError(f"embed must be callable, got {type(embed).__name__}")
        check_redis(redis, ASYNC)
        self.settings = config
        self._directory = MemoryDirectory(path)
        self._redis = redis
        self._given_store = store
        self._embed_function = embed
        self._client: Any = None
        self._server_kwargs: dict[str, Any] = {}
        self._owns_client = False
        self._is_open = False
        self._is_closed = False
        self._mutex = threading.Lock()
        """Guards the three around it."""
        self._changing = AsyncKeyedLocks()
        """Held while it is being opened or closed."""
        self._opening: _Opening | None = None
        self._copies: AsyncCopies = None  # type: ignore[assignment]  # set by open()
        self._indexes: AsyncIndexes = None  # type: ignore[assignment]
        self._service: AsyncSyncService = None  # type: ignore[assignment]
        self._embedding: AsyncEmbedding = None  # type: ignore[assignment]
        self._floors: dict[str, int] = {}
        self.short_term = AsyncShortTermMemory(self)
        self.intermediate = AsyncIntermediateMemory(self)
        self.long_term = AsyncLongTermMemory(self)
        _at_fork.in_child(self._after_fork)

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<{type(self).__name__} {str(self._directory.path)!r}, {state}>"

    # --- life ---

    async def open(self) -> Self:
        """Opens database and server, or attaches to the server that runs; done by `async with` and by the first use, too.

        Raises MemorySystemError, MemorySchemaError or MemoryStoreUnavailableError; then nothing stays open, and the next use
        tries again. Cancelled or interrupted, it leaves nothing open unless another caller waits for the same opening.
        """
        with self._mutex:
            self._is_closed = False
        await self._join_opening(is_asked_for=True)
        return self

    async def _opened(self) -> AsyncCopies:
        """For every use: what is open, opened first where it is not."""
        if not self._is_open:
            await self._join_opening(is_asked_for=False)
        return self._copies

    async def _join_opening(self, *, is_asked_for: bool) -> None:
        """Waits until it is open; callers that come at one time share one opening, which goes on when one of them leaves.

        An opening by `open()` that nobody waits for any more is undone: its caller cannot close what it never got.
        """
        while True:
            with self._mutex:
                if self._is_open:
                    return
                if self._is_closed:
                    raise MemoryStoreClosedError("the memory system was closed: open() it again")
                opening = self._opening
                if opening is None or opening.task.is_done():
                    opening = self._opening = _Opening()
                    opening.task = async_spawn(self._open, opening, name="agent-memory-open")
                opening.waiting += 1
                opening.is_kept |= not is_asked_for
            try:
                await opening.task.result()
            finally:
                with self._mutex:
                    opening.waiting -= 1

    async def _open(self, opening: _Opening) -> None:
        async with self._changing.hold("state"):
            await self._open_all()
            with self._mutex:
                self._is_open = is_wanted = opening.is_kept or opening.waiting > 0
            if not is_wanted:
                await self._close_all()

    async def _open_all(self) -> None:
        try:
            tier = await self._open_tier()
            store = self._make_store()
            await store.open()
            try:
                journal = await async_in_thread(self._open_journal)
            except BaseException:
                await store.close()
                raise
        except BaseException:
            await self._close_redis()
            raise
        self._copies = AsyncCopies(store, tier, self.settings, journal)
        self._indexes = AsyncIndexes(self._copies, self._directory.snapshots)
        self._copies.on_hint = self._indexes.on_hint
        self._embedding = AsyncEmbedding(
            self._copies, self._embed_function, self._indexes.set_space, self._indexes.learn
        )
        owns_server = self._redis == "embedded"
        self._service = AsyncSyncService(self._copies, self._indexes, self._directory, owns_server=owns_server)
        self._copies.on_sql = self._service.replay
        self._service.on_maintenance = self._embedding.catch_up
        if self._redis == "embedded":
            self._copies.on_redis_lost = self._find_server
        try:
            await self._embedding.refresh()
            await self._service.replay()
        except BaseException:
            await self._close_all()
            raise

    def _open_journal(self) -> AsyncMemoryJournal | None:
        if not self.settings.journal:
            return None
        self._directory.make()
        try:
            return AsyncMemoryJournal(self._directory.journal, self._identity(), self.settings.sync.max_unsynced_bytes)
        except RecoveryJournalError as error:
            raise MemorySystemError(f"the journal could not be opened: {error}") from error

    def _identity(self) -> str:
        """The name of the database in the journal: no part of a URL that may be a password stands in it."""
        given = self._given_store
        if given is None:
            given = "sqlite"
        elif not isinstance(given, str):
            given = type(given).__name__
        return "agent-memory:" + hashlib.sha256(given.encode()).hexdigest()[:32]

    async def _open_tier(self) -> AsyncRedisTier | None:
        redis = self._redis
        if redis is None:
            return None
        if redis == "embedded":
            try:
                self._server_kwargs = await async_in_thread(self._directory.open_server)
            except ServerInUseError as error:
                # Another process holds the folder and its server does not answer: the next call that misses it looks again.
                logger.warning("no embedded server yet, going on without Redis: %s", error)
                self._server_kwargs = self._directory.nowhere
            self._client, self._owns_client = AsyncRedis(**self._server_kwargs), True
        elif isinstance(redis, str):
            self._client, self._owns_client = AsyncRedis.from_url(redis), True
        else:
            self._client = redis
        return AsyncRedisTier(self._client)

    async def _find_server(self) -> None:
        """Starts the embedded server again, or the one of an owner that has gone, or attaches to a new owner's."""
        try:
            kwargs = await async_in_thread(self._directory.open_server, 0.0)
        except (MemorySystemError, ServerError, OSError) as error:
            logger.warning("the embedded server is away, and no other was found or started: %s", type(error).__name__)
            return
        tier = self._copies.tier
        if kwargs == self._server_kwargs or tier is None:
            return
        self._server_kwargs = kwargs
        before, self._client = self._client, AsyncRedis(**kwargs)
        tier.client = self._client
        self._copies.evicts_dirty = None
        await before.aclose()

    def _make_store(self) -> AsyncMemoryStore:
        given = self._given_store
        if given is not None and not isinstance(given, str):
            return given
        if given is None or given.startswith("sqlite:///"):
            file = self._directory.database if given is None else Path(given.removeprefix("sqlite:///"))
            self._directory.make()
            return AsyncSqliteStore(file, settings=self.settings.sqlite, long_term=self.settings.long_term)
        if given.startswith(("postgresql://", "postgres://")):
            return _postgres_store(given, self.settings)
        # Not repeated in the message: it may hold a password.
        raise ValueError("store must be 'sqlite:///FILE', 'postgresql://...' or a store object, got another text")

    async def close(self) -> None:
        """Ends background work, finishes what waits, and closes what this object opened. Does nothing when closed.

        Every later use raises MemoryStoreClosedError, until `open()`, `start()` or a `with` block opens it again.
        """
        with self._mutex:
            self._is_closed = True
            opening = self._opening
        if opening is not None:
            await opening.task.join()
        async with self._changing.hold("state"):
            was_open, self._is_open = self._is_open, False
            if was_open:
                await self._close_all()

    async def _close_all(self) -> None:
        await self._service.stop()
        try:
            await self._service.flush_accesses()
        except MemorySystemError:
            pass  # statistics only
        await self._copies.close()
        try:
            await self._indexes.save_snapshots()
        except (OSError, MemorySystemError):
            pass  # they save time, nothing else
        await self._copies.store.close()
        if self._copies.journal is not None:
            await async_in_thread(self._copies.journal.close)
        await self._close_redis()

    async def _close_redis(self) -> None:
        if self._owns_client and self._client is not None:
            await self._client.aclose()
        self._client = None
        await async_in_thread(self._directory.close)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Begins the work in the background: synchronisation, tiers, statistics. Opens the system where it is closed."""
        await self.open()
        await self._service.start()

    async def stop(self) -> None:
        """Ends the work in the background; the system stays open."""
        if self._is_open:
            await self._service.stop()

    def _after_fork(self) -> None:
        # Nothing of the parent's comes along: not its threads, not its connections. The child's first use opens anew.
        if self._is_open and self._copies.journal is not None:
            self._copies.journal.abandon()
        self._is_open = False
        self._mutex, self._changing, self._opening = threading.Lock(), AsyncKeyedLocks(), None
        self._client, self._owns_client = None, False
        self._directory = MemoryDirectory(self._directory.path)

    # --- writing ---

    async def store(
        self,
        agent_id: str,
        content: Any,
        *,
        importance: float = 0.5,
        embedding: ArrayLike | None = None,
        memory_type: str = "",
        step: int | None = None,
        timestamp: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        namespace: Sequence[str] = (),
        user_id: str | None = None,
        session_id: str | None = None,
        key: str | None = None,
        ttl_s: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = Priority.NORMAL,
        durability: Durability | None = None,
        degrade: bool = False,
        deduplicate: bool | None = None,
    ) -> MemoryId:
        """Stores a memory; returns its id, with the version and the durability that were reached.

        - `content`: str, bytes or a JSON value. `timestamp`: seconds since the epoch; default: now.
        - `importance`: 0..1. `embedding`: shape (dimensions,); default: `embed` of the text.
        - `key`: a name of the caller's, unique in the agent, `user_id` (without one: the memories of no user) and
          `namespace`: the memory of that name is replaced.
        - `ttl_s`: seconds after which it is forgotten; default: never.
        - `idempotency_key`: unique in the agent and `user_id`; the same call again gives the id of the first.
        - `deduplicate`: without a `key`, equal content of the same user, session, namespace and expiry gives the id of the
          first.
        - `durability`: `"sql"`: committed and synced; `"redis"`: accepted by Redis, and lost if Redis loses it before
          SQL has it; `"journal"`: SQL's, else Redis', else kept in the journal of this machine until SQL has it
          (`MemorySettings(journal=True)`).
          With `degrade` a lower level will do where the one asked for cannot be reached; never with Priority.CRITICAL.

        Raises DurabilityError, AgentErasedError, ValueError, TypeError, and MemoryDeletedError for the idempotency key of a
        memory that was deleted or has expired.
        """
        copies = await self._opened()
        level = self.settings.default_durability if durability is None else durability
        _arguments.check_durability(level, has_journal=copies.journal is not None)
        if embedding is None and self._embed_function is not None and isinstance(content, str):
            embedding = (await self._embedding.make_or_wait([content]))[0]
        now = time.time()
        now_us = int(now * 1e6)
        copy = make_copy(
            agent_id,
            content,
            memory_id=new_id(now_us),
            timestamp=now if timestamp is None else timestamp,
            created_us=now_us,
            writer=copies.writer,
            importance=importance,
            embedding=embedding,
            memory_type=memory_type,
            step=step,
            metadata=metadata,
            tags=tags,
            namespace=namespace,
            user_id=user_id,
            session_id=session_id,
            key=key,
            idempotency_key=idempotency_key,
            expires_at=_arguments.expiry(now, ttl_s),
            deduplicate=self.settings.deduplicate if deduplicate is None else deduplicate,
        )
        await self._check_vectors([copy])
        # A key, an idempotency key or equal content can be found by SQL only.
        if level == "redis" and (key or idempotency_key or copy.content_hash):
            level = "sql"
        written = await copies.put(Put(copy), level, degrade and priority is not Priority.CRITICAL)
        return self._stored(written)

    async def _check_vectors(self, copies: list[Copy]) -> None:
        wanted = self.settings.index.dimensions
        for copy in copies:
            if wanted is not None and len(copy.vector) not in (0, 1, 4 * wanted):
                raise ValueError(
                    f"embedding must have {wanted} elements (IndexSettings.dimensions), got {len(copy.vector) // 4}"
                )
        await self._embedding.admit(copies)

    def _stored(self, written: Written) -> MemoryId:
        result = written.result
        status = result.status
        if status is WriteStatus.ERASED:
            raise AgentErasedError("the agent or user was erased after this write began")
        if status is WriteStatus.EXISTING and not result.existed:
            raise MemoryDeletedError(result.id)
        if status not in (WriteStatus.APPLIED, WriteStatus.EXISTING):
            raise DurabilityError(written.durability, None, f"it was refused: {status.name.lower()}")
        if written.copy is not None:
            self._indexes.learn(written.copy, is_dirty=written.durability != "sql")
        return MemoryId(result.id, result.version, written.durability)

    async def store_many(
        self, agent_id: str, entries: Iterable[Mapping[str, Any]], *, embeddings: ArrayLike | None = None
    ) -> list[MemoryId]:
        """Stores many memories, each a mapping of `store`'s arguments with `"content"`; returns their ids in order.

        `embeddings`: shape (n, dimensions), instead of one in each mapping. Durability is `"sql"`. What is wrong with any of
        them is raised before the first is written; an error of the store later leaves those of earlier batches stored.
        """
        copies = await self._opened()
        given = [dict(entry) for entry in entries]
        vectors = None if embeddings is None else np.asarray(embeddings, dtype=np.float32)
        if vectors is not None and (vectors.ndim != 2 or len(vectors) != len(given)):
            raise ValueError(f"embeddings must have shape ({len(given)}, dimensions), got {vectors.shape}")
        await self._embed_missing(given, vectors)
        now_us = int(time.time() * 1e6)
        is_deduplicated = self.settings.deduplicate
        made = [
            _arguments.copy_from(
                agent_id, entry, None if vectors is None else vectors[at], now_us, at, copies.writer, is_deduplicated
            )
            for at, entry in enumerate(given)
        ]
        await self._check_vectors(made)
        stored: list[MemoryId] = []
        for start in range(0, len(made), _BATCH):
            written = await copies.put_many([Put(copy) for copy in made[start : start + _BATCH]])
            stored += [self._stored(one) for one in written]
        return stored

    async def _embed_missing(self, entries: list[dict[str, Any]], vectors: Any) -> None:
        if self._embed_function is None or vectors is not None:
            return
        wanting = [one for one in entries if one.get("embedding") is None and isinstance(one.get("content"), str)]
        for start in range(0, len(wanting), _BATCH):
            part = wanting[start : start + _BATCH]
            for entry, vector in zip(
                part, await self._embedding.make_or_wait([one["content"] for one in part]), strict=True
            ):
                entry["embedding"] = vector

    async def _embed(self, texts: list[str]) -> Any:
        """The vectors of texts that are stored, as `store` makes them."""
        await self._opened()
        return await self._embedding.make_or_wait(texts)

    async def update(
        self,
        agent_id: str,
        memory_id: str,
        *,
        content: Any = _UNSET,
        importance: float | None = None,
        embedding: ArrayLike | None = None,
        memory_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Iterable[str] | None = None,
        timestamp: float | None = None,
        step: int | None = None,
        ttl_s: float | None = None,
        if_version: int | None = None,
        degrade: bool = False,
    ) -> MemoryId:
        """Changes what is given of a memory, as a new version; returns its id with that version.

        With `if_version` only over that version (MemoryConflictError otherwise); without, the change is made again over
        what another writer wrote meanwhile. New content gets a new embedding where there is an `embed` and it is a str;
        otherwise it has none unless `embedding` is given: the old one belongs to the old content. Raises KeyError for an id
        that is not there, DurabilityError where SQL is away (unless `degrade`: then Redis accepts it).
        """
        copies = await self._opened()
        changes = {
            "content": content,
            "importance": importance,
            "embedding": embedding,
            "memory_type": memory_type,
            "metadata": metadata,
            "tags": tags,
            "timestamp": timestamp,
            "step": step,
            "ttl_s": ttl_s,
        }
        if content is _UNSET:
            del changes["content"]
        elif embedding is None and self._embed_function is not None and isinstance(content, str):
            changes["embedding"] = (await self._embedding.make_or_wait([content]))[0]
        attempt = 0
        while True:
            base = await self._read_one(agent_id, memory_id)
            if base is None:
                raise KeyError(memory_id)
            if if_version is not None and base.version != if_version:
                raise MemoryConflictError(memory_id, if_version, base.version)
            changed = _arguments.changed_copy(base, changes, time.time(), copies.writer)
            await self._check_vectors([changed])
            written = await copies.put(Put(changed, base.version), "sql", degrade, base.version)
            status = written.result.status
            if status is WriteStatus.DELETED:
                raise KeyError(memory_id)
            retries = status in (WriteStatus.CONFLICT, WriteStatus.STALE, WriteStatus.ABSENT)
            if retries and copies.journal:
                await self._service.replay()
            if status is WriteStatus.ABSENT and copies.tier is not None:
                # Redis has a copy that SQL has not got yet.
                await self._service.sync_agent(agent_id, [memory_id], SyncReport())
            if status is WriteStatus.CONFLICT and if_version is not None:
                raise MemoryConflictError(memory_id, if_version, written.result.version)
            if not retries:
                return self._stored(written)
            self._expect(agent_id, memory_id, written.result.version)
            attempt += 1
            if attempt == _UPDATE_ATTEMPTS:
                raise MemoryConflictError(memory_id, base.version, written.result.version)

    def _expect(self, agent_id: str, memory_id: str, version: int) -> None:
        """Takes lower copies in Redis for misses from now on."""
        index = self._indexes.peek(agent_id)
        if index is None:
            self._floors[memory_id] = version
            while len(self._floors) > 1_000:
                self._floors.pop(next(iter(self._floors)))
        else:
            index.expect(memory_id, version)

    async def delete(
        self, agent_id: str, memory_id: str, *, if_version: int | None = None, degrade: bool = False
    ) -> bool:
        """Deletes a memory for good; returns whether there was one.

        Raises MemoryConflictError, and DurabilityError where SQL is away (unless `degrade`: then Redis remembers it, and
        whether there was a memory is not asked: True). Raises MemoryStoreUnavailableError, having done nothing, where SQL has
        no such memory and Redis is away, which may alone have it.
        """
        copies = await self._opened()
        index = self._indexes.peek(agent_id)
        known = 0 if index is None else index.known_versions([memory_id])[memory_id]
        written = await copies.delete(agent_id, memory_id, if_version, degrade, known)
        if written.result.status is WriteStatus.ABSENT and written.result.existed:
            # Redis has a copy that SQL has not got yet.
            await self._service.sync_agent(agent_id, [memory_id], SyncReport())
            written = await copies.delete(agent_id, memory_id, if_version, degrade, known, is_synced=True)
        result = written.result
        if result.status is WriteStatus.CONFLICT and if_version is not None:
            raise MemoryConflictError(memory_id, if_version, result.version)
        if written.copy is not None:
            self._indexes.learn(written.copy, is_dirty=written.durability != "sql")
        # A memory that only Redis had is known by its index.
        is_dirty = index is not None and memory_id in index.dirty
        return result.status is WriteStatus.APPLIED and (result.existed or is_dirty)

    async def _delete_many(self, agent_id: str, ids: Sequence[str]) -> int:
        """Deletes memories for good, a batch in one transaction; returns how many there were."""
        copies = await self._opened()
        deleted = 0
        for start in range(0, len(ids), _BATCH):
            for written in await copies.delete_many(agent_id, ids[start : start + _BATCH]):
                deleted += written.result.status is WriteStatus.APPLIED and written.result.existed
                if written.copy is not None:
                    self._indexes.learn(written.copy)
        return deleted

    async def _renew(self, agent_id: str, lives: Mapping[str, tuple[int, float]]) -> None:
        """Gives memories that still have the version named a new `ttl_s`; those that were changed meanwhile keep theirs."""
        copies = await self._opened()
        now = time.time()
        puts = [
            Put(_arguments.changed_copy(row, {"ttl_s": lives[row.id][1]}, now, copies.writer), row.version)
            for row in await copies.ask_sql(copies.store.get, list(lives))
            if row is not None and not row.deleted and row.agent_id == agent_id and row.version == lives[row.id][0]
        ]
        for written in await copies.put_many(puts) if puts else []:
            if written.copy is not None:
                self._indexes.learn(written.copy)

    # --- reading ---

    async def _read_one(self, agent_id: str, memory_id: str) -> Copy | None:
        index = self._indexes.peek(agent_id)
        expected = {memory_id: self._floors.get(memory_id, 0)}
        known = expected if index is None else index.known_versions([memory_id])
        found = await self._copies.read(agent_id, [memory_id], known)
        return found.copies.get(memory_id)

    async def get(self, agent_id: str, memory_id: str) -> MemoryEntry | None:
        """A memory by its id: from Redis, else from SQL; None where it is not there, was deleted, or is expired.

        Raises MemoryStoreUnavailableError where that cannot be known: Redis has no copy and SQL is away, or SQL has none and
        Redis is away, which may alone have it. Raises CorruptMemoryError where its newest copy is damaged.
        """
        await self._opened()
        copy = await self._read_one(agent_id, memory_id)
        if copy is None:
            return None
        self._service.note_accesses([memory_id])
        return entry_of(copy)

    async def get_by_key(
        self, agent_id: str, key: str, namespace: Sequence[str] = (), *, user_id: str | None = None
    ) -> MemoryEntry | None:
        """The memory that was stored with `key` for this user, or None; without `user_id` the one that was stored for none."""
        copies = await self._opened()
        copy = await copies.ask_sql(copies.store.get_by_key, agent_id, key, namespace, user_id)
        return None if copy is None else entry_of(copy)

    async def retrieve(
        self,
        agent_id: str,
        text: str | None = None,
        *,
        embedding: ArrayLike | None = None,
        k: int = 10,
        filters: Filters | Mapping[str, Any] | None = None,
        memory_types: Collection[str] = _UNSET,
        tags: Collection[str] = _UNSET,
        namespace: Sequence[str] = _UNSET,
        user_id: str = _UNSET,
        session_id: str = _UNSET,
        since: float = _UNSET,
        until: float = _UNSET,
        weights: ScoreWeights = DEFAULT_WEIGHTS,
        decay: Decay = DEFAULT_DECAY,
        diversity: Diversity | None = None,
        min_relevance: float = 0.0,
        rerank: Callable[[str, list[MemoryEntry]], Any] | None = None,
        pool: int = 50,
        now: float | None = None,
    ) -> list[MemoryEntry]:
        """The `k` most relevant memories for a text, an embedding, or both, best first, with `.relevance` and `.score`.

        `filters` maps names of `metadata` to a value or to several, of which one must match (or is a `Filters` over the
        index's attributes); `tags` must all be there. A condition that is given must restrict something: None or an empty
        collection raises ValueError, since it would stand for the memories of all users, sessions, ...

        Ranking is exact, over all tiers, by `agent_memory.scoring`; of equal ones the newer comes first. A memory stored by
        another process is seen at the latest after `max_staleness_s`. While SQL is away, memories whose content is in Redis
        are found.

        `min_relevance` (0..1) leaves out what matches less. A text that no memory has a word of gives the most recent and
        important ones, with `is_match` False and relevance 0, unless `min_relevance` is above 0. `rerank(text, entries)`
        is given the best `pool` (1..1,000, at least `k`) and returns a score for each; it may be a coroutine function.
        """
        copies = await self._opened()
        _arguments.check_reranking(rerank, text, pool, min_relevance)
        wanted_count, k = k, max(k, pool) if rerank is not None else k
        if text is not None and embedding is None and self._embed_function is not None and weights.similarity > 0:
            embedding = await self._embedding.question(text)
        else:
            await self._embedding.refresh()
            self._check_asked(embedding)
        conditions = {
            "memory_types": memory_types,
            "tags": tags,
            "namespace": namespace,
            "user_id": user_id,
            "session_id": session_id,
            "since": since,
            "until": until,
        }
        wanted = _arguments.filters_of(filters, conditions)
        index = await self._fresh_index(agent_id)
        moment = time.time() if now is None else now
        options: dict[str, Any] = {
            "weights": weights, "filters": wanted, "now": moment, "decay": decay, "diversity": diversity
        }  # fmt: skip
        asked = k
        for attempt in range(8):
            index = await self._indexes.settled(agent_id, index)
            found = self._search(index, embedding, text, asked, options)
            ids = [] if found is None else found.ids
            known = index.known_versions(ids)
            read = await copies.read(agent_id, ids, known, partial=True)
            hint = read.hint
            if hint is not None and hint != index.hint:
                is_news = index.hint is not None
                index.hint = hint
                if is_news and await self._refresh(agent_id, index):
                    index = await self._indexes.get(agent_id)
                    continue  # somebody has stored something: rank again
            entries = [
                entry for entry in self._entries(found, read.copies) if (entry.relevance or 0.0) >= min_relevance
            ][:k]
            if len(entries) >= k or len(ids) < asked or attempt == 7:
                if rerank is not None and text is not None and entries:
                    scores = await async_settle(rerank(text, entries))
                    entries = _arguments.reranked(entries, scores, wanted_count)
                if not entries and (read.unknown or index.is_behind or not index.is_loaded):
                    raise MemoryStoreUnavailableError("no memory could be read, and whether there are any is unknown")
                self._service.note_accesses([entry.id for entry in entries])
                return entries
            asked = min(4 * asked, max(len(index), asked))  # some have expired or were deleted a moment ago
        return []

    def _check_asked(self, embedding: ArrayLike | None) -> None:
        space = self._embedding.space
        if embedding is not None and space is not None and np.shape(embedding) != (space.dimensions,):
            raise ValueError(
                f"embedding must have {space.dimensions} elements, as the vectors of this database,"
                f" got shape {np.shape(embedding)}"
            )

    @staticmethod
    def _search(
        index: AgentIndex, embedding: ArrayLike | None, text: str | None, k: int, options: dict[str, Any]
    ) -> SearchResult | None:
        if index.index is None or not len(index.index):
            return None
        vector = embedding if index.dimensions else None
        if vector is None and text is None:
            weights: ScoreWeights = options["weights"]
            if not (weights.recency or weights.importance or weights.access):
                raise ValueError("text or embedding must be given unless recency, importance or access have a weight")
        found = index.index.search(vector, text, k, components=True, **options)
        if not found.ids and vector is None:
            # No memory has a word of the text: `Who am I?` is answered by what is recent and important.
            without: dict[str, Any] = {**options, "weights": _WITHOUT_MATCH}
            found = index.index.search(None, None, k, **without)
        return found

    @staticmethod
    def _entries(found: SearchResult | None, read: dict[str, Copy]) -> list[MemoryEntry]:
        if found is None:
            return []
        entries = []
        is_match = found.relevance is not None
        relevance = [0.0] * len(found.ids) if found.relevance is None else found.relevance.tolist()
        parts = [(name, values.tolist()) for name, values in (found.components or {}).items()]
        for at, memory_id in enumerate(found.ids):
            copy = read.get(memory_id)
            if copy is not None:
                # What is not equal to itself is nan: the memory has no such part.
                known = {name: values[at] for name, values in parts if values[at] == values[at]}
                entries.append(entry_of(copy, relevance=relevance[at], is_match=is_match, score_parts=known))
        return entries

    async def _fresh_index(self, agent_id: str) -> AgentIndex:
        """The agent's index, at most `max_staleness_s` behind SQL while SQL is here."""
        index = await self._indexes.get(agent_id)
        if time.monotonic() - index.refreshed_at > self.settings.sync.max_staleness_s:
            await self._refresh(agent_id, index)
            index = await self._indexes.get(agent_id)
        return index

    async def _refresh(self, agent_id: str, index: AgentIndex) -> bool:
        """Brings the index up to date; returns whether SQL could be asked."""
        self._copies.dirty_agents.setdefault(agent_id)
        try:
            await self._indexes.refresh(agent_id, index)
        except MemoryStoreUnavailableError:
            index.refreshed_at = time.monotonic()
            return False
        return True

    # --- queries ---

    async def query(
        self, agent_id: str | None = None, *, limit: int | None = None, **conditions: Any
    ) -> AsyncIterator[MemoryEntry]:
        """Memories that meet all conditions, which are those of `MemoryQuery`; an iterator that reads page by page.

        Time range (`since`, `until`), steps (`step_from`, `step_to`), `min_importance`, `memory_types`, `tags`, `any_tags`,
        `attributes` of the metadata, `user_id`, `session_id`, `namespace`, `tiers`, `key`, `order_by`, `descending`. From
        SQL: what Redis accepted while SQL was away is not in it before it has been synchronised.

        Raises ValueError for a condition that restricts nothing: None, or an empty collection.
        """
        async for page in self._pages(_arguments.query_of(agent_id, conditions), limit):
            for copy in page:
                yield entry_of(copy)

    async def _pages(self, wanted: MemoryQuery, limit: int | None = None) -> AsyncIterator[list[Copy]]:
        copies = await self._opened()
        left, cursor = limit, None
        while left is None or left > 0:
            size = 500 if left is None else min(500, left)
            page = await copies.ask_sql(copies.store.query, wanted, limit=size, cursor=cursor)
            for memory_id in page.damaged:
                copies.damage.note(memory_id, "SQL")
            yield page.copies
            if left is not None:
                left -= len(page.copies)
            cursor = page.cursor
            if cursor is None:
                return

    async def history(self, agent_id: str, *, limit: int = 100, session_id: str = _UNSET) -> list[MemoryEntry]:
        """The latest memories, the newest last: of the agent, or of one of its sessions."""
        conditions = {} if session_id is _UNSET else {"session_id": session_id}
        found = self.query(agent_id, limit=limit, order_by="timestamp", descending=True, **conditions)
        return [entry async for entry in found][::-1]

    async def count(self, agent_id: str | None = None, **conditions: Any) -> int:
        """How many memories meet the conditions of `query`."""
        copies = await self._opened()
        return int(await copies.ask_sql(copies.store.count, _arguments.query_of(agent_id, conditions)))

    async def namespaces(self, agent_id: str, prefix: Sequence[str] = ()) -> list[NamespaceCount]:
        """The namespaces in use that begin with `prefix`, sorted."""
        copies = await self._opened()
        found: list[NamespaceCount] = []
        while True:
            page = await copies.ask_sql(copies.store.namespaces, agent_id, prefix, limit=1_000, offset=len(found))
            found += page
            if len(page) < 1_000:
                return found

    # --- forgetting ---

    async def forget(self, agent_id: str, *, dry_run: bool = False, **conditions: Any) -> int:
        """Deletes the memories that meet the conditions of `query`, in batches; returns how many (with `dry_run`: would).

        Raises ValueError, before anything is deleted, without any condition, which is `delete_agent`, and for one that
        restricts nothing: `user_id=None` does not stand for the memories of all users.
        """
        wanted = _arguments.query_of(agent_id, conditions)
        if not _arguments.restricts(conditions):
            raise ValueError("conditions must be given: to forget everything there is delete_agent()")
        if dry_run:
            return await self.count(agent_id, **conditions)
        forgotten = 0
        async for page in self._pages(replace(wanted, order_by="seq", descending=False)):
            forgotten += await self._delete_many(agent_id, [copy.id for copy in page])
        return forgotten

    async def delete_agent(self, agent_id: str) -> int:
        """Erases everything of an agent: SQL, Redis, journal, index and snapshots; returns how many memories.

        Writes that began before are refused. Its text is in no file of the system's folder when this returns, unless another
        process is just reading the log of SQLite: then after the next `maintain()`. An interrupted erasure is finished by
        `maintain()` of any process.
        """
        copies = await self._opened()
        return await self._service.finish_erasure(
            await copies.change_sql(copies.store.begin_erasure, "agent", agent_id)
        )

    async def delete_user(self, user_id: str) -> int:
        """Erases the memories of a user from all agents; returns how many.

        From the moment on at which SQL knows of it they are no longer read here, and by other processes after
        `max_staleness_s`. What Redis or the journal had accepted for SQL goes there first. Otherwise as `delete_agent`.
        """
        copies = await self._opened()
        await self._service.sync()
        return await self._service.finish_erasure(await copies.change_sql(copies.store.begin_erasure, "user", user_id))

    # --- export and import ---

    async def export(self, agent_id: str) -> AsyncIterator[str]:
        """All of an agent's memories as JSON lines, one memory each. `import_` keeps their ids, versions, keys and
        idempotency keys, and whether they take part in deduplication.
        """
        async for page in self._pages(MemoryQuery(agent_id=agent_id, order_by="seq")):
            for copy in page:
                yield _arguments.exported(copy)

    async def import_(self, lines: Iterable[str], *, new_ids: bool = False) -> ImportReport:
        """Stores what `export` gave, with its ids and versions; returns how many, and what was not stored and why.

        With `new_ids` what was deleted or erased since, or belongs to another agent, is stored as a new memory: for an
        export that is restored after an erasure, or copied to another agent by changing `agent_id` in its lines. What is
        skipped is logged, too.
        """
        await self._opened()
        report = _arguments.ImportCount()
        waiting: list[Put] = []
        for line in lines:
            if not line.strip():
                continue
            copy = _arguments.imported(line)
            if is_expired(copy.expires_at, time.time()):
                report.skip("expired")
                continue
            waiting.append(Put(copy))
            if len(waiting) >= _BATCH:
                await self._import_batch(waiting, report, new_ids)
                waiting = []
        if waiting:
            await self._import_batch(waiting, report, new_ids)
        if report.skipped:
            logger.warning("import_ skipped memories: %s", report.skipped)
        return report.report()

    async def _import_batch(self, puts: list[Put], report: _arguments.ImportCount, new_ids: bool) -> None:
        again: list[Put] = []
        await self._check_vectors([put.copy for put in puts])
        for put, written in zip(puts, await self._copies.put_many(puts), strict=True):
            if written.copy is not None:
                self._indexes.learn(written.copy)
            if new_ids and put.copy.version and written.result.status in _arguments.NEEDS_NEW_ID:
                again.append(Put(_arguments.renewed(put.copy, int(time.time() * 1e6), self._copies.writer)))
            else:
                report.add(put.copy, written.result)
        if again:
            await self._import_batch(again, report, new_ids)

    # --- embeddings ---

    async def reembed(self, *, include_missing: bool = False) -> ReembedReport:
        """Makes the embeddings of all agents' memories anew by this system's `embed`; returns how many, when all are.

        For another model, or other dimensions: give the new `embed` (and `IndexSettings.model`, its name), then call this once.
        Other calls go on meanwhile; a memory is found by words until its new embedding is there. Processes whose `embed` is the
        old one are refused from then on. Each memory gets a new version. Broken off, it is gone on with by the next call,
        or by `maintain()`. With `include_missing` texts that never had an embedding get one, too.

        Memories that are neither text nor items of LangGraph lose an embedding that the caller had given. Raises ValueError
        without `embed`, EmbeddingSpaceError where another process migrates to another model, and what `embed` raises.
        """
        await self._opened()
        return await self._embedding.reembed(include_missing)

    # --- service ---

    async def sync(self) -> SyncReport:
        """Synchronises now: dirty copies to SQL, SQL's changes to Redis. Done in intervals after `start()`."""
        await self._opened()
        return await self._service.sync()

    async def maintain(self) -> MaintenanceReport:
        """One pass of maintenance now; done in intervals after `start()`. Callers come between its batches."""
        await self._opened()
        return await self._service.maintain()

    async def check(self, agent_id: str | None = None, *, limit: int = 1_000) -> CheckReport:
        """Reads all memories, or one agent's, and verifies their checksums; names at most `limit` (>= 1) damaged ones.

        A damaged memory is left out of every list and raised (CorruptMemoryError) by its id; `delete` still works. Damaged
        copies in Redis that SQL has not got are put aside, where no synchronisation meets them again. Nothing is deleted.
        Reads everything there is: for quiet hours. Raises MemoryStoreUnavailableError where SQL is away.
        """
        if limit < 1:
            raise ValueError(f"limit must be >= 1, got {limit!r}")
        copies = await self._opened()
        report = await AsyncCheck(copies, self._indexes, self._service, limit).run(agent_id)
        if not report.is_intact:
            logger.error("check: %d memories are damaged, %d findings", report.damaged_count, len(report.database))
        return report

    async def rebuild_indices(self, agent_id: str) -> int:
        """Makes the agent's index anew from SQL, leaving aside any snapshot; returns how many memories it holds."""
        await self._opened()
        self._indexes.drop(agent_id)
        await self._indexes.delete_snapshots(agent_id)
        return len(await self._indexes.get(agent_id))

    async def stats(self) -> dict[str, Any]:
        """What is where and how it goes: presence of SQL and Redis, counters of loader, index, synchronisation and store."""
        copies = await self._opened()
        await self._embedding.refresh()
        found: dict[str, Any] = {
            "sql": {
                "here": copies.sql.away_s is None,
                "away_s": copies.sql.away_s,
                "failures": copies.sql.failures,
                "refuses_writes": None if copies.sql_writes.fault is None else copies.sql_writes.fault.value,
                "refused_writes": copies.sql_writes.refusals,
            },
            "redis": {
                "here": copies.tier is not None and copies.redis.away_s is None,
                "away_s": copies.redis.away_s,
                "failures": copies.redis.failures,
                "puts": copies.put_count,
                "dirty_entries": self._service.dirty_entries,
                "dirty_bytes": copies.dirty_bytes,
            },
            "journal": {
                "entries": 0 if copies.journal is None else len(copies.journal),
                "bytes": 0 if copies.journal is None else copies.journal.size_bytes,
            },
            "loader": {
                "loaded": copies.loader.loaded,
                "shared": copies.loader.shared,
                "absent_hits": copies.loader.absent_hits,
            },
            "damaged": {"memories": len(copies.damage), "met": copies.damage.met},
            "index": dict(self._indexes.stats()),
            "embedding": self._embedding.stats(),
            "service": {
                "running": self._service.is_running,
                "rounds": self._service.rounds,
                "failures": self._service.failures,
                "dropped_accesses": self._service.dropped_accesses,
            },
        }
        try:
            found["store"] = asdict(await copies.ask_sql(copies.store.stats))
        except MemoryStoreUnavailableError:
            found["store"] = None
        return found

    async def health(self) -> Health:
        """`"healthy"`: SQL reads and writes, and Redis answers (or there is none); `"degraded"`: something of this does not,
        or waits for a lock; `"down"`: neither SQL nor Redis answers. Asks them; `.sql` and `.redis` say which.
        """
        copies = await self._opened()
        sql = await copies.sql_state()
        if copies.tier is None:
            return Health.of(sql, "none")
        return Health.of(sql, "here" if await copies.ask_redis(copies.tier.client.ping) else "away")


def _postgres_store(url: str, settings: MemorySettings) -> AsyncMemoryStore:
    try:
        module = importlib.import_module("agent_memory.memory.stores.postgres")
    except ImportError as error:
        raise MemorySystemError("PostgreSQL needs the extra: pip install agent-memory[postgres]") from error
    made: AsyncMemoryStore = module.AsyncPostgresStore(url, settings=settings.postgres, long_term=settings.long_term)
    return made
