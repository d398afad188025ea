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
    """A SQL store.

    Any number of threads may use one store. What needs the database raises MemoryStoreClosedError before `open()` and after
    `close()`, and MemoryStoreUnavailableError while the database is away, full, read-only or locked (its `fault` says which).
    A cancelled change may have been made, a long `write` also in part; repeating it is safe.
    """

    def open(self) -> None:
        """Connects, and brings the schema up to date. Does nothing when open.

        Raises MemorySchemaError for a foreign or newer schema, and MemoryStoreUnavailableError; the store stays closed then.
        """
        ...

    def close(self) -> None:
        """Finishes what was accepted, then closes. Does nothing when closed."""
        ...

    def write(self, operations: Sequence[Operation]) -> list[WriteResult]:
        """Applies `operations` in their order; returns when all are committed.

        Returns a result for each operation. Raises MemoryStoreFullError while the store's bound of waiting writes is reached,
        and MemoryStoreError for an operation with a value of another type or size.
        """
        ...

    def get(self, ids: Sequence[str], *, vectors: bool = True, damaged: list[str] | None = None) -> list[Copy | None]:
        """Returns the copies held, tombstones among them, in the order of `ids`; None for an id that is not held.

        - `ids`: of memories, of any agents.
        - `vectors`: whether copies have their vectors; without them the checksum is not verified. Default True.
        - `damaged`: a list that takes the ids of damaged copies, for which None is returned. Default None: they are raised.

        Raises CorruptMemoryError for the first copy that does not match its checksum, unless `damaged` is given.
        """
        ...

    def get_by_key(
        self, agent_id: str, key: str, namespace: Sequence[str] = (), user_id: str | None = None
    ) -> Copy | None:
        """Returns the memory of `agent_id` that was stored with `key`; None if absent, deleted or expired.

        `namespace`: the whole of it; default `()`. `user_id`: the user it belongs to; default None, the memory of no user.
        Raises CorruptMemoryError where it does not match its checksum.
        """
        ...

    def query(
        self, query: MemoryQuery, *, limit: int = 1_000, cursor: Cursor | None = None, vectors: bool = True
    ) -> QueryPage:
        """Returns a page of the copies that match, in the query's order; damaged ones are left out and named.

        - `query`: the conditions and the order.
        - `limit`: the most copies of the page, 1..10,000; default 1,000.
        - `cursor`: where the page begins, of the page before; default None, the first page.
        - `vectors`: whether copies have their vectors; without them the checksum is not verified. Default True.

        Raises ValueError unless `limit` is 1..10,000.
        """
        ...

    def count(self, query: MemoryQuery) -> int:
        """Returns how many memories match `query`."""
        ...

    def changes(self, agent_id: str, after_seq: int = 0, *, limit: int = 1_000, vectors: bool = True) -> ChangePage:
        """Returns a page of the copies of `agent_id` that changed; damaged ones are left out and named.

        - `after_seq`: the place in the agent's feed after which the page begins; default 0, everything the agent has.
        - `limit`: the most copies of the page, 1..10,000; default 1,000.
        - `vectors`: whether copies have their vectors; without them the checksum is not verified. Default True.

        Raises ValueError unless `limit` is 1..10,000.
        """
        ...

    def agent(self, agent_id: str) -> AgentState | None:
        """Returns the row of `agent_id`; None where nothing was ever written."""
        ...

    def agents(self, *, touched_after_us: int = 0, limit: int = 1_000) -> list[AgentState]:
        """Returns agents in the order in which they were touched last.

        `touched_after_us`: only those touched later, in microseconds since the epoch; default 0, all. Successive calls must
        overlap by a second, because commits may swap. `limit`: the most agents, 1..10,000; default 1,000. Raises ValueError for
        another `limit`.
        """
        ...

    def namespaces(
        self, agent_id: str, prefix: Sequence[str] = (), *, limit: int = 1_000, offset: int = 0
    ) -> list[NamespaceCount]:
        """Returns the namespaces in use of `agent_id`, sorted, with the number of memories in each.

        - `prefix`: the labels that they begin with; default `()`, all.
        - `limit`: the most namespaces, 1..10,000; default 1,000.
        - `offset`: how many to skip, >= 0; default 0.

        Raises ValueError unless `limit` is 1..10,000.
        """
        ...

    def aged(self, tier: Tier, created_before_us: int, *, limit: int = 500) -> list[Candidate]:
        """Returns memories of all agents in `tier` (STM or IM) that were first stored before a time, the oldest first.

        `created_before_us`: the time, in microseconds since the epoch. `limit`: the most memories, 1..10,000; default 500.
        Raises ValueError for another `limit`.
        """
        ...

    def crowded(self, tier: Tier, max_entries: int, *, limit: int = 100) -> list[AgentState]:
        """Returns agents that have more than `max_entries` memories in `tier`, those with the most first.

        `limit`: the most agents, 1..10,000; default 100. Raises ValueError for another `limit`.
        """
        ...

    def oldest(self, agent_id: str, tier: Tier, *, limit: int = 500) -> list[Candidate]:
        """Returns the memories of `agent_id` in `tier` that were first stored the longest ago, the oldest first.

        `limit`: the most memories, 1..10,000; default 500. Raises ValueError for another `limit`.
        """
        ...

    def record_accesses(self, accesses: Iterable[Access]) -> None:
        """Adds `accesses` to the statistics of use; unknown ids are skipped. Changes no version and no seq."""
        ...

    def accesses(self, ids: Sequence[str]) -> list[Access]:
        """Returns the statistics of use of those of `ids` that have any, in any order."""
        ...

    def expire(self, now_s: float, *, limit: int = 1_000) -> list[WriteResult]:
        """Replaces expired memories by tombstones; returns the results of those that were.

        `now_s`: memories whose `expires_at_s` is not above it have expired; seconds since the epoch. `limit`: the most
        memories of this call, >= 1; default 1,000.
        """
        ...

    def begin_erasure(self, kind: Literal["agent", "user"], name: str) -> Erasure:
        """Sets the erasure fence: earlier writes are rejected, and an agent's rows become unreadable.

        `kind`: `"agent"`, or `"user"` for the memories of one user of all agents. `name`: the id of the agent or user. Returns
        the erasure, which `erase` carries out.
        """
        ...

    def erase(self, kind: Literal["agent", "user"], name: str, *, limit: int = 1_000) -> Erasure:
        """Erases a batch of an erasure that was begun. Any process can resume it at any time.

        `kind`, `name`: as for `begin_erasure`. `limit`: the most memories of this call, >= 1; default 1,000. Returns the
        erasure with the number of memories `erased`, and whether any are `remaining`.
        """
        ...

    def user_agents(self, user_id: str) -> list[str]:
        """Returns the agents that hold a row of `user_id`, expired memories and tombstones included."""
        ...

    def scrub(self) -> bool:
        """Removes the remnants of erased rows from the database's files, as far as the store promises that.

        Returns whether all are removed. False: another connection is in the way, or the disk is full; try again.
        """
        ...

    def erasures(self) -> list[Erasure]:
        """Returns the erasures that were begun and are not finished, the oldest first."""
        ...

    def purge_tombstones(self, before_us: int, *, limit: int = 1_000) -> int:
        """Removes old tombstones; returns how many.

        `before_us`: those with a version below it, in microseconds since the epoch. `limit`: the most of this call, >= 1;
        default 1,000.
        """
        ...

    def train_dictionary(self, *, force: bool = False) -> int | None:
        """Trains a compression dictionary on the contents of long-term memory.

        `force`: train one where there is one already; default False. Returns its number, None where none was trained: the
        settings turn dictionaries off, there is one, or too few contents. New contents are compressed with the newest
        dictionary; each content keeps the number of its own.
        """
        ...

    def check_writable(self) -> None:
        """Verifies that the database takes writes; writes nothing.

        Raises MemoryStoreUnavailableError where it is away, read-only or locked.
        """
        ...

    def check_integrity(self) -> list[str]:
        """Returns what the database finds damaged in its files, in its own words; empty where it finds or checks nothing."""
        ...

    def embedding_space(self) -> EmbeddingSpace | None:
        """Returns the present space of the vectors; None before the first vector."""
        ...

    def note_embedding_space(self, space: EmbeddingSpace) -> EmbeddingSpace:
        """Begins `space` if its number is the next one; of the present one, notes model and completion.

        Returns the present space, which is another one than `space` if another process was faster.
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
        """Returns a page of memories without a vector of `space`, in the order of their rows.

        - `which`: `"pending"`: those whose vector could not be made; `"earlier"`: and those with one of an earlier space;
          `"missing"`: and texts that never had one.
        - `after_row`: the row after which the page begins; 0 for the first page.
        - `limit`: the most memories of the page, 1..10,000; default 500.

        Raises ValueError unless `limit` is 1..10,000.
        """
        ...

    def stats(self) -> StoreStats:
        """Returns what the store has done in this process. Asks the database nothing."""
        ...
