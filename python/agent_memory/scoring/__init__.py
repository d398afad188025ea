"""Relevance scoring: exact, fused, hybrid. Usable by itself, without Redis."""

from agent_memory.scoring._score import kernel_tiers, score
from agent_memory.scoring._settings import HalfLife, PowerLaw, ScoreWeights

__all__ = ["HalfLife", "PowerLaw", "ScoreWeights", "kernel_tiers", "score"]
