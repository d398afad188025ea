"""The value of a memory's key in Redis: a fixed prefix that scripts read, then everything else.

`rust/core/src/memory/copy.rs` has the layout and does the work.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from agent_memory import _core
from agent_memory.memory._copy import Copy, hash_of
from agent_memory.memory.errors import CorruptMemoryError

__all__ = [
    "HEADER_LENGTH",
    "NO_RUN_ID",
    "TOMBSTONE",
    "RedisHeader",
    "decode_copy",
    "decode_dirty_copies",
    "encode_copy",
]

HEADER_LENGTH: Final = 148
"""Bytes before the vector; a tombstone has no more."""

TOMBSTONE: Final = "t"
NO_RUN_ID: Final = "0" * 40


class RedisHeader(NamedTuple):
    """What the prefix of a value says."""

    state: str
    tier: int
    version: int
    writer: int
    run_id: str


def encode_copy(copy: Copy, run_id: str = NO_RUN_ID, *, dirty: bool = False) -> bytes:
    """The value of a copy. `run_id` has 40 characters. A tombstone stays one whether dirty or not."""
    return _core.encode_copy(copy, run_id, dirty)


def decode_copy(value: bytes, memory_id: str, agent_id: str) -> tuple[Copy, RedisHeader]:
    """The copy in a value, and its prefix; raises CorruptMemoryError where anything does not fit, the checksum above all."""
    try:
        words, has_hash, prefix = _core.decode_copy(value, memory_id, agent_id)
    except ValueError:
        raise CorruptMemoryError(memory_id, "Redis") from None
    copy = Copy._make(words)
    return _with_hash(copy) if has_hash else copy, RedisHeader._make(prefix)


def decode_dirty_copies(values: list[bytes | None], ids: list[str], agent_id: str) -> tuple[list[Copy], str, list[int]]:
    """The dirty copies among values, their orders (33 characters each), and the places of values that are no intact copies."""
    words, orders, hashed, damaged = _core.decode_dirty_copies(values, ids, agent_id)
    copies = list(map(Copy._make, words))
    for at in hashed:
        copies[at] = _with_hash(copies[at])
    return copies, orders, damaged


def _with_hash(copy: Copy) -> Copy:
    return copy._replace(content_hash=hash_of(copy.namespace, copy.user_id, copy.content_kind, copy.content))
