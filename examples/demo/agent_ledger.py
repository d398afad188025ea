"""What the agent's memory system has promised, and whether the database keeps it.

The judge opens the database with a new memory system that has no Redis: what it finds is in SQL and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent_memory.memory import AsyncMemorySystem, Tier

__all__ = ["AgentLedger", "AgentVerdict", "judge_agent"]

_PROBLEMS_SHOWN: Final = 20


@dataclass(slots=True)
class AgentLedger:
    """What was acknowledged, by id, and what was not."""

    contents: dict[str, str] = field(default_factory=dict)
    """The content last acknowledged of each memory that must be there."""
    deleted: set[str] = field(default_factory=set)
    """Ids whose deletion was acknowledged."""
    unknown: set[str] = field(default_factory=set)
    """Contents whose write raised: they may be there or not."""
    levels: Counter[str] = field(default_factory=Counter)
    """Acknowledged writes by durability."""
    corrected: int = 0
    refused: int = 0
    """Writes that raised DurabilityError."""


@dataclass(slots=True)
class AgentVerdict:
    """What the judge has found. `passed` is the answer; `problems` says what is wrong, at most the first twenty."""

    memories: int = 0
    """Those that must be there."""
    found: int = 0
    deleted: int = 0
    by_tier: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    altered: int = 0
    """Memories with another content than the one acknowledged last."""
    resurrected: int = 0
    """Deleted ones that are there."""
    doubled: int = 0
    """Memories that were never acknowledged, contents that stand twice."""
    unanswered: int = 0
    """Questions that got no answer, or a wrong one, while the database could be asked."""
    unexpected_errors: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        broken = self.missing, self.altered, self.resurrected, self.doubled, self.unanswered, self.unexpected_errors
        return not any(broken)

    def add_problem(self, problem: str) -> None:
        """Notes a broken promise."""
        if len(self.problems) < _PROBLEMS_SHOWN:
            self.problems.append(problem)


async def judge_agent(path: Path, agent_id: str, ledger: AgentLedger, verdict: AgentVerdict) -> None:
    """Compares the ledger with the database in `path`, and adds what it finds to `verdict`."""
    found: dict[str, str] = {}
    tiers: Counter[Tier] = Counter()
    async with AsyncMemorySystem(path, redis=None) as memory:
        async for entry in memory.query(agent_id, order_by="seq"):
            found[entry.id] = entry.content
            tiers[entry.tier] += 1
    verdict.by_tier = {tier.name: tiers[tier] for tier in Tier}
    verdict.memories, verdict.deleted, verdict.found = len(ledger.contents), len(ledger.deleted), len(found)
    for memory_id, content in ledger.contents.items():
        if memory_id not in found:
            verdict.missing += 1
            verdict.add_problem(f"memory {memory_id} was acknowledged and is not there")
        elif found[memory_id] != content and found[memory_id] not in ledger.unknown:
            verdict.altered += 1
            verdict.add_problem(f"memory {memory_id} does not say what was acknowledged last")
    for memory_id in ledger.deleted & found.keys():
        verdict.resurrected += 1
        verdict.add_problem(f"memory {memory_id} was deleted and is there again")
    unexpected = found.keys() - ledger.contents.keys() - ledger.deleted
    strangers = [memory_id for memory_id in unexpected if found[memory_id] not in ledger.unknown]
    twice = len(found) - len(set(found.values()))
    verdict.doubled += len(strangers) + twice
    for memory_id in strangers:
        verdict.add_problem(f"memory {memory_id} is there and was never acknowledged")
    if twice:
        verdict.add_problem(f"{twice} contents stand there more than once")
