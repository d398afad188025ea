"""The tables of what errors mean, as docs/reference/memory.md has them."""

from __future__ import annotations

import pytest
from paths import DOCS

from agent_memory.memory import StoreFault
from agent_memory.memory.stores.postgres import _errors as postgres
from agent_memory.memory.stores.sqlite import _errors as sqlite


def rows():
    """(first cell, last cell) of the rows of all tables."""
    lines = [line for line in (DOCS / "reference/memory.md").read_text().splitlines() if line.startswith("| ")]
    return [(cells[0].strip(), cells[-1].strip()) for cells in (line.strip("|").split("|") for line in lines)]


@pytest.mark.parametrize(
    ("code", "fault"),
    [*((code, fault) for code, fault in postgres.FAULTS.items())]
    + [(name.removeprefix("SQLITE_"), fault) for name, fault in sqlite.FAULTS.items()],
)
def test_every_code_stands_in_the_documentation_with_its_meaning(code, fault):
    def words(cell):
        return {word.strip(",.;()").removeprefix("SQLITE_") for word in cell.split()}

    assert [last for first, last in rows() if code in words(first)] == [fault.value]


def test_every_meaning_is_described():
    described = {first.strip("`") for first, _ in rows()}
    assert described.issuperset(fault.value for fault in StoreFault)


def test_the_most_exact_state_counts():
    assert postgres.fault_of("53300") is StoreFault.AWAY
    assert postgres.fault_of("53999") is StoreFault.FULL
    assert postgres.fault_of("57014") is StoreFault.LOCKED
    assert postgres.fault_of("57P99") is StoreFault.AWAY
    assert postgres.fault_of("57000") is StoreFault.WRONG
    assert postgres.fault_of(None) is StoreFault.AWAY
