# Generated from ../_async/writing.py by tools/generate_sync.py: edit that file, not this one.

"""One write transaction of the PostgreSQL store: what a plan wants to know is read, what it decided is written.

The agents' rows are locked first, in the order of their names, so that two transactions never wait for each other; each
statement after that sees what was committed before the locks were had. Users are held by shared advisory locks: an erasure
takes them exclusively, and so never overlooks a write under way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from agent_memory.memory._copy import Copy
from agent_memory.memory.entries import Tier
from agent_memory.memory.errors import CorruptMemoryError
from agent_memory.memory.stores._compression import F32, UNCOMPRESSED, Compression, UnknownDictionaryError
from agent_memory.memory.stores._planned import Agent, Held, Label, Read, Replaced, Wanted, Writes, decide, plan_of
from agent_memory.memory.stores._rows import (
    AGENT_COLUMNS,
    HELD_BY_KEY,
    HELD_BY_LATER_REQUEST,
    HELD_BY_REQUEST,
    HELD_BY_TWIN,
    HELD_COLUMNS,
    MEMORY_COLUMNS,
    copy_of_row,
    select_copies,
)
from agent_memory.memory.stores.operations import Operation, WriteResult
from agent_memory.memory.stores.postgres._sync.connections import Session

__all__ = [
    "apply_operations",
    "load_dictionaries",
    "lock_agents",
    "fetch_all",
    "write_agents",
]

_FROM: Final = "FROM memories m JOIN agents a ON a.agent_no = m.agent_no"
_HELD: Final = f"SELECT {HELD_COLUMNS} {_FROM}"
_HELD_BY_ID: Final = f"{_HELD} WHERE m.id = ANY(%s)"
_HELD_BY_KEY: Final = f"{_HELD} WHERE {HELD_BY_KEY}".replace("?", "%s")
_HELD_BY_REQUEST: Final = f"{_HELD} WHERE {HELD_BY_REQUEST}".replace("?", "%s")
_HELD_BY_LATER_REQUEST: Final = f"{_HELD} WHERE {HELD_BY_LATER_REQUEST}".replace("?", "%s")
_TWIN: Final = HELD_BY_TWIN.format(empty="''::bytea", equals="IS NOT DISTINCT FROM ?::double precision")
_HELD_BY_TWIN: Final = f"{_HELD} WHERE {_TWIN}".replace("?", "%s")
_INSERT: Final = f"INSERT INTO memories VALUES ({', '.join(['%s'] * len(MEMORY_COLUMNS))})"
_REPLACED: Final = [name for name in MEMORY_COLUMNS if name not in ("row_id", "agent_no", "id")]
_REPLACE: Final = (
    f"UPDATE memories SET {', '.join(f'{name} = %s' for name in _REPLACED)} WHERE row_id = %s AND version = %s"
)
_BURY: Final = (
    "UPDATE memories SET version = %s, writer = %s, deleted = 1, timestamp = 0, step = NULL, importance = 0,"
    " memory_type = '', namespace = '', user_id = %s, session_id = '', key = '', idempotency_key = %s,"
    " expires_at = NULL, tags = '', metadata = '', content_kind = 0, content = ''::bytea, dictionary = -1,"
    " checksum = 0, content_hash = ''::bytea, seq = %s WHERE row_id = %s AND version = %s"
)
_REQUEST: Final = (
    "INSERT INTO requests SELECT agent_no, %s, %s, %s, %s FROM agents WHERE agent_id = %s"
    " ON CONFLICT (agent_no, user_id, idempotency_key)"
    " DO UPDATE SET id = excluded.id, version = excluded.version"
)
_AGENT_VALUES: Final = [name.strip() for name in AGENT_COLUMNS.split(",")][2:]
_NEW_AGENT: Final = (
    "INSERT INTO agents (agent_id, seq, last_version, generation, purged_seq, erased_seq, erased_version,"
    " short_term_count, intermediate_count, long_term_count, touched_us)"
    " SELECT name, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0 FROM unnest(%s::text[]) name ON CONFLICT DO NOTHING"
)


def fetch_all(connection: Session, statement: Any, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of one statement."""
    return connection.execute(statement, parameters).fetchall()


def apply_operations(
    connection: Session, operations: Sequence[Operation], compression: Compression, now_us: int
) -> list[WriteResult]:
    """Decides and writes, inside the caller's transaction."""
    plan, wanted = plan_of(operations)
    results, writes = decide(plan, now_us, _read(connection, wanted, now_us))
    _write(connection, writes, compression)
    return results


def lock_agents(connection: Session, names: Sequence[str]) -> list[Agent]:
    """The agents' rows, made where they are missing, held until the transaction ends. `names` is sorted."""
    statement = f"SELECT {AGENT_COLUMNS} FROM agents WHERE agent_id = ANY(%s) ORDER BY agent_id FOR UPDATE"
    rows = fetch_all(connection, statement, (list(names),))
    if len(rows) < len(names):
        # Rows are made in the order of their names as well, and locked again: what we saw may be old by now.
        connection.execute(_NEW_AGENT, (list(names),))
        rows = fetch_all(connection, statement, (list(names),))
    return [Agent._make(row) for row in rows]


def _read(connection: Session, wanted: Wanted, now_us: int) -> Read:
    agents = lock_agents(connection, wanted.agents)
    held = fetch_all(connection, _HELD_BY_ID, (wanted.ids,))
    later_requests = []
    for key in wanted.keys:
        held += fetch_all(connection, _HELD_BY_KEY, key)
    for request in wanted.requests:
        own = fetch_all(connection, _HELD_BY_REQUEST, request)
        later = [] if own else fetch_all(connection, _HELD_BY_LATER_REQUEST, request)
        held += own + later
        later_requests += [(request, row[1]) for row in later]
    for twin in wanted.twins:
        held += fetch_all(connection, _HELD_BY_TWIN, (*twin, now_us / 1e6))
    read = Read(agents, held, later_requests)
    if users := sorted(read.users(wanted)):
        lock = "SELECT pg_advisory_xact_lock_shared(hashtextextended(name, 0)) FROM unnest(%s::text[]) name"
        connection.execute(lock, (users,))
        fences = "SELECT user_id, fence_version FROM user_fences WHERE user_id = ANY(%s)"
        read = read._replace(fences=fetch_all(connection, fences, (users,)))
    if missing := read.missing_agents():  # looked at, not written
        statement = f"SELECT {AGENT_COLUMNS} FROM agents WHERE agent_id = ANY(%s)"
        rows = fetch_all(connection, statement, (list(missing),))
        read = read._replace(agents=agents + [Agent._make(row) for row in rows])
    return read


def write_agents(cursor: Any, agents: Sequence[Agent]) -> None:
    """Writes rows of agents that are there."""
    assignments = ", ".join(f"{name} = %s" for name in _AGENT_VALUES)
    statement = f"UPDATE agents SET {assignments} WHERE agent_no = %s"
    _many(cursor, statement, [(*agent[2:], agent.number) for agent in agents])


def _write(connection: Session, writes: Writes, compression: Compression) -> None:
    """Writes what the plan decided; all statements leave in one pipeline where libpq has it.

    Each row that is written is of an agent that has changed with it.
    """
    numbers = {agent.name: agent.number for agent in writes.agents}
    row_ids = _next_rows(connection, len(writes.inserted)) if writes.inserted else []
    with connection.cursor() as cursor:
        write_agents(cursor, writes.agents)
        _insert(cursor, writes.inserted, row_ids, numbers, compression)
        _replace(cursor, writes.replaced, numbers, compression)
        _bury(cursor, writes.buried, numbers)
        _many(cursor, _REQUEST, [(*request[1:], request[0]) for request in writes.requests])
        _label(connection, cursor, writes.labels, compression)


def _next_rows(connection: Session, count: int) -> list[int]:
    rows = fetch_all(connection, "SELECT nextval('memory_rows') FROM generate_series(1, %s)", (count,))
    return sorted(row[0] for row in rows)


def _many(cursor: Any, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        cursor.executemany(statement, rows)


def _insert(
    cursor: Any, copies: list[Copy], row_ids: list[int], numbers: dict[str, int], compression: Compression
) -> None:
    rows: list[tuple[Any, ...]] = []
    vectors: list[tuple[Any, ...]] = []
    tags: list[tuple[Any, ...]] = []
    for copy, row_id in zip(copies, row_ids, strict=True):
        number = numbers[copy.agent_id]
        content, dictionary, vector, element, checksum = compression.pack(copy)
        rows.append((row_id, number, copy.id, *copy[2:20], content, dictionary, checksum, copy.content_hash, copy.seq))
        if vector:
            vectors.append((row_id, element, vector))
        if copy.tags:
            tags.extend((number, tag, row_id) for tag in json.loads(copy.tags))
    _many(cursor, _INSERT, rows)
    _many(cursor, "INSERT INTO vectors VALUES (%s, %s, %s)", vectors)
    _many(cursor, "INSERT INTO memory_tags VALUES (%s, %s, %s)", tags)


def _replace(cursor: Any, replaced: list[Replaced], numbers: dict[str, int], compression: Compression) -> None:
    rows: list[tuple[Any, ...]] = []
    vectors: list[tuple[Any, ...]] = []
    without: list[tuple[Any, ...]] = []
    for copy, row in replaced:
        held = Held._make(row)
        stored = compression.pack(copy)
        rows.append(
            (
                *(*copy[2:20], stored.content, stored.dictionary, stored.checksum, copy.content_hash, copy.seq),
                *(held.row, held.version),
            )
        )
        if stored.vector:
            vectors.append((held.row, stored.element, stored.vector))
        else:
            without.append((held.row,))
        if held.tags != copy.tags:
            _replace_tags(cursor, numbers[copy.agent_id], held, copy)
    _many(cursor, _REPLACE, rows)
    upsert = "ON CONFLICT (row_id) DO UPDATE SET element = excluded.element, vector = excluded.vector"
    _many(cursor, f"INSERT INTO vectors VALUES (%s, %s, %s) {upsert}", vectors)
    _many(cursor, "DELETE FROM vectors WHERE row_id = %s", without)


def _bury(cursor: Any, buried: list[Replaced], numbers: dict[str, int]) -> None:
    rows: list[tuple[Any, ...]] = []
    row_ids: list[tuple[Any, ...]] = []
    for copy, row in buried:
        held = Held._make(row)
        rows.append((copy.version, copy.writer, copy.user_id, copy.idempotency_key, copy.seq, held.row, held.version))
        row_ids.append((held.row,))
        if held.tags:
            _replace_tags(cursor, numbers[copy.agent_id], held, copy)
    _many(cursor, _BURY, rows)
    _many(cursor, "DELETE FROM vectors WHERE row_id = %s", row_ids)
    _many(cursor, "DELETE FROM accesses WHERE row_id = %s", row_ids)


def _label(connection: Session, cursor: Any, labels: list[Label], compression: Compression) -> None:
    values = [(tier, seq, row_id, version) for row_id, seq, version, tier in labels]
    _many(cursor, "UPDATE memories SET tier = %s, seq = %s WHERE row_id = %s AND version = %s", values)
    rows = [row_id for row_id, _, _, tier in labels if tier == Tier.LTM]
    if not rows:
        return
    contents: list[tuple[Any, ...]] = []
    vectors: list[tuple[Any, ...]] = []
    statement = select_copies(vectors=True).format(empty="''::bytea") + " AND m.row_id = ANY(%s)"
    for row in fetch_all(connection, statement, (rows,)):
        try:
            copy = _copy(connection, row, compression)
        except CorruptMemoryError:
            continue  # reading it raises; compressing would only hide where it happened
        stored = compression.pack(copy)
        if stored.dictionary != UNCOMPRESSED:
            contents.append((stored.content, stored.dictionary, stored.checksum, row[-1]))
        elif stored.element != F32:
            contents.append((copy.content, UNCOMPRESSED, stored.checksum, row[-1]))
        if stored.element != F32:
            vectors.append((stored.element, stored.vector, row[-1]))
    _many(cursor, "UPDATE memories SET content = %s, dictionary = %s, checksum = %s WHERE row_id = %s", contents)
    _many(cursor, "UPDATE vectors SET element = %s, vector = %s WHERE row_id = %s", vectors)


def _copy(connection: Session, row: Sequence[Any], compression: Compression) -> Copy:
    try:
        return copy_of_row(row, compression, "PostgreSQL", vectors=True)
    except UnknownDictionaryError:
        load_dictionaries(connection, compression)
        return copy_of_row(row, compression, "PostgreSQL", vectors=True)


def load_dictionaries(connection: Session, compression: Compression) -> None:
    """Makes all dictionaries of the database known."""
    compression.add(fetch_all(connection, "SELECT number, data FROM dictionaries ORDER BY number"))


def _replace_tags(cursor: Any, agent_no: int, held: Held, copy: Copy) -> None:
    def rows(tags: str) -> list[tuple[int, str, int]]:
        return [(agent_no, tag, held.row) for tag in json.loads(tags or "[]")]

    _many(cursor, "DELETE FROM memory_tags WHERE agent_no = %s AND tag = %s AND row_id = %s", rows(held.tags))
    _many(cursor, "INSERT INTO memory_tags VALUES (%s, %s, %s)", rows(copy.tags))
