# Generated from ../_async/tiers.py by tools/generate_sync.py: edit that file, not this one.

"""The tiers of a memory system, as its users see them: views on the memories with one label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Unpack

from agent_memory.memory._conditions import QueryConditions, TierConditions
from agent_memory.memory._copy import check_name
from agent_memory.memory.entries import MemoryEntry, Tier

__all__ = ["IntermediateMemory", "LongTermMemory", "ShortTermMemory"]


class _Queried(Protocol):
    def count(self, agent_id: str | None = None, **conditions: Unpack[QueryConditions]) -> int: ...

    def query(
        self, agent_id: str | None = None, *, limit: int | None = None, **conditions: Unpack[QueryConditions]
    ) -> Iterator[MemoryEntry]: ...


class _TierMemory:
    """One tier of a memory system: a view on the memories with its label.

    Any number of threads may use one view. It only reads: a cancelled call leaves nothing behind.
    """

    tier: Tier

    def __init__(self, system: _Queried) -> None:
        """Made by the memory system."""
        self._system = system

    def count(self, agent_id: str) -> int:
        """Returns how many memories of `agent_id` are in this tier.

        Raises MemoryStoreUnavailableError where SQL is away, ValueError and TypeError for an `agent_id` outside its rule.
        """
        check_name("agent_id", agent_id)
        return self._system.count(agent_id, tiers=(self.tier,))

    def query(self, agent_id: str, **conditions: Unpack[TierConditions]) -> Iterator[MemoryEntry]:
        """Yields the memories of `agent_id` in this tier that meet the `conditions`; as `MemorySystem.query`.

        Raises ValueError and TypeError for an argument outside its rule.
        """
        check_name("agent_id", agent_id)
        return self._system.query(agent_id, tiers=(self.tier,), **conditions)


class ShortTermMemory(_TierMemory):
    """Recent memories, whole, in Redis and in SQL: where every memory begins."""

    tier = Tier.STM


class IntermediateMemory(_TierMemory):
    """Older memories that are still in Redis."""

    tier = Tier.IM


class LongTermMemory(_TierMemory):
    """Memories in SQL alone, compressed; in Redis only while they are used."""

    tier = Tier.LTM
