"""Which level of durability a write tries first, and which is the weakest that it accepts."""

from __future__ import annotations

import re
from itertools import product

import pytest

from agent_memory.memory import MemorySettings
from agent_memory.memory._arguments import levels_of

LEVELS = ("sql", "redis", "journal")
"""From strong to weak."""
PLACE = {level: place for place, level in enumerate(LEVELS)}
PAIRS = [
    (durability, minimum) for durability, minimum in product(LEVELS, LEVELS) if PLACE[minimum] >= PLACE[durability]
]


def resolved(durability, minimum, default=("sql", "sql"), has_journal=True):
    return levels_of(durability, minimum, default, has_journal)


@pytest.mark.parametrize(("durability", "minimum"), list(product(LEVELS, LEVELS)))
def test_a_minimum_is_not_stronger_than_the_durability(durability, minimum):
    if (durability, minimum) in PAIRS:
        assert resolved(durability, minimum) == (durability, minimum)
        assert MemorySettings(durability=durability, minimum=minimum, journal=True).minimum == minimum
        return
    refusal = re.escape(f"minimum must not be stronger than durability {durability!r}, got {minimum!r}")
    with pytest.raises(ValueError, match=refusal):
        resolved(durability, minimum)
    with pytest.raises(ValueError, match=refusal):
        MemorySettings(durability=durability, minimum=minimum, journal=True)


@pytest.mark.parametrize("default", PAIRS)
def test_what_a_call_leaves_out_is_taken_from_the_settings(default):
    assert resolved(None, None, default) == default
    for level in LEVELS:
        assert resolved(level, None, default) == (level, level)  # insists on what it asks for
        durability, minimum = resolved(None, level, default)
        assert minimum == level
        assert durability == (default[0] if PLACE[level] >= PLACE[default[0]] else level)


@pytest.mark.parametrize("parameter", ["durability", "minimum"])
def test_levels_that_cannot_be_are_refused_by_name(parameter):
    given = {"durability": None, "minimum": None}
    with pytest.raises(ValueError, match=f"^{parameter} must be 'sql', 'redis' or 'journal', got 'paper'$"):
        resolved(**given | {parameter: "paper"})
    with pytest.raises(ValueError, match=f"^{parameter} must be 'sql', 'redis' or 'journal', got 'paper'$"):
        MemorySettings(**{parameter: "paper"})
    rule = re.escape("must be 'sql' or 'redis' without MemorySettings(journal=True), got 'journal'")
    with pytest.raises(ValueError, match=f"^{parameter} {rule}$"):
        resolved(**given | {parameter: "journal"}, has_journal=False)
    with pytest.raises(ValueError, match=f"^{parameter} {rule}$"):
        MemorySettings(**{parameter: "journal"})
