"""The two ends of a write's decision, which is the core's (`MemoryPlan`): what it wants to know, and what it decided.

A store begins a transaction, reads what is `Wanted`, and writes the `Writes`: each row once, however often it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, TypeAlias

from agent_memory._core import MemoryPlan
from agent_memory.memory._copy import Copy
from agent_memory.memory.errors import MemoryStoreError
from agent_memory.memory.stores.operations import (
    AgentState,
    Delete,
    Move,
    Operation,
    Put,
    WriteResult,
    WriteStatus,
)

__all__ = ["CLASSES", "Agent", "Held", "Label", "Read", "Replaced", "Wanted", "Writes", "decide", "plan_of"]

CLASSES: Final = SimpleNamespace(
    put=Put,
    delete=Delete,
    relabel=Move,
    copy=Copy,
    result=WriteResult,
    **{status.name.lower(): status for status in WriteStatus},
)
"""What the core reads operations by, and makes results of."""

KeyName: TypeAlias = tuple[str, str, str, str]
"""Agent, user, namespace, key: what a caller's key is unique in, and the key."""

RequestName: TypeAlias = tuple[str, str, str]
"""Agent, user, idempotency key."""

Twin: TypeAlias = tuple[str, bytes, str, float | None]
"""Agent, content hash (of user, namespace and content), session, expiry: what makes memories without a key duplicates."""

HeldRow: TypeAlias = tuple[Any, ...]
"""A row as it was read: the columns of `Held`; of a move the first eight."""


class Agent(NamedTuple):
    """The row of an agent. `number` stands for its name in other tables; 0: not there yet."""

    number: int
    name: str
    seq: int = 0
    last_version: int = 0
    generation: int = 1
    purged_seq: int = 0
    erased_seq: int = 0
    erased_version: int = 0
    short_term_count: int = 0
    intermediate_count: int = 0
    long_term_count: int = 0
    touched_us: int = 0

    def state(self) -> AgentState:
        """The row as its readers see it."""
        counts = (self.short_term_count, self.intermediate_count, self.long_term_count)
        return AgentState(
            *(self.name, self.seq, self.last_version, self.generation, self.purged_seq, self.erased_seq),
            counts,
            self.touched_us,
        )


class Held(NamedTuple):
    """What a plan must know of a row that is there; to move it, what has no default."""

    row: int
    id: str
    agent_id: str
    version: int
    writer: int
    deleted: int
    tier: int
    seq: int
    created_us: int = 0
    namespace: str = ""
    user_id: str = ""
    key: str = ""
    idempotency_key: str = ""
    content_hash: bytes = b""
    tags: str = ""
    session_id: str = ""
    expires_at: float | None = None


class Wanted(NamedTuple):
    """What must be read before a plan can decide; no list has duplicates."""

    agents: list[str]
    """Sorted: the order in which rows are locked."""
    ids: list[str]
    keys: list[KeyName]
    """Of these the holders that are neither deleted nor erased."""
    requests: list[RequestName]
    """Of these what they stand for, unless it is erased."""
    twins: list[Twin]
    """Of each the first one that is neither deleted, erased nor expired."""
    users: list[str]
    """Of these the fences, and of the users of all rows that were read."""


class Read(NamedTuple):
    """What a store has read of that."""

    agents: Sequence[Agent]
    """Those of all rows in `held` among them; one that is not given begins at nothing."""
    held: Sequence[HeldRow]
    later_requests: Sequence[tuple[RequestName, str]] = ()
    """Idempotency keys of calls that were answered with a memory that was there, and its id."""
    fences: Sequence[tuple[str, int]] = ()
    """Users, and up to which version theirs is erased."""

    def users(self, wanted: Wanted) -> set[str]:
        """Those whose fences are wanted."""
        return {user for row in self.held if len(row) > _USER_ID and (user := row[_USER_ID])}.union(wanted.users)

    def missing_agents(self) -> set[str]:
        """Those of rows in `held` that no operation names: their own agents' rows decide whether they are erased."""
        return {row[_AGENT_ID] for row in self.held}.difference(agent.name for agent in self.agents)


_USER_ID: Final = Held._fields.index("user_id")
_AGENT_ID: Final = Held._fields.index("agent_id")

Replaced: TypeAlias = tuple[Copy, HeldRow]
"""A row as it is to be, and as it was read."""

Label: TypeAlias = tuple[int, int, int, int]
"""Row, seq, version, tier: a row of which tier and seq alone change."""


class Writes(NamedTuple):
    """What a plan has decided to write."""

    agents: list[Agent]
    inserted: list[Copy]
    replaced: list[Replaced]
    """All columns; the row number and the access statistics stay."""
    buried: list[Replaced]
    """They become tombstones: their payload goes."""
    requests: list[tuple[str, str, str, str, int]]
    """Further idempotency keys: agent, user, key, and id and version of what they stand for."""
    labels: list[Label]


def plan_of(operations: Sequence[Operation]) -> tuple[MemoryPlan, Wanted]:
    """The plan of a transaction, and what it wants to know; raises MemoryStoreError for an operation that none can be."""
    try:
        plan = MemoryPlan(operations, CLASSES)
    except (TypeError, ValueError, OverflowError) as error:
        # Its message may quote a value.
        raise MemoryStoreError(f"an operation has a value of another type or size ({type(error).__name__})") from None
    return plan, Wanted._make(plan.wanted())


def decide(plan: MemoryPlan, now_us: int, read: Read) -> tuple[list[WriteResult], Writes]:
    """What becomes of the operations, in their order, and what is to be written."""
    results, (agents, *writes) = plan.decide(now_us, read.agents, read.held, read.later_requests, read.fences)
    return results, Writes([Agent._make(agent) for agent in agents], *writes)
