"""`check()`: reads every memory in SQL and every dirty copy in Redis, and verifies their checksums.

Clean copies in Redis are not read: each reader verifies them, and takes SQL's where they are damaged. Nothing is deleted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from agent_memory._concurrency import async_give_way
from agent_memory.memory._async.dirty_copies import AsyncDirtyCopies
from agent_memory.memory._async.redis_gateway import AsyncRedisGateway
from agent_memory.memory._async.redis_tier import BUCKETS, AsyncRedisTier, bucket_of
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._damage import Damage
from agent_memory.memory._loaded_indexes import LoadedIndexes
from agent_memory.memory._redis_scripts import MAX_ENTRIES
from agent_memory.memory.errors import MemoryStoreError, StoreFault
from agent_memory.memory.reports import CheckReport, DamagedMemory

__all__ = ["AsyncCheck"]


class AsyncCheck:
    """One check of a memory system, or of one agent in it."""

    def __init__(
        self,
        sql: AsyncSqlGateway,
        redis: AsyncRedisGateway,
        dirty: AsyncDirtyCopies,
        loaded: LoadedIndexes,
        damage: Damage,
        limit: int,
    ) -> None:
        self._sql = sql
        self._redis = redis
        self._dirty = dirty
        self._loaded = loaded
        self._damage = damage
        self._limit = limit
        self.report = CheckReport()

    async def run(self, agent_id: str | None) -> CheckReport:
        """Checks everything, or one agent. Raises MemoryStoreUnavailableError where SQL is away."""
        report = self.report
        report.database += await self._sql.ask(self._sql.store.check_integrity)
        if agent_id is not None:
            await self._check_agent(agent_id)
        else:
            async for name in self._agents():
                await self._check_agent(name)
        if self._redis.tier is not None:
            await self._check_redis(self._redis.tier, agent_id)
        return report

    def _found(self, agent_id: str, memory_id: str, where: str) -> None:
        self.report.damaged_count += 1
        if len(self.report.damaged) < self._limit:
            self.report.damaged.append(DamagedMemory(agent_id, memory_id, where))

    async def _agents(self) -> AsyncIterator[str]:
        seen: set[str] = set()
        touched_us = 0
        while True:
            states = await self._sql.ask(self._sql.store.agents, touched_after_us=touched_us, limit=1_000)
            for state in states:
                if state.agent_id not in seen:
                    seen.add(state.agent_id)
                    yield state.agent_id
            if len(states) < 1_000:
                return
            # Those that were touched in the same microsecond come again.
            newest = states[-1].touched_us
            touched_us = newest if newest == touched_us + 1 else newest - 1

    async def _check_agent(self, agent_id: str) -> None:
        cursor = 0
        index = self._loaded.peek(agent_id)
        while True:
            try:
                page = await self._sql.ask(self._sql.store.changes, agent_id, cursor, limit=1_000)
            except MemoryStoreError as error:
                if error.fault is not StoreFault.DAMAGED:
                    raise
                self.report.database.append(f"agent {agent_id!r} can't be read from its change {cursor} on: {error}")
                self.report.is_complete = False
                return
            self.report.scanned += len(page.copies) + len(page.damaged)
            for memory_id in page.damaged:
                self._damage.note(memory_id, "SQL")
                self._found(agent_id, memory_id, "SQL")
                if index is not None:
                    index.leave_out(memory_id)
            cursor = page.seq
            if not page.more:
                return
            await async_give_way()

    async def _check_redis(self, tier: AsyncRedisTier, agent_id: str | None) -> None:
        ask = self._redis.ask
        buckets = list(range(BUCKETS)) if agent_id is None else [bucket_of(agent_id)]
        sizes = await ask(tier.sizes, buckets)
        if sizes is None:
            self.report.is_complete = False
            return
        for bucket, size in zip(buckets, sizes, strict=True):
            # Those that were found before, then those that are still to be found.
            known = await ask(tier.damaged_members, bucket, limit=self._limit)
            members = await ask(tier.dirty_members, bucket, limit=size[0]) if size[0] else []
            if known is None or members is None:
                self.report.is_complete = False
                return
            by_agent: dict[str, list[str]] = {}
            for name, memory_id in (*known, *members):
                if agent_id is None or name == agent_id:
                    by_agent.setdefault(name, []).append(memory_id)
            for name, ids in by_agent.items():
                for start in range(0, len(ids), MAX_ENTRIES):
                    await self._check_copies(tier, name, ids[start : start + MAX_ENTRIES])

    async def _check_copies(self, tier: AsyncRedisTier, agent_id: str, ids: list[str]) -> None:
        reply = await self._redis.ask(tier.read, agent_id, ids)
        if reply is None:
            self.report.is_complete = False
            return
        self.report.scanned += len(ids)
        # What a greater write has replaced since is whole again.
        whole = [memory_id for memory_id in ids if memory_id not in reply.damaged]
        await self._redis.ask(tier.forget_damaged, agent_id, whole)
        for memory_id in reply.damaged:
            self._found(agent_id, memory_id, "Redis")
        if reply.damaged:
            self.report.quarantined += await self._dirty.quarantine(agent_id, reply.damaged)
