"""How `retrieve` ranks: `Ranking`, frozen and validated when it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agent_memory import _check
from agent_memory.memory.entries import MemoryEntry
from agent_memory.scoring import HalfLife, PowerLaw, ScoreWeights
from agent_memory.scoring._settings import DEFAULT_DECAY, DEFAULT_WEIGHTS, Diversity

__all__ = ["DEFAULT_RANKING", "MAX_RERANKED", "Ranking"]

MAX_RERANKED: Final = 1_000
"""The most memories that a `rerank` is given at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How a retrieval ranks memories. Raises TypeError or ValueError for a value outside its rule."""

    weights: ScoreWeights = DEFAULT_WEIGHTS
    """How much each part of a score counts; default: vectors and words alike, nothing else. `access` has no effect here: the
    uses that the system counts are not part of its index, so every memory has the same part."""
    decay: HalfLife | PowerLaw = DEFAULT_DECAY
    """How recency falls with age, where it has a weight; default: to a half in 138 hours."""
    diversity: Diversity | None = None
    """Spreads the answer out over unlike memories; default None: no."""
    rerank: Callable[[str, list[MemoryEntry]], Any] | None = None
    """Called with the text and the best `pool` entries; returns a score for each. With an `AsyncMemorySystem` it may be a
    coroutine function. Default None."""
    pool: int = 50
    """How many entries `rerank` is given, 1..1,000; at least the `k` of the call. Default 50."""
    now_s: float | None = None
    """The time that recency is measured from, seconds since the epoch; default None: the time of the call."""

    def __post_init__(self) -> None:
        _check.instance("weights", self.weights, ScoreWeights)
        if not isinstance(self.decay, HalfLife | PowerLaw):
            raise TypeError(f"decay must be a HalfLife or a PowerLaw, got {self.decay!r}")
        if self.diversity is not None:
            _check.instance("diversity", self.diversity, Diversity)
        if self.rerank is not None:
            _check.function("rerank", self.rerank)
        _check.whole("pool", self.pool, 1, MAX_RERANKED)
        if self.now_s is not None:
            _check.number("now_s", self.now_s)


DEFAULT_RANKING: Final = Ranking()
