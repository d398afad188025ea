"""The dirty copies of one bucket in parts, one agent's each, for synchronisation."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from agent_memory._concurrency import AsyncEvent, AsyncKeyedLocks
from agent_memory.memory._async.redis_gateway import AsyncRedisGateway

__all__ = ["AsyncDirtyParts", "DirtyPart", "Turn"]

PARTS_OF_A_LOOK: Final = 8
"""The most parts for which one look at a bucket reads ids."""


class Turn(NamedTuple):
    """How far a part is. Parts go to SQL in their order, and are marked in it: so they are in the order of SQL's feed."""

    written: AsyncEvent
    """Its write is about to be sent."""
    done: AsyncEvent


class DirtyPart(NamedTuple):
    """Some dirty copies of one agent."""

    agent_id: str
    ids: list[str]
    turn: Turn
    before: Turn | None
    """That of the part before this one; None of the first."""


class AsyncDirtyParts:
    """Looks for the dirty copies of a bucket and hands each out once. Any number of tasks may take from one object.

    `size`: the most copies of a part.
    """

    def __init__(self, redis: AsyncRedisGateway, bucket: int, size: int) -> None:
        self._redis = redis
        self._bucket = bucket
        self._size = size
        self._seen: set[tuple[str, str]] = set()
        self._parts: deque[tuple[str, list[str]]] = deque()
        self._locks = AsyncKeyedLocks()
        self._under_way = 0
        self._is_exhausted = False
        self._last: Turn | None = None
        self.are_left = False
        """Whether the last look has found copies that were handed out before, or Redis was away."""

    def __len__(self) -> int:
        return len(self._parts)

    async def look(self) -> bool:
        """Looks for copies that were not handed out yet; returns whether there are any."""
        tier = self._redis.tier
        assert tier is not None
        # What is under way is still in the set, before what was not looked at.
        limit = self._under_way + PARTS_OF_A_LOOK * self._size
        members = await self._redis.ask(tier.dirty_members, self._bucket, limit=limit)
        fresh = [] if members is None else [member for member in members if member not in self._seen]
        self._is_exhausted = not fresh
        self.are_left = members is None or bool(members)
        self._seen.update(fresh)
        by_agent: dict[str, list[str]] = {}
        for agent_id, memory_id in fresh:
            by_agent.setdefault(agent_id, []).append(memory_id)
        for agent_id, ids in by_agent.items():
            self._parts.extend((agent_id, ids[start : start + self._size]) for start in range(0, len(ids), self._size))
        return bool(fresh)

    async def take(self) -> DirtyPart | None:
        """The next part, looked for where all that were found are taken; None: there are no more."""
        async with self._locks.hold("parts"):
            if not self._parts and (self._is_exhausted or not await self.look()):
                return None
            agent_id, ids = self._parts.popleft()
            part = DirtyPart(agent_id, ids, Turn(AsyncEvent(), AsyncEvent()), self._last)
            self._last = part.turn
            self._under_way += len(ids)
            return part

    def finish(self, part: DirtyPart) -> None:
        """A part that was taken is done, one way or another."""
        self._under_way -= len(part.ids)
        part.turn.written.set()
        part.turn.done.set()

    def stop(self) -> None:
        """Hands nothing more out."""
        self._parts.clear()
        self._is_exhausted = True
