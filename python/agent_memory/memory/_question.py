"""What one retrieval asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from agent_memory.memory.entries import MemoryEntry
from agent_memory.scoring import Filters, ScoreWeights
from agent_memory.scoring._settings import Decay, Diversity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Question"]


class Question(NamedTuple):
    """The checked arguments of `retrieve`."""

    agent_id: str
    text: str | None
    embedding: ArrayLike | None
    k: int
    filters: Filters | None
    weights: ScoreWeights
    decay: Decay
    diversity: Diversity | None
    min_relevance: float
    rerank: Callable[[str, list[MemoryEntry]], Any] | None
    pool: int
    """How many entries `rerank` is given."""
    now: float
    """In seconds since the epoch: what recency is measured from."""
