"""Every public number that is a time span, a moment or a size ends with its unit: `timeout_s`, `max_bytes`, never `bytes_max`.

Looked at are the parameters of public constructors, functions and methods, the fields of public classes, and properties. A
name is a time span, a moment or a size by one of its words (`WORDS`), or because its docstring begins with "Seconds" or
"Bytes", or tells a time in "seconds since the epoch".

Nothing is left out by name. What a rule leaves out:

- the specification's parameters, as its examples declare and pass them, wherever the package has that concept;
- redis-py's: the parameters of a constructor that a class extends, and of a method or command of that name;
- the standard library's: the parameters of `threading.Event.wait`, for a method of that name;
- what is no number: a mode, a callable, a class of settings, a member of an enum.
"""

from __future__ import annotations

import enum
import inspect
import re
import threading
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio.client
import redis.client
from paths import ROOT
from public_names import (
    Name,
    attribute_docstrings,
    constructor,
    exported,
    foreign_parameters,
    function_of,
    names,
    parameters,
)

WORDS = frozenset(
    """
    age backoff bandwidth bytes cooldown deadline delay duration elapsed expiry grace interval jitter latency lifetime pause
    patience period size staleness timeout ttl wait window
    at now since timestamp timestamps until
    """.split()
)
UNIT = re.compile(r"(^|_)(s|ms|us|ns|seconds|nanoseconds|bytes|bytes_per_s|calls|factor)$")
"""The last part of a name; a window is counted in calls, too, and the factor of a backoff is a ratio."""
FOREIGN = (
    redis.client.Redis,
    redis.client.PubSub,
    redis.client.Pipeline,
    redis.asyncio.client.PubSub,
    redis.asyncio.client.Pipeline,
    threading.Event,
)
SPECIFIED = frozenset(
    re.findall(r"(\w+)(?:=|: (?:int|float)\b)", (ROOT / "tests/behaviour/spec/examples.md").read_text())
)


def is_measured(name: str, annotation: Any, text: str) -> bool:
    """Whether a name is a time span, a moment or a size, by its words or the text that explains it."""
    if annotation is not inspect.Parameter.empty and not re.search(
        r"\b(int|float|Any|ArrayLike|NDArray)\b", str(annotation)
    ):
        return False
    by_text = re.match(r"(Seconds\b|(The most )?[Bb]ytes\b|[^:]*\bseconds since the epoch)", text.strip())
    return bool(by_text) or not WORDS.isdisjoint(name.split("_"))


def foreign_to(public: Any, method: str) -> set[str]:
    """The parameters that redis-py or the standard library has given a method, or the constructor of a class."""
    if inspect.isclass(public):
        return foreign_parameters(public)
    found: set[str] = set()
    for owner in FOREIGN:
        found |= set(parameters(getattr(owner, method, None)) or {})
    return found


def annotations_of(public: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(public)
    except (NameError, TypeError):
        return dict(getattr(public, "__annotations__", {}))


def measured(name: Name) -> Iterator[str]:
    """What of a public name is a time span or a size, and neither the specification's nor another library's."""
    value = name.value
    last = name.label.rpartition(".")[2]
    function = constructor(value) if inspect.isclass(value) else function_of(value)
    exempt = SPECIFIED | foreign_to(value, last)
    for parameter, one in (parameters(function) or {} if function else {}).items():
        if parameter not in exempt and is_measured(parameter, one.annotation, ""):
            yield parameter
    if isinstance(value, property):
        if is_measured(last, annotations_of(value.fget).get("return", Any), inspect.getdoc(value) or ""):
            yield last
    elif inspect.isclass(value) and not issubclass(value, enum.Enum):
        texts, hints = attribute_docstrings(value), annotations_of(value)
        for field in {*texts, *hints} - exempt:
            if not field.startswith("_") and is_measured(field, hints.get(field, Any), texts.get(field, "")):
                yield field


ALL = [(str(name), word) for name in names() for word in measured(name)]


def test_there_is_something_to_look_at():
    assert len(exported()) > 100
    assert {word for _, word in ALL} >= {"reset_timeout_s", "max_age_s", "max_bytes", "ping_interval_s", "up_bytes"}
    assert {word for _, word in ALL} >= {"since_s", "timestamp_s", "timestamps_s", "created_at_s", "now_s", "last_at_s"}


@pytest.mark.parametrize(("owner", "word"), sorted(set(ALL)))
def test_a_time_or_a_size_ends_with_its_unit(owner: str, word: str):
    assert UNIT.search(word), f"{word} of {owner} must end with its unit"


class _Wrong:
    """A class with what is to be found."""

    patience: float = 1.0
    created_at: float = 1.0
    jitter: typing.Literal["full", "none"] = "full"

    def __init__(self, timeout: float, max_delay: float, bytes_up: int) -> None: ...

    def wait(self, timeout: float, delay: float | None = None) -> None: ...

    @property
    def size(self) -> int:
        """How much there is."""
        return 1


def test_a_name_without_its_unit_is_found():
    _Wrong.__module__ = "agent_memory.wrong"  # as a class of the package is seen
    found = [
        *measured(Name("agent_memory.Wrong", _Wrong)),
        *measured(Name("agent_memory.Wrong.wait", _Wrong.wait, _Wrong)),
        *measured(Name("agent_memory.Wrong.size", vars(_Wrong)["size"], _Wrong)),
    ]
    assert set(found) == {"timeout", "bytes_up", "patience", "created_at", "delay", "size"}
    assert not any(UNIT.search(word) for word in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Seconds until it is closed.", True),
        ("The most bytes of all.", True),
        ("Seconds since the epoch.", True),
        ("When it happened, seconds since the epoch; the time of the call.", True),
        ("Orders the copies: microseconds since the epoch.", False),
        ("How many.", False),
    ],
)
def test_a_text_says_that_it_is_a_time_or_a_size(text: str, expected: bool):
    assert is_measured("idle", float, text) is expected
    assert not is_measured("idle", str, text)
