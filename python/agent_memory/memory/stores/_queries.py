"""From a `MemoryQuery` to conditions in SQL. Values are parameters, marked `?`."""

from __future__ import annotations

import json
from typing import Any, Final

from agent_memory import _check
from agent_memory.memory._copy import encode_namespace
from agent_memory.memory.stores._rows import NOT_EXPIRED
from agent_memory.memory.stores.operations import MAX_PAGE_ENTRIES, Cursor, MemoryQuery

__all__ = ["check_limit", "conditions", "namespace_bounds", "order_column", "page"]

_ORDER_COLUMNS: Final = {
    "timestamp": "m.timestamp",
    "step": "coalesce(m.step, CAST('-9223372036854775808' AS bigint))",  # before all others
    "importance": "m.importance",
    "seq": "m.seq",
    "created": "m.created_us",
}


def order_column(query: MemoryQuery) -> str:
    """The expression that the query's order looks at."""
    return _ORDER_COLUMNS[query.order_by]


def check_limit(limit: int) -> None:
    """Raises ValueError unless a page may have so many entries."""
    _check.whole("limit", limit, 1, MAX_PAGE_ENTRIES)


def namespace_bounds(namespace: tuple[str, ...]) -> tuple[str, str]:
    """The encoded namespaces with this prefix are those from the first bound up to, not including, the second."""
    prefix = encode_namespace(namespace)
    return prefix, f"{prefix[:-1]}0"  # the character after "/"


def conditions(query: MemoryQuery, now: float, *, postgres: bool) -> tuple[str, list[Any]]:
    """` AND ...` over `memories m` and `agents a`, and its parameters."""
    sql = [" AND m.deleted = 0"]
    parameters: list[Any] = []

    def add(condition: str, *values: Any) -> None:
        sql.append(f" AND {condition}")
        parameters.extend(values)

    if query.agent_id is not None:
        add("a.agent_id = ?", query.agent_id)
    if query.user_id is not None:
        add("m.user_id = ? AND m.user_id <> ''", query.user_id)
    if query.session_id is not None:
        add("m.session_id = ? AND m.session_id <> ''", query.session_id)
    if query.key is not None:
        add("m.key = ? AND m.key <> ''", query.key)
    if query.namespace_exact:
        add("m.namespace = ?", encode_namespace(query.namespace))
    elif query.namespace:
        add("m.namespace >= ? AND m.namespace < ? AND m.namespace <> ''", *namespace_bounds(query.namespace))
    ranges = (
        ("m.timestamp >= ?", query.since_s),
        ("m.timestamp < ?", query.until_s),
        ("m.step >= ?", query.step_from),
        ("m.step <= ?", query.step_to),
        ("m.importance >= ?", query.min_importance),
        ("m.importance <= ?", query.max_importance),
    )
    for condition, bound in ranges:
        if bound is not None:
            add(condition, bound)
    if query.memory_types:
        add(f"m.memory_type IN ({_marks(len(query.memory_types))})", *query.memory_types)
    if query.tiers:
        add(f"m.tier IN ({_marks(len(query.tiers))})", *map(int, query.tiers))
    tagged = "EXISTS (SELECT 1 FROM memory_tags t WHERE t.agent_no = m.agent_no AND t.tag {} AND t.row_id = m.row_id)"
    for tag in query.tags:
        add(tagged.format("= ?"), tag)
    if query.any_tags:
        add(tagged.format(f"IN ({_marks(len(query.any_tags))})"), *query.any_tags)
    for name, value in query.attributes.items():
        add(*_attribute(name, value, postgres))
    add(NOT_EXPIRED, now)
    return "".join(sql), parameters


def page(query: MemoryQuery, limit: int, cursor: Cursor | None) -> tuple[str, list[Any]]:
    """The end of the statement: where the page begins, its order, its length (and one more, to see whether there is more)."""
    column = order_column(query)
    direction = " DESC" if query.descending else ""
    sql, parameters = "", list[Any]()
    if cursor is not None:
        sql = f" AND ({column}, m.row_id) {'<' if query.descending else '>'} (?, ?)"
        parameters = [cursor.value, cursor.row]
    return f"{sql} ORDER BY {column}{direction}, m.row_id{direction} LIMIT ?", [*parameters, limit + 1]


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _attribute(name: str, value: object, postgres: bool) -> tuple[str, str, str]:
    """A condition and its two parameters. Compared as JSON text, so that 1, 1.0, true and "1" are four values."""
    encoded = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not postgres:
        return "m.metadata <> '' AND (m.metadata -> ?) = ?", f'$."{name}"', encoded
    # PostgreSQL cannot read an escaped NUL, in any of a row's values.
    readable = r"replace(nullif(m.metadata, ''), '\u0000', '\u0001')"
    return f"({readable}::json -> ?::text)::text = ?", name, encoded.replace(r"\u0000", r"\u0001")
