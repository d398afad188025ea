"""Clean copies in Redis: copies of what SQL holds.

- A clean copy is put with the epoch known before the SQL statement (R4).
- New memories are put behind the caller's back (`MAX_BEHIND`, beyond which they are simply not cached); updates and deletes
  before the caller goes on, so that no other process is served the old one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from agent_memory._concurrency import AsyncKeyedLocks, AsyncTask, async_spawn
from agent_memory.memory._async.redis_gateway import AsyncRedisGateway
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._copy import Copy
from agent_memory.memory._redis_scripts import MAX_ENTRIES
from agent_memory.memory.entries import Tier
from agent_memory.memory.settings import MemorySettings

__all__ = ["AsyncCleanCopies"]

MAX_BEHIND: Final = 10_000
"""The most clean copies that wait to be put into Redis; beyond it the oldest are dropped: they will be cache misses."""


class AsyncCleanCopies:
    """What this process puts into Redis of what SQL holds. Any number of tasks may use one object.

    `on_hint` is given an agent and Redis' hint after each put.
    """

    def __init__(
        self,
        sql: AsyncSqlGateway,
        redis: AsyncRedisGateway,
        settings: MemorySettings,
        on_hint: Callable[[str, int], None],
    ) -> None:
        self._sql = sql
        self._redis = redis
        self._settings = settings
        self._on_hint = on_hint
        self._opening = AsyncKeyedLocks()
        self._behind: deque[tuple[Copy, str]] = deque(maxlen=MAX_BEHIND)
        self._behind_mutex = threading.Lock()
        self._behind_task: AsyncTask[None] | None = None
        self._behind_runs = False
        self.put_count = 0
        self.put_failures = 0

    # --- epochs ---

    def known_epoch(self, agent_id: str) -> str | None:
        """The agent's epoch as this process knows it, without asking."""
        tier = self._redis.tier
        return None if tier is None else tier.known_epoch(agent_id)

    async def epoch_for(self, agent_id: str) -> str | None:
        """The agent's epoch in Redis, opened where this process does not know it; None where Redis is away."""
        tier = self._redis.tier
        if tier is None or self._redis.is_away():
            return None
        epoch = tier.known_epoch(agent_id)
        if epoch is not None:
            return epoch
        async with self._opening.hold(agent_id):
            epoch = tier.known_epoch(agent_id)
            if epoch is None:
                # Before the epoch begins: Redis follows the feed from here.
                state = await self._sql.ask(self._sql.store.agent, agent_id)
                opened = await self._redis.ask(tier.open_epoch, agent_id, 0 if state is None else state.seq)
                epoch = None if opened is None else str(opened)
        return epoch

    # --- putting ---

    def residency_s(self, tier: int) -> float:
        """For how long a copy of a tier stays in Redis."""
        if tier == Tier.STM:
            # Until maintenance has put the next tier's label on it: a copy that left before would be missed there.
            return self._settings.short_term.ttl_s + 2 * self._settings.maintenance.interval_s
        return self._settings.intermediate.ttl_s if tier == Tier.IM else self._settings.short_term.ttl_s

    def put_behind(self, copies: Sequence[Copy], epoch: str | None) -> None:
        """Puts clean copies soon; drops them where Redis is away."""
        if epoch is not None:
            self.put_all_behind([(copy, epoch) for copy in copies])

    def put_all_behind(self, copies: Sequence[tuple[Copy, str]]) -> None:
        """As `put_behind`, for copies of several agents, each with its epoch."""
        if not copies or self._redis.tier is None or self._redis.is_away():
            return
        self._behind.extend(copies)
        with self._behind_mutex:
            if not self._behind_runs or self._behind_task is None or self._behind_task.is_done():
                self._behind_runs = True
                self._behind_task = async_spawn(self._work_behind, name="agent-memory-put")

    async def _work_behind(self) -> None:
        while self._has_work_behind():
            batches: dict[tuple[str, str, int], dict[str, Copy]] = {}
            for _ in range(MAX_ENTRIES):
                try:
                    copy, epoch = self._behind.popleft()
                except IndexError:
                    break
                batches.setdefault((copy.agent_id, epoch, copy.tier), {})[copy.id] = copy
            for (_, epoch, _), batch in batches.items():
                await self.put(list(batch.values()), epoch)

    def _has_work_behind(self) -> bool:
        with self._behind_mutex:
            self._behind_runs = bool(self._behind)
            return self._behind_runs

    async def put(self, copies: Sequence[Copy], epoch: str) -> bool:
        """Puts clean copies of one agent and tier; returns whether Redis has seen them."""
        tier = self._redis.tier
        assert tier is not None
        answer = await self._redis.ask(tier.put_clean, copies, epoch, self.residency_s(copies[0].tier))
        if answer is None:
            self.put_failures += len(copies)
            return False
        self.put_count += len(copies)
        agent_id = copies[0].agent_id
        self._on_hint(agent_id, answer.hint)
        limit = self._settings.short_term.max_entries + self._settings.intermediate.max_entries
        if answer.number > limit:
            oldest = await self._redis.ask(tier.oldest_ids, agent_id, min(answer.number - limit, MAX_ENTRIES))
            if oldest:
                await self._redis.ask(tier.evict, agent_id, oldest)
        return "e" not in answer.letters

    async def flush(self) -> None:
        """Waits until the copies that wait to be put have been tried."""
        while (task := self._behind_task) is not None and not task.is_done():
            await task.join()
