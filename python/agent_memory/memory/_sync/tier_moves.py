# Generated from ../_async/tier_moves.py by tools/generate_sync.py: edit that file, not this one.

"""Memories move from tier to tier: by age, and where a tier of an agent is crowded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent_memory._concurrency import Task, give_way, sleep, spawn
from agent_memory.memory._sync.clean_copies import CleanCopies
from agent_memory.memory._sync.redis_gateway import RedisGateway
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.entries import Tier
from agent_memory.memory.reports import MaintenanceReport
from agent_memory.memory.settings import MemorySettings
from agent_memory.memory.stores.operations import Candidate, Move, WriteStatus

__all__ = ["TierMoves"]

MAX_CANDIDATES: Final = 10_000
"""Memories that are looked up at a time to be moved in batches: finding those of one agent sorts all of its tier."""

TURN_ENTRIES: Final = 32
"""Memories that a background pass handles without letting callers in between."""

Moved = dict[Tier, dict[str, list[str]]]
"""Ids by new tier and agent."""


class TierMoves:
    """Moves memories to the next tier. Any number of threads may use one object."""

    def __init__(self, sql: SqlGateway, redis: RedisGateway, clean: CleanCopies, settings: MemorySettings) -> None:
        self._sql = sql
        self._redis = redis
        self._clean = clean
        self._settings = settings

    def run(self, now: float, report: MaintenanceReport) -> None:
        """Moves what is old enough at `now` (seconds since the epoch), then what is too much of an agent."""
        short_term, intermediate = self._settings.short_term, self._settings.intermediate
        for tier, ttl_s in ((Tier.STM, short_term.ttl_s), (Tier.IM, intermediate.ttl_s)):
            self._move_aged(tier, int((now - ttl_s) * 1e6), report)
        for tier, limit in ((Tier.STM, short_term.max_entries), (Tier.IM, intermediate.max_entries)):
            self._move_crowded(tier, limit, report)

    def _move_aged(self, tier: Tier, before_us: int, report: MaintenanceReport) -> None:
        ask, store = self._sql.ask, self._sql.store
        while candidates := ask(store.aged, tier, before_us, limit=MAX_CANDIDATES):
            if not self._move_all(tier, candidates, report):
                return

    def _move_crowded(self, tier: Tier, limit: int, report: MaintenanceReport) -> None:
        ask, store = self._sql.ask, self._sql.store
        while states := ask(store.crowded, tier, limit):
            moved = 0
            for state in states:
                excess = state.counts[tier] - limit
                while excess > 0:
                    count = min(excess, MAX_CANDIDATES)
                    oldest = ask(store.oldest, state.agent_id, tier, limit=count)
                    done = self._move_all(tier, oldest, report)
                    moved += done
                    excess -= count
                    if not done:
                        break
            if not moved:
                return

    def _move_all(self, tier: Tier, candidates: Sequence[Candidate], report: MaintenanceReport) -> int:
        """Moves them in batches, with a pause after each; Redis gets one batch while SQL works on the next."""
        settings = self._settings.maintenance
        done = 0
        telling: Task[None] | None = None
        for start in range(0, len(candidates), settings.batch_entries):
            moved = self._move_in_sql(tier, candidates[start : start + settings.batch_entries])
            if telling is not None:
                telling.join()
            telling = spawn(self._notify_redis, moved, name="agent-memory-relabel")
            for target, by_agent in moved.items():
                count = sum(map(len, by_agent.values()))
                report.moved[f"{tier.name} to {target.name}"] += count
                done += count
            sleep(settings.pause_s)
        if telling is not None:
            telling.join()
        return done

    def _target(self, tier: Tier, candidate: Candidate) -> Tier:
        if tier is Tier.STM and candidate.importance >= self._settings.intermediate.min_importance:
            return Tier.IM
        return Tier.LTM

    def _move_in_sql(self, tier: Tier, candidates: Sequence[Candidate]) -> Moved:
        """Puts the label of the next tier on memories of one tier that have not changed."""
        moves: list[Move] = []
        for start in range(0, len(candidates), TURN_ENTRIES):
            turn = candidates[start : start + TURN_ENTRIES]
            moves += [Move(one.id, one.agent_id, one.version, self._target(tier, one)) for one in turn]
            give_way()
        results = self._sql.write(moves)
        to_intermediate: dict[str, list[str]] = {}
        to_long_term: dict[str, list[str]] = {}
        applied = WriteStatus.APPLIED
        for start in range(0, len(moves), TURN_ENTRIES):
            stop = start + TURN_ENTRIES
            for move, result in zip(moves[start:stop], results[start:stop], strict=True):
                if result.status is applied:
                    by_agent = to_intermediate if move.tier is Tier.IM else to_long_term
                    by_agent.setdefault(move.agent_id, []).append(move.id)
            give_way()
        moved = {Tier.IM: to_intermediate, Tier.LTM: to_long_term}
        return {target: by_agent for target, by_agent in moved.items() if by_agent}

    def _notify_redis(self, moved: Moved) -> None:
        """The labels in Redis, which are advice, and the end of residency of what is in long-term memory now."""
        if self._redis.tier is None:
            return
        for tier, by_agent in moved.items():
            for agent_id, ids in by_agent.items():
                for start in range(0, len(ids), TURN_ENTRIES):
                    part = ids[start : start + TURN_ENTRIES]
                    if tier is Tier.LTM:
                        self._redis.ask(self._redis.tier.evict, agent_id, part)
                    else:
                        self._redis.ask(self._redis.tier.relabel, agent_id, part, tier, self._clean.residency_s(tier))
