"""The columns that both databases have, and the way from a row to a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent_memory.memory._copy import Copy, verify
from agent_memory.memory.errors import CorruptMemoryError
from agent_memory.memory.stores._compression import F32, UNCOMPRESSED, Compression, UnknownDictionaryError
from agent_memory.memory.stores.operations import EmbeddingSpace

__all__ = [
    "AGENT_COLUMNS",
    "EMBEDDING_SPACE",
    "HELD_BY_KEY",
    "HELD_BY_LATER_REQUEST",
    "HELD_BY_REQUEST",
    "HELD_BY_TWIN",
    "HELD_COLUMNS",
    "MEMORY_COLUMNS",
    "MOVED_COLUMNS",
    "NOT_ERASED",
    "NOT_EXPIRED",
    "SEQ_COLUMN",
    "copies_of_rows",
    "copy_of_row",
    "damaged_ids",
    "select_copies",
    "select_unembedded",
    "space_of_row",
]

MEMORY_COLUMNS: Final = (
    *("row_id", "agent_no", "id", "version", "writer", "deleted", "tier", "created_us", "timestamp", "step"),
    *("importance", "memory_type", "namespace", "user_id", "session_id", "key", "idempotency_key", "expires_at"),
    *("tags", "metadata", "content_kind", "content", "dictionary", "checksum", "content_hash", "seq"),
)
"""Of the table `memories`, in the order in which rows are inserted."""

MOVED_COLUMNS: Final = "m.row_id, m.id, a.agent_id, m.version, m.writer, m.deleted, m.tier, m.seq"
"""What a move has to know: the first fields of `Held`."""

HELD_COLUMNS: Final = (
    f"{MOVED_COLUMNS}, m.created_us, m.namespace, m.user_id, m.key, m.idempotency_key, m.content_hash, m.tags, m.session_id,"
    " m.expires_at"
)
"""In the order of `Held`."""

AGENT_COLUMNS: Final = (
    "agent_no, agent_id, seq, last_version, generation, purged_seq, erased_seq, erased_version,"
    " short_term_count, intermediate_count, long_term_count, touched_us"
)

_COPY_COLUMNS: Final = (
    "m.id, a.agent_id, m.version, m.writer, m.deleted, m.tier, m.created_us, m.timestamp, m.step, m.importance,"
    " m.memory_type, m.namespace, m.user_id, m.session_id, m.key, m.idempotency_key, m.expires_at, m.tags, m.metadata,"
    " m.content_kind, m.content, m.checksum, m.content_hash"
)
_WIDTH: Final = len(Copy._fields)

_ABOVE_FENCE: Final = (
    "m.user_id = '' OR m.version > coalesce((SELECT f.fence_version FROM user_fences f WHERE f.user_id = m.user_id), 0)"
)
NOT_ERASED: Final = f"m.seq > a.erased_seq AND (m.deleted = 1 OR {_ABOVE_FENCE})"
"""What has been erased is not read from the moment on at which the fence was raised, however many batches it takes to go.
Tombstones are: readers of the feed must learn of them."""

NOT_EXPIRED: Final = "(m.expires_at IS NULL OR m.expires_at > ?)"
"""`rules.is_expired` in SQL; its parameter is the time, in seconds since the epoch."""

# The unary plus: else SQLite walks through all that the agent ever wrote, by its index of the feed, and not to the names.
_OF_AGENT: Final = f"a.agent_id = ? AND +m.seq > a.erased_seq AND ({_ABOVE_FENCE})"

HELD_BY_KEY: Final = (
    f"{_OF_AGENT} AND m.user_id = ? AND m.namespace = ? AND m.key = ? AND m.key <> '' AND m.deleted = 0"
)
"""The holders of a `KeyName`, expired ones among them."""

HELD_BY_REQUEST: Final = (
    f"{_OF_AGENT} AND m.user_id = ? AND m.idempotency_key = ? AND m.idempotency_key <> '' ORDER BY +m.seq LIMIT 1"
)
"""What a `RequestName` stands for, tombstones and expired memories among it."""

HELD_BY_LATER_REQUEST: Final = (
    f"{_OF_AGENT} AND m.id = (SELECT r.id FROM requests r WHERE r.agent_no = a.agent_no AND r.user_id = ?"
    " AND r.idempotency_key = ?)"
)
"""The same, of the calls that were answered with a memory that was there."""

HELD_BY_TWIN: Final = (
    f"{_OF_AGENT} AND m.content_hash = ? AND m.content_hash <> {{empty}} AND m.session_id = ?"
    f" AND m.expires_at {{equals}} AND m.key = '' AND m.deleted = 0 AND {NOT_EXPIRED} ORDER BY +m.seq LIMIT 1"
)
"""The duplicates of a `Twin`; its parameters are followed by the time."""


_STALE: Final = "m.version < {first} OR length(v.vector) <> {dimensions} * (CASE v.element WHEN 1 THEN 2 ELSE 4 END)"
_UNEMBEDDED: Final = (
    "SELECT m.row_id, m.id, a.agent_id FROM memories m JOIN agents a ON a.agent_no = m.agent_no"
    f" {{join}} WHERE m.row_id > {{after}} AND m.deleted = 0 AND {NOT_ERASED} AND {{which}} ORDER BY m.row_id LIMIT {{limit}}"
)


def select_unembedded(space: EmbeddingSpace, which: str, after_row: int, limit: int) -> str:
    """The rows of `Unembedded`. Only whole numbers stand in it."""
    stale = _STALE.format(first=int(space.first_version), dimensions=int(space.dimensions))
    join, condition = {
        "pending": ("JOIN vectors v ON v.row_id = m.row_id", "length(v.vector) < 2"),
        "earlier": ("JOIN vectors v ON v.row_id = m.row_id", f"({stale})"),
        "missing": (
            "LEFT JOIN vectors v ON v.row_id = m.row_id",
            f"(v.row_id IS NULL AND m.content_kind = 0 OR v.row_id IS NOT NULL AND ({stale}))",
        ),
    }[which]
    return _UNEMBEDDED.format(join=join, after=int(after_row), which=condition, limit=int(limit))


EMBEDDING_SPACE: Final = (
    "SELECT number, model, dimensions, first_version, is_complete FROM embedding_spaces ORDER BY number DESC LIMIT 1"
)


def space_of_row(row: Sequence[Any]) -> EmbeddingSpace:
    """The space of a row of EMBEDDING_SPACE."""
    return EmbeddingSpace(row[0], row[1], row[2], row[3], bool(row[4]))


def select_copies(*, vectors: bool) -> str:
    """SELECT ... FROM ... of living and dead rows, but not of erased ones; the caller adds AND."""
    vector = "coalesce(v.vector, {empty}), m.seq, a.generation, m.dictionary, coalesce(v.element, 0), m.row_id"
    without = "{empty}, m.seq, a.generation, m.dictionary, 0, m.row_id"
    join = " LEFT JOIN vectors v ON v.row_id = m.row_id" if vectors else ""
    return (
        f"SELECT {_COPY_COLUMNS}, {vector if vectors else without}"
        f" FROM memories m JOIN agents a ON a.agent_no = m.agent_no{join} WHERE {NOT_ERASED}"
    )


def copy_of_row(row: Sequence[Any], compression: Compression, where: str, *, vectors: bool) -> Copy:
    """The copy of a row of `select_copies`; raises CorruptMemoryError, or UnknownDictionaryError."""
    copy = Copy._make(row[:_WIDTH])
    dictionary, element = row[_WIDTH], row[_WIDTH + 1]
    if dictionary != UNCOMPRESSED or element != F32:
        try:
            content = compression.unpack_content(copy.content, dictionary)
            copy = copy._replace(content=content, vector=compression.unpack_vector(copy.vector, element))
        except ValueError:
            raise CorruptMemoryError(copy.id, where) from None
    if not vectors:
        return copy
    try:
        return verify(copy, where)
    except (TypeError, ValueError, OverflowError):  # no copy has such values
        raise CorruptMemoryError(copy.id, where) from None


SEQ_COLUMN: Final = Copy._fields.index("seq")
"""The place of a row of `select_copies` in its agent's feed, whether the rest of it can be read or not."""


def copies_of_rows(
    rows: Sequence[Sequence[Any]], compression: Compression, where: str, *, vectors: bool, knows_all: bool = False
) -> tuple[list[Copy], list[str]]:
    """The copies of rows, and the ids of those that do not match their checksums.

    Raises UnknownDictionaryError, unless `knows_all` dictionaries: then the row that names it is damaged.
    """
    copies: list[Copy] = []
    damaged: list[str] = []
    for row in rows:
        try:
            copies.append(copy_of_row(row, compression, where, vectors=vectors))
        except CorruptMemoryError as error:
            damaged.append(error.memory_id)
        except UnknownDictionaryError:
            if not knows_all:
                raise
            damaged.append(row[0])
    return copies, damaged


def damaged_ids(ids: Sequence[str], found: Mapping[str, Copy], damaged: Sequence[str]) -> list[str]:
    """Which of the ids asked for are damaged: where a row's own id is, each that was not found may be it."""
    if set(damaged).issubset(ids):
        return list(damaged)
    return [memory_id for memory_id in ids if memory_id not in found]
