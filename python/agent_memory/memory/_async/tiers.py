"""The tiers of a memory system, as its users see them: views on the memories with one label."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, Unpack

from agent_memory.memory._conditions import QueryConditions, TierConditions
from agent_memory.memory._copy import check_name
from agent_memory.memory.entries import MemoryEntry, Tier

__all__ = ["AsyncIntermediateMemory", "AsyncLongTermMemory", "AsyncShortTermMemory"]


class _AsyncQueried(Protocol):
    async def count(self, agent_id: str | None = None, **conditions: Unpack[QueryConditions]) -> int: ...

    def query(
        self, agent_id: str | None = None, *, limit: int | None = None, **conditions: Unpack[QueryConditions]
    ) -> AsyncIterator[MemoryEntry]: ...


class _AsyncTierMemory:
    """One tier of a memory system: a view on the memories with its label.

    Any number of tasks may use one view. It only reads: a cancelled call leaves nothing behind.
    """

    tier: Tier

    def __init__(self, system: _AsyncQueried) -> None:
        """Made by the memory system."""
        self._system = system

    async def count(self, agent_id: str) -> int:
        """Returns how many memories of `agent_id` are in this tier.

        Raises MemoryStoreUnavailableError where SQL is away, ValueError and TypeError for an `agent_id` outside its rule.
        """
        check_name("agent_id", agent_id)
        return await self._system.count(agent_id, tiers=(self.tier,))

    def query(self, agent_id: str, **conditions: Unpack[TierConditions]) -> AsyncIterator[MemoryEntry]:
        """Yields the memories of `agent_id` in this tier that meet the `conditions`; as `AsyncMemorySystem.query`.

        Raises ValueError and TypeError for an argument outside its rule.
        """
        check_name("agent_id", agent_id)
        return self._system.query(agent_id, tiers=(self.tier,), **conditions)


class AsyncShortTermMemory(_AsyncTierMemory):
    """Recent memories, whole, in Redis and in SQL: where every memory begins."""

    tier = Tier.STM


class AsyncIntermediateMemory(_AsyncTierMemory):
    """Older memories that are still in Redis."""

    tier = Tier.IM


class AsyncLongTermMemory(_AsyncTierMemory):
    """Memories in SQL alone, compressed; in Redis only while they are used."""

    tier = Tier.LTM
