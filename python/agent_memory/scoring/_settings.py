"""What a caller can set: weights and decays. Frozen, checked when made."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields

from agent_memory import _check, _core


def languages() -> list[str]:
    """The names that `language` takes: those Snowball has a stemmer for, `"auto"` and `"none"`."""
    return _core.languages()


MOST = 2**31 - 1
"""Bound of every count."""


def check_positive(name: str, value: float) -> None:
    _check.any_number(name, value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and > 0, got {value}")


def check_count(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
    if value > MOST:
        raise ValueError(f"{name} must be <= {MOST}, got {value}")


@dataclass(frozen=True, slots=True)
class ScoreWeights:
    """How much each part of a score counts. Every weight is finite and >= 0; a part with weight 0 is not computed.

    `similarity` weighs the vectors, `lexical` the words in common, `recency` the age, `importance` what the caller
    says of a memory, `access` how often it was used (`access_count` of `score`, `access_counts` of `MemoryIndex.upsert`).
    Recency, importance and access are off unless asked for: on dialogue they cost more recall than they give. A memory system
    does not give its index the uses that it counts: there `access` has no effect on the order.

    Raises TypeError for what is no number, ValueError for one below 0 or not finite.
    """

    similarity: float = 1.0
    lexical: float = 1.0
    recency: float = 0.0
    importance: float = 0.0
    access: float = 0.0

    def __post_init__(self) -> None:
        for weight in fields(self):
            value = getattr(self, weight.name)
            _check.any_number(weight.name, value)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{weight.name} must be finite and >= 0, got {value}")


@dataclass(frozen=True, slots=True)
class HalfLife:
    """Exponential decay: `recency = 2 ** (-age_s / half_life_s)`, both in seconds.

    The default keeps 0.995 an hour, as in Park et al., *Generative Agents* (2023), section 4.1. Raises TypeError or ValueError
    for a half-life that is no finite number above 0.
    """

    half_life_s: float = 3600.0 * math.log(0.5) / math.log(0.995)

    def __post_init__(self) -> None:
        check_positive("half_life_s", self.half_life_s)

    def _as_tuple(self) -> tuple[str, float, float]:
        return ("half_life", self.half_life_s, 0.0)


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Power-law decay: `recency = (1 + age_s / scale_s) ** -exponent`, `age_s` and `scale_s` in seconds.

    Human forgetting follows a power law; the exponent 0.5 is ACT-R's (Anderson and Schooler, *Reflections of the
    environment in memory*, 1991). Raises TypeError or ValueError for what is no finite number above 0.
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


@dataclass(frozen=True, slots=True)
class Filters:
    """Which memories take part in a search; decided from indexes, before any vector is looked at.

    `attributes` maps a name to a value or to a collection of values of which one must match; all names must match. Where a
    memory has a list, any of its elements may match.
    Values are str, int, float or bool, and match by type and value. `since_s` (included) and `until_s`
    (excluded) are seconds since the epoch; a memory without a timestamp never matches a time range.

    Raises TypeError for a value of the wrong type, ValueError for nan or a name with a separator in it.
    """

    attributes: Mapping[str, AttributeValue | Collection[AttributeValue]] = field(default_factory=dict)
    since_s: float | None = None
    until_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("since_s", self.since_s), ("until_s", self.until_s)):
            _check.numbers({name: value})
            if value is not None and math.isnan(value):
                raise ValueError(f"{name} must be a number, got nan")
        _check.instance("attributes", self.attributes, Mapping)
        for name, wanted in self.attributes.items():
            if isinstance(wanted, Mapping):
                raise TypeError(
                    f"attributes must give {name!r} a value or a collection of values, got a dict: there are no operators"
                )

    def _time_range(self) -> tuple[float, float] | None:
        if self.since_s is None and self.until_s is None:
            return None
        start = -math.inf if self.since_s is None else self.since_s
        return (start, math.inf if self.until_s is None else self.until_s)

    def _encoded(self) -> list[list[str]]:
        return [
            [encode_attribute(name, value)]
            if isinstance(value, (str, bool, int, float))
            else [encode_attribute(name, one) for one in value]
            for name, value in self.attributes.items()
        ]


@dataclass(frozen=True, slots=True)
class Diversity:
    """Spreads an answer out: of the `pool` (50) most relevant, one after the other the memory is taken for which
    `relevance_share * relevance - (1 - relevance_share) * likeness` is greatest, where relevance is scaled to 0..1 over
    the pool and likeness is the largest cosine to a memory already taken (Carbonell and Goldstein, *The use of MMR*,
    1998).

    Raises TypeError for what is no number, ValueError for a share outside 0..1 or a pool below 1.
    """

    relevance_share: float = 0.7
    pool: int = 50

    def __post_init__(self) -> None:
        _check.any_number("relevance_share", self.relevance_share)
        if not 0 <= self.relevance_share <= 1:
            raise ValueError(f"relevance_share must be in 0..1, got {self.relevance_share}")
        check_count("pool", self.pool)


AttributeValue = str | int | float | bool


def encode_attribute(name: str, value: AttributeValue) -> str:
    """A name and a typed value as one string. The separator cannot be part of a name."""
    if not isinstance(name, str) or "\x1f" in name:
        raise ValueError(f"attributes must have names that are str without \\x1f, got {name!r}")
    if not isinstance(value, (str, bool, int, float)):
        raise TypeError(f"attributes must have values that are str, int, float or bool, got {type(value).__name__}")
    return f"{name}\x1f{type(value).__name__}\x1f{value}"


def encode_attributes(attributes: Mapping[str, AttributeValue | list[AttributeValue]]) -> list[str]:
    """The names and values of one memory, a list's elements one by one."""
    return [
        encode_attribute(name, one)
        for name, value in attributes.items()
        for one in (value if isinstance(value, list) else (value,))
    ]
