"""What one retrieval asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agent_memory.memory.ranking import Ranking
from agent_memory.scoring import Filters

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Question", "check_question"]


class Question(NamedTuple):
    """The checked arguments of `retrieve`."""

    agent_id: str
    text: str | None
    embedding: ArrayLike | None
    k: int
    filters: Filters | None
    min_relevance: float
    ranking: Ranking
    now_s: float
    """In seconds since the epoch: what recency is measured from."""


def check_question(ranking: Ranking, text: str | None, k: int, min_relevance: float) -> None:
    """Raises TypeError or ValueError for what a retrieval cannot do."""
    if not isinstance(ranking, Ranking):
        raise TypeError(f"ranking must be a Ranking, got {type(ranking).__name__}")
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k must be a whole number >= 1, got {k!r}")
    if text is not None and not isinstance(text, str):
        raise TypeError(f"text must be a str or None, got {type(text).__name__}")
    if ranking.rerank is not None and text is None:
        raise ValueError("text must be given with a rerank, got None")
    if not isinstance(min_relevance, int | float) or not 0 <= min_relevance <= 1:
        raise ValueError(f"min_relevance must be in 0..1, got {min_relevance!r}")
