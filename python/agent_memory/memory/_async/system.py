"""`AsyncMemorySystem`: memories of agents, stored durably, found by relevance, kept in three tiers.

The public face: each method checks what is given, and calls an object of `AsyncParts` that does it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from agent_memory._concurrency import ASYNC
from agent_memory._face import is_documented
from agent_memory.memory._async.check import AsyncCheck
from agent_memory.memory._async.lifecycle import AsyncLifecycle
from agent_memory.memory._async.resources import AsyncResources
from agent_memory.memory._async.status import async_health_of, async_stats_of
from agent_memory.memory._async.tiers import AsyncIntermediateMemory, AsyncLongTermMemory, AsyncShortTermMemory
from agent_memory.memory._conditions import UNSET, Conditions, filters_of, query_of, restricts
from agent_memory.memory._copy import entry_of
from agent_memory.memory._export_lines import exported
from agent_memory.memory._question import Question
from agent_memory.memory._redis_argument import check_redis
from agent_memory.memory._reranking import check_reranking
from agent_memory.memory._system_arguments import check_system
from agent_memory.memory.entries import Durability, MemoryEntry, MemoryId
from agent_memory.memory.reports import CheckReport, Health, ImportReport, MaintenanceReport, ReembedReport, SyncReport
from agent_memory.memory.settings import DEFAULT_MEMORY_SETTINGS, MemorySettings
from agent_memory.memory.stores._async.protocol import AsyncMemoryStore
from agent_memory.memory.stores.operations import NamespaceCount
from agent_memory.policy import Priority
from agent_memory.scoring import Filters, ScoreWeights
from agent_memory.scoring._settings import DEFAULT_DECAY, DEFAULT_WEIGHTS, Decay, Diversity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["AsyncMemorySystem"]

logger = logging.getLogger(__name__)


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
        check_system(path, store, embed, config)
        check_redis(redis, ASYNC)
        self.settings = config
        self._resources = AsyncResources(path, redis, store, embed, config)
        self._lifecycle = AsyncLifecycle(self._resources)
        self.short_term = AsyncShortTermMemory(self)
        self.intermediate = AsyncIntermediateMemory(self)
        self.long_term = AsyncLongTermMemory(self)

    def __repr__(self) -> str:
        state = "closed" if self._lifecycle.parts is None else "open"
        return f"<{type(self).__name__} {str(self._resources.directory.path)!r}, {state}>"

    def __dir__(self) -> list[str]:
        """What is documented, without internals."""
        return [name for name in super().__dir__() if is_documented(name)]

    # --- life ---

    async def open(self) -> Self:
        """Opens database and server, or attaches to the server that runs; done by `async with` and by the first use, too.

        Raises MemorySystemError, MemorySchemaError or MemoryStoreUnavailableError; then nothing stays open, and the next use
        tries again. Cancelled or interrupted, it leaves nothing open unless another caller waits for the same opening.
        """
        await self._lifecycle.open()
        return self

    async def close(self) -> None:
        """Ends background work, finishes what waits, and closes what this object opened. Does nothing when closed.

        Every later use raises MemoryStoreClosedError, until `open()`, `start()` or a `with` block opens it again.
        """
        await self._lifecycle.close()

    if ASYNC:

        async def aclose(self) -> None:
            """`close()`, by the name that redis-py's asyncio clients and `contextlib.aclosing` have for it."""
            await self.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Begins the work in the background: synchronisation, tiers, statistics. Opens the system where it is closed."""
        await self._lifecycle.open()
        parts = await self._lifecycle.opened()
        await parts.service.start()

    async def stop(self) -> None:
        """Ends the work in the background; the system stays open."""
        parts = self._lifecycle.parts
        if parts is not None:
            await parts.service.stop()

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
        parts = await self._lifecycle.opened()
        return await parts.storing.store(
            agent_id,
            content,
            embedding=embedding,
            timestamp=timestamp,
            key=key,
            ttl_s=ttl_s,
            idempotency_key=idempotency_key,
            durability=durability,
            degrade=degrade and priority is not Priority.CRITICAL,
            deduplicate=deduplicate,
            importance=importance,
            memory_type=memory_type,
            step=step,
            metadata=metadata,
            tags=tags,
            namespace=namespace,
            user_id=user_id,
            session_id=session_id,
        )

    async def store_many(
        self, agent_id: str, entries: Iterable[Mapping[str, Any]], *, embeddings: ArrayLike | None = None
    ) -> list[MemoryId]:
        """Stores many memories, each a mapping of `store`'s arguments with `"content"`; returns their ids in order.

        `embeddings`: shape (n, dimensions), instead of one in each mapping. Durability is `"sql"`. What is wrong with any of
        them is raised before the first is written; an error of the store later leaves those of earlier batches stored.
        """
        parts = await self._lifecycle.opened()
        return await parts.storing.store_many(agent_id, entries, embeddings)

    async def update(
        self,
        agent_id: str,
        memory_id: str,
        *,
        content: Any = UNSET,
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
        parts = await self._lifecycle.opened()
        changes: dict[str, Any] = {
            "importance": importance,
            "embedding": embedding,
            "memory_type": memory_type,
            "metadata": metadata,
            "tags": tags,
            "timestamp": timestamp,
            "step": step,
            "ttl_s": ttl_s,
        }
        if content is not UNSET:
            changes["content"] = content
        return await parts.storing.update(agent_id, memory_id, changes, if_version, degrade)

    async def delete(
        self, agent_id: str, memory_id: str, *, if_version: int | None = None, degrade: bool = False
    ) -> bool:
        """Deletes a memory for good; returns whether there was one.

        Raises MemoryConflictError, and DurabilityError where SQL is away (unless `degrade`: then Redis remembers it, and
        whether there was a memory is not asked: True). Raises MemoryStoreUnavailableError, having done nothing, where SQL has
        no such memory and Redis is away, which may alone have it.
        """
        parts = await self._lifecycle.opened()
        return await parts.storing.delete(agent_id, memory_id, if_version, degrade)

    # --- reading ---

    async def get(self, agent_id: str, memory_id: str) -> MemoryEntry | None:
        """A memory by its id: from Redis, else from SQL; None where it is not there, was deleted, or is expired.

        Raises MemoryStoreUnavailableError where that cannot be known: Redis has no copy and SQL is away, or SQL has none and
        Redis is away, which may alone have it. Raises CorruptMemoryError where its newest copy is damaged.
        """
        parts = await self._lifecycle.opened()
        copy = await parts.reader.read_one(agent_id, memory_id)
        if copy is None:
            return None
        parts.accesses.note([memory_id])
        return entry_of(copy)

    async def get_by_key(
        self, agent_id: str, key: str, namespace: Sequence[str] = (), *, user_id: str | None = None
    ) -> MemoryEntry | None:
        """The memory that was stored with `key` for this user, or None; without `user_id` the one that was stored for none."""
        parts = await self._lifecycle.opened()
        return await parts.queries.by_key(agent_id, key, namespace, user_id)

    async def retrieve(
        self,
        agent_id: str,
        text: str | None = None,
        *,
        embedding: ArrayLike | None = None,
        k: int = 10,
        filters: Filters | Mapping[str, Any] | None = None,
        memory_types: Collection[str] = UNSET,
        tags: Collection[str] = UNSET,
        namespace: Sequence[str] = UNSET,
        user_id: str = UNSET,
        session_id: str = UNSET,
        since: float = UNSET,
        until: float = UNSET,
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
        parts = await self._lifecycle.opened()
        check_reranking(rerank, text, pool, min_relevance)
        conditions = {
            "memory_types": memory_types,
            "tags": tags,
            "namespace": namespace,
            "user_id": user_id,
            "session_id": session_id,
            "since": since,
            "until": until,
        }
        wanted = filters_of(filters, conditions)
        moment = time.time() if now is None else now
        question = Question(
            agent_id, text, embedding, k, wanted, weights, decay, diversity, min_relevance, rerank, pool, moment
        )
        return await parts.retrieval.retrieve(question)

    # --- queries ---

    async def query(
        self, agent_id: str | None = None, *, limit: int | None = None, **conditions: Unpack[Conditions]
    ) -> AsyncIterator[MemoryEntry]:
        """Memories that meet all conditions, which are those of `MemoryQuery`; an iterator that reads page by page.

        Time range (`since`, `until`), steps (`step_from`, `step_to`), `min_importance`, `memory_types`, `tags`, `any_tags`,
        `attributes` of the metadata, `user_id`, `session_id`, `namespace`, `tiers`, `key`, `order_by`, `descending`. From
        SQL: what Redis accepted while SQL was away is not in it before it has been synchronised.

        Raises ValueError for a condition that restricts nothing: None, or an empty collection.
        """
        wanted = query_of(agent_id, conditions)
        parts = await self._lifecycle.opened()
        async for page in parts.queries.pages(wanted, limit):
            for copy in page:
                yield entry_of(copy)

    async def history(self, agent_id: str, *, limit: int = 100, session_id: str = UNSET) -> list[MemoryEntry]:
        """The latest memories, the newest last: of the agent, or of one of its sessions."""
        conditions: Conditions = {"order_by": "timestamp", "descending": True}
        if session_id is not UNSET:
            conditions["session_id"] = session_id
        found = self.query(agent_id, limit=limit, **conditions)
        return [entry async for entry in found][::-1]

    async def count(self, agent_id: str | None = None, **conditions: Unpack[Conditions]) -> int:
        """How many memories meet the conditions of `query`."""
        parts = await self._lifecycle.opened()
        return await parts.queries.count(query_of(agent_id, conditions))

    async def namespaces(self, agent_id: str, prefix: Sequence[str] = ()) -> list[NamespaceCount]:
        """The namespaces in use that begin with `prefix`, sorted."""
        parts = await self._lifecycle.opened()
        return await parts.queries.namespaces(agent_id, prefix)

    # --- forgetting ---

    async def forget(self, agent_id: str, *, dry_run: bool = False, **conditions: Unpack[Conditions]) -> int:
        """Deletes the memories that meet the conditions of `query`, in batches; returns how many (with `dry_run`: would).

        Raises ValueError, before anything is deleted, without any condition, which is `delete_agent`, and for one that
        restricts nothing: `user_id=None` does not stand for the memories of all users.
        """
        wanted = query_of(agent_id, conditions)
        if not restricts(conditions):
            raise ValueError("conditions must be given: to forget everything there is delete_agent()")
        parts = await self._lifecycle.opened()
        if dry_run:
            return await parts.queries.count(wanted)
        forgotten = 0
        async for page in parts.queries.pages(replace(wanted, order_by="seq", descending=False)):
            forgotten += await parts.storing.delete_many(agent_id, [copy.id for copy in page])
        return forgotten

    async def delete_agent(self, agent_id: str) -> int:
        """Erases everything of an agent: SQL, Redis, journal, index and snapshots; returns how many memories.

        Writes that began before are refused. Its text is in no file of the system's folder when this returns, unless another
        process is just reading the log of SQLite: then after the next `maintain()`. An interrupted erasure is finished by
        `maintain()` of any process.
        """
        parts = await self._lifecycle.opened()
        return await parts.erasure.erase("agent", agent_id)

    async def delete_user(self, user_id: str) -> int:
        """Erases the memories of a user from all agents; returns how many.

        From the moment on at which SQL knows of it they are no longer read here, and by other processes after
        `max_staleness_s`. What Redis or the journal had accepted for SQL goes there first. Otherwise as `delete_agent`.
        """
        parts = await self._lifecycle.opened()
        await parts.synchronisation.sync()
        return await parts.erasure.erase("user", user_id)

    # --- export and import ---

    async def export(self, agent_id: str) -> AsyncIterator[str]:
        """All of an agent's memories as JSON lines, one memory each. `import_` keeps their ids, versions, keys and
        idempotency keys, and whether they take part in deduplication.
        """
        parts = await self._lifecycle.opened()
        async for page in parts.transfer.pages(agent_id):
            for copy in page:
                yield exported(copy)

    async def import_(self, lines: Iterable[str], *, new_ids: bool = False) -> ImportReport:
        """Stores what `export` gave, with its ids and versions; returns how many, and what was not stored and why.

        With `new_ids` what was deleted or erased since, or belongs to another agent, is stored as a new memory: for an
        export that is restored after an erasure, or copied to another agent by changing `agent_id` in its lines. What is
        skipped is logged, too.
        """
        parts = await self._lifecycle.opened()
        return await parts.transfer.import_(lines, new_ids)

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
        parts = await self._lifecycle.opened()
        return await parts.embedding.reembed(include_missing)

    # --- service ---

    async def sync(self) -> SyncReport:
        """Synchronises now: dirty copies to SQL, SQL's changes to Redis. Done in intervals after `start()`."""
        parts = await self._lifecycle.opened()
        return await parts.synchronisation.sync()

    async def maintain(self) -> MaintenanceReport:
        """One pass of maintenance now; done in intervals after `start()`. Callers come between its batches."""
        parts = await self._lifecycle.opened()
        return await parts.maintenance.run()

    async def check(self, agent_id: str | None = None, *, limit: int = 1_000) -> CheckReport:
        """Reads all memories, or one agent's, and verifies their checksums; names at most `limit` (>= 1) damaged ones.

        A damaged memory is left out of every list and raised (CorruptMemoryError) by its id; `delete` still works. Damaged
        copies in Redis that SQL has not got are put aside, where no synchronisation meets them again. Nothing is deleted.
        Reads everything there is: for quiet hours. Raises MemoryStoreUnavailableError where SQL is away.
        """
        if limit < 1:
            raise ValueError(f"limit must be >= 1, got {limit!r}")
        parts = await self._lifecycle.opened()
        check = AsyncCheck(parts.sql, parts.redis, parts.dirty, parts.loaded, parts.damage, limit)
        report = await check.run(agent_id)
        if not report.is_intact:
            logger.error("check: %d memories are damaged, %d findings", report.damaged_count, len(report.database))
        return report

    async def rebuild_indices(self, agent_id: str) -> int:
        """Makes the agent's index anew from SQL, leaving aside any snapshot; returns how many memories it holds."""
        parts = await self._lifecycle.opened()
        parts.loaded.drop(agent_id)
        await parts.snapshots.delete(agent_id)
        return len(await parts.indexes.get(agent_id))

    async def stats(self) -> dict[str, Any]:
        """What is where and how it goes: presence of SQL and Redis, counters of loader, index, synchronisation and store."""
        return await async_stats_of(await self._lifecycle.opened())

    async def health(self) -> Health:
        """`"healthy"`: SQL reads and writes, and Redis answers (or there is none); `"degraded"`: something of this does not,
        or waits for a lock; `"down"`: neither SQL nor Redis answers. Asks them; `.sql` and `.redis` say which.
        """
        return await async_health_of(await self._lifecycle.opened())
