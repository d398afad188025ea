"""A memory as a user sees it: `MemoryEntry`, and `MemoryId`, the str that names it.

Stores and caches hold it as a `Copy` (`_copy.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from agent_memory._enums import NamedIntEnum

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Content", "Durability", "MemoryEntry", "MemoryId", "Tier"]

Durability: TypeAlias = Literal["sql", "redis", "journal"]
"""What a write survives: `"sql"` the process, Redis and a power cut; `"redis"` the process; `"journal"` the process and a power
cut of this machine."""

Content: TypeAlias = "str | bytes | Mapping[str, Any] | Sequence[Any] | int | float | bool | None"
"""A text, bytes, or any JSON value; a JSON value comes back as json.loads gives it (tuples as lists)."""


class Tier(NamedIntEnum):
    """Where a memory lives: a label in its row, which decides about residency in Redis and compression in SQL."""

    STM = 0
    """Short-term: recent, whole, in Redis."""
    IM = 1
    """Intermediate: older or less important, in Redis for longer."""
    LTM = 2
    """Long-term: in SQL, compressed; in Redis only while it is used."""


class MemoryId(str):
    """The id of a memory, and what its store promised: a str, equal to and hashed like its text.

    `version` orders the copies of this memory; `durability` is what was reached.
    """

    __slots__ = ("durability", "version")

    version: int
    durability: Durability

    def __new__(cls, text: str, version: int = 0, durability: Durability = "sql") -> MemoryId:
        """The id `text` with what is known about it.

        `version`: the version stored; default 0, unknown. `durability`: the level that was reached; default `"sql"`.
        """
        made = super().__new__(cls, text)
        made.version = version
        made.durability = durability
        return made

    def __reduce__(self) -> tuple[type[MemoryId], tuple[str, int, Durability]]:
        return (MemoryId, (str(self), self.version, self.durability))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEntry:
    """A memory, as `get`, `retrieve` and the queries give it. Immutable; safe to share between threads."""

    id: str
    """Its id, unique in the database."""
    agent_id: str
    """The agent it belongs to."""
    content: Any
    """A str, bytes, or what json.loads gives for what was stored."""
    timestamp_s: float
    """When it happened, seconds since the epoch."""
    importance: float
    """0..1."""
    memory_type: str
    """Its label; `""` for none."""
    step: int | None
    """Its place in the session; None where none was given."""
    metadata: dict[str, Any]
    """JSON values by name."""
    tags: tuple[str, ...]
    """Its labels."""
    namespace: tuple[str, ...]
    """Its path of labels; `()` for none."""
    user_id: str | None
    """The user it belongs to; None for none."""
    session_id: str | None
    """The conversation it was said in; None for none."""
    key: str | None
    """The caller's name for it, by which `get_by_key` finds it; None for none."""
    tier: Tier
    """Where it lives."""
    version: int
    """Orders the copies of this memory: microseconds since the epoch, greater with each change."""
    created_at_s: float
    """When it was first stored, seconds since the epoch."""
    expires_at_s: float | None
    """When it is forgotten, seconds since the epoch; None for never."""
    embedding: NDArray[np.float32] | None = field(compare=False, repr=False)
    """Read-only, shape (dimensions,)."""
    score: float | None = None
    """What `retrieve` ranked by: the relevance, or what its `rerank` gave."""
    relevance: float | None = None
    """How well it matches, 0..1, set by `retrieve` and comparable between calls: 1 is a vector of the same direction and a
    text that has every word asked for; 0 has nothing in common. See `docs/reference/scoring.md`."""
    is_match: bool = True
    """False for what `retrieve` gives where no memory matches: the most recent and important ones."""
    awaits_embedding: bool = False
    """Whether its embedding could not be made when it was stored: it is found by words, and gets its embedding later."""
    score_parts: Mapping[str, float] | None = None
    """The parts of the score, set by `retrieve`: `"similarity"`, `"lexical"`, `"recency"`, `"importance"`, those that had a
    weight and that the memory has, as they are, neither scaled nor weighted."""

    @property
    def similarity(self) -> float | None:
        """The cosine to the embedding asked for (or what `IndexSettings.similarity` says), -1..1; set by `retrieve`, None
        where either has no vector.
        """
        return None if self.score_parts is None else self.score_parts.get("similarity")

    @property
    def updated_at_s(self) -> float:
        """When this version was made, in seconds since the epoch."""
        return self.version / 1e6
