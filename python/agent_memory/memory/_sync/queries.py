# Generated from ../_async/queries.py by tools/generate_sync.py: edit that file, not this one.

"""Queries: memories that meet conditions, from SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from agent_memory.memory._copy import Copy, entry_of
from agent_memory.memory._damage import Damage
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.entries import MemoryEntry
from agent_memory.memory.stores.operations import MemoryQuery, NamespaceCount

__all__ = ["Queries"]

PAGE_ENTRIES: Final = 500
"""Memories that are read at a time."""

NAMESPACES_AT_ONCE: Final = 1_000
"""Namespaces that are read at a time."""


class Queries:
    """Asks SQL. Any number of threads may use one object."""

    def __init__(self, sql: SqlGateway, damage: Damage) -> None:
        self._sql = sql
        self._damage = damage

    def pages(self, wanted: MemoryQuery, limit: int | None = None) -> Iterator[list[Copy]]:
        """The copies that meet a query, page by page, at most `limit`. Damaged ones are left out, and noted."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = PAGE_ENTRIES if left is None else min(PAGE_ENTRIES, left)
            page = self._sql.ask(self._sql.store.query, wanted, limit=size, cursor=cursor)
            for memory_id in page.damaged:
                self._damage.note(memory_id, "SQL")
            yield page.copies
            if left is not None:
                left -= len(page.copies)
            cursor = page.cursor
            if cursor is None:
                return

    def by_key(self, agent_id: str, key: str, namespace: Sequence[str], user_id: str | None) -> MemoryEntry | None:
        """The memory that was stored with `key` for a user, or for none; None where there is none."""
        copy = self._sql.ask(self._sql.store.get_by_key, agent_id, key, namespace, user_id)
        return None if copy is None else entry_of(copy)

    def count(self, wanted: MemoryQuery) -> int:
        """How many memories meet a query."""
        return int(self._sql.ask(self._sql.store.count, wanted))

    def namespaces(self, agent_id: str, prefix: Sequence[str]) -> list[NamespaceCount]:
        """The namespaces in use that begin with `prefix`, sorted."""
        found: list[NamespaceCount] = []
        while True:
            page = self._sql.ask(
                self._sql.store.namespaces, agent_id, prefix, limit=NAMESPACES_AT_ONCE, offset=len(found)
            )
            found += page
            if len(page) < NAMESPACES_AT_ONCE:
                return found
