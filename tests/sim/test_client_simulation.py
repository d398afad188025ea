"""The clients in simulation: a few hundred seeds here, 10,000 with `make sim`, and each rule taken away."""

from __future__ import annotations

import os

import client_simulation
import pytest

SEEDS = int(os.environ.get("SIM_CLIENT_SEEDS", "200"))


def test_no_seed_violates_anything():
    found = client_simulation.first_violation(range(SEEDS))

    assert found is None, f"{found[1]}\n{client_simulation.reproduce(found[0])}"


@pytest.mark.parametrize("rule", client_simulation.RULES)
def test_without_any_of_the_rules_something_is_violated(rule):
    assert client_simulation.first_violation(range(2_000), (rule,)) is not None


def test_a_seed_runs_the_same_way_every_time():
    runs = [client_simulation.trace(3) for _ in range(2)]

    assert runs[0] == runs[1]
    assert len(runs[0]) > 100


def test_a_seed_is_reproduced_by_the_line_that_is_printed(capfd):
    seed, violation = client_simulation.first_violation(range(2_000), ("exactly once",))
    line = client_simulation.reproduce(seed, ("exactly once",))

    status = client_simulation.main(["--seeds", "1", "--first", str(seed), "--without", "exactly once", "--jobs", "1"])

    assert status == 1
    printed = capfd.readouterr().err
    assert violation in printed
    assert line in printed
