"""One write transaction of the SQLite store: what a plan wants to know is read, what it decided is written.

Rows are inserted many at a time by one statement: sqlite3 releases the GIL for every statement it runs, and taking it back
while an event loop is busy can cost more than the row.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, count
from typing import Any, Final

from agent_memory._concurrency import give_way
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
    MOVED_COLUMNS,
    copy_of_row,
    select_copies,
)
from agent_memory.memory.stores.operations import Move, Operation, WriteResult

__all__ = ["apply_operations", "load_agents", "load_dictionaries", "write_agent"]

_YIELDING_MOVES: Final = 100
"""After so many memories that are to be moved the writer gives way: its callers are in no hurry."""

_CHUNKS: Final = (128, 32, 8, 1)
"""Rows of one INSERT."""

_STATEMENTS: Final = 64
"""The most texts of such statements that are kept; sqlite3 itself keeps the last 128 prepared."""

_FROM: Final = "FROM memories m JOIN agents a ON a.agent_no = m.agent_no"
_HELD_BY_ID: Final = f"SELECT {HELD_COLUMNS} {_FROM} WHERE m.id IN (SELECT value FROM json_each(?))"
_MOVED_BY_ID: Final = f"SELECT {MOVED_COLUMNS} {_FROM} WHERE m.id IN (SELECT value FROM json_each(?))"
_HELD_BY_KEY: Final = f"SELECT {HELD_COLUMNS} {_FROM} WHERE {HELD_BY_KEY}"
_HELD_BY_REQUEST: Final = f"SELECT {HELD_COLUMNS} {_FROM} WHERE {HELD_BY_REQUEST}"
_HELD_BY_LATER_REQUEST: Final = f"SELECT {HELD_COLUMNS} {_FROM} WHERE {HELD_BY_LATER_REQUEST}"
_TWIN: Final = HELD_BY_TWIN.format(empty="x''", equals="IS ?")
_HELD_BY_TWIN: Final = f"SELECT {HELD_COLUMNS} {_FROM} WHERE {_TWIN}"
_COPIES_BY_ROW: Final = (
    select_copies(vectors=True).format(empty="x''") + " AND m.row_id IN (SELECT value FROM json_each(?))"
)
_CONTENTS_BY_ROW: Final = (
    "SELECT row_id, content, dictionary FROM memories WHERE (dictionary = -1 AND length(content) >= ?"
    " OR dictionary >= 0 AND dictionary <> ?) AND row_id IN (SELECT value FROM json_each(?))"
)
_REPLACED: Final = [name for name in MEMORY_COLUMNS if name not in ("row_id", "agent_no", "id")]
_REPLACE: Final = (
    f"UPDATE memories SET {', '.join(f'{name} = ?' for name in _REPLACED)} WHERE row_id = ? AND version = ?"
)
_BURY: Final = (
    "UPDATE memories SET version = ?, writer = ?, deleted = 1, timestamp = 0, step = NULL, importance = 0,"
    " memory_type = '', namespace = '', user_id = ?, session_id = '', key = '', idempotency_key = ?, expires_at = NULL,"
    " tags = '', metadata = '', content_kind = 0, content = x'', dictionary = -1, checksum = 0, content_hash = x'',"
    " seq = ? WHERE row_id = ? AND version = ?"
)
_LABEL: Final = (
    "UPDATE memories SET tier = ?, seq = moved.seq FROM ("
    "SELECT json_extract(value, '$[0]') AS row_id, json_extract(value, '$[1]') AS seq,"
    " json_extract(value, '$[2]') AS version FROM json_each(?)) moved"
    " WHERE memories.row_id = moved.row_id AND memories.version = moved.version"
)
_AGENT_VALUES: Final = [name.strip() for name in AGENT_COLUMNS.split(",")][1:]


def apply_operations(
    connection: sqlite3.Connection, operations: Sequence[Operation], compression: Compression, now_us: int
) -> list[WriteResult]:
    """Has the core decide, and writes, inside the caller's transaction."""
    plan, wanted = plan_of(operations)
    is_maintenance = all(operation.__class__ is Move for operation in operations)
    results, writes = decide(plan, now_us, _read(connection, wanted, now_us, is_maintenance=is_maintenance))
    _write(connection, writes, compression)
    return results


def _read(connection: sqlite3.Connection, wanted: Wanted, now_us: int, *, is_maintenance: bool) -> Read:
    execute = connection.execute
    agents = list(load_agents(connection, wanted.agents).values())
    held: list[tuple[Any, ...]] = []
    found = execute(_MOVED_BY_ID if is_maintenance else _HELD_BY_ID, (json.dumps(wanted.ids),))
    while rows := found.fetchmany(_YIELDING_MOVES):
        held += rows
        if is_maintenance:
            give_way()
    later_requests = []
    for key in wanted.keys:
        held += execute(_HELD_BY_KEY, key)
    for request in wanted.requests:
        held += (own := execute(_HELD_BY_REQUEST, request).fetchall())
        if not own:
            held += (later := execute(_HELD_BY_LATER_REQUEST, request).fetchall())
            later_requests += [(request, row[1]) for row in later]
    for twin in wanted.twins:
        held += execute(_HELD_BY_TWIN, (*twin, now_us / 1e6))
    read = Read(agents, held, later_requests)
    if users := read.users(wanted):
        fences = "SELECT user_id, fence_version FROM user_fences WHERE user_id IN (SELECT value FROM json_each(?))"
        read = read._replace(fences=execute(fences, (json.dumps(list(users)),)).fetchall())
    if missing := read.missing_agents():
        read = read._replace(agents=[*agents, *load_agents(connection, sorted(missing)).values()])
    return read


def load_agents(connection: sqlite3.Connection, names: Sequence[str]) -> dict[str, Agent]:
    """The agents' rows; those that have none begin at nothing."""
    agents = {name: Agent(0, name) for name in names}
    sql = f"SELECT {AGENT_COLUMNS} FROM agents WHERE agent_id IN (SELECT value FROM json_each(?))"
    for row in connection.execute(sql, (json.dumps(names),)):
        agents[row[1]] = Agent._make(row)
    return agents


def write_agent(connection: sqlite3.Connection, agent: Agent) -> int:
    """Writes an agent's row, which is made where it has no number; returns its number."""
    if agent.number:
        assignments = ", ".join(f"{name} = ?" for name in _AGENT_VALUES)
        connection.execute(f"UPDATE agents SET {assignments} WHERE agent_no = ?", (*agent[1:], agent.number))
        return agent.number
    marks = ", ".join("?" * len(_AGENT_VALUES))
    cursor = connection.execute(f"INSERT INTO agents ({', '.join(_AGENT_VALUES)}) VALUES ({marks})", agent[1:])
    return cursor.lastrowid or 0


def _write(connection: sqlite3.Connection, writes: Writes, compression: Compression) -> None:
    """Writes what the plan decided. Each row that is written is of an agent that has changed with it."""
    numbers = {agent.name: write_agent(connection, agent) for agent in writes.agents}
    if writes.inserted:
        _insert(connection, writes.inserted, numbers, compression)
    if writes.replaced:
        _replace(connection, writes.replaced, numbers, compression)
    if writes.buried:
        _bury(connection, writes.buried, numbers)
    if writes.requests:
        rows = [(_number(connection, numbers, agent), *request) for agent, *request in writes.requests]
        connection.executemany("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?)", rows)
    if writes.labels:
        _label(connection, writes.labels, compression)


def _number(connection: sqlite3.Connection, numbers: dict[str, int], name: str) -> int:
    """Of an agent that is there, whether it has changed or not."""
    if name not in numbers:
        numbers[name] = connection.execute("SELECT agent_no FROM agents WHERE agent_id = ?", (name,)).fetchone()[0]
    return numbers[name]


def _insert(
    connection: sqlite3.Connection, copies: list[Copy], numbers: dict[str, int], compression: Compression
) -> None:
    row_id: int = connection.execute("SELECT coalesce(max(row_id), 0) FROM memories").fetchone()[0]
    rows: list[tuple[Any, ...]] = []
    vectors: list[tuple[Any, ...]] = []
    tags: list[tuple[Any, ...]] = []
    for copy in copies:
        row_id += 1
        number = numbers[copy.agent_id]
        if copy.tier == Tier.LTM:
            content, dictionary, vector, element, checksum = compression.pack(copy)
        else:
            content, dictionary, vector, element, checksum = copy.content, UNCOMPRESSED, copy.vector, F32, copy.checksum
        rows.append((row_id, number, copy.id, *copy[2:20], content, dictionary, checksum, copy.content_hash, copy.seq))
        if vector:
            vectors.append((row_id, element, vector))
        if copy.tags:
            tags.extend((number, tag, row_id) for tag in json.loads(copy.tags))
    _insert_rows(connection, "memories", rows)
    _insert_rows(connection, "vectors", vectors)
    _insert_rows(connection, "memory_tags", tags)


def _insert_rows(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    start = 0
    for chunk in _CHUNKS:
        while len(rows) - start >= chunk:
            connection.execute(*_insertion(table, rows[start : start + chunk]))
            start += chunk


def _insertion(table: str, rows: list[tuple[Any, ...]]) -> tuple[str, list[Any]]:
    """One INSERT and its parameters. Binding them is most of the work: what a column has in all rows is bound once."""
    if len(rows) == 1:
        return _insert_statement(table, len(rows[0]), None, 1), list(rows[0])
    shared: list[int] = []
    parameters: list[Any] = []
    varying = []
    for number, column in enumerate(zip(*rows, strict=True)):
        first = column[0]
        # Floats are left alone, because 0.0 and -0.0 are equal.
        if first.__class__ is not float and column.count(first) == len(rows):
            shared.append(number)
            parameters.append(first)
        else:
            varying.append(column)
    parameters.extend(chain.from_iterable(zip(*varying, strict=True)))
    return _insert_statement(table, len(rows[0]), tuple(shared), len(rows)), parameters


@lru_cache(maxsize=_STATEMENTS)
def _insert_statement(table: str, width: int, shared: tuple[int, ...] | None, rows: int) -> str:
    """An INSERT of rows whose `shared` columns are bound once, before all others; no column is shared where it is None."""
    if shared is None:
        return f"INSERT INTO {table} VALUES ({', '.join('?' * width)})"
    # Marks without numbers only: a sequence of parameters cannot be given to numbered ones from Python 3.14 on.
    own = count(1)
    columns = ("?" if number in shared else f"column{next(own)}" for number in range(width))
    row = f"({', '.join('?' * (width - len(shared)))})"
    return f"INSERT INTO {table} SELECT {', '.join(columns)} FROM (VALUES {', '.join([row] * rows)})"


def _replace(
    connection: sqlite3.Connection, replaced: list[Replaced], numbers: dict[str, int], compression: Compression
) -> None:
    rows, vectors, without = [], [], []
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
            _replace_tags(connection, numbers[copy.agent_id], held, copy)
    _expect(connection.executemany(_REPLACE, rows), len(rows))
    connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", vectors)
    connection.executemany("DELETE FROM vectors WHERE row_id = ?", without)


def _bury(connection: sqlite3.Connection, buried: list[Replaced], numbers: dict[str, int]) -> None:
    rows, row_ids = [], []
    for copy, row in buried:
        held = Held._make(row)
        rows.append((copy.version, copy.writer, copy.user_id, copy.idempotency_key, copy.seq, held.row, held.version))
        row_ids.append((held.row,))
        if held.tags:
            _replace_tags(connection, numbers[copy.agent_id], held, copy)
    _expect(connection.executemany(_BURY, rows), len(rows))
    connection.executemany("DELETE FROM vectors WHERE row_id = ?", row_ids)
    connection.executemany("DELETE FROM accesses WHERE row_id = ?", row_ids)


def _label(connection: sqlite3.Connection, labels: list[Label], compression: Compression) -> None:
    by_tier: dict[int, list[tuple[int, int, int]]] = {}
    for row_id, seq, version, tier in labels:
        by_tier.setdefault(tier, []).append((row_id, seq, version))
    for tier, moved in by_tier.items():
        _expect(connection.execute(_LABEL, (tier, json.dumps(moved))), len(moved))
    rows = [row for row, _, _ in by_tier.get(Tier.LTM, ())]
    if rows and compression.keeps_vectors:
        _compress_contents(connection, rows, compression)
    elif rows:
        _compress(connection, rows, compression)


def _compress_contents(connection: sqlite3.Connection, rows: list[int], compression: Compression) -> None:
    # Neither checked nor read whole: the checksum is of the content as it was, so damage stays as visible as it is.
    wanted = (compression.least_bytes, compression.newest, json.dumps(rows))
    compressed = []
    for row, content, dictionary in connection.execute(_CONTENTS_BY_ROW, wanted).fetchall():
        try:
            plain = _unpacked(connection, content, dictionary, compression)
        except ValueError:
            continue
        packed, number = compression.pack_content(plain)
        if number != UNCOMPRESSED:
            compressed.append((packed, number, row))
    connection.executemany("UPDATE memories SET content = ?, dictionary = ? WHERE row_id = ?", compressed)


def _unpacked(connection: sqlite3.Connection, content: bytes, dictionary: int, compression: Compression) -> bytes:
    try:
        return compression.unpack_content(content, dictionary)
    except UnknownDictionaryError:
        load_dictionaries(connection, compression)
        return compression.unpack_content(content, dictionary)


def _compress(connection: sqlite3.Connection, rows: list[int], compression: Compression) -> None:
    contents, vectors = [], []
    for row in connection.execute(_COPIES_BY_ROW, (json.dumps(rows),)).fetchall():
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
    connection.executemany("UPDATE memories SET content = ?, dictionary = ?, checksum = ? WHERE row_id = ?", contents)
    connection.executemany("UPDATE vectors SET element = ?, vector = ? WHERE row_id = ?", vectors)


def _copy(connection: sqlite3.Connection, row: Sequence[Any], compression: Compression) -> Copy:
    try:
        return copy_of_row(row, compression, "SQLite", vectors=True)
    except UnknownDictionaryError:
        load_dictionaries(connection, compression)
        return copy_of_row(row, compression, "SQLite", vectors=True)


def load_dictionaries(connection: sqlite3.Connection, compression: Compression) -> None:
    """Makes all dictionaries of the database known."""
    compression.add(connection.execute("SELECT number, data FROM dictionaries ORDER BY number").fetchall())


def _replace_tags(connection: sqlite3.Connection, agent_no: int, held: Held, copy: Copy) -> None:
    def rows(tags: str) -> Iterable[tuple[int, str, int]]:
        return ((agent_no, tag, held.row) for tag in json.loads(tags or "[]"))

    connection.executemany("DELETE FROM memory_tags WHERE agent_no = ? AND tag = ? AND row_id = ?", rows(held.tags))
    connection.executemany("INSERT INTO memory_tags VALUES (?, ?, ?)", rows(copy.tags))


def _expect(cursor: sqlite3.Cursor, rows: int) -> None:
    """R1 and R6 are conditions of the statements as well: what they did not match was decided wrongly."""
    if cursor.rowcount != rows:
        raise sqlite3.IntegrityError(f"{rows} rows were to change, {cursor.rowcount} did")
