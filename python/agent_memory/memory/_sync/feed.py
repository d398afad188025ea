# Generated from ../_async/feed.py by tools/generate_sync.py: edit that file, not this one.

"""Redis follows SQL's change feed, with a cursor per agent: lower copies go, floors rise."""

from __future__ import annotations

from agent_memory.memory._damage import Damage
from agent_memory.memory._redis_scripts import MAX_ENTRIES
from agent_memory.memory._sync.clean_copies import CleanCopies
from agent_memory.memory._sync.redis_gateway import RedisGateway
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.reports import SyncReport

__all__ = ["Feed"]


class Feed:
    """Tells Redis what SQL has committed. Any number of threads may use one object."""

    def __init__(self, sql: SqlGateway, redis: RedisGateway, clean: CleanCopies, damage: Damage) -> None:
        self._sql = sql
        self._redis = redis
        self._clean = clean
        self._damage = damage
        self._touched_us = 0

    def follow_agents(self, report: SyncReport) -> None:
        """Lets Redis follow the feeds of agents that were touched since the last round."""
        while True:
            # Commits may become visible a little out of order: the overlap covers that.
            states = self._sql.ask(
                self._sql.store.agents, touched_after_us=max(0, self._touched_us - 1_000_000), limit=1_000
            )
            for state in states:
                if state.touched_us + 2_000_000 >= self._touched_us:
                    self.follow(state.agent_id, report)
            newest = max((state.touched_us for state in states), default=0)
            if len(states) < 1_000 or newest <= self._touched_us:
                self._touched_us = max(newest, self._touched_us)
                return
            self._touched_us = newest

    def follow(self, agent_id: str, report: SyncReport) -> None:
        """Lets Redis follow one agent's feed."""
        tier = self._redis.tier
        if tier is None:
            return
        epoch = self._clean.epoch_for(agent_id)
        state = None if epoch is None else self._redis.ask(tier.read, agent_id, ())
        if state is None or epoch is None or state.epoch != epoch:
            return
        cursor = state.cursor
        while True:
            page = self._sql.ask(self._sql.store.changes, agent_id, cursor, limit=MAX_ENTRIES, vectors=False)
            for memory_id in page.damaged:
                self._damage.note(memory_id, "SQL")
            if page.reset and cursor:
                # Rows were purged before the feed reached Redis: all its copies of this agent are deleted.
                self._redis.ask(tier.erase_clean, agent_id)
                return
            if page.copies:
                stamps = [(copy.id, copy.stamp) for copy in page.copies]
                answer = self._redis.ask(tier.follow, agent_id, stamps, page.seq, epoch)
                if answer is None or "e" in answer.letters:
                    return
                report.followed += len(stamps)
            cursor = page.seq
            if not page.more:
                return
