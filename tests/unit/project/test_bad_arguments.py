"""Every parameter of every public constructor, function and method refuses what is no such value, before anything is changed.

A value that the annotation does not allow is refused with TypeError or ValueError; the message names the parameter and shows
the value, or its type where the value may be secret. A value that the annotation allows is taken, or refused in the same way.

A parameter that has no default needs a right value in `RIGHT`. What is left out by rule:

- what redis-py defines, and methods that are one command of it, whose arguments the server judges;
- exceptions, enums, Protocols and records (dataclasses with a required field and no rules), which the package makes itself;
- constructors whose docstring begins with "Made by", and methods whose docstring begins with "For the": the package's own;
- methods of `testing.EmbeddedCluster` and its nodes, which ask servers that run;
- methods of the memory's SQL stores, which are refused before `open()` whatever they are given:
  `tests/behaviour/memory/stores/` tries them; what the memory system itself has given to objects of its own;
- `observability.tracing.instrument`, which changes the classes of the process: `tests/unit/observability/` tries it.

Keywords of a TypedDict count as parameters. The memory systems are not open, and their database is away.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from public_names import PACKAGE, Name, constructor, foreign_parameters, function_of, names, parameters, stub

import agent_memory
import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory import memory, policy, scoring, testing
from agent_memory.observability.prometheus import PrometheusCollector
from agent_memory.policy.resilience import ResiliencePolicy

SECRET = "hunter2"
BAD = [3, -1, 1.5, math.nan, "x", b"\xff", None, object(), [object()], True, 10**400]
SECRETS = {"conninfo", "password", "username", "ssl_password", "url"}
OVERFLOWS = 10**400

RIGHT: dict[str, Any] = {
    "agent_id": "agent",
    "attempt": 0,
    "call": 1,
    "coro": None,
    "category": 0,
    "content": "text",
    "entries": [],
    "lines": [],
    "memory_id": "memory",
    "user_id": "user",
    "client_name": "client",
    "conninfo": "postgresql://127.0.0.1:1/",
    "count": 1,
    "count_bytes": 1,
    "dead": None,
    "delay_s": 0.0,
    "dimensions": 2,
    "embedder": lambda texts: np.ones((len(texts), 2), np.float32),
    "error": OSError(),
    "function": lambda agent_id, data: True,
    "id": 1,
    "ids": ["a"],
    "interval_s": 1.0,
    "key": "key",
    "keys": "key",
    "kind": "reset",
    "memory": memory.MemorySystem(),
    "leases": [],
    "listener": print,
    "model": "model",
    "name": "name",
    "nanoseconds": 1,
    "operation": lambda: 1,
    "down_s": 0.0,
    "operation_name": "operation",
    "other": agent_memory.Guard("other"),
    "path": "nothing is there",
    "payload": None,
    "permit": 1,
    "priority": 1,
    "program": None,
    "records": [],
    "query": np.ones(2, np.float32),
    "reason": "reason",
    "seconds": 1.0,
    "seed": 1,
    "source": agent_memory.ResilientRedisClient("source"),
    "state_data": {},
    "store_func": lambda agent_id, data: True,
    "texts": {"a": "text"},
    "timeout_s": 0.0,
    "ttl_s": 1.0,
    "upstream": ("127.0.0.1", 1),
    "url": "redis://127.0.0.1:1",
    "user": "user",
    "vectors": np.ones((1, 2), np.float32),
}
"""A right value of each parameter that has no default, by its name."""
TOGETHER: dict[str, dict[str, Any]] = {
    "scoring.MemoryIndex.search": {"vector": np.ones(2, np.float32)},
    "memory.stores.MemoryQuery": {"agent_id": "agent"},
    **{
        f"{kind}MemorySystem.{method}": given
        for kind in ("", "Async")
        for method, given in (
            ("query", {"agent_id": "agent"}),
            ("count", {"agent_id": "agent"}),
            ("forget", {"user_id": "user"}),
        )
    },
    "scoring.MemoryIndex.search_many": {"vectors": np.ones((1, 2), np.float32)},
}
"""Right values of parameters of which one has to be given."""


def index() -> scoring.MemoryIndex:
    made = scoring.MemoryIndex(2)
    made.upsert(["a"], np.ones((1, 2), np.float32))
    return made


def queue() -> policy.RecoveryQueue:
    made = policy.RecoveryQueue()
    made.push("key", None, priority=1)
    made.pop_due()
    return made


class StandingLoop:
    """A loop whose time stands still, for a simulated server outside of `Simulation.run()`."""

    def time(self) -> float:
        return 0.0

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> None:
        """Nothing comes later."""


def stopped(server: Any) -> Any:
    server.loop = StandingLoop()
    return server


class AwayStore:
    """A database that cannot be opened: what a call with right arguments meets."""

    def open(self) -> None:
        raise memory.MemoryStoreUnavailableError("it is away")

    def write(self) -> None:
        """Never called."""


def system() -> Any:
    return memory.MemorySystem("nothing is there", redis=None, store=AwayStore())


def async_system() -> Any:
    return memory.AsyncMemorySystem("nothing is there", redis=None, store=AwayStore())


MADE: dict[str, Callable[[], Any]] = {
    "MemorySystem": system,
    "AsyncMemorySystem": async_system,
    "ShortTermMemory": lambda: system().short_term,
    "AsyncShortTermMemory": lambda: async_system().short_term,
    "IntermediateMemory": lambda: system().intermediate,
    "AsyncIntermediateMemory": lambda: async_system().intermediate,
    "LongTermMemory": lambda: system().long_term,
    "AsyncLongTermMemory": lambda: async_system().long_term,
    "AsyncCircuitBreaker": lambda: policy.AsyncCircuitBreaker("breaker"),
    "CircuitBreaker": lambda: policy.CircuitBreaker("breaker"),
    "AsyncRecovery": lambda: agent_memory.AsyncResilientRedisClient("client").recovery,
    "Recovery": lambda: agent_memory.ResilientRedisClient("client").recovery,
    "AsyncResilientRedisClient": lambda: agent_memory.AsyncResilientRedisClient("client"),
    "ResilientRedisClient": lambda: agent_memory.ResilientRedisClient("client"),
    "Backoff": policy.Backoff,
    "DirectionFaults": testing.DirectionFaults,
    "EmbeddedServer": testing.EmbeddedServer,
    "Faults": lambda: testing.Simulation(1).faults(),
    "SimulatedProcess": lambda: testing.Simulation(1).process(),
    "SimulatedServer": lambda: stopped(testing.Simulation(1).server),
    "FaultProxy": lambda: testing.FaultProxy(("127.0.0.1", 1)),
    "Guard": lambda: agent_memory.Guard("guard"),
    "ManualClock": testing.ManualClock,
    "MemoryIndex": index,
    "PrometheusCollector": lambda: PrometheusCollector(registry=None),
    "RecoveryQueue": queue,
    "ReplyDrop": lambda: testing.ReplyDrop(1, None, "silence"),
    "RequestCut": lambda: testing.RequestCut(1, None, "reset"),
    "ResiliencePolicy": ResiliencePolicy,
    "Simulation": lambda: testing.Simulation(1),
}
"""An object of each class with methods to try, by the name of the class; of others `CLASS()`."""
CONSTRUCTED: dict[str, Callable[..., Any]] = {
    "redis.PubSub": lambda **named: agent_memory.redis.Redis().pubsub(**named),
    "redis.asyncio.PubSub": lambda **named: agent_memory.redis.asyncio.Redis().pubsub(**named),
}
"""What makes an object of a class, where that is a method."""


# --- what an annotation allows ---


STUB = stub()
NUMBERS = r"\b(float|ArrayLike)\b"


def allows(annotation: str, value: Any) -> bool:
    """Whether a value belongs to an annotation, as it is written; unknown words allow nothing."""
    text = re.sub(r"Callable\[.*?\]\s*,?\s*\w*\]?|(Mapping|dict|Sequence|list|tuple|Iterable)\[.*\]", r"\1", annotation)
    words = set(re.findall(r"[A-Za-z_]\w*", text))
    if words & {"Any", "object", "Content"} or (isinstance(value, list) and annotation.startswith("list")):
        return True  # what a list holds is looked at where it is used
    if value is None:
        return "None" in words
    if isinstance(value, bool):
        return bool(words & {"bool"}) or bool(words & {"int", "float", "ArrayLike", "Priority"})
    if isinstance(value, int):
        return bool(words & {"int", "float", "ArrayLike", "Priority"})
    if isinstance(value, float):
        return not math.isnan(value) and bool(words & {"int", "float", "ArrayLike"})
    if isinstance(value, str):
        # A text is a sequence of texts; names from a list are refused by their rules.
        return bool(words & {"str", "Upstream", "PathLike"}) or bool(
            re.search(r"(Iterable|Sequence)\[.*str", annotation)
        )
    if isinstance(value, bytes):
        return bool(words & {"bytes", "ArrayLike"}) or "NDArray" in annotation
    return False


# --- the calls ---


@dataclasses.dataclass(frozen=True)
class Call:
    """A parameter of a call that is right otherwise."""

    label: str
    parameter: str
    annotation: str
    make: Callable[..., Any]
    right: dict[str, Any]
    positional: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.label}-{self.parameter}"

    def run(self, value: Any) -> Any:
        given = {**self.right, self.parameter: value}
        first = [given.pop(name) for name in self.positional]
        return self.make(*first, **given)


def is_record(value: type) -> bool:
    if not dataclasses.is_dataclass(value) or hasattr(value, "__post_init__"):
        return False
    return any(
        one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        for one in dataclasses.fields(value)
    )


def is_of_memory(name: Name) -> bool:
    if name.owner is not None and name.owner.__name__ in MADE:
        return False
    return any(
        (getattr(one, "__module__", None) or "").startswith(f"{PACKAGE}.memory.") for one in (name.value, name.owner)
    )


def is_made_of_arguments(value: Any) -> bool:
    """Whether a name of the memory is a class whose users make its objects: no record, and no text or mapping with a type."""
    if not inspect.isclass(value) or issubclass(value, tuple | str | int | dict):
        return False
    return hasattr(value, "__post_init__") or not dataclasses.is_dataclass(value)


def tried(name: Name) -> bool:
    """Whether a name is this package's to judge."""
    value, label = name.value, str(name)
    if label.endswith("tracing.instrument"):
        return False
    if name.owner is not None and issubclass(name.owner, testing.EmbeddedCluster | testing.ClusterServer):
        return False
    if is_of_memory(name) and not is_made_of_arguments(value):
        return False
    if inspect.isclass(value):
        if issubclass(value, enum.Enum | BaseException) or getattr(value, "_is_protocol", False) or is_record(value):
            return False
        made_by = constructor(value)
        made = f"{getattr(made_by, '__doc__', '') or ''}".strip()
        return not made.startswith("Made by") and value.__name__ != "RecoveryEntry"
    if isinstance(value, property) or type(value).__name__ == "getset_descriptor":
        return False
    text = (inspect.getdoc(value) or "").strip()
    last = label.rpartition(".")[2]
    is_command = hasattr(redis.Redis, last) or hasattr(redis.client.PubSub, last) or re.match(r"[A-Z]{3,}( of|:)", text)
    return not text.startswith("For the") and not (is_command and name.owner is not None and "from_url" not in label)


def annotations_of(name: Name, function: Any) -> dict[str, str]:
    """The annotations of a call, by parameter; from the stub for what the extension defines."""
    found = parameters(function)
    core = {base.__name__ for base in name.owner.__mro__} if name.owner is not None else {""}
    last = str(name).rpartition(".")[2]
    if inspect.isclass(name.value):
        core, last = {name.value.__name__}, "__new__"
    for owner in core:
        if (owner, last) in STUB and not inspect.isfunction(function_of(function)):
            return {key: text for key, text in STUB[owner, last].items() if key not in ("self", "cls")}
    assert found is not None, f"{name} does not tell its parameters"
    keywords: dict[str, str] = {}
    for one in found.values():
        if one.kind is one.VAR_KEYWORD and (unpacked := re.fullmatch(r"Unpack\[(\w+)\]", str(one.annotation))):
            kinds = inspect.getattr_static(inspect.getmodule(function_of(function)), unpacked[1]).__annotations__
            keywords |= {key: getattr(kind, "__forward_arg__", str(kind)) for key, kind in kinds.items()}
    return keywords | {
        key: str(one.annotation)
        for key, one in found.items()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.annotation is not one.empty
    }


def calls_of(name: Name) -> Iterator[Call]:
    function = name.value
    if inspect.isclass(function):
        made_by = None if dataclasses.is_dataclass(function) else constructor(function)
        described = function if made_by is None else made_by
        theirs = foreign_parameters(function)
    else:
        described, theirs = function_of(function), set()
    annotations = {key: text for key, text in annotations_of(name, described).items() if key not in theirs}
    if not annotations:
        return
    signature = parameters(described) or {}
    label = str(name).removeprefix(f"{PACKAGE}.")
    last = label.rpartition(".")[2]
    positional = tuple(key for key, one in signature.items() if one.kind is one.POSITIONAL_ONLY)
    if label in CONSTRUCTED:
        annotations.pop("client", None)
        make = CONSTRUCTED[label]
    elif name.owner is None or inspect.isclass(name.value):
        make = function
    elif isinstance(inspect.getattr_static(name.owner, last), classmethod | staticmethod):
        make = getattr(name.owner, last)
    else:
        factory = MADE.get(name.owner.__name__, name.owner)

        def make(*args: Any, **named: Any) -> Any:
            return getattr(factory(), last)(*args, **named)

    takes_keywords = any(str(one.annotation).startswith("Unpack[") for one in signature.values())
    if takes_keywords or set(annotations) <= set(signature):
        needed = {key for key in annotations if key in signature and signature[key].default is inspect.Parameter.empty}
    else:  # a constructor of the extension, which does not tell its parameters
        needed = {"name"} & set(annotations)
    right = {key: RIGHT[key] for key in annotations if key in needed} | TOGETHER.get(label, {})
    for parameter, annotation in annotations.items():
        yield Call(label, parameter, annotation, make, right, positional)


CALLS = [call for name in names() if tried(name) for call in calls_of(name)]


# --- what must not happen ---

_watched: list[str] | None = None
_FORBIDDEN = {
    "socket.connect",
    "socket.bind",
    "subprocess.Popen",
    "os.posix_spawn",
    "os.mkdir",
    "os.rename",
    "_thread.start_new_thread",
}


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event in _FORBIDDEN:
        _watched.append(event)
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        _watched.append(f"open {arguments[0]!r}")


sys.addaudithook(_hook)


@contextmanager
def nothing_happens() -> Iterator[None]:
    """Raises AssertionError where a file is written, a socket connected or bound, a process or a thread started."""
    global _watched
    before, threads = set(os.listdir("/proc/self/fd")), threading.active_count()
    _watched = []
    try:
        yield
        assert not _watched, f"before the refusal: {_watched}"
        assert threading.active_count() == threads
        assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the listing itself
    finally:
        _watched = None


def done(made: Any) -> None:
    """Takes the first step of a coroutine, and closes what was made."""
    if inspect.iscoroutine(made):
        try:
            made.send(None)
        except StopIteration:
            pass
        finally:
            made.close()
    elif inspect.isasyncgen(made):
        pass
    elif isinstance(made, testing.EmbeddedServer | testing.EmbeddedCluster):
        made.close()


def values_for(call: Call) -> list[Any]:
    return [3, object(), [SECRET], 1.5, f"x://:{SECRET}@y"] if call.parameter in SECRETS else BAD


PASSED = (
    memory.MemoryStoreUnavailableError,
    agent_memory.RedisUnavailableError,
    redis.exceptions.RedisClusterException,
    testing.ServerError,
    KeyError,
    OSError,
)
"""What a call raises that found its arguments right: nothing is there to call."""


def check(call: Call, value: Any) -> str | None:
    """What is wrong with how a call treats a value; None if nothing is."""
    allowed = allows(call.annotation, value)
    try:
        with nothing_happens() if not allowed else _free():
            done(call.run(value))
    except testing.SimulationError:
        return None if allowed else f"{value!r} is taken"
    except (TypeError, ValueError) as error:
        return complaint(call, value, str(error), allowed=allowed)
    except PASSED as error:
        return None if allowed else f"{value!r}: {type(error).__name__}: {error}"
    except AssertionError:
        raise
    except RuntimeError as error:
        taken = allowed and "no running event loop" in str(error)
        return None if taken else f"{value!r}: {type(error).__name__}: {error}"
    except Exception as error:
        return f"{value!r}: {type(error).__name__}: {error}"
    return None if allowed else f"{value!r} is taken"


@contextmanager
def _free() -> Iterator[None]:
    yield


def complaint(call: Call, value: Any, message: str, *, allowed: bool) -> str | None:
    """What is wrong with a refusal; a value of the right type may be refused for what it means to another parameter."""
    named = {call.parameter, *(call.right if allowed else ())}
    if not any(re.search(rf"\b{name}\b", message) for name in named):
        return f"{value!r}: does not name it: {message}"
    if call.parameter in SECRETS:
        return f"shows the secret: {message}" if SECRET in message else None
    if "must be given with" in message or (allowed and re.search("must be given|exactly_once must be on", message)):
        return None
    parts = value if isinstance(value, list) else [value]
    shown = [repr(value), type(value).__name__, *map(repr, parts), *(type(part).__name__ for part in parts)]
    if isinstance(value, str):
        shown.append(f'"{value}"')
    elif isinstance(value, int | float):
        shown.append("must be <=" if value == OVERFLOWS else f"{float(value)}")
    return None if any(one in message for one in shown) else f"{value!r}: does not show it: {message}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths lead nowhere else."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_bad_argument_is_refused_by_name(call: Call):
    wrong = [found for value in values_for(call) if (found := check(call, value)) is not None]
    assert not wrong, "\n".join(wrong)


def test_the_walk_finds_the_calls():
    labels = {str(call) for call in CALLS}
    assert {
        "ResilientRedisClient-password",
        "AsyncResilientRedisClient.store_with_retry-priority",
        "exponential_backoff-attempt",
        "policy.Backoff-jitter",
        "Guard.operation-category",
        "scoring.MemoryIndex.search-weights",
        "testing.FaultProxy.drop_replies-count",
        "memory.stores.MemoryQuery-tags",
        "redis.RedisCluster-resilience",
        "testing.EmbeddedCluster-masters",
        "memory.stores.sqlite.AsyncSqliteStore-config",
        "MemorySystem.store-importance",
        "AsyncMemorySystem.query-since_s",
        "MemorySystem.retrieve-filters",
        "memory.IntermediateMemory.query-step_from",
    } <= labels
    assert len(labels) > 200
