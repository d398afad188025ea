"""The order that a caller's `rerank` gives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from agent_memory.memory.entries import MemoryEntry

__all__ = ["reranked"]


def reranked(entries: list[MemoryEntry], scores: Any, k: int) -> list[MemoryEntry]:
    """The best `k` by the scores of a caller's `rerank`, one for each entry."""
    given = [float(score) for score in scores]
    if len(given) != len(entries) or not all(map(math.isfinite, given)):
        raise ValueError(f"rerank must return {len(entries)} finite scores, got {len(given)}")
    order = sorted(range(len(entries)), key=lambda at: -given[at])
    return [replace(entries[at], score=given[at]) for at in order[:k]]
