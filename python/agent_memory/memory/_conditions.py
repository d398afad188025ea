"""The conditions of queries and retrievals: what a caller gave, checked, as a query or as filters of the index."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

from agent_memory.memory._copy import encode_namespace
from agent_memory.memory.entries import Tier
from agent_memory.memory.stores.operations import MemoryQuery
from agent_memory.scoring import Filters

__all__ = ["UNSET", "Conditions", "TierConditions", "filters_of", "query_of", "restricts"]

UNSET: Final[Any] = object()
"""The default of a condition that is not given; None is a value that the caller gave."""

_ORDERING: Final = ("order_by", "descending")


class TierConditions(TypedDict, total=False):
    """The conditions of a query within one tier, by keyword; what each means stands in `MemoryQuery`."""

    user_id: str
    session_id: str
    namespace: Sequence[str]
    namespace_exact: bool
    since: float
    until: float
    step_from: int
    step_to: int
    min_importance: float
    max_importance: float
    memory_types: Collection[str]
    tags: Collection[str]
    any_tags: Collection[str]
    attributes: Mapping[str, str | int | float | bool | None]
    key: str
    updated_before_us: int
    created_before_us: int
    order_by: Literal["timestamp", "step", "importance", "seq", "created"]
    descending: bool


class Conditions(TierConditions, total=False):
    """The conditions of a query, by keyword: those of `MemoryQuery` beside the agent."""

    tiers: Collection[Tier]


def query_of(agent_id: str | None, conditions: Mapping[str, Any]) -> MemoryQuery:
    """The query of a caller's conditions. Raises ValueError for one that is given and restricts nothing."""
    for name, value in conditions.items():
        if name == "namespace" and conditions.get("namespace_exact"):
            continue  # the memories without a namespace
        if name not in _ORDERING:
            _check_condition(name, value)
    return MemoryQuery(agent_id=agent_id, **conditions)


def restricts(conditions: Mapping[str, Any]) -> bool:
    """Whether any of a caller's conditions, which `query_of` took, leaves memories out."""
    return any(name not in _ORDERING and (name != "namespace_exact" or value) for name, value in conditions.items())


def _check_condition(name: str, value: Any) -> None:
    """Refuses what an unset variable of the caller's gives: it would stand for the memories of all users, sessions, ..."""
    if value is None or (isinstance(value, str | Collection) and not len(value)):
        raise ValueError(f"{name} must not be empty, got {value!r}: leave it out for memories with any {name}")


def filters_of(filters: Filters | Mapping[str, Any] | None, conditions: Mapping[str, Any]) -> Filters | None:
    """The filters of a retrieval over the attributes of the index. Of `conditions` those that are UNSET do not count."""
    given = {name: value for name, value in conditions.items() if value is not UNSET}
    for name, value in given.items():
        _check_condition(name, value)
    attributes: dict[str, Any] = {}
    since, until = given.get("since"), given.get("until")
    if isinstance(filters, Filters):
        attributes |= filters.attributes
        since = filters.time_from_s if since is None else since
        until = filters.time_to_s if until is None else until
    elif filters:
        for name, value in filters.items():
            if value is None or (isinstance(value, Collection) and not len(value) and not isinstance(value, str)):
                raise ValueError(f"filters must give {name!r} a value or several, got {value!r}")
            attributes[f"metadata.{name}"] = value
    for name in ("memory_types", "tags"):
        if isinstance(given.get(name), str):
            raise TypeError(f"{name} must be a collection of str, got a str")
    if "memory_types" in given:
        attributes["memory_type"] = tuple(given["memory_types"])
    for tag in given.get("tags", ()):
        attributes[f"tag:{tag}"] = True
    if "namespace" in given:
        attributes[f"namespace:{encode_namespace(given['namespace'])}"] = True
    attributes |= {name: given[name] for name in ("user_id", "session_id") if name in given}
    if not attributes and since is None and until is None:
        return None
    return Filters(attributes, since, until)
