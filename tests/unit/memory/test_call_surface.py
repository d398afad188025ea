"""The calls of everyday use are short; settings are frozen, checked when they are made, and say unit and default."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import typing

import pytest

from agent_memory import AsyncMemorySystem, MemorySystem, memory
from agent_memory.memory import (
    MemoryAttributes,
    MemoryChanges,
    QueryConditions,
    Ranking,
    RetrievalConditions,
    TierConditions,
)
from agent_memory.memory._conditions import SharedConditions
from agent_memory.memory.attributes import _Content
from agent_memory.scoring import PowerLaw, ScoreWeights

MOST_PARAMETERS = 8
"""Of a method, `self` included and keywords of a TypedDict counted as one."""

SYSTEMS = (MemorySystem, AsyncMemorySystem)
METHODS = [
    name for name in vars(AsyncMemorySystem) if not name.startswith("_") and callable(getattr(AsyncMemorySystem, name))
]
SETTINGS = [getattr(memory, name) for name in memory.__all__ if name.endswith("Settings")] + [Ranking]
KEYWORDS = (
    MemoryChanges,
    MemoryAttributes,
    _Content,
    SharedConditions,
    RetrievalConditions,
    TierConditions,
    QueryConditions,
)


def documented(owner):
    """The docstring of each field that a class defines itself."""
    (found,) = ast.parse(inspect.getsource(owner)).body
    pairs = zip(found.body, found.body[1:], strict=False)
    return {
        here.target.id: ast.literal_eval(after.value)
        for here, after in pairs
        if isinstance(here, ast.AnnAssign) and isinstance(after, ast.Expr)
    }


FIELDS = [(owner, field) for owner in SETTINGS for field in dataclasses.fields(owner)]
IDS = [f"{owner.__name__}.{field.name}" for owner, field in FIELDS]


@pytest.mark.parametrize("name", [*METHODS, "__init__"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_call_has_few_parameters(system, name):
    method = getattr(system, name, None)
    if method is not None:  # only the asyncio system has `aclose`
        assert len(inspect.signature(method).parameters) <= MOST_PARAMETERS


def test_the_methods_are_looked_at():
    assert {"store", "store_many", "update", "delete", "get", "retrieve", "query", "forget"} <= set(METHODS)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    ("method", "keywords"),
    [
        ("store", MemoryAttributes),
        ("update", MemoryChanges),
        ("retrieve", RetrievalConditions),
        ("query", QueryConditions),
        ("count", QueryConditions),
        ("forget", QueryConditions),
    ],
)
def test_keywords_are_typed(system, method, keywords):
    function = getattr(system, method)
    (last,) = [one for one in inspect.signature(function).parameters.values() if one.kind is one.VAR_KEYWORD]
    assert eval(last.annotation, vars(sys.modules[function.__module__])) == typing.Unpack[keywords]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_are_frozen_and_made_by_keyword(settings):
    made = settings()
    first = dataclasses.fields(settings)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, first, getattr(made, first))
    with pytest.raises(TypeError, match="positional"):
        settings(getattr(made, first))
    with pytest.raises(TypeError, match="'unknown'"):
        settings(unknown=1)
    assert hash(made) == hash(settings())


@pytest.mark.parametrize(("owner", "field"), FIELDS, ids=IDS)
def test_a_setting_refuses_another_type_by_its_name(owner, field):
    with pytest.raises((TypeError, ValueError), match=f"^{field.name} must "):
        owner(**{field.name: ["a list"]})


@pytest.mark.parametrize(("owner", "field"), FIELDS, ids=IDS)
def test_a_setting_says_its_unit_and_default(owner, field):
    text = " ".join(documented(owner)[field.name].split())
    default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    after = re.search(r"[Dd]efault[: ]+(.*)$", text)
    assert after, text
    if isinstance(default, bool) or default is None:
        assert after[1].startswith(str(default)), text
    elif isinstance(default, int | float):
        digits = f"{default:,.0f}" if default >= 1_000 else f"{default}"
        assert after[1].startswith(digits), text
    elif isinstance(default, str):
        assert after[1].startswith(f'`"{default}"`'), text
    if field.name.endswith("_s"):
        assert re.search(r"\bseconds\b", text, re.IGNORECASE), text
    if field.name.endswith("_bytes"):
        assert re.search(r"\bbytes\b", text, re.IGNORECASE), text


@pytest.mark.parametrize("owner", [*KEYWORDS, *SETTINGS])
def test_every_keyword_and_every_setting_is_explained(owner):
    (found,) = ast.parse(inspect.getsource(owner)).body
    own = {one.target.id for one in found.body if isinstance(one, ast.AnnAssign)}
    assert own
    assert own == set(documented(owner))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"weights": 3}, TypeError, "weights must be a ScoreWeights, got 3"),
        ({"decay": "half"}, TypeError, "decay must be a HalfLife or a PowerLaw, got 'half'"),
        ({"diversity": 0.5}, TypeError, "diversity must be a Diversity, got 0.5"),
        ({"rerank": 3}, ValueError, "rerank must be a function, got 3"),
        ({"pool": 0}, ValueError, "pool must be >= 1, got 0"),
        ({"pool": 1_001}, ValueError, "pool must be <= 1000, got 1001"),
        ({"now_s": float("nan")}, ValueError, "now_s must be a finite number, got nan"),
    ],
)
def test_a_ranking_says_what_is_wrong(words, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        Ranking(**words)


def test_a_ranking_takes_what_it_says():
    made = Ranking(weights=ScoreWeights(recency=0.5), decay=PowerLaw(), rerank=print, pool=1_000, now_s=0)
    assert dataclasses.replace(made, pool=1).weights is made.weights
