"""The rarer write transactions of the SQLite store: expiry, erasures, purging, statistics of use, dictionaries.

Each function runs inside a transaction of the writer thread and touches at most `limit` memories.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Final

from agent_memory._core import erase_agent
from agent_memory.memory._copy_rules import next_version
from agent_memory.memory.stores._compression import Compression
from agent_memory.memory.stores._planned import Agent
from agent_memory.memory.stores._rows import EMBEDDING_SPACE, NOT_EXPIRED, space_of_row
from agent_memory.memory.stores.operations import Access, Delete, EmbeddingSpace, Erasure, WriteResult
from agent_memory.memory.stores.sqlite._reading import erasure_of
from agent_memory.memory.stores.sqlite._writing import apply_operations, load_agents, write_agent

__all__ = [
    "add_dictionary",
    "begin_erasure",
    "erase",
    "expire",
    "note_embedding_space",
    "purge_tombstones",
    "record_accesses",
]

_FROM: Final = "FROM memories m JOIN agents a ON a.agent_no = m.agent_no"


def expire(
    connection: sqlite3.Connection, compression: Compression, now_us: int, writer: int, now: float, limit: int
) -> list[WriteResult]:
    """Tombstones for what is due."""
    sql = (
        f"SELECT m.id, a.agent_id, m.version {_FROM} WHERE m.expires_at IS NOT NULL AND m.expires_at <= ?"
        " AND m.deleted = 0 AND m.seq > a.erased_seq ORDER BY m.expires_at LIMIT ?"
    )
    due = connection.execute(sql, (now, limit)).fetchall()
    deletes = [Delete(row[0], row[1], writer=writer, if_version=row[2]) for row in due]
    return apply_operations(connection, deletes, compression, now_us) if deletes else []


def record_accesses(connection: sqlite3.Connection, accesses: Iterable[Access]) -> None:
    """Adds up; ids that are not there are passed over."""
    connection.executemany(
        "INSERT INTO accesses SELECT row_id, ?, ? FROM memories WHERE id = ? AND deleted = 0"
        " ON CONFLICT (row_id) DO UPDATE SET uses = uses + excluded.uses, last_at = max(last_at, excluded.last_at)",
        [(access.uses, access.last_at_s, access.id) for access in accesses],
    )


def begin_erasure(connection: sqlite3.Connection, now_us: int, kind: str, name: str) -> Erasure:
    """The fence, and the note that there is something to do."""
    if kind == "agent":
        agent = load_agents(connection, [name])[name]
        write_agent(connection, Agent._make(erase_agent(agent, now_us)))
    else:
        sql = "SELECT coalesce(max(version), 0) FROM memories WHERE user_id = ? AND user_id <> ''"
        fence = next_version(connection.execute(sql, (name,)).fetchone()[0], now_us)
        connection.execute(
            "INSERT INTO user_fences VALUES (?, 2, ?) ON CONFLICT (user_id) DO UPDATE"
            " SET generation = generation + 1, fence_version = max(fence_version, excluded.fence_version)",
            (name, fence),
        )
    connection.execute("INSERT INTO erasures VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (kind, name, now_us))
    return erasure_of(connection, kind, name)


def erase(
    connection: sqlite3.Connection,
    compression: Compression,
    now_us: int,
    writer: int,
    kind: str,
    name: str,
    limit: int,
) -> Erasure:
    """One batch; the note goes with the last."""
    if kind == "agent":
        erased, handled = _erase_agent(connection, now_us / 1e6, name, limit)
    else:
        erased, handled = _erase_user(connection, compression, now_us, writer, name, limit)
    if handled < limit:
        connection.execute("DELETE FROM erasures WHERE kind = ? AND name = ?", (kind, name))
    return erasure_of(connection, kind, name, erased=erased)


def _erase_agent(connection: sqlite3.Connection, now: float, name: str, limit: int) -> tuple[int, int]:
    agent = load_agents(connection, [name])[name]
    sql = (
        f"SELECT m.row_id, m.tags, m.deleted = 0 AND {NOT_EXPIRED} FROM memories m"
        " WHERE m.agent_no = ? AND m.seq <= ? ORDER BY m.seq LIMIT ?"
    )
    rows = connection.execute(sql, (now, agent.number, agent.erased_seq, limit)).fetchall()
    numbers = [(row_id,) for row_id, _, _ in rows]
    tags = [(agent.number, tag, row_id) for row_id, encoded, _ in rows if encoded for tag in json.loads(encoded)]
    connection.executemany("DELETE FROM memory_tags WHERE agent_no = ? AND tag = ? AND row_id = ?", tags)
    connection.executemany("DELETE FROM requests WHERE id = (SELECT id FROM memories WHERE row_id = ?)", numbers)
    for table in ("vectors", "accesses", "memories"):
        connection.executemany(f"DELETE FROM {table} WHERE row_id = ?", numbers)
    return sum(is_living for _, _, is_living in rows), len(rows)


def _erase_user(
    connection: sqlite3.Connection, compression: Compression, now_us: int, writer: int, name: str, limit: int
) -> tuple[int, int]:
    fence = connection.execute("SELECT fence_version FROM user_fences WHERE user_id = ?", (name,)).fetchone()
    sql = (
        f"SELECT m.id, a.agent_id {_FROM} WHERE m.user_id = ? AND m.user_id <> '' AND m.version <= ?"
        " AND m.seq > a.erased_seq LIMIT ?"
    )
    version = fence[0] if fence else 0
    connection.execute("DELETE FROM requests WHERE user_id = ? AND user_id <> '' AND version <= ?", (name, version))
    rows = connection.execute(sql, (name, version, limit)).fetchall()
    results = apply_operations(
        connection,
        [Delete(memory_id, agent_id, writer=writer, erases=True) for memory_id, agent_id in rows],
        compression,
        now_us,
    )
    return sum(result.existed for result in results), len(rows)


def purge_tombstones(connection: sqlite3.Connection, before_us: int, limit: int) -> int:
    """Forgets the oldest; readers of the feed that have not come so far begin again."""
    sql = "SELECT row_id, agent_no, seq FROM memories WHERE deleted = 1 AND version < ? ORDER BY version LIMIT ?"
    rows = connection.execute(sql, (before_us, limit)).fetchall()
    purged: dict[int, int] = {}
    for _, agent_no, seq in rows:
        purged[agent_no] = max(purged.get(agent_no, 0), seq)
    connection.execute("DELETE FROM requests WHERE version < ?", (before_us,))
    connection.executemany("DELETE FROM memories WHERE row_id = ?", [(row_id,) for row_id, _, _ in rows])
    connection.executemany(
        "UPDATE agents SET purged_seq = max(purged_seq, ?) WHERE agent_no = ?",
        [(seq, agent_no) for agent_no, seq in purged.items()],
    )
    return len(rows)


def add_dictionary(connection: sqlite3.Connection, compression: Compression, now_us: int, data: bytes) -> int:
    """Keeps a dictionary under the next number."""
    number: int = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM dictionaries").fetchone()[0]
    connection.execute("INSERT INTO dictionaries VALUES (?, ?, ?)", (number, now_us, data))
    compression.add([(number, data)])
    return number


def note_embedding_space(connection: sqlite3.Connection, space: EmbeddingSpace) -> EmbeddingSpace:
    """Begins the next space, or notes model and completion of the present one; returns the present one."""
    row = connection.execute(EMBEDDING_SPACE).fetchone()
    present = None if row is None else space_of_row(row)
    if space.number == (0 if present is None else present.number) + 1:
        connection.execute("INSERT INTO embedding_spaces VALUES (?, ?, ?, ?, ?)", space)
        return space
    assert present is not None
    if (space.number, space.dimensions) != (present.number, present.dimensions):
        return present
    connection.execute(
        "UPDATE embedding_spaces SET model = ?, is_complete = ? WHERE number = ?",
        (space.model, space.is_complete, space.number),
    )
    return present._replace(model=space.model, is_complete=space.is_complete)
