"""The conditions of queries and retrievals: what a caller gave, checked, as a query or as filters of the index."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

from agent_memory import _check
from agent_memory.memory._copy import check_name, encode_namespace
from agent_memory.memory.entries import Tier
from agent_memory.memory.stores.operations import MemoryQuery
from agent_memory.scoring import Filters
from agent_memory.scoring._settings import AttributeValue

__all__ = [
    "UNSET",
    "QueryConditions",
    "RetrievalConditions",
    "SharedConditions",
    "TierConditions",
    "check_limit",
    "filters_of",
    "query_of",
    "restricts",
]

UNSET: Final[Any] = object()
"""The default of a condition that is not given; None is a value that the caller gave."""

_ORDERING: Final = ("order_by", "descending")


class SharedConditions(TypedDict, total=False):
    """The conditions that queries and retrievals have in common, by keyword. All that are given must hold."""

    user_id: str
    """Memories of this user."""
    session_id: str
    """Memories of this conversation."""
    namespace: Sequence[str]
    """The first labels of the namespace."""
    since_s: float
    """`timestamp_s >= since_s`, seconds since the epoch."""
    until_s: float
    """`timestamp_s < until_s`, seconds since the epoch."""
    memory_types: Collection[str]
    """One of these."""
    tags: Collection[str]
    """All of these."""


class RetrievalConditions(SharedConditions, total=False):
    """The conditions of `retrieve`, by keyword."""

    filters: Mapping[str, AttributeValue | Collection[AttributeValue]]
    """Values of the metadata by name, equal in type and value: one value, or several of which one must match. Of a list in the
    metadata any element may match."""


class TierConditions(SharedConditions, total=False):
    """The conditions of a query within one tier, by keyword, and the order of its answer."""

    namespace_exact: bool
    """Whether `namespace` is the whole namespace; default False."""
    step_from: int
    """`step >= step_from`."""
    step_to: int
    """`step <= step_to`."""
    min_importance: float
    """`importance >= min_importance`, 0..1."""
    max_importance: float
    """`importance <= max_importance`, 0..1."""
    any_tags: Collection[str]
    """At least one of these."""
    attributes: Mapping[str, str | int | float | bool | None]
    """Top-level values of the metadata, equal in type and value."""
    key: str
    """The memory of this key."""
    order_by: Literal["timestamp", "step", "importance", "seq", "created"]
    """Ties are in the order in which they were stored; memories without a step come first. Default `"timestamp"`."""
    descending: bool
    """Whether the greatest comes first; default False."""


class QueryConditions(TierConditions, total=False):
    """The conditions of `query`, `count` and `forget`, by keyword."""

    tiers: Collection[Tier]
    """One of these."""


_QUERIED: Final = frozenset(QueryConditions.__annotations__)
_RETRIEVED: Final = frozenset(RetrievalConditions.__annotations__)


def query_of(agent_id: str | None, conditions: Mapping[str, Any]) -> MemoryQuery:
    """The query of a caller's conditions.

    Raises TypeError for one that there is not, ValueError for one that is given and restricts nothing.
    """
    _check_names(conditions, _QUERIED)
    for name, value in conditions.items():
        if name == "namespace" and conditions.get("namespace_exact"):
            continue  # the memories without a namespace
        if name not in _ORDERING:
            _check_condition(name, value)
    return MemoryQuery(agent_id=agent_id, **conditions)


def check_limit(limit: int | None) -> None:
    """Raises ValueError unless `limit` is None or a whole number, not below 0."""
    if limit is not None:
        _check.whole("limit", limit, 0)


def restricts(conditions: Mapping[str, Any]) -> bool:
    """Whether any of a caller's conditions, which `query_of` took, leaves memories out."""
    return any(name not in _ORDERING and (name != "namespace_exact" or value) for name, value in conditions.items())


def _check_names(conditions: Mapping[str, Any], known: frozenset[str]) -> None:
    if not known.issuperset(conditions):
        unknown = sorted(conditions.keys() - known)[0]
        raise TypeError(f"conditions must be of {', '.join(sorted(known))}, got {unknown!r}")


def _check_condition(name: str, value: Any) -> None:
    """Refuses what an unset variable of the caller's gives: it would stand for the memories of all users, sessions, ..."""
    if value is None or (isinstance(value, str | Collection) and not len(value)):
        raise ValueError(f"{name} must not be empty, got {value!r}: leave it out for memories with any {name}")


def filters_of(conditions: Mapping[str, Any]) -> Filters | None:
    """The conditions of a retrieval over the attributes of the index; raises as `query_of` does."""
    if not conditions:
        return None
    _check_names(conditions, _RETRIEVED)
    for name, value in conditions.items():
        _check_condition(name, value)
    attributes = _metadata_attributes(conditions["filters"]) if "filters" in conditions else {}
    for name in ("memory_types", "tags"):
        if name in conditions:
            _check.iterable(name, conditions[name], "str")
            for label in conditions[name]:
                check_name(name, label)
    if "memory_types" in conditions:
        attributes["memory_type"] = tuple(conditions["memory_types"])
    for tag in conditions.get("tags", ()):
        attributes[f"tag:{tag}"] = True
    if "namespace" in conditions:
        attributes[f"namespace:{encode_namespace(conditions['namespace'])}"] = True
    for name in ("user_id", "session_id"):
        if name in conditions:
            attributes[name] = check_name(name, conditions[name])
    return Filters(attributes, conditions.get("since_s"), conditions.get("until_s"))


def _metadata_attributes(filters: Any) -> dict[str, Any]:
    if not isinstance(filters, Mapping):
        raise TypeError(f"filters must be a mapping of names in the metadata, got {type(filters).__name__}")
    for name, value in filters.items():
        if value is None or (isinstance(value, Collection) and not len(value) and not isinstance(value, str)):
            raise ValueError(f"filters must give {name!r} a value or several, got {value!r}")
    return {f"metadata.{name}": value for name, value in filters.items()}
