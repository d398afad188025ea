# Generated from ../_async/protocol.py by tools/generate_sync.py: edit that file, not this one.

"""The protocol of a SQL store.

`operations.py` tells the rules that every store keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from agent_memory.memory._copy import Copy
from agent_memory.memory.entries import Tier
from agent_memory.memory.stores.operations import (
    Access,
    AgentState,
    Candidate,
    ChangePage,
    Cursor,
    EmbeddingSpace,
    Erasure,
    MemoryQuery,
    NamespaceCount,
    Operation,
    QueryPage,
    StoreStats,
    Unembedded,
    WriteResult,
)

__all__ = ["MemoryStore"]


class MemoryStore(Protocol):
    """A SQL store. Any thread may use it; every method may raise MemoryStoreUnavailableError: its `fault` says why."""

    def open(self) -> None:
        """Connects, and brings the schema up to date; raises MemorySchemaError for a foreign or newer one."""
        ...

    def close(self) -> None:
        """Finishes what was accepted, then closes. Does nothing when closed."""
        ...

    def write(self, operations: Sequence[Operation]) -> list[WriteResult]:
        """Applies operations in their order; returns when all are committed."""
        ...

    def get(self, ids: Sequence[str], *, vectors: bool = True, damaged: list[str] | None = None) -> list[Copy | None]:
        """The copies held, tombstones among them, in the order of `ids`. Without `vectors` the checksum goes unchecked.

        Raises CorruptMemoryError for the first that does not match its checksum; with a list `damaged`, adds such ids to it
        instead, and gives None for them.
        """
        ...

    def get_by_key(
        self, agent_id: str, key: str, namespace: Sequence[str] = (), user_id: str | None = None
    ) -> Copy | None:
        """The memory that a user's key names; without `user_id` that of no user. Raises CorruptMemoryError."""
        ...

    def query(
        self, query: MemoryQuery, *, limit: int = 1_000, cursor: Cursor | None = None, vectors: bool = True
    ) -> QueryPage:
        """At most `limit` (1..10,000) copies, in the query's order; damaged ones are left out and named."""
        ...

    def count(self, query: MemoryQuery) -> int:
        """How many memories match."""
        ...

    def changes(self, agent_id: str, after_seq: int = 0, *, limit: int = 1_000, vectors: bool = True) -> ChangePage:
        """What changed after `after_seq`. From 0 on it is everything the agent has. Damaged ones are left out and named."""
        ...

    def agent(self, agent_id: str) -> AgentState | None:
        """The agent's row; None where nothing was ever written."""
        ...

    def agents(self, *, touched_after_us: int = 0, limit: int = 1_000) -> list[AgentState]:
        """Agents in the order in which they were touched last. Overlap successive calls by a second: commits may swap."""
        ...

    def namespaces(
        self, agent_id: str, prefix: Sequence[str] = (), *, limit: int = 1_000, offset: int = 0
    ) -> list[NamespaceCount]:
        """The namespaces in use that begin with `prefix`, sorted."""
        ...

    def aged(self, tier: Tier, created_before_us: int, *, limit: int = 500) -> list[Candidate]:
        """The oldest memories of all agents in STM or IM that were first stored before a time."""
        ...

    def crowded(self, tier: Tier, max_entries: int, *, limit: int = 100) -> list[AgentState]:
        """Agents that have more than `max_entries` memories in a tier."""
        ...

    def oldest(self, agent_id: str, tier: Tier, *, limit: int = 500) -> list[Candidate]:
        """The memories of one agent in STM or IM that were stored first."""
        ...

    def record_accesses(self, accesses: Iterable[Access]) -> None:
        """Adds to the statistics of use; ids that are not there are passed over. Changes no version and no seq."""
        ...

    def accesses(self, ids: Sequence[str]) -> list[Access]:
        """The statistics of those ids that have any."""
        ...

    def expire(self, now: float, *, limit: int = 1_000) -> list[WriteResult]:
        """Leaves tombstones for at most `limit` memories with `expires_at <= now`; returns them."""
        ...

    def begin_erasure(self, kind: Literal["agent", "user"], name: str) -> Erasure:
        """Raises the fence: writes of before are refused from now on. What goes of an agent is no longer read."""
        ...

    def erase(self, kind: Literal["agent", "user"], name: str, *, limit: int = 1_000) -> Erasure:
        """Erases at most `limit` memories of an erasure that was begun. Any process can resume it at any time."""
        ...

    def user_agents(self, user_id: str) -> list[str]:
        """The agents that hold anything of a user: expired memories and tombstones, too."""
        ...

    def scrub(self) -> bool:
        """Takes what erased rows have left out of the database's own files, as far as the store promises that; whether all of
        it is out.
        """
        ...

    def erasures(self) -> list[Erasure]:
        """Those that were begun and are not finished."""
        ...

    def purge_tombstones(self, before_us: int, *, limit: int = 1_000) -> int:
        """Forgets at most `limit` tombstones with a version below `before_us`; returns how many."""
        ...

    def train_dictionary(self, *, force: bool = False) -> int | None:
        """Trains a dictionary on the contents of long-term memory, where there are enough and none is (or `force`).

        Returns its number. Contents are compressed with the newest, and each keeps the number of its own.
        """
        ...

    def check_writable(self) -> None:
        """Raises MemoryStoreUnavailableError where the database is away, takes no writes or is locked; writes nothing."""
        ...

    def check_integrity(self) -> list[str]:
        """What the database finds damaged in its own files, in its own words; empty where it finds nothing, or cannot tell."""
        ...

    def embedding_space(self) -> EmbeddingSpace | None:
        """The space of the vectors; None while there was none."""
        ...

    def note_embedding_space(self, space: EmbeddingSpace) -> EmbeddingSpace:
        """Begins a space whose number is the next one, or notes model and completion of the present one.

        Returns the present one: another one than `space` if another process was faster.
        """
        ...

    def unembedded(
        self,
        space: EmbeddingSpace,
        which: Literal["pending", "earlier", "missing"],
        after_row: int,
        *,
        limit: int = 500,
    ) -> list[Unembedded]:
        """Memories without a vector of `space`, in the order of their rows, after one of them.

        `"pending"`: those whose vector could not be made; `"earlier"`: and those with one of an earlier space;
        `"missing"`: and texts that never had one.
        """
        ...

    def stats(self) -> StoreStats:
        """Counters, for people and dashboards."""
        ...
