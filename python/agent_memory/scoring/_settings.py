"""What a caller can set: weights and decays. Frozen, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


def check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and > 0, got {value}")


def check_count(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")


@dataclass(frozen=True, slots=True)
class ScoreWeights:
    """How much each part of a score counts. Every weight is finite and >= 0; a part with weight 0 is not computed.

    `similarity` weighs the vectors, `lexical` the words in common, `recency` the age, `importance` what the caller
    says of a memory, `access` how often it was used. Recency, importance and access are off unless asked for: on
    dialogue they cost more recall than they give.
    """

    similarity: float = 1.0
    lexical: float = 1.0
    recency: float = 0.0
    importance: float = 0.0
    access: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} must be finite and >= 0, got {value}")


@dataclass(frozen=True, slots=True)
class HalfLife:
    """Exponential decay: `recency = 2 ** (-age_s / half_life_s)`.

    The default keeps 0.995 an hour, as in Park et al., *Generative Agents* (2023), section 4.1.
    """

    half_life_s: float = 3600.0 * math.log(0.5) / math.log(0.995)

    def __post_init__(self) -> None:
        check_positive("half_life_s", self.half_life_s)

    def _as_tuple(self) -> tuple[str, float, float]:
        return ("half_life", self.half_life_s, 0.0)


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Power-law decay: `recency = (1 + age_s / scale_s) ** -exponent`.

    Human forgetting follows a power law; the exponent 0.5 is ACT-R's (Anderson and Schooler, *Reflections of the
    environment in memory*, 1991).
    """

    scale_s: float = 3600.0
    exponent: float = 0.5

    def __post_init__(self) -> None:
        check_positive("scale_s", self.scale_s)
        check_positive("exponent", self.exponent)

    def _as_tuple(self) -> tuple[str, float, float]:
        return ("power_law", self.scale_s, self.exponent)


Decay = HalfLife | PowerLaw

DEFAULT_WEIGHTS = ScoreWeights()
DEFAULT_DECAY = HalfLife()
