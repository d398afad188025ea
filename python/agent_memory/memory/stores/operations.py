"""What the memory system asks of a SQL store, and what it answers. The protocol itself is in `_async/protocol.py`.

Rules that every store keeps
- One write is one decision, the core's (`_planned.py`), made inside a transaction that holds the agent's row. Results say
  what became of it; only what no write can help (the database is away, full, foreign) is raised.
- R1: a copy that comes with a version is applied only if it is greater than the one held, by (deleted, version, writer).
- R2: a delete leaves a tombstone, also of an id that is not there yet. Nothing beats a tombstone.
- R6: a move changes the label `tier` of an unchanged version and nothing else (in SQL: compresses, too).
- Each accepted write takes the next `seq` of its agent from the agent's row, in the transaction that commits it: a reader
  that has seen `seq` n has seen everything below.
- A `write` that returned is committed and synced. Writes given in one call are not one transaction, and are applied in
  their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from agent_memory import _check
from agent_memory._enums import NamedIntEnum
from agent_memory.memory._copy import Copy
from agent_memory.memory.entries import Tier

__all__ = [
    "MAX_PAGE_ENTRIES",
    "Access",
    "AgentState",
    "Candidate",
    "ChangePage",
    "Cursor",
    "Delete",
    "EmbeddingSpace",
    "Erasure",
    "MemoryQuery",
    "Move",
    "NamespaceCount",
    "Operation",
    "Put",
    "QueryPage",
    "StoreStats",
    "Unembedded",
    "WriteResult",
    "WriteStatus",
]

MAX_PAGE_ENTRIES = 10_000
"""The most copies that one page of a query or of the change feed holds."""


class Put(NamedTuple):
    """Store a copy.

    With `copy.version == 0` the store assigns version, `created_us` (kept where a version is held) and checksum; otherwise
    the copy is taken as it is, if it beats the one held. `copy.writer` is the caller's in both cases.
    """

    copy: Copy
    """The copy."""
    if_version: int | None = None
    """Only over exactly this version: `CONFLICT` otherwise."""
    create: bool = False
    """Only as a new memory: an id that is held is answered with `EXISTING`. For retries of a create."""


class Delete(NamedTuple):
    """Leave a tombstone."""

    id: str
    """The memory's id."""
    agent_id: str
    """The agent it belongs to."""
    version: int = 0
    """The tombstone's version; default 0: the store assigns one."""
    writer: int = 0
    """The writer of the deletion, below 2^63; breaks ties between equal versions."""
    if_version: int | None = None
    """Only over exactly this version: `CONFLICT` otherwise."""
    generation: int = 0
    """The agent's generation in which the deletion was made; default 0: any."""
    held_only: bool = False
    """Of an id that is not held leave none: `ABSENT`."""
    erases: bool = False
    """The tombstone keeps no idempotency key, and one that has it loses it."""


class Move(NamedTuple):
    """Put another label on a memory."""

    id: str
    """The memory's id."""
    agent_id: str
    """The agent it belongs to."""
    version: int
    """Only of exactly this version: `STALE` otherwise."""
    tier: Tier
    """The label."""


Operation: TypeAlias = Put | Delete | Move


class WriteStatus(NamedIntEnum):
    """What became of one operation."""

    APPLIED = 0
    STALE = 1
    """The store holds this copy or a greater one; of a move: another version. `version` is the one held."""
    DELETED = 2
    """A tombstone is in the way; `version` is its version."""
    CONFLICT = 3
    """`if_version` is not the version held, which is `version` (0: none)."""
    EXISTING = 4
    """The idempotency key, the equal content or the id is there already: `id` and `version` are those held. Not `existed`:
    the idempotency key belongs to a memory that was deleted or has expired."""
    ERASED = 5
    """The write is of a time before its agent or user was erased."""
    ABSENT = 6
    """There is no such memory to move, or for `if_version`."""
    FOREIGN = 7
    """The id belongs to another agent."""


class WriteResult(NamedTuple):
    """The answer to one operation."""

    status: WriteStatus
    """What became of it."""
    id: str
    """The memory's id, which for `key`, idempotency and deduplication may be that of an older one."""
    version: int = 0
    """The version held now; default 0: none."""
    seq: int = 0
    """The place in the change feed; 0 where nothing changed."""
    existed: bool = False
    """Whether a copy was held before, neither a tombstone nor expired."""
    created_us: int = 0
    """Of a put that was applied: when the memory was first stored, in microseconds since the epoch."""
    copy: Copy | None = None
    """Of a put that was applied: the copy as it is held now."""


class Cursor(NamedTuple):
    """Where the next page of a query begins."""

    value: int | float
    """What the query orders by, of the last copy of the page before."""
    row: int
    """The row of that copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryQuery:
    """Which memories: all conditions must hold. Tombstones and expired memories never match.

    Raises ValueError where neither `agent_id` nor `user_id` is given, or a value is outside its rule, and TypeError for a value
    of another type.
    """

    agent_id: str | None = None
    """Memories of this agent; default None: of any."""
    user_id: str | None = None
    """Memories of this user; default None: of any, and of none."""
    session_id: str | None = None
    """Memories of this conversation; default None: of any, and of none."""
    namespace: tuple[str, ...] = ()
    """The first labels; with `namespace_exact` all of them."""
    namespace_exact: bool = False
    """Whether `namespace` is the whole namespace."""
    since_s: float | None = None
    """`timestamp_s >= since_s`, seconds since the epoch."""
    until_s: float | None = None
    """`timestamp_s < until_s`, seconds since the epoch."""
    step_from: int | None = None
    """`step >= step_from`."""
    step_to: int | None = None
    """`step <= step_to`."""
    min_importance: float | None = None
    """`importance >= min_importance`, 0..1."""
    max_importance: float | None = None
    """`importance <= max_importance`, 0..1."""
    memory_types: tuple[str, ...] = ()
    """One of these; empty: any."""
    tags: tuple[str, ...] = ()
    """All of these."""
    any_tags: tuple[str, ...] = ()
    """At least one of these."""
    attributes: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    """Top-level values of the metadata, equal in type and value."""
    tiers: tuple[Tier, ...] = ()
    """One of these; empty: any."""
    key: str | None = None
    """The memory of this key; default None: any memory."""
    order_by: Literal["timestamp", "step", "importance", "seq", "created"] = "timestamp"
    """Ties are in the order in which they were stored. Memories without a step come first."""
    descending: bool = False
    """Whether the greatest comes first."""

    def __post_init__(self) -> None:
        if self.agent_id is None and self.user_id is None:
            raise ValueError("agent_id or user_id must be given, got neither")
        for name in ("agent_id", "user_id", "session_id", "key"):
            value = getattr(self, name)
            if value is not None:
                _check.instance(name, value, str)
        for name in ("since_s", "until_s", "min_importance", "max_importance"):
            value = getattr(self, name)
            _check.numbers({name: value})
            if value is not None and math.isnan(value):
                raise ValueError(f"{name} must be a number, got nan")
        for name in ("step_from", "step_to"):
            _check.whole_or_none(name, getattr(self, name))
        for name in ("namespace", "memory_types", "tags", "any_tags", "tiers"):
            kind = Tier if name == "tiers" else str
            object.__setattr__(self, name, _members(name, getattr(self, name), kind))
        for name in ("namespace_exact", "descending"):
            _check.flag(name, getattr(self, name))
        if self.order_by not in ("timestamp", "step", "importance", "seq", "created"):
            raise ValueError(
                f"order_by must be 'timestamp', 'step', 'importance', 'seq' or 'created', got {self.order_by!r}"
            )
        if not isinstance(self.attributes, Mapping):
            raise TypeError(f"attributes must be a mapping, got {type(self.attributes).__name__}")
        for name in self.attributes:
            if not isinstance(name, str) or not name or any(c in '"\\' or ord(c) < 32 for c in name):
                raise ValueError(f"attributes must have names without quotes and backslashes, got {name!r}")
        for value in self.attributes.values():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"attributes must have finite values, got {value!r}")


def _members(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    """A collection of a condition as a tuple."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence or a set, got {type(value).__name__}")
    members = tuple(value)
    for member in members:
        if not isinstance(member, kind):
            raise TypeError(f"{name} must be a sequence or a set of {kind.__name__}, got {member!r} in it")
    return members


class QueryPage(NamedTuple):
    """A page of the copies that a query matches."""

    copies: list[Copy]
    """The copies, in the query's order."""
    cursor: Cursor | None
    """Where the next page begins; None: there is none."""
    damaged: tuple[str, ...] = ()
    """The ids of memories that would be among them and do not match their checksums."""


class ChangePage(NamedTuple):
    """A page of an agent's change feed."""

    copies: list[Copy]
    """The copies that changed, tombstones among them, in the order of `seq`."""
    seq: int
    """The place after which the next page begins."""
    generation: int
    """The agent's generation."""
    reset: bool
    """The reader's place is older than what was purged, or of an erased generation: begin again from 0."""
    more: bool
    """Whether there is a next page."""
    damaged: tuple[str, ...] = ()
    """The ids of memories that would be among them and do not match their checksums."""


class AgentState(NamedTuple):
    """An agent's row. The counts are of memories that are neither deleted nor erased."""

    agent_id: str
    """The agent."""
    seq: int
    """The end of its change feed."""
    last_version: int
    """The greatest version that was assigned."""
    generation: int
    """1, and one more with each erasure."""
    purged_seq: int
    """The last place of the feed whose tombstone was purged."""
    erased_seq: int
    """The last place of the feed that was erased."""
    counts: tuple[int, int, int]
    """Memories in STM, IM and LTM."""
    touched_us: int
    """When `seq` moved last, in microseconds since the epoch."""


class Access(NamedTuple):
    """The use of a memory."""

    id: str
    """The memory's id."""
    uses: int
    """How often it was used: since the last report where it is recorded, in all where it is read."""
    last_at_s: float
    """When it was used last, seconds since the epoch."""


class Candidate(NamedTuple):
    """What the background passes look at to choose what moves."""

    id: str
    """The memory's id."""
    agent_id: str
    """The agent it belongs to."""
    version: int
    """The version held."""
    tier: Tier
    """Where it lives."""
    importance: float
    """0..1."""
    created_us: int
    """When it was first stored, in microseconds since the epoch."""


class Erasure(NamedTuple):
    """An erasure that was begun: writes of the agent or user up to that moment are rejected, and its rows erased in batches."""

    kind: Literal["agent", "user"]
    """Whether it is an agent's or a user's."""
    name: str
    """The id of the agent or user."""
    generation: int
    """The generation that it begins."""
    fence_version: int
    """The erasure fence: versions up to it are erased."""
    remaining: bool
    """Whether rows may be left: call `erase` again."""
    erased: int = 0
    """How many memories this call erased."""


class EmbeddingSpace(NamedTuple):
    """Of which model the vectors of a database are. Each migration to another model begins a new one."""

    number: int
    """From 1 on; the greatest counts."""
    model: str
    """Empty where the model's name was never told."""
    dimensions: int
    first_version: int = 0
    """Vectors of lower versions are of an earlier space."""
    is_complete: bool = True
    """Whether all memories have got vectors of it."""


class Unembedded(NamedTuple):
    """A memory whose vector is missing, waits to be made, or is of an earlier space."""

    row: int
    """Its place in the table: where the next page begins."""
    id: str
    """The memory's id."""
    agent_id: str
    """The agent it belongs to."""


class NamespaceCount(NamedTuple):
    """A namespace in use and how many memories it holds."""

    namespace: tuple[str, ...]
    """The labels of the namespace."""
    memories: int
    """The number of memories."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store has done since it was opened, and what it holds."""

    engine: str
    """The database: `"sqlite"` or `"postgresql"`, or the name of another store's."""
    schema_version: int
    """The version of the schema."""
    pending_writes: int
    """Writes that wait."""
    transactions: int
    """Transactions of writes that were committed."""
    writes: int
    """Operations in them."""
    longest_transaction_ms: float
    """The longest transaction of writes, in milliseconds."""
    dictionaries: int
    """Compression dictionaries that are loaded."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the store reports, by name."""
