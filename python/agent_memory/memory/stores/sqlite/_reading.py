"""What is read of the SQLite store, on a connection of the reading thread."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any, Final

from agent_memory._concurrency import give_way
from agent_memory.memory._copy import Copy, decode_namespace, encode_namespace
from agent_memory.memory.entries import Tier
from agent_memory.memory.errors import CorruptMemoryError
from agent_memory.memory.stores._compression import Compression, UnknownDictionaryError
from agent_memory.memory.stores._queries import check_limit, conditions, namespace_bounds, order_column, page
from agent_memory.memory.stores._rows import (
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
    EmbeddingSpace,
    Erasure,
    MemoryQuery,
    NamespaceCount,
    QueryPage,
    Unembedded,
)
from agent_memory.memory.stores.sqlite._writing import load_agents, load_dictionaries

__all__ = ["Reader"]

_SELECT: Final = {
    with_vectors: select_copies(vectors=with_vectors).format(empty="x''") for with_vectors in (True, False)
}
# Of two lower bounds of a feed's place SQLite searches its index by the first, which may be everything that the agent ever
# wrote. The unary plus leaves it the reader's own.
_CHANGES: Final = {vectors: sql.replace("m.seq > a.", "+m.seq > a.", 1) for vectors, sql in _SELECT.items()}
_FROM: Final = f"FROM memories m JOIN agents a ON a.agent_no = m.agent_no WHERE {NOT_ERASED} AND m.deleted = 0"
_CANDIDATE: Final = f"SELECT m.id, a.agent_id, m.version, m.tier, m.importance, m.created_us {_FROM}"

_BY_KEY: Final = (
    f"{_CHANGES[True]} AND a.agent_id = ? AND m.user_id = ? AND m.namespace = ? AND m.key = ? AND m.key <> ''"
    f" AND m.deleted = 0 AND {NOT_EXPIRED}"
)

MAX_FINDINGS: Final = 100
"""The most lines of `check_integrity`."""

_YIELDING_ROWS: Final = 100
"""After so many rows a background read gives way."""


def _lenient_text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


class Reader:
    """The reads of one connection, which belongs to one thread."""

    __slots__ = ("__weakref__", "_compression", "connection", "in_use")

    def __init__(self, connection: sqlite3.Connection, compression: Compression) -> None:
        self.connection = connection
        self.in_use = threading.Lock()
        """Held while its thread reads."""
        self._compression = compression

    def close(self) -> None:
        """Closes the connection, from any thread; waits for a read that is under way."""
        with self.in_use:
            self.connection.close()

    def __del__(self) -> None:
        # A thread that ended leaves its connection behind.
        self.connection.close()

    def _copies(self, rows: Sequence[Sequence[Any]], vectors: bool) -> tuple[list[Copy], list[str]]:
        try:
            return copies_of_rows(rows, self._compression, "SQLite", vectors=vectors)
        except UnknownDictionaryError:
            load_dictionaries(self.connection, self._compression)
            return copies_of_rows(rows, self._compression, "SQLite", vectors=vectors, knows_all=True)

    def _rows(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of copies, also where a damaged one has a text that is none: it fails its checksum then, and no other."""
        connection = self.connection
        try:
            return connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) is not None:
                raise
        connection.text_factory = _lenient_text
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            connection.text_factory = str

    def get(self, ids: Sequence[str], vectors: bool, damaged: list[str] | None) -> list[Copy | None]:
        if len(ids) == 1:
            sql = f"{_SELECT[vectors]} AND m.id = ?"
            rows = self._rows(sql, (ids[0],))
        else:
            sql = f"{_SELECT[vectors]} AND m.id IN (SELECT value FROM json_each(?))"
            rows = self._rows(sql, (json.dumps(list(ids)),))
        copies, corrupt = self._copies(rows, vectors)
        found = {copy.id: copy for copy in copies}
        corrupt = damaged_ids(ids, found, corrupt)
        if corrupt and damaged is None:
            raise CorruptMemoryError(corrupt[0], "SQLite")
        if damaged is not None:
            damaged += corrupt
        return [found.get(memory_id) for memory_id in ids]

    def get_by_key(
        self, agent_id: str, key: str, namespace: Sequence[str], user_id: str | None, now: float
    ) -> Copy | None:
        wanted = (agent_id, user_id or "", encode_namespace(namespace), key, now)
        rows = self._rows(_BY_KEY, wanted)
        copies, damaged = self._copies(rows, True)
        if damaged:
            raise CorruptMemoryError(damaged[0], "SQLite")  # it is asked for by its name
        return copies[0] if copies else None

    def query(self, query: MemoryQuery, now: float, limit: int, cursor: Cursor | None, vectors: bool) -> QueryPage:
        check_limit(limit)
        where, parameters = conditions(query, now, postgres=False)
        end, more_parameters = page(query, limit, cursor)
        # The order's value is the last column but one: the row's number is the last.
        sql = _SELECT[vectors].replace(", m.row_id FROM", f", {order_column(query)}, m.row_id FROM", 1)
        rows = self._rows(sql + where + end, parameters + more_parameters)
        following = None
        if len(rows) > limit:
            rows = rows[:limit]
            following = Cursor(rows[-1][-2], rows[-1][-1])
        copies, damaged = self._copies(rows, vectors)
        return QueryPage(copies, following, tuple(damaged))

    def count(self, query: MemoryQuery, now: float) -> int:
        where, parameters = conditions(query, now, postgres=False)
        sql = f"SELECT count(*) FROM memories m JOIN agents a ON a.agent_no = m.agent_no WHERE {NOT_ERASED}{where}"
        return int(self.connection.execute(sql, parameters).fetchone()[0])

    def changes(self, agent_id: str, after_seq: int, limit: int, vectors: bool) -> ChangePage:
        check_limit(limit)
        self.connection.execute("BEGIN")
        try:
            agent = load_agents(self.connection, [agent_id])[agent_id]
            sql = f"{_CHANGES[vectors]} AND a.agent_id = ? AND m.seq > ? ORDER BY m.seq LIMIT ?"
            rows = self._rows(sql, (agent_id, after_seq, limit + 1))
        finally:
            if self.connection.in_transaction:  # SQLite itself ends it for some errors
                self.connection.execute("COMMIT")
        copies, damaged = self._copies(rows[:limit], vectors)
        more = len(rows) > limit
        seq = rows[limit - 1][SEQ_COLUMN] if more else max(agent.seq, after_seq)
        reset = 0 < after_seq < max(agent.purged_seq, agent.erased_seq)
        return ChangePage(copies, seq, agent.generation, reset, more, tuple(damaged))

    def agent(self, agent_id: str) -> AgentState | None:
        agent = load_agents(self.connection, [agent_id])[agent_id]
        return agent.state() if agent.number else None

    def agents(self, touched_after_us: int, limit: int) -> list[AgentState]:
        check_limit(limit)
        sql = "SELECT agent_id FROM agents WHERE touched_us > ? ORDER BY touched_us, agent_no LIMIT ?"
        return self._states(sql, (touched_after_us, limit))

    def crowded(self, tier: Tier, max_entries: int, limit: int) -> list[AgentState]:
        check_limit(limit)
        column = ("short_term_count", "intermediate_count", "long_term_count")[tier]
        sql = f"SELECT agent_id FROM agents WHERE {column} > ? ORDER BY {column} DESC LIMIT ?"
        return self._states(sql, (max_entries, limit))

    def _states(self, sql: str, parameters: tuple[int, int]) -> list[AgentState]:
        names = [name for (name,) in self.connection.execute(sql, parameters)]
        agents = load_agents(self.connection, names)
        return [agents[name].state() for name in names]

    def namespaces(
        self, agent_id: str, prefix: Sequence[str], now: float, limit: int, offset: int
    ) -> list[NamespaceCount]:
        check_limit(limit)
        sql = f"SELECT m.namespace, count(*) {_FROM} AND a.agent_id = ? AND {NOT_EXPIRED}"
        parameters: list[Any] = [agent_id, now]
        if prefix:
            sql += " AND m.namespace >= ? AND m.namespace < ? AND m.namespace <> ''"
            parameters += namespace_bounds(tuple(prefix))
        sql += " GROUP BY m.namespace ORDER BY m.namespace LIMIT ? OFFSET ?"
        rows = self.connection.execute(sql, [*parameters, limit, offset])
        return [NamespaceCount(decode_namespace(namespace), count) for namespace, count in rows]

    def aged(self, tier: Tier, created_before_us: int, limit: int) -> list[Candidate]:
        check_limit(limit)
        sql = f"{_CANDIDATE} AND m.tier < 2 AND m.tier = ? AND m.created_us < ? ORDER BY m.created_us LIMIT ?"
        return self._candidates(sql, (int(tier), created_before_us, limit))

    def oldest(self, agent_id: str, tier: Tier, limit: int) -> list[Candidate]:
        check_limit(limit)
        # The unary plus keeps SQLite from walking through all agents' memories of the tier by age.
        sql = f"{_CANDIDATE} AND +m.tier = ? AND a.agent_id = ? ORDER BY m.created_us LIMIT ?"
        return self._candidates(sql, (int(tier), agent_id, limit))

    def _candidates(self, sql: str, parameters: tuple[Any, ...]) -> list[Candidate]:
        tiers = tuple(Tier)
        found: list[Candidate] = []
        cursor = self.connection.execute(sql, parameters)
        while rows := cursor.fetchmany(_YIELDING_ROWS):
            found += [Candidate(row[0], row[1], row[2], tiers[row[3]], row[4], row[5]) for row in rows]
            give_way()
        return found

    def accesses(self, ids: Sequence[str]) -> list[Access]:
        sql = (
            "SELECT m.id, c.uses, c.last_at FROM memories m JOIN accesses c ON c.row_id = m.row_id"
            " WHERE m.id IN (SELECT value FROM json_each(?))"
        )
        return [Access._make(row) for row in self.connection.execute(sql, (json.dumps(list(ids)),))]

    def embedding_space(self) -> EmbeddingSpace | None:
        row = self.connection.execute(EMBEDDING_SPACE).fetchone()
        return None if row is None else space_of_row(row)

    def unembedded(self, space: EmbeddingSpace, which: str, after_row: int, limit: int) -> list[Unembedded]:
        check_limit(limit)
        sql = select_unembedded(space, which, after_row, limit)
        return [Unembedded._make(row) for row in self.connection.execute(sql)]

    def user_agents(self, user_id: str) -> list[str]:
        sql = (
            "SELECT DISTINCT a.agent_id FROM memories m JOIN agents a ON a.agent_no = m.agent_no"
            " WHERE m.user_id = ? AND m.user_id <> ''"
        )
        return [name for (name,) in self.connection.execute(sql, (user_id,))]

    def erasures(self) -> list[Erasure]:
        rows = self.connection.execute("SELECT kind, name FROM erasures ORDER BY begun_us, name").fetchall()
        return [erasure_of(self.connection, kind, name) for kind, name in rows]

    def dictionary_samples(self, count: int) -> list[bytes]:
        """Contents of long-term memory, spread over all there are; each at least eight bytes, at most 64 KiB."""
        bounds = self.connection.execute(
            "SELECT coalesce(min(row_id), 0), coalesce(max(row_id), 0) FROM memories"
        ).fetchone()
        stride = max(1, (bounds[1] - bounds[0] + 1) // count)
        sql = (
            "SELECT content, dictionary FROM memories WHERE deleted = 0 AND tier = 2 AND (row_id - ?) % ? = 0"
            " AND length(content) BETWEEN 8 AND 65536 LIMIT ?"
        )
        load_dictionaries(self.connection, self._compression)
        rows = self.connection.execute(sql, (bounds[0], stride, count))
        return self._compression.unpack_all(rows)

    def check_integrity(self) -> list[str]:
        """What SQLite finds wrong with its file: at most MAX_FINDINGS lines."""
        found = [str(row[0]) for row in self.connection.execute(f"PRAGMA quick_check({MAX_FINDINGS})")]
        return [] if found == ["ok"] else found


def erasure_of(connection: sqlite3.Connection, kind: Any, name: str, *, erased: int = 0) -> Erasure:
    """How far an erasure is."""
    if kind == "agent":
        agent = load_agents(connection, [name])[name]
        generation, fence = agent.generation, agent.erased_version
    else:
        row = connection.execute(
            "SELECT generation, fence_version FROM user_fences WHERE user_id = ?", (name,)
        ).fetchone()
        generation, fence = row or (0, 0)
    sql = "SELECT count(*) FROM erasures WHERE kind = ? AND name = ?"
    remaining = connection.execute(sql, (kind, name)).fetchone()[0] > 0
    return Erasure(kind, name, generation, fence, remaining, erased)
