"""Values, filters and namespaces of LangGraph's operations: what is refused, and what matches. Pure functions."""

from __future__ import annotations

import enum
import json
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from operator import ge, gt, le, lt
from typing import Any, Final, NamedTuple

from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchOp,
    get_text_at_path,
    tokenize_path,
    validate_op_namespace,
)

from agent_memory.memory.entries import MemoryEntry

__all__ = [
    "Embedder",
    "check_op",
    "checked_filter",
    "checked_put",
    "fits",
    "is_item",
    "leading_labels",
    "matches",
    "path_of",
    "text_at",
]


class Embedder(NamedTuple):
    """What makes vectors of the texts of items, and of a question."""

    documents: Callable[[list[str]], Any]
    question: Callable[[str], Any]


_ORDERINGS: Final[dict[str, Callable[[Any, Any], bool]]] = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
_OPERATORS: Final = ("$eq", "$ne", *_ORDERINGS)


# --- what is refused ---


def check_op(op: Op) -> None:
    """Refuses an operation that no store could carry out, before any of its batch is."""
    if not isinstance(op, GetOp | PutOp | SearchOp | ListNamespacesOp):
        raise ValueError(f"ops must be operations of LangGraph's store, got {type(op).__name__}")
    validate_op_namespace(op)
    if isinstance(op, SearchOp | ListNamespacesOp):
        for name in ("limit", "offset"):
            number = getattr(op, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ValueError(f"{name} must be a whole number of at least 0, got {number!r}")
    if isinstance(op, ListNamespacesOp):
        if op.max_depth is not None and op.max_depth < 1:
            raise ValueError(f"max_depth must be at least 1, got {op.max_depth!r}")
        for condition in op.match_conditions or ():
            if condition.match_type not in ("prefix", "suffix"):
                raise ValueError(f"match_type must be 'prefix' or 'suffix', got {condition.match_type!r}")


def checked_put(op: PutOp) -> PutOp:
    """The operation with its value as JSON has it. Raises TypeError or ValueError naming parameter, rule and value."""
    if op.value is None:
        return op
    if not isinstance(op.value, Mapping):
        raise TypeError(f"value must be a mapping, got {type(op.value).__name__}")
    if op.ttl is not None and (not op.ttl > 0 or math.isinf(op.ttl)):
        raise ValueError(f"ttl must be a finite number of minutes above 0, got {op.ttl!r}")
    if op.index is not None and op.index is not False:
        paths = op.index
        if (
            isinstance(paths, str)
            or not isinstance(paths, Iterable)
            or not all(isinstance(path, str) for path in paths)
        ):
            raise TypeError(f"index must be False or a list of paths, got {paths!r:.80}")
    return op._replace(value=_as_json("value", op.value))


def _as_json(place: str, value: Any) -> Any:
    """`value` if it is JSON, else with dates, times, UUIDs and members of enums as text, as LangGraph's own stores do."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        try:
            return _converted(place, value)
        except RecursionError:
            raise ValueError(f"{place} must not hold itself, or be nested a thousand times") from None
    return value


def _converted(place: str, value: Any) -> Any:  # noqa: PLR0911 - one line for each kind
    if isinstance(value, enum.Enum):
        return _converted(place, value.value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{place} must have a UTF-8 encoding, got a text with a lone surrogate") from None
        return value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{place} must be a finite number, got {value!r}")
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str | int | float | None):
                raise TypeError(f"{place} must have names that are str, got {type(name).__name__}")
        return {name: _converted(f"{place}[{name!r:.40}]", one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_converted(f"{place}[{at}]", one) for at, one in enumerate(value)]
    kind = type(value)
    raise TypeError(
        f"{place} must be JSON, or a date, time, UUID or member of an enum, got {kind.__module__}.{kind.__qualname__}"
    )


def checked_filter(wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    """A filter with its operands as JSON has them. Raises TypeError or ValueError naming operator, rule and value."""
    if wanted is None:
        return {}
    if not isinstance(wanted, Mapping):
        raise TypeError(f"filter must be a mapping, got {type(wanted).__name__}")
    for name in wanted:
        if not isinstance(name, str) or name.startswith("$"):
            raise ValueError(
                f"filter must have names of the value's keys, with operators inside: {{name: {{'$gt': 1}}}}, got {name!r:.40}"
            )
    try:
        found: dict[str, Any] = _converted("filter", wanted)
    except RecursionError:
        raise ValueError("filter must not hold itself, or be nested a thousand times") from None
    for name, one in found.items():
        _check_wanted(name, one)
    return found


def _check_wanted(name: str, wanted: Any) -> None:
    if isinstance(wanted, list | tuple):
        for one in wanted:
            _check_wanted(name, one)
    if not isinstance(wanted, Mapping):
        return
    if not any(str(key).startswith("$") for key in wanted):
        for key, one in wanted.items():
            _check_wanted(f"{name}.{key}", one)
        return
    for operator, operand in wanted.items():
        if operator not in _OPERATORS:
            raise ValueError(
                f"filter must use {', '.join(_OPERATORS)}, got {operator!r:.40} with {operand!r:.40} for {name!r:.80}"
            )
        if operator in _ORDERINGS and not isinstance(operand, str | int | float):
            raise ValueError(
                f"filter must give {operator!r} a number or a text to compare {name!r:.80} with, got {operand!r:.40}"
            )


# --- what matches ---


def is_item(entry: MemoryEntry) -> bool:
    """Whether a memory of the agent is an item."""
    return entry.key is not None and entry.user_id is None and isinstance(entry.content, dict)


def matches(value: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an item's value meets a filter that `checked_filter` gave."""
    return all(_compare(value.get(name), one) for name, one in wanted.items())


def _compare(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if any(str(name).startswith("$") for name in wanted):
            return all(_operate(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, dict) and all(_compare(value.get(name), one) for name, one in wanted.items())
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list)
            and len(value) == len(wanted)
            and all(_compare(one, other) for one, other in zip(value, wanted, strict=True))
        )
    return bool(value == wanted)


def _operate(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$eq":
        return bool(_listed(value) == _listed(operand))
    if operator == "$ne":
        return bool(_listed(value) != _listed(operand))
    compare = _ORDERINGS[operator]
    if isinstance(value, str) and isinstance(operand, str):
        return compare(value, operand)
    # A text that is a number is compared with numbers as one.
    number, bound = _number(value), _number(operand)
    return number is not None and bound is not None and compare(number, bound)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _number(value: Any) -> int | float | None:
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


# --- namespaces and paths ---


def fits(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    """Whether a namespace begins or ends as the condition says."""
    path = condition.path
    if len(path) > len(namespace):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))


def leading_labels(conditions: Sequence[MatchCondition]) -> tuple[str, ...]:
    """Labels that all namespaces begin with that meet the conditions."""
    found: tuple[str, ...] = ()
    for condition in conditions:
        if condition.match_type == "prefix":
            path = tuple(condition.path)
            labels = path[: path.index("*")] if "*" in path else path
            found = max(found, labels, key=len)
    return found


def path_of(field: str) -> str | list[str]:
    """A path as `get_text_at_path` takes it."""
    return field if field == "$" else tokenize_path(field)


def text_at(value: Any, paths: Sequence[str | list[str]]) -> str:
    """What stands at the paths of a value, a line each."""
    return "\n".join(text for path in paths for text in get_text_at_path(value, path))
