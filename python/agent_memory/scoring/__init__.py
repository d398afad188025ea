"""Relevance scoring: exact, fused, hybrid. Usable by itself, without Redis."""

from agent_memory.scoring._index import MemoryIndex, SearchResult
from agent_memory.scoring._score import kernel_tiers, score
from agent_memory.scoring._settings import Diversity, Filters, HalfLife, PowerLaw, ScoreWeights, languages

__all__ = [
    "Diversity",
    "Filters",
    "HalfLife",
    "MemoryIndex",
    "PowerLaw",
    "ScoreWeights",
    "SearchResult",
    "kernel_tiers",
    "languages",
    "score",
]
