"""docs/reference/settings.md has the name and default of every shared setting, and of the memory's: each cell is compared."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from typing import Any

import pytest
import redis
import redis.asyncio
from paths import ROOT

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory import AsyncResilientRedisClient, ResilientRedisClient, memory, policy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.exactly_once import ExactlyOnce

PAGE = ROOT / "docs/reference/settings.md"
RESILIENT = (ResilientRedisClient, AsyncResilientRedisClient)
DROP_IN = ((agent_memory.redis.Redis, redis.Redis), (agent_memory.redis.asyncio.Redis, redis.asyncio.Redis))
SETTINGS = {name: getattr(memory, name) for name in memory.__all__ if name.endswith("Settings")}
KNOWN: dict[str, Any] = {
    **{name: getattr(policy, name) for name in policy.__all__},
    **{name: getattr(memory, name) for name in memory.__all__},
    "ResiliencePolicy": ResiliencePolicy,
    "ExactlyOnce": ExactlyOnce,
    "ResilientRedisClient": ResilientRedisClient,
    "AsyncResilientRedisClient": AsyncResilientRedisClient,
    "Redis": agent_memory.redis.Redis,
    "RedisCluster": agent_memory.redis.RedisCluster,
    "asyncio": agent_memory.redis.asyncio,
}
SPECIFIED = {"circuit_reset_timeout", "socket_timeout", "socket_connect_timeout", "health_check_interval"}
"""Names of times without a unit, beside the delays: the specification's, or redis-py's."""


@dataclasses.dataclass(frozen=True)
class Cell:
    row: str
    unit: str
    column: str
    text: str

    def __str__(self) -> str:
        return f"{self.row}-{self.column}-{self.text}"


def cells(page: str) -> list[Cell]:
    """The code spans of the tables, each with its row and column."""
    found, header = [], []
    for line in page.splitlines():
        if not line.startswith("|"):
            header = []
            continue
        parts = [part.strip() for part in line.strip("|").split("|")]
        if not header:
            header = parts
        elif not set(parts[0]) <= {"-"}:
            assert len(parts) == len(header), f"{len(parts)} cells of {len(header)}: {line}"
            unit = parts[1] if header[1] == "unit" else ""
            for column, part in zip(header, parts, strict=True):
                if column in ("drop-in", "resilient", "policies", "memory"):
                    found += [Cell(parts[0], unit, column, span) for span in re.findall(r"`([^`]+)`", part)]
    return found


def default_of(owner: Any, name: str) -> Any:
    """The default of a parameter; raises KeyError where there is no such parameter."""
    return inspect.signature(owner).parameters[name].default


def drop_in_defaults(name: str) -> list[Any]:
    """The default of a parameter in both drop-in clients: their own, or what they hand on to redis-py."""
    found = []
    for ours, theirs in DROP_IN:
        own = inspect.signature(ours.__init__).parameters
        found.append(own[name].default if name in own else default_of(theirs, name))
    return found


def in_code(cell: Cell, name: str) -> list[Any]:
    """The defaults that the code has for what a cell names; raises KeyError or AttributeError where it has no such name."""
    if "()" in name:
        return [eval(name, dict(KNOWN))]
    owner, dot, parameter = name.rpartition(".")
    if dot:
        owners = [getattr(one, owner) for one in RESILIENT] if owner == "store_with_retry" else [KNOWN[owner]]
        return [default_of(one, parameter) for one in owners]
    if cell.column == "drop-in":
        return drop_in_defaults(name)
    assert cell.column == "resilient", f"{name} needs an owner in the column {cell.column}"
    return [default_of(one, name) for one in RESILIENT]


def check(cell: Cell) -> None:
    """Raises AssertionError, KeyError or AttributeError for a cell that the code contradicts."""
    name, given, default = re.fullmatch(r"([\w.()]+?)(=?)((?<==).+)?", cell.text).groups()  # type: ignore[union-attr]
    found = in_code(cell, name)
    if not given:
        return  # required, or a default that is no value (a settings object)
    try:
        expected = ast.literal_eval(default)
    except ValueError:
        expected = eval(default, dict(KNOWN))
    for one in found:
        if dataclasses.is_dataclass(one) and isinstance(expected, type(one)):
            assert one == expected
        else:
            assert one == expected, f"{cell.text}: the code has {one!r}"
            assert (one is None) == (expected is None)


CELLS = cells(PAGE.read_text())
VALUES = [cell for cell in CELLS if not re.search(r"(close|stats|health)$", cell.text)]
METHODS = [cell for cell in CELLS if cell not in VALUES]


@pytest.mark.parametrize("cell", VALUES, ids=str)
def test_a_cell_is_what_the_code_has(cell: Cell):
    check(cell)


@pytest.mark.parametrize("cell", METHODS, ids=str)
def test_a_method_is_there(cell: Cell):
    found: Any = KNOWN[cell.text.partition(".")[0]]
    for name in cell.text.split(".")[1:]:
        found = getattr(found, name)
    asks = "Async" in cell.text and cell.text.endswith(("close", "check_health"))
    assert inspect.iscoroutinefunction(found) == (asks or cell.text.endswith(".aclose"))


@pytest.mark.parametrize("cell", [cell for cell in VALUES if cell.unit], ids=str)
def test_a_unit_is_the_end_of_a_name(cell: Cell):
    name = cell.text.partition("=")[0].rpartition(".")[2]
    if cell.unit == "bytes":
        assert name.endswith("_bytes")
    elif not re.search(r"(^|_)(base|max)_delay$", name) and name not in SPECIFIED:
        assert name.endswith("_s")


@pytest.mark.parametrize("cell", VALUES, ids=str)
def test_a_name_with_a_unit_has_it_in_its_row(cell: Cell):
    ending = re.search(r"_(per_s|s|bytes)$", cell.text.partition("=")[0])
    if ending:
        assert cell.unit == ending[1].replace("_", " ")


def names_of(owner: Any) -> set[str]:
    return set(inspect.signature(owner).parameters) - {"self", "args", "kwargs", "connection"}


def test_every_shared_setting_is_in_the_table():
    """A name that two columns have is in the table; and so is every parameter of the specification's constructor."""
    by_column = {
        "drop-in": set().union(*(names_of(ours.__init__) | names_of(theirs) for ours, theirs in DROP_IN)),
        "resilient": set().union(*map(names_of, RESILIENT)),
        "policies": set().union(
            *(
                names_of(one)
                for one in KNOWN.values()
                if dataclasses.is_dataclass(one) and one.__module__.startswith("agent_memory.policy")
            )
        ),
        "memory": set().union(*map(names_of, SETTINGS.values())),
    }
    shared = {
        name
        for column, names in by_column.items()
        for name in names
        if any(name in others for other, others in by_column.items() if other != column)
    }
    specified = list(inspect.signature(ResilientRedisClient).parameters)[:15]
    written = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", PAGE.read_text()))))
    assert {*shared, *specified} <= written


def test_every_setting_of_the_policies_is_in_the_table():
    written = {cell.text.partition("=")[0] for cell in CELLS if cell.column == "policies"}
    owners = (policy.BreakerSettings, policy.RetryPolicy, policy.RetryBudget, ResiliencePolicy)
    expected = {f"{owner.__name__}.{name}" for owner in owners for name in names_of(owner)}
    expected -= {"ResiliencePolicy.breaker", "ResiliencePolicy.budget"}  # these have rows for what is in them
    expected |= {
        f"{breaker.__name__}.{name}"
        for breaker in (policy.CircuitBreaker, policy.AsyncCircuitBreaker)
        for name in names_of(policy.BreakerSettings)
    }
    assert expected <= written


@pytest.mark.parametrize("place", [agent_memory.redis, agent_memory.redis.asyncio], ids=["sync", "asyncio"])
def test_a_cluster_client_has_the_defaults_of_the_other(place: Any):
    one, cluster = (inspect.signature(client.__init__).parameters for client in (place.Redis, place.RedisCluster))
    assert set(one) - set(cluster) - {"cache"} == {"guard"}
    assert all(cluster[name].default == one[name].default for name in ("resilience", "exactly_once"))


def test_every_setting_of_the_memory_is_in_the_table():
    written = {cell.text.partition("=")[0] for cell in CELLS if cell.column == "memory"}
    groups = set(names_of(memory.MemorySettings)) - {"durability", "minimum", "journal", "deduplicate"}
    assert all(f"`{name}`" in PAGE.read_text() for name in groups)
    for owner in (*SETTINGS.values(), memory.Ranking):
        assert {f"{owner.__name__}.{name}" for name in names_of(owner) - groups} <= written


@pytest.mark.parametrize(
    "cell",
    [
        Cell("one answer", "s", "resilient", "socket_timeout=5"),
        Cell("one answer", "s", "drop-in", "socket_timeout=2.0"),
        Cell("the circuit", "", "policies", "BreakerSettings.failure_threshold=4"),
        Cell("a delay", "s", "drop-in", "ResiliencePolicy().retry.base_delay=1.0"),
    ],
    ids=str,
)
def test_a_wrong_default_is_found(cell: Cell):
    with pytest.raises(AssertionError):
        check(cell)


@pytest.mark.parametrize("text", ["BreakerSettings.reset_timeout=300.0", "ResiliencePolicy().probe_interval=0.75"])
def test_a_name_that_the_code_has_not_is_found(text: str):
    with pytest.raises((KeyError, AttributeError)):
        check(Cell("a row", "", "policies", text))
