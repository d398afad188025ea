"""What became of a write or a read: the answers of `_async/writing.py` and `_async/reading.py`."""

from __future__ import annotations

from typing import NamedTuple

from agent_memory.memory._copy import Copy
from agent_memory.memory.entries import Durability
from agent_memory.memory.errors import CorruptMemoryError
from agent_memory.memory.stores.operations import Delete, Put, WriteResult, WriteStatus

__all__ = ["Found", "Written", "holds", "repeated"]


class Written(NamedTuple):
    """What became of a write: the SQL store's answer, or one made up for a dirty copy, and the level that was reached."""

    result: WriteResult
    durability: Durability
    copy: Copy | None
    """The copy as it stands now, where it is known."""


class Found(NamedTuple):
    """What was read."""

    copies: dict[str, Copy]
    """Without tombstones, what has expired and what is nowhere."""
    hint: int | None
    """Redis' hint; None: it is away."""
    unknown: frozenset[str]
    """Ids that a store which is away may have."""
    damaged: dict[str, CorruptMemoryError]
    """Ids of which no intact copy was found."""


def repeated(copy: Copy) -> Put | Delete:
    """The write of a copy that was accepted elsewhere, with the version it has: harmless however often it comes."""
    if copy.deleted:
        return Delete(copy.id, copy.agent_id, copy.version, copy.writer, generation=copy.generation)
    return Put(copy)


def holds(result: WriteResult, copy: Copy) -> bool:
    """Whether SQL holds this very version now."""
    return result.status is WriteStatus.APPLIED or (
        result.status is WriteStatus.STALE and result.version == copy.version
    )
