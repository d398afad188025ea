"""The rules of agent memory in simulation: a few thousand seeds here, 100,000 with `make sim`, and each rule taken away."""

from __future__ import annotations

import itertools
import os

import memory_simulation
import pytest
from memory_model import ABLATIONS

SEEDS = int(os.environ.get("SIM_SEEDS", "2500"))

# Where to begin looking: what takes several things to go wrong at once is met once in thousands of runs.
RARE = {"R3 floors of late syncs": 14_100, "R4 the nonce": 900}


def test_no_seed_violates_anything():
    found = memory_simulation.first_violation(range(SEEDS))

    assert found is None, f"{found[1]}\n{memory_simulation.reproduce(found[0])}"


@pytest.mark.parametrize("rule", ABLATIONS)
def test_without_any_of_the_rules_something_is_violated(rule):
    first = RARE.get(rule, 0)
    seeds = itertools.chain(range(first, first + 20_000), range(first))

    assert memory_simulation.first_violation(seeds, (rule,)) is not None


def test_a_seed_is_reproduced_by_the_line_that_is_printed(capsys):
    seed, violation = memory_simulation.first_violation(range(20_000), ("R1 in SQL",))
    line = memory_simulation.reproduce(seed, ("R1 in SQL",))

    status = memory_simulation.main(["--seed", str(seed), "--trace", "--without", "R1 in SQL"])

    assert status == 1
    assert violation in capsys.readouterr().out
    assert line == f'python tests/sim/memory_simulation.py --seed {seed} --trace --without "R1 in SQL"'
