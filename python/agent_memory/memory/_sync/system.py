# Generated from ../_async/system.py by tools/generate_sync.py: edit that file, not this one.

"""`MemorySystem`: memories of agents, stored durably, found by relevance, kept in three tiers.

The public face: each method checks what is given, and calls an object of `Parts` that does it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from agent_memory import _check
from agent_memory._face import is_documented
from agent_memory.memory._call_arguments import (
    check_changes,
    check_embedding,
    check_levels,
    check_lines,
    check_names,
    check_namespace,
    check_new,
    new_memories,
)
from agent_memory.memory._conditions import (
    UNSET,
    QueryConditions,
    RetrievalConditions,
    check_limit,
    filters_of,
    query_of,
    restricts,
)
from agent_memory.memory._copy import entry_of
from agent_memory.memory._export_lines import exported
from agent_memory.memory._question import Question, check_question
from agent_memory.memory._redis_argument import check_redis
from agent_memory.memory._sync.check import Check
from agent_memory.memory._sync.lifecycle import Lifecycle
from agent_memory.memory._sync.resources import Resources
from agent_memory.memory._sync.status import checked_health_of, health_of, stats_of
from agent_memory.memory._sync.tiers import IntermediateMemory, LongTermMemory, ShortTermMemory
from agent_memory.memory._system_arguments import check_system
from agent_memory.memory.attributes import MemoryAttributes, MemoryChanges, NewMemory
from agent_memory.memory.entries import Content, Durability, MemoryEntry, MemoryId
from agent_memory.memory.ranking import DEFAULT_RANKING, Ranking
from agent_memory.memory.reports import (
    CheckReport,
    ImportReport,
    MaintenanceReport,
    MemoryHealth,
    ReembedReport,
    SyncReport,
)
from agent_memory.memory.settings import DEFAULT_MEMORY_SETTINGS, MemorySettings
from agent_memory.memory.stores._sync.protocol import MemoryStore
from agent_memory.memory.stores.operations import MemoryQuery, NamespaceCount

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["MemorySystem"]

logger = logging.getLogger(__name__)


class MemorySystem:
    """Memories of agents in three tiers over Redis and SQL.

        with MemorySystem() as memory:
            memory.store("agent-1", "The user lives in Lisbon.", importance=0.8)
            for entry in memory.retrieve("agent-1", "Where does the user live?", k=3):
                print(entry.score, entry.content)

    - `path`: the folder of the embedded server, of the SQLite file and of index snapshots; made if missing. One process owns
      the server, others on the machine attach to it. Default `"./agent_memory"`.
    - `redis`: a client, redis-py compatible and without `decode_responses` (ours, or a RedisCluster; it stays the
      caller's), a URL, `"embedded"` (default: a private server in `path`), or None for no Redis.
    - `store`: `"sqlite:///FILE"`, `"postgresql://..."`, a store object of `agent_memory.memory.stores` (opened and closed
      here), or None for SQLite in `path`.
    - `embed`: called with a list of texts in a thread (or a function); gives an array of shape
      (len(texts), dimensions). With it, memories and questions without an embedding get one; where it fails, memories are
      stored all the same, found by words, and embedded later (`maintain()`). Its model is named by `IndexSettings.model`.
      Default None: ranking by words.
    - `config`: the `MemorySettings`; default `MemorySettings()`.

    The first use opens it, once for all concurrent callers; `with` closes it at its end, `close()` where it is used
    without. Nothing runs in the background before `start()`. Any number of threads may use one object. All methods raise
    ValueError and TypeError for bad arguments before anything changes, MemoryStoreUnavailableError where SQL is away and
    needed, DurabilityError where a write did not reach its `minimum`, MemoryStoreClosedError after `close()`. A cancelled write
    may have been made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "./agent_memory",
        *,
        redis: Any = "embedded",
        store: str | MemoryStore | None = None,
        embed: Callable[[list[str]], Any] | None = None,
        config: MemorySettings = DEFAULT_MEMORY_SETTINGS,
    ) -> None:
        check_system(path, store, embed, config)
        check_redis(redis, False)
        self.config = config
        """The settings it was made with."""
        self._resources = Resources(path, redis, store, embed, config)
        self._lifecycle = Lifecycle(self._resources)
        self.short_term = ShortTermMemory(self)
        self.intermediate = IntermediateMemory(self)
        self.long_term = LongTermMemory(self)

    def __repr__(self) -> str:
        state = "closed" if self._lifecycle.parts is None else "open"
        return f"<{type(self).__name__} {str(self._resources.directory.path)!r}, {state}>"

    def __dir__(self) -> list[str]:
        """What is documented, without internals."""
        return [name for name in super().__dir__() if is_documented(name)]

    # --- life ---

    def open(self) -> Self:
        """Opens database and server, or attaches to the server that runs; done by `with` and by the first use, too.

        Raises MemorySystemError, MemorySchemaError or MemoryStoreUnavailableError; then nothing stays open, and the next use
        tries again. Cancelled or interrupted, it leaves nothing open unless another caller waits for the same opening.
        """
        self._lifecycle.open()
        return self

    def close(self) -> None:
        """Ends background work, finishes what waits, and closes what this object opened. Does nothing when closed.

        Every later use raises MemoryStoreClosedError, until `open()`, `start()` or a `with` block opens it again.
        """
        self._lifecycle.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begins the work in the background: synchronisation, tiers, statistics. Opens the system where it is closed."""
        self._lifecycle.open()
        parts = self._lifecycle.opened()
        parts.service.start()

    def stop(self) -> None:
        """Ends the work in the background; the system stays open."""
        parts = self._lifecycle.parts
        if parts is not None:
            parts.service.stop()

    # --- writing ---

    def store(
        self,
        agent_id: str,
        content: Content,
        *,
        durability: Durability | None = None,
        minimum: Durability | None = None,
        **attributes: Unpack[MemoryAttributes],
    ) -> MemoryId:
        """Stores a memory.

        - `agent_id`: the agent, 1..512 characters.
        - `content`: a text, bytes or a JSON value, at most 16 MiB.
        - `durability`: what is tried first. `"sql"`: committed and synced. `"redis"`: accepted by Redis, and lost if Redis
          loses it before SQL has it. `"journal"`: as `"sql"` with `minimum="journal"`. Default: `MemorySettings.durability`.
        - `minimum`: the weakest level that is accepted before an error is raised, in the order `"sql"`, `"redis"`, `"journal"`
          (the file of this machine, with `MemorySettings(journal=True)`). Default: `durability` where that is given, else
          `MemorySettings.minimum`.
        - `attributes`: `importance` (0..1, default 0.5), `user_id`, `session_id`, `tags`, `metadata`, `memory_type`,
          `namespace`, `embedding`, `timestamp_s`, `step`, `ttl_s`, `key`, `idempotency_key`, `deduplicate`:
          see `MemoryAttributes`.

        Returns the id, with the `version` and the `durability` that were reached. Raises DurabilityError where `minimum` was
        not reached, AgentErasedError, EmbeddingSpaceError, MemoryDeletedError for the idempotency key of a memory that was
        deleted or has expired, ValueError and TypeError. A cancelled call may have stored the memory: repeat it with the same
        `idempotency_key`.
        """
        if (
            self._lifecycle.parts is None
        ):  # of an open system the copy is checked when it is made, before it goes anywhere
            check_levels(self.config, minimum, durability)
            check_new(agent_id, content, attributes)
        parts = self._lifecycle.opened()
        return parts.storing.store(agent_id, content, durability, minimum, attributes)

    def store_many(
        self, agent_id: str, entries: Iterable[NewMemory], *, embeddings: ArrayLike | None = None
    ) -> list[MemoryId]:
        """Stores many memories in SQL, 500 in one transaction.

        - `agent_id`: the agent.
        - `entries`: a mapping for each memory, of `"content"` and `store`'s attributes.
        - `embeddings`: shape (n, dimensions), instead of an `"embedding"` in each mapping; default: made by `embed`.

        Returns the ids in order. Raises what is wrong with any memory (ValueError, TypeError, EmbeddingSpaceError) before the
        first is written; MemoryStoreUnavailableError or AgentErasedError later leaves those of earlier transactions stored.
        """
        check_names(agent_id=agent_id)
        given, vectors = new_memories(entries, embeddings)
        if self._lifecycle.parts is None:
            for entry in given:
                check_new(agent_id, entry["content"], {name: entry[name] for name in entry if name != "content"})
        parts = self._lifecycle.opened()
        return parts.storing.store_many(agent_id, given, vectors)

    def update(
        self,
        agent_id: str,
        memory_id: str,
        *,
        content: Content = UNSET,
        if_version: int | None = None,
        minimum: Durability | None = None,
        **changes: Unpack[MemoryChanges],
    ) -> MemoryId:
        """Changes what is given of a memory, as a new version.

        - `agent_id`, `memory_id`: the memory.
        - `content`: the new content; default: the old one. New content gets a new embedding where there is an `embed` and it is
          a text; otherwise it has none unless `embedding` is given: the old one belongs to the old content.
        - `if_version`: change only this version; default: the change is made again over what another writer wrote meanwhile.
        - `minimum`: the weakest level that is accepted, as for `store`; default: `MemorySettings.minimum`.
        - `changes`: `importance`, `embedding`, `memory_type`, `step`, `timestamp_s`, `metadata`, `tags`, `ttl_s`: see
          `MemoryChanges`.

        Returns the id with the new version. Raises KeyError for an id that is not there, MemoryConflictError where `if_version`
        is not the version held, DurabilityError where `minimum` was not reached, EmbeddingSpaceError, ValueError and TypeError.
        """
        check_levels(self.config, minimum, if_version=if_version)
        check_changes(agent_id, memory_id, changes, "" if content is UNSET else content)
        parts = self._lifecycle.opened()
        given: dict[str, Any] = {**changes} if content is UNSET else {**changes, "content": content}
        return parts.storing.update(agent_id, memory_id, given, if_version, minimum)

    def delete(
        self, agent_id: str, memory_id: str, *, if_version: int | None = None, minimum: Durability | None = None
    ) -> bool:
        """Deletes a memory for good.

        - `agent_id`, `memory_id`: the memory.
        - `if_version`: delete only this version; default: any.
        - `minimum`: the weakest level that is accepted, as for `store`; default: `MemorySettings.minimum`.

        Returns whether there was such a memory; True where only Redis or the journal took the deletion, which do not know.
        Raises ValueError and TypeError for an argument outside its rule, MemoryConflictError where `if_version` is not the
        version held, DurabilityError where `minimum` was not reached, and MemoryStoreUnavailableError, having done nothing,
        where SQL has no such memory and Redis, which may, is away.
        """
        check_names(agent_id=agent_id, memory_id=memory_id)
        check_levels(self.config, minimum, if_version=if_version)
        parts = self._lifecycle.opened()
        return parts.storing.delete(agent_id, memory_id, if_version, minimum)

    # --- reading ---

    def get(self, agent_id: str, memory_id: str) -> MemoryEntry | None:
        """Returns the memory `memory_id` of `agent_id`, from Redis, else from SQL; None if absent, deleted or expired.

        Raises MemoryStoreUnavailableError where that cannot be known: Redis has no copy and SQL is away, or SQL has none and
        Redis, which may have the only one, is away. Raises CorruptMemoryError where its newest copy is damaged, ValueError and
        TypeError for an argument outside its rule.
        """
        check_names(agent_id=agent_id, memory_id=memory_id)
        parts = self._lifecycle.opened()
        copy = parts.reader.read_one(agent_id, memory_id)
        if copy is None:
            return None
        parts.accesses.note([memory_id])
        return entry_of(copy)

    def get_by_key(
        self, agent_id: str, key: str, namespace: Sequence[str] = (), *, user_id: str | None = None
    ) -> MemoryEntry | None:
        """Returns the memory that `agent_id` stored with `key`, from SQL; None if absent.

        `namespace`: the whole of it; default `()`. `user_id`: the user it was stored for; default None, the memory of no user.
        Raises MemoryStoreUnavailableError where SQL is away, CorruptMemoryError where the memory is damaged, ValueError and
        TypeError for an argument outside its rule.
        """
        check_names(agent_id=agent_id, key=key, **({} if user_id is None else {"user_id": user_id}))
        check_namespace("namespace", namespace)
        parts = self._lifecycle.opened()
        return parts.queries.by_key(agent_id, key, namespace, user_id)

    def retrieve(
        self,
        agent_id: str,
        text: str | None = None,
        *,
        embedding: ArrayLike | None = None,
        k: int = 10,
        min_relevance: float = 0.0,
        ranking: Ranking = DEFAULT_RANKING,
        **conditions: Unpack[RetrievalConditions],
    ) -> list[MemoryEntry]:
        """Finds the memories most relevant to a text, an embedding, or both.

        - `agent_id`: the agent.
        - `text`: what is asked. A text that no memory has a word of gives the most recent and important ones, with `is_match`
          False and relevance 0, unless `min_relevance` is above 0. Default: None, ranked by the embedding alone.
        - `embedding`: shape (dimensions,); default: `embed` of the text.
        - `k`: the most memories returned, >= 1; default 10.
        - `min_relevance`: 0..1, leaves out what matches less; default 0.
        - `ranking`: weights, decay, diversity, `rerank`: see `Ranking`.
        - `conditions`: `user_id`, `session_id`, `namespace`, `tags`, `memory_types`, `since_s`, `until_s` (seconds since the
          epoch), and `filters` for values of the metadata: see `RetrievalConditions`. Default: all memories of the agent.

        Returns the memories best first, with `.relevance` and `.score`; of equal ones the newer comes first. Ranking is exact,
        over all tiers. A memory stored by another process is seen at the latest after `SyncSettings.max_staleness_s`. While SQL
        is away, memories whose content is in Redis are found.

        Raises ValueError for a condition that is None or empty, since it would stand for the memories of all users, sessions
        and so on, TypeError for one that there is not, and MemoryStoreUnavailableError where nothing could be read.
        """
        check_names(agent_id=agent_id)
        check_question(ranking, text, k, min_relevance)
        if embedding is not None:
            check_embedding(embedding)
        wanted = filters_of(conditions)
        parts = self._lifecycle.opened()
        moment = time.time() if ranking.now_s is None else ranking.now_s
        question = Question(agent_id, text, embedding, k, wanted, min_relevance, ranking, moment)
        return parts.retrieval.retrieve(question)

    # --- queries ---

    def query(
        self, agent_id: str | None = None, *, limit: int | None = None, **conditions: Unpack[QueryConditions]
    ) -> Iterator[MemoryEntry]:
        """Yields the memories that meet all conditions, read from SQL page by page.

        - `agent_id`: the agent; default None, all agents, which needs a `user_id`.
        - `limit`: the most memories, >= 0; default None, all.
        - `conditions`: `since_s`, `until_s` (seconds since the epoch), `step_from`, `step_to`, `min_importance`,
          `max_importance`, `memory_types`, `tags`, `any_tags`, `attributes` of the metadata, `user_id`, `session_id`,
          `namespace`, `namespace_exact`, `key`, `tiers`, and the order, `order_by` and `descending`: see `QueryConditions`.

        What Redis accepted while SQL was away is not in it before it has been synchronised. Damaged memories are left out.
        Raises ValueError for a condition that is None or empty, TypeError for one that there is not, and
        MemoryStoreUnavailableError where SQL is away.
        """
        check_limit(limit)
        return self._entries(query_of(agent_id, conditions), limit)

    def _entries(self, wanted: MemoryQuery, limit: int | None) -> Iterator[MemoryEntry]:
        parts = self._lifecycle.opened()
        for page in parts.queries.pages(wanted, limit):
            for copy in page:
                yield entry_of(copy)

    def history(self, agent_id: str, *, limit: int = 100, session_id: str = UNSET) -> list[MemoryEntry]:
        """Returns the latest `limit` memories (>= 0, default 100), the newest last: of `agent_id`, or of its `session_id`.

        Raises ValueError, TypeError and MemoryStoreUnavailableError as `query` does.
        """
        check_names(agent_id=agent_id)
        _check.whole("limit", limit, 0)
        conditions: QueryConditions = {"order_by": "timestamp", "descending": True}
        if session_id is not UNSET:
            conditions["session_id"] = session_id
        found = self.query(agent_id, limit=limit, **conditions)
        return list(found)[::-1]

    def count(self, agent_id: str | None = None, **conditions: Unpack[QueryConditions]) -> int:
        """Returns how many memories of `agent_id` (None: of all agents) meet the `conditions` of `query`; raises as it does."""
        wanted = query_of(agent_id, conditions)
        parts = self._lifecycle.opened()
        return parts.queries.count(wanted)

    def namespaces(self, agent_id: str, prefix: Sequence[str] = ()) -> list[NamespaceCount]:
        """Returns the namespaces of `agent_id` that begin with `prefix` (default: all), sorted, with the number of memories.

        Raises ValueError and TypeError for an argument outside its rule, MemoryStoreUnavailableError where SQL is away.
        """
        check_names(agent_id=agent_id)
        check_namespace("prefix", prefix)
        parts = self._lifecycle.opened()
        return parts.queries.namespaces(agent_id, prefix)

    # --- forgetting ---

    def forget(self, agent_id: str, *, dry_run: bool = False, **conditions: Unpack[QueryConditions]) -> int:
        """Deletes the memories of `agent_id` that meet the `conditions` of `query`, 500 in one transaction.

        `dry_run`: delete nothing; default False. Returns how many were, or would be, deleted. Raises ValueError, before
        anything is deleted, without any condition, which is `delete_agent`, and for one that restricts nothing: `user_id=None`
        does not stand for the memories of all users; TypeError for what is of another type. Raises MemoryStoreUnavailableError
        or DurabilityError where SQL is away; earlier batches stay deleted then.
        """
        check_names(agent_id=agent_id)
        _check.flag("dry_run", dry_run)
        wanted = query_of(agent_id, conditions)
        if not restricts(conditions):
            raise ValueError("conditions must be given: to forget everything there is delete_agent()")
        parts = self._lifecycle.opened()
        if dry_run:
            return parts.queries.count(wanted)
        forgotten = 0
        for page in parts.queries.pages(replace(wanted, order_by="seq", descending=False)):
            forgotten += parts.storing.delete_many(agent_id, [copy.id for copy in page])
        return forgotten

    def delete_agent(self, agent_id: str) -> int:
        """Erases everything of `agent_id`: SQL, Redis, journal, index and snapshots; returns how many memories.

        Writes that began before are refused. Its text is in no file of the system's folder when this returns, unless another
        process is just reading the log of SQLite: then after the next `maintain()`. An interrupted erasure is finished by
        `maintain()` of any process. Raises ValueError and TypeError for an `agent_id` outside its rule.
        """
        check_names(agent_id=agent_id)
        parts = self._lifecycle.opened()
        return parts.erasure.erase("agent", agent_id)

    def delete_user(self, user_id: str) -> int:
        """Erases the memories of `user_id` from all agents; returns how many.

        From the moment on at which SQL knows of it they are no longer read here, and by other processes after
        `max_staleness_s`. What Redis or the journal had accepted for SQL goes there first. Otherwise as `delete_agent`. Raises
        ValueError and TypeError for a `user_id` outside its rule.
        """
        check_names(user_id=user_id)
        parts = self._lifecycle.opened()
        parts.synchronisation.sync()
        return parts.erasure.erase("user", user_id)

    # --- export and import ---

    def export(self, agent_id: str) -> Iterator[str]:
        """Yields all memories of `agent_id` as JSON lines, one memory each, read from SQL page by page.

        `import_` keeps their ids, versions, keys and idempotency keys, and whether they take part in deduplication. Raises
        ValueError and TypeError for an `agent_id` outside its rule, MemoryStoreUnavailableError where SQL is away.
        """
        check_names(agent_id=agent_id)
        return self._exported(agent_id)

    def _exported(self, agent_id: str) -> Iterator[str]:
        parts = self._lifecycle.opened()
        for page in parts.transfer.pages(agent_id):
            for copy in page:
                yield exported(copy)

    def import_(self, lines: Iterable[str], *, new_ids: bool = False) -> ImportReport:
        """Stores `lines` of `export`, with their ids and versions; returns how many, and what was not stored and why.

        With `new_ids` (default False) what was deleted or erased since, or belongs to another agent, is stored as a new
        memory: for an export that is restored after an erasure, or copied to another agent by changing `agent_id` in its lines.
        What is skipped is logged, too. Raises ValueError and TypeError for what is no line of an export.
        """
        given = check_lines(lines)
        _check.flag("new_ids", new_ids)
        parts = self._lifecycle.opened()
        return parts.transfer.import_(given, new_ids)

    # --- embeddings ---

    def reembed(self, *, include_missing: bool = False) -> ReembedReport:
        """Makes the embeddings of all agents' memories anew by this system's `embed`; returns how many, when all are.

        For another model, or other dimensions: give the new `embed` (and `IndexSettings.model`, its name), then call this once.
        Other calls go on meanwhile; a memory is found by words until its new embedding is there. Processes whose `embed` is the
        old one are refused from then on. Each memory gets a new version. Broken off, it is gone on with by the next call,
        or by `maintain()`. With `include_missing` texts that never had an embedding get one, too.

        Memories that are neither text nor items of LangGraph lose an embedding that the caller had given. Raises ValueError
        without `embed`, EmbeddingSpaceError where another process migrates to another model, and what `embed` raises.
        """
        _check.flag("include_missing", include_missing)
        parts = self._lifecycle.opened()
        return parts.embedding.reembed(include_missing)

    # --- service ---

    def sync(self) -> SyncReport:
        """Synchronises now: dirty copies to SQL, SQL's changes to Redis. Done in intervals after `start()`."""
        parts = self._lifecycle.opened()
        return parts.synchronisation.sync()

    def maintain(self) -> MaintenanceReport:
        """One pass of maintenance now; done in intervals after `start()`. Callers come between its batches."""
        parts = self._lifecycle.opened()
        return parts.maintenance.run()

    def check(self, agent_id: str | None = None, *, limit: int = 1_000) -> CheckReport:
        """Reads all memories and verifies their checksums.

        - `agent_id`: read only the memories of this agent; default None, all.
        - `limit`: the most damaged memories that the report names, >= 1; default 1,000.

        A damaged memory is left out of every list and raised (CorruptMemoryError) by its id; `delete` still works. Damaged
        copies in Redis that SQL has not got are put aside, where no synchronisation meets them again. Nothing is deleted.
        Reads everything there is: for quiet hours. Raises ValueError and TypeError for an argument outside its rule, and
        MemoryStoreUnavailableError where SQL is away.
        """
        if agent_id is not None:
            check_names(agent_id=agent_id)
        _check.whole("limit", limit, 1)
        parts = self._lifecycle.opened()
        check = Check(parts.sql, parts.redis, parts.dirty, parts.loaded, parts.damage, limit)
        report = check.run(agent_id)
        if not report.is_intact:
            logger.error("check: %d memories are damaged, %d findings", report.damaged_count, len(report.database))
        return report

    def rebuild_indices(self, agent_id: str) -> int:
        """Makes the index of `agent_id` anew from SQL, leaving aside any snapshot; returns how many memories it holds.

        Raises ValueError and TypeError for an `agent_id` outside its rule, MemoryStoreUnavailableError where SQL is away.
        """
        check_names(agent_id=agent_id)
        parts = self._lifecycle.opened()
        parts.loaded.drop(agent_id)
        parts.snapshots.delete(agent_id)
        return len(parts.indexes.get(agent_id))

    def stats(self) -> dict[str, Any]:
        """The figures of this process: presence of SQL and Redis, counters of loader, index, synchronisation and store.

        Asks no server and no disk. While the system is not open (before the first use, and after `close()`) only
        `{"open": False}`.
        """
        return stats_of(self._lifecycle.parts)

    def health(self) -> MemoryHealth:
        """How the system is doing, as its last calls have shown: asks no server and no disk. `check_health()` asks them."""
        return health_of(self._lifecycle.parts)

    def check_health(self) -> MemoryHealth:
        """Asks SQL, whether it reads and takes writes, and Redis; `.sql` and `.redis` of the result say which answers.

        Opens the system where it is not open. Waits for a lock of SQLite for `SqliteSettings.busy_timeout_s` at most. Raises
        MemoryStoreClosedError after `close()`, and what `open()` raises; what SQL and Redis raise is part of the result.
        """
        return checked_health_of(self._lifecycle.opened())
