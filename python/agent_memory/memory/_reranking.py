"""What a caller's `rerank` may ask for, and the order it gives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

from agent_memory.memory.entries import MemoryEntry

__all__ = ["MAX_RERANKED", "check_reranking", "reranked"]

MAX_RERANKED: Final = 1_000
"""The most memories that a `rerank` is given at once."""


def check_reranking(rerank: object, text: str | None, pool: int, min_relevance: float) -> None:
    """Refuses what `retrieve` cannot do."""
    if isinstance(pool, bool) or not isinstance(pool, int) or not 1 <= pool <= MAX_RERANKED:
        raise ValueError(f"pool must be a whole number in 1..{MAX_RERANKED}, got {pool!r}")
    if rerank is not None and (not callable(rerank) or text is None):
        raise ValueError("rerank must be a callable, and needs a text to rank by")
    if not 0 <= min_relevance <= 1:
        raise ValueError(f"min_relevance must be in 0..1, got {min_relevance}")


def reranked(entries: list[MemoryEntry], scores: Any, k: int) -> list[MemoryEntry]:
    """The best `k` by the scores of a caller's `rerank`, one for each entry."""
    given = [float(score) for score in scores]
    if len(given) != len(entries) or not all(map(math.isfinite, given)):
        raise ValueError(f"rerank must return {len(entries)} finite scores, got {len(given)}")
    order = sorted(range(len(entries)), key=lambda at: -given[at])
    return [replace(entries[at], score=given[at]) for at in order[:k]]
