"""The PostgreSQL store. `stores/_async/protocol.py` documents its methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, Self, TypeVar

from agent_memory import _check
from agent_memory._concurrency import async_in_thread
from agent_memory._core import erase_agent
from agent_memory.memory._copy import Copy, decode_namespace, encode_namespace, new_writer
from agent_memory.memory._copy_rules import is_expired, next_version
from agent_memory.memory.entries import Tier
from agent_memory.memory.errors import CorruptMemoryError, MemoryStoreUnavailableError, StoreFault
from agent_memory.memory.settings import LongTermSettings, PostgresSettings
from agent_memory.memory.stores import _compression
from agent_memory.memory.stores._compression import Compression, UnknownDictionaryError
from agent_memory.memory.stores._planned import Agent
from agent_memory.memory.stores._queries import check_limit, conditions, namespace_bounds, order_column, page
from agent_memory.memory.stores._rows import (
    AGENT_COLUMNS,
    EMBEDDING_SPACE,
    NOT_ERASED,
    NOT_EXPIRED,
    SEQ_COLUMN,
    copies_of_rows,
    damaged_ids,
    select_copies,
    select_unembedded,
    space_of_row,
)
from agent_memory.memory.stores.operations import (
    Access,
    AgentState,
    Candidate,
    ChangePage,
    Cursor,
    Delete,
    EmbeddingSpace,
    Erasure,
    MemoryQuery,
    NamespaceCount,
    Operation,
    QueryPage,
    StoreStats,
    Unembedded,
    WriteResult,
    WriteStatus,
)
from agent_memory.memory.stores.postgres._async.connections import AsyncConnections, AsyncSession
from agent_memory.memory.stores.postgres._async.group import AsyncGroupCommit
from agent_memory.memory.stores.postgres._async.schema import SCHEMA_VERSION, async_migrate
from agent_memory.memory.stores.postgres._async.writing import (
    async_apply_operations,
    async_fetch_all,
    async_load_dictionaries,
    async_lock_agents,
    async_write_agents,
)

__all__ = ["AsyncPostgresStore"]

T = TypeVar("T")

_SELECT: Final = {flag: select_copies(vectors=flag).format(empty="''::bytea") for flag in (True, False)}
_JOIN: Final = "FROM memories m JOIN agents a ON a.agent_no = m.agent_no"
_FROM: Final = f"{_JOIN} WHERE {NOT_ERASED} AND m.deleted = 0"
_CANDIDATE: Final = f"SELECT m.id, a.agent_id, m.version, m.tier, m.importance, m.created_us {_FROM}"
_BY_KEY: Final = (
    f"{_SELECT[True]} AND a.agent_id = %s AND m.user_id = %s AND m.namespace = %s AND m.key = %s AND m.key <> ''"
    f" AND m.deleted = 0 AND {NOT_EXPIRED.replace('?', '%s')}"
)
_COUNT_COLUMNS: Final = ("short_term_count", "intermediate_count", "long_term_count")


def _clock_us() -> int:
    return time.time_ns() // 1_000


class AsyncPostgresStore:
    """Memories in PostgreSQL (14 or newer), with the methods of `AsyncMemoryStore`, which documents them.

    - `conninfo`: a URL or a string of libpq's, `postgresql://user@host/database`.
    - `config`: the `PostgresSettings`; default `PostgresSettings()`.
    - `long_term`: how long-term memory is stored; default `LongTermSettings()`.
    - `clock_us`: gives microseconds since the epoch, for versions and expiry; default: this machine's clock.

    Any number of processes may share a database, and any number of tasks a store; with asyncio, those of the loop that opened
    it. A cancelled change may have been made, a long `write` also in part. Raises MemoryStoreUnavailableError where the server
    cannot be reached or breaks off, and MemoryStoreClosedError before `open()`. The constructor raises TypeError or ValueError
    for an argument outside its rule.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        config: PostgresSettings | None = None,
        long_term: LongTermSettings | None = None,
        clock_us: Callable[[], int] = _clock_us,
    ) -> None:
        if config is not None:
            _check.instance("config", config, PostgresSettings)
        if long_term is not None:
            _check.instance("long_term", long_term, LongTermSettings)
        _check.function("clock_us", clock_us)
        self._settings = config or PostgresSettings()
        self._long_term = long_term or LongTermSettings()
        self._clock_us = clock_us
        self._writer = new_writer()
        self._compression = Compression(self._long_term)
        self._connections = AsyncConnections(conninfo, self._settings)
        self._group = AsyncGroupCommit(self._settings, self._apply)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._connections!r}>"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connects, and brings the schema up to date; raises MemorySchemaError for a foreign or newer one."""
        if self._connections.is_open:
            return
        self._connections.is_open = True
        try:
            async with self._connections.use() as connection:
                await async_migrate(connection, self._settings.schema)
                await async_load_dictionaries(connection, self._compression)
        except BaseException:
            await self._connections.close()
            raise

    async def close(self) -> None:
        """Closes the connections. Calls that are under way end first."""
        await self._connections.close()

    # --- transactions -----------------------------------------------------------------------------------------------------

    async def _fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        async def fetch(connection: AsyncSession) -> list[tuple[Any, ...]]:
            return await async_fetch_all(connection, statement, parameters)

        return await self._connections.read(fetch)

    async def _apply(self, operations: Sequence[Operation]) -> list[WriteResult]:
        async def apply(connection: AsyncSession) -> list[WriteResult]:
            self._group.begins()
            results = await async_apply_operations(connection, operations, self._compression, self._clock_us())
            self._group.ends()
            return results

        return await self._connections.transact(apply)

    async def _copies(self, rows: Sequence[Sequence[Any]], vectors: bool) -> tuple[list[Copy], list[str]]:
        try:
            return copies_of_rows(rows, self._compression, "PostgreSQL", vectors=vectors)
        except UnknownDictionaryError:
            await self._connections.transact(self._load_dictionaries)
            return copies_of_rows(rows, self._compression, "PostgreSQL", vectors=vectors, knows_all=True)

    async def _load_dictionaries(self, connection: AsyncSession) -> None:
        await async_load_dictionaries(connection, self._compression)

    # --- writes ---------------------------------------------------------------------------------------------------------

    async def write(self, operations: Sequence[Operation]) -> list[WriteResult]:
        """Applies operations in their order; returns when all are committed."""
        return await self._group.write(operations) if operations else []

    async def record_accesses(self, accesses: Iterable[Access]) -> None:
        """Adds to the statistics of use."""
        uses: dict[str, Access] = {}
        for one in accesses:
            before = uses.get(one.id, Access(one.id, 0, one.last_at_s))
            uses[one.id] = Access(one.id, before.uses + one.uses, max(before.last_at_s, one.last_at_s))
        # Always locked in one order, so that two batches never wait for each other.
        given = [uses[memory_id] for memory_id in sorted(uses)]

        async def record(connection: AsyncSession) -> None:
            await connection.execute(
                "INSERT INTO accesses SELECT m.row_id, g.uses, g.last_at"
                " FROM unnest(%s::text[], %s::bigint[], %s::double precision[]) AS g (id, uses, last_at)"
                " JOIN memories m ON m.id = g.id WHERE m.deleted = 0 ORDER BY m.row_id"
                " ON CONFLICT (row_id) DO UPDATE SET uses = accesses.uses + excluded.uses,"
                " last_at = greatest(accesses.last_at, excluded.last_at)",
                ([one.id for one in given], [one.uses for one in given], [one.last_at_s for one in given]),
            )

        await self._connections.transact(record)

    async def expire(self, now_s: float, *, limit: int = 1_000) -> list[WriteResult]:
        """Leaves tombstones for at most `limit` memories with `expires_at <= now`; returns them."""
        due = await self._fetch(
            f"SELECT m.id, a.agent_id, m.version {_FROM} AND m.expires_at IS NOT NULL AND m.expires_at <= %s"
            " ORDER BY m.expires_at LIMIT %s",
            (now_s, limit),
        )
        results = await self.write([Delete(row[0], row[1], writer=self._writer, if_version=row[2]) for row in due])
        return [result for result in results if result.status is WriteStatus.APPLIED]

    async def purge_tombstones(self, before_us: int, *, limit: int = 1_000) -> int:
        """Forgets at most `limit` tombstones with a version below `before_us`; returns how many."""

        async def purge(connection: AsyncSession) -> int:
            await connection.execute("DELETE FROM requests WHERE version < %s", (before_us,))
            old = f"SELECT m.row_id, a.agent_id {_JOIN} WHERE m.deleted = 1 AND m.version < %s ORDER BY m.version LIMIT %s"
            rows = await async_fetch_all(connection, old, (before_us, limit))
            if not rows:
                return 0
            await async_lock_agents(connection, sorted({name for _, name in rows}))
            gone = await async_fetch_all(
                connection,
                "DELETE FROM memories WHERE row_id = ANY(%s) AND deleted = 1 AND version < %s RETURNING agent_no, seq",
                ([row_id for row_id, _ in rows], before_us),
            )
            await connection.execute(
                "UPDATE agents SET purged_seq = greatest(purged_seq, p.seq) FROM"
                " (SELECT agent_no, max(seq) AS seq FROM unnest(%s::bigint[], %s::bigint[]) AS g (agent_no, seq)"
                " GROUP BY agent_no) p WHERE agents.agent_no = p.agent_no",
                ([row[0] for row in gone], [row[1] for row in gone]),
            )
            return len(gone)

        return await self._connections.transact(purge)

    async def train_dictionary(self, *, force: bool = False) -> int | None:
        """Trains a dictionary on long-term memory, where there is enough of it and no dictionary yet (or `force`)."""
        settings = self._long_term
        await self._connections.transact(self._load_dictionaries)
        if not settings.compression_level or not settings.dictionary_bytes or (self._compression.newest and not force):
            return None
        rows = await self._fetch(
            "SELECT content, dictionary FROM memories WHERE deleted = 0 AND tier = 2"
            " AND length(content) BETWEEN 8 AND 65536 AND row_id %% greatest(1, (SELECT max(row_id) FROM memories) / %s) = 0"
            " LIMIT %s",
            (_compression.DICTIONARY_SAMPLES, _compression.DICTIONARY_SAMPLES),
        )
        if len(rows) < _compression.MIN_DICTIONARY_SAMPLES:
            return None
        samples = self._compression.unpack_all((content, dictionary) for content, dictionary in rows)
        data = await async_in_thread(self._compression.train, samples)
        if data is None:
            return None

        async def add(connection: AsyncSession) -> int:
            await connection.execute("LOCK TABLE dictionaries IN SHARE ROW EXCLUSIVE MODE")
            rows = await async_fetch_all(
                connection,
                "INSERT INTO dictionaries SELECT coalesce(max(number), 0) + 1, %s, %s FROM dictionaries RETURNING number",
                (self._clock_us(), data),
            )
            return int(rows[0][0])

        number = await self._connections.transact(add)
        self._compression.add([(number, data)])
        return number

    # --- erasing --------------------------------------------------------------------------------------------------------

    async def begin_erasure(self, kind: Literal["agent", "user"], name: str) -> Erasure:
        """Sets the erasure fence: earlier writes are rejected, and an agent's rows become unreadable."""

        async def begin(connection: AsyncSession) -> Erasure:
            now_us = self._clock_us()
            if kind == "agent":
                await self._fence_agent(connection, name, now_us)
            else:
                await self._fence_user(connection, name, now_us)
            note = "INSERT INTO erasures VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
            await connection.execute(note, (kind, name, now_us))
            return await self._erasure(connection, kind, name)

        return await self._connections.transact(begin)

    async def _fence_agent(self, connection: AsyncSession, name: str, now_us: int) -> None:
        (agent,) = await async_lock_agents(connection, [name])
        async with connection.cursor() as cursor:
            await async_write_agents(cursor, [Agent._make(erase_agent(agent, now_us))])

    async def _fence_user(self, connection: AsyncSession, name: str, now_us: int) -> None:
        # Waits for the transactions that write for this user: what they have written is seen below.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
        greatest = "SELECT coalesce(max(version), 0) FROM memories WHERE user_id = %s AND user_id <> ''"
        rows = await async_fetch_all(connection, greatest, (name,))
        await connection.execute(
            "INSERT INTO user_fences VALUES (%s, 2, %s) ON CONFLICT (user_id) DO UPDATE SET"
            " generation = user_fences.generation + 1,"
            " fence_version = greatest(user_fences.fence_version, excluded.fence_version)",
            (name, next_version(rows[0][0], now_us)),
        )

    async def erase(self, kind: Literal["agent", "user"], name: str, *, limit: int = 1_000) -> Erasure:
        """Erases at most `limit` memories of an erasure that was begun."""

        async def erase(connection: AsyncSession) -> Erasure:
            if kind == "agent":
                erased, handled = await self._erase_agent(connection, name, limit)
            else:
                erased, handled = await self._erase_user(connection, name, limit)
            if handled < limit:
                await connection.execute("DELETE FROM erasures WHERE kind = %s AND name = %s", (kind, name))
            return await self._erasure(connection, kind, name, erased)

        return await self._connections.transact(erase)

    async def _erase_agent(self, connection: AsyncSession, name: str, limit: int) -> tuple[int, int]:
        (agent,) = await async_lock_agents(connection, [name])
        rows = await async_fetch_all(
            connection,
            "DELETE FROM memories WHERE row_id IN"
            " (SELECT row_id FROM memories WHERE agent_no = %s AND seq <= %s ORDER BY seq LIMIT %s)"
            " RETURNING row_id, deleted, expires_at, id",
            (agent.number, agent.erased_seq, limit),
        )
        numbers = [row[0] for row in rows]
        await connection.execute(
            "DELETE FROM memory_tags WHERE agent_no = %s AND row_id = ANY(%s)", (agent.number, numbers)
        )
        await connection.execute("DELETE FROM requests WHERE id = ANY(%s)", ([row[3] for row in rows],))
        await connection.execute("DELETE FROM vectors WHERE row_id = ANY(%s)", (numbers,))
        await connection.execute("DELETE FROM accesses WHERE row_id = ANY(%s)", (numbers,))
        now = self._clock_us() / 1e6
        return sum(not (deleted or is_expired(expires_at, now)) for _, deleted, expires_at, _ in rows), len(rows)

    async def _erase_user(self, connection: AsyncSession, name: str, limit: int) -> tuple[int, int]:
        fences = await async_fetch_all(connection, "SELECT fence_version FROM user_fences WHERE user_id = %s", (name,))
        version = fences[0][0] if fences else 0
        await connection.execute(
            "DELETE FROM requests WHERE user_id = %s AND user_id <> '' AND version <= %s", (name, version)
        )
        rows = await async_fetch_all(
            connection,
            f"SELECT m.id, a.agent_id {_JOIN} WHERE m.user_id = %s AND m.user_id <> '' AND m.version <= %s"
            " AND m.seq > a.erased_seq LIMIT %s",
            (name, version, limit),
        )
        deletes = [Delete(memory_id, agent_id, writer=self._writer, erases=True) for memory_id, agent_id in rows]
        if not deletes:
            return 0, 0
        results = await async_apply_operations(connection, deletes, self._compression, self._clock_us())
        return sum(result.existed for result in results), len(rows)

    async def _erasure(
        self, connection: AsyncSession, kind: Literal["agent", "user"], name: str, erased: int = 0
    ) -> Erasure:
        if kind == "agent":
            statement = "SELECT generation, erased_version FROM agents WHERE agent_id = %s"
        else:
            statement = "SELECT generation, fence_version FROM user_fences WHERE user_id = %s"
        found = await async_fetch_all(connection, statement, (name,))
        generation, fence = found[0] if found else (0, 0)
        noted = "SELECT count(*) FROM erasures WHERE kind = %s AND name = %s"
        remaining = (await async_fetch_all(connection, noted, (kind, name)))[0][0] > 0
        return Erasure(kind, name, generation, fence, remaining, erased)

    async def user_agents(self, user_id: str) -> list[str]:
        """The agents that hold anything of a user: expired memories and tombstones, too."""
        rows = await self._fetch(
            f"SELECT DISTINCT a.agent_id {_JOIN} WHERE m.user_id = %s AND m.user_id <> ''", (user_id,)
        )
        return [name for (name,) in rows]

    async def scrub(self) -> bool:
        """Does nothing, returns True: the server decides when dead rows and its log leave the disk (autovacuum, archiving)."""
        return True

    async def erasures(self) -> list[Erasure]:
        """Those that were begun and are not finished."""

        async def find(connection: AsyncSession) -> list[Erasure]:
            rows = await async_fetch_all(connection, "SELECT kind, name FROM erasures ORDER BY begun_us, name")
            return [await self._erasure(connection, kind, name) for kind, name in rows]

        return await self._connections.read(find)

    # --- reads ----------------------------------------------------------------------------------------------------------

    async def get(
        self, ids: Sequence[str], *, vectors: bool = True, damaged: list[str] | None = None
    ) -> list[Copy | None]:
        """The copies held, tombstones among them, in the order of `ids`. Without `vectors` the checksum goes unchecked.

        Damaged ones are raised, or added to the list.
        """
        if not ids:
            return []
        rows = await self._fetch(f"{_SELECT[vectors]} AND m.id = ANY(%s)", (list(map(str, ids)),))
        copies, corrupt = await self._copies(rows, vectors)
        found = {copy.id: copy for copy in copies}
        corrupt = damaged_ids(ids, found, corrupt)
        if corrupt and damaged is None:
            raise CorruptMemoryError(corrupt[0], "PostgreSQL")
        if damaged is not None:
            damaged += corrupt
        return [found.get(memory_id) for memory_id in ids]

    async def get_by_key(
        self, agent_id: str, key: str, namespace: Sequence[str] = (), user_id: str | None = None
    ) -> Copy | None:
        """The memory that a user's key names; without `user_id` that of no user."""
        wanted = (agent_id, user_id or "", encode_namespace(namespace), key, self._clock_us() / 1e6)
        rows = await self._fetch(_BY_KEY, wanted)
        copies, damaged = await self._copies(rows, True)
        if damaged:
            raise CorruptMemoryError(damaged[0], "PostgreSQL")  # it is asked for by its name
        return copies[0] if copies else None

    async def query(
        self, query: MemoryQuery, *, limit: int = 1_000, cursor: Cursor | None = None, vectors: bool = True
    ) -> QueryPage:
        """At most `limit` (1..10,000) copies, in the query's order."""
        check_limit(limit)
        where, parameters = conditions(query, self._clock_us() / 1e6, postgres=True)
        end, more_parameters = page(query, limit, cursor)
        # The order's value is the last column but one: the row's number is the last.
        select = _SELECT[vectors].replace(", m.row_id FROM", f", {order_column(query)}, m.row_id FROM", 1)
        statement = (select + where + end).replace("?", "%s")
        rows = await self._fetch(statement, parameters + more_parameters)
        following = None
        if len(rows) > limit:
            rows = rows[:limit]
            following = Cursor(rows[-1][-2], rows[-1][-1])
        copies, damaged = await self._copies(rows, vectors)
        return QueryPage(copies, following, tuple(damaged))

    async def count(self, query: MemoryQuery) -> int:
        """How many memories match."""
        where, parameters = conditions(query, self._clock_us() / 1e6, postgres=True)
        statement = f"SELECT count(*) {_JOIN} WHERE {NOT_ERASED}{where}".replace("?", "%s")
        return int((await self._fetch(statement, parameters))[0][0])

    async def changes(
        self, agent_id: str, after_seq: int = 0, *, limit: int = 1_000, vectors: bool = True
    ) -> ChangePage:
        """What changed after `after_seq`. From 0 on it is everything the agent has."""
        check_limit(limit)

        async def find(connection: AsyncSession) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
            # Both statements see one state of the database: else the row's seq might be younger than the rows.
            async with connection.transaction():
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                agents = await async_fetch_all(
                    connection, f"SELECT {AGENT_COLUMNS} FROM agents WHERE agent_id = %s", (agent_id,)
                )
                rows = await async_fetch_all(
                    connection,
                    f"{_SELECT[vectors]} AND a.agent_id = %s AND m.seq > %s ORDER BY m.seq LIMIT %s",
                    (agent_id, after_seq, limit + 1),
                )
                return agents, rows

        agents, rows = await self._connections.read(find)
        if not agents:
            return ChangePage([], after_seq, 1, False, False)
        agent = Agent._make(agents[0])
        copies, damaged = await self._copies(rows[:limit], vectors)
        more = len(rows) > limit
        seq = rows[limit - 1][SEQ_COLUMN] if more else max(agent.seq, after_seq)
        reset = 0 < after_seq < max(agent.purged_seq, agent.erased_seq)
        return ChangePage(copies, seq, agent.generation, reset, more, tuple(damaged))

    async def agent(self, agent_id: str) -> AgentState | None:
        """The agent's row; None where nothing was ever written."""
        # A row without a change was made by a write that was refused.
        states = await self._states("WHERE agent_id = %s AND touched_us > 0", (agent_id,))
        return states[0] if states else None

    async def agents(self, *, touched_after_us: int = 0, limit: int = 1_000) -> list[AgentState]:
        """Agents in the order in which they were touched last."""
        check_limit(limit)
        end = "WHERE touched_us > %s ORDER BY touched_us, agent_no LIMIT %s"
        return await self._states(end, (touched_after_us, limit))

    async def crowded(self, tier: Tier, max_entries: int, *, limit: int = 100) -> list[AgentState]:
        """Agents that have more than `max_entries` memories in a tier."""
        check_limit(limit)
        column = _COUNT_COLUMNS[tier]
        return await self._states(f"WHERE {column} > %s ORDER BY {column} DESC LIMIT %s", (max_entries, limit))

    async def _states(self, end: str, parameters: Sequence[Any]) -> list[AgentState]:
        rows = await self._fetch(f"SELECT {AGENT_COLUMNS} FROM agents {end}", parameters)
        return [Agent._make(row).state() for row in rows]

    async def namespaces(
        self, agent_id: str, prefix: Sequence[str] = (), *, limit: int = 1_000, offset: int = 0
    ) -> list[NamespaceCount]:
        """The namespaces in use that begin with `prefix`, sorted."""
        check_limit(limit)
        statement = f"SELECT m.namespace, count(*) {_FROM} AND a.agent_id = %s AND {NOT_EXPIRED.replace('?', '%s')}"
        parameters: list[Any] = [agent_id, self._clock_us() / 1e6]
        if prefix:
            statement += " AND m.namespace >= %s AND m.namespace < %s AND m.namespace <> ''"
            parameters += namespace_bounds(tuple(prefix))
        statement += " GROUP BY m.namespace ORDER BY m.namespace LIMIT %s OFFSET %s"
        rows = await self._fetch(statement, [*parameters, limit, offset])
        return [NamespaceCount(decode_namespace(namespace), count) for namespace, count in rows]

    async def aged(self, tier: Tier, created_before_us: int, *, limit: int = 500) -> list[Candidate]:
        """The oldest memories of all agents in STM or IM that were first stored before a time."""
        check_limit(limit)
        end = "AND m.tier < 2 AND m.tier = %s AND m.created_us < %s ORDER BY m.created_us LIMIT %s"
        return await self._candidates(end, (int(tier), created_before_us, limit))

    async def oldest(self, agent_id: str, tier: Tier, *, limit: int = 500) -> list[Candidate]:
        """The memories of one agent in STM or IM that were stored first."""
        check_limit(limit)
        end = "AND m.tier = %s AND a.agent_id = %s ORDER BY m.created_us LIMIT %s"
        return await self._candidates(end, (int(tier), agent_id, limit))

    async def _candidates(self, end: str, parameters: Sequence[Any]) -> list[Candidate]:
        rows = await self._fetch(f"{_CANDIDATE} {end}", parameters)
        return [Candidate(row[0], row[1], row[2], Tier(row[3]), row[4], row[5]) for row in rows]

    async def accesses(self, ids: Sequence[str]) -> list[Access]:
        """The statistics of those ids that have any."""
        rows = await self._fetch(
            "SELECT m.id, c.uses, c.last_at FROM memories m JOIN accesses c ON c.row_id = m.row_id WHERE m.id = ANY(%s)",
            (list(map(str, ids)),),
        )
        return [Access._make(row) for row in rows]

    async def check_writable(self) -> None:
        """Raises MemoryStoreUnavailableError on a standby, and where the database is away."""
        ((is_read_only,),) = await self._fetch("SELECT current_setting('transaction_read_only') = 'on'")
        if is_read_only:
            await self._connections.drop_idle()
            raise MemoryStoreUnavailableError(
                "PostgreSQL: transactions are read-only (SQLSTATE 25006)", fault=StoreFault.READ_ONLY, code="25006"
            )

    async def check_integrity(self) -> list[str]:
        """Checks nothing and returns an empty list: that is the server's (data checksums, amcheck)."""
        return []

    async def embedding_space(self) -> EmbeddingSpace | None:
        """The space of the vectors; None while there was none."""
        rows = await self._fetch(EMBEDDING_SPACE)
        return space_of_row(rows[0]) if rows else None

    async def note_embedding_space(self, space: EmbeddingSpace) -> EmbeddingSpace:
        """Begins the next space, or notes model and completion of the present one; returns the present one."""

        async def note(connection: AsyncSession) -> EmbeddingSpace:
            await connection.execute("LOCK TABLE embedding_spaces IN SHARE ROW EXCLUSIVE MODE")
            rows = await async_fetch_all(connection, EMBEDDING_SPACE)
            present = space_of_row(rows[0]) if rows else None
            values = (space.number, space.model, space.dimensions, space.first_version, int(space.is_complete))
            if space.number == (0 if present is None else present.number) + 1:
                await connection.execute("INSERT INTO embedding_spaces VALUES (%s, %s, %s, %s, %s)", values)
                return space
            assert present is not None
            if (space.number, space.dimensions) != (present.number, present.dimensions):
                return present
            await connection.execute(
                "UPDATE embedding_spaces SET model = %s, is_complete = %s WHERE number = %s",
                (space.model, int(space.is_complete), space.number),
            )
            return present._replace(model=space.model, is_complete=space.is_complete)

        return await self._connections.transact(note)

    async def unembedded(
        self,
        space: EmbeddingSpace,
        which: Literal["pending", "earlier", "missing"],
        after_row: int,
        *,
        limit: int = 500,
    ) -> list[Unembedded]:
        """Memories without a vector of `space`, in the order of their rows, after one of them."""
        check_limit(limit)
        rows = await self._fetch(select_unembedded(space, which, after_row, limit))
        return [Unembedded._make(row) for row in rows]

    def stats(self) -> StoreStats:
        """Counters since the store was made."""
        group = self._group
        return StoreStats(
            engine="postgresql",
            schema_version=SCHEMA_VERSION,
            pending_writes=group.pending,
            transactions=group.transactions,
            writes=group.writes,
            longest_transaction_ms=group.longest_ns / 1e6,
            dictionaries=len(self._compression),
            details={"server": repr(self._connections)},
        )
