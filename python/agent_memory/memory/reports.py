"""What synchronisation and maintenance report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "CheckReport",
    "DamagedMemory",
    "ImportReport",
    "MaintenanceReport",
    "MemoryHealth",
    "ReembedReport",
    "SyncReport",
]


class ImportReport(int):
    """How many memories `import_` stored: an int, which also says what it did not store.

    - `unchanged`: memories that were held already, in the same version.
    - `skipped`: how many were not stored, by reason: `"deleted"` (a tombstone has the id, or the idempotency key),
      `"erased"` (older than the erasure of its agent or user), `"expired"`, `"outdated"` (a newer version is held),
      `"existing"` (its idempotency key, or its content, is another memory's), `"key taken"` (by a newer memory) and
      `"foreign"` (another agent has the id).
    """

    unchanged: int
    skipped: dict[str, int]

    def __new__(cls, stored: int, unchanged: int = 0, skipped: dict[str, int] | None = None) -> ImportReport:
        """Made by `import_`, of what it `stored`."""
        made = super().__new__(cls, stored)
        made.unchanged = unchanged
        made.skipped = skipped or {}
        return made

    def __repr__(self) -> str:
        return f"ImportReport({int(self)}, unchanged={self.unchanged}, skipped={self.skipped})"

    def __reduce__(self) -> tuple[type[ImportReport], tuple[int, int, dict[str, int]]]:
        return (ImportReport, (int(self), self.unchanged, self.skipped))


@dataclass(frozen=True, slots=True)
class MemoryHealth:
    """How a memory system is doing. True where it is healthy."""

    healthy: bool
    """Whether SQL reads and writes, and Redis answers or there is none."""
    state: str
    """ "healthy"; "degraded": something of this does not, and the rest goes on; "down": neither SQL nor Redis answers;
    "not open": before the first use, and after `close()`."""
    sql: str
    """ "here", "away", "full", "read-only" or "locked" (of these three reads go on), "damaged", "wrong"; "unknown" while it is
    not open."""
    redis: str
    """ "here" or "away"; "none" where the system has none, "unknown" while it is not open."""

    @classmethod
    def of(cls, sql: str, redis: str) -> MemoryHealth:
        """Returns the health of a system whose database is in the state `sql` and whose Redis is in the state `redis`."""
        if "unknown" in (sql, redis):
            state = "not open"
        elif sql == "here" and redis != "away":
            state = "healthy"
        elif redis == "here" or sql in ("here", "full", "read-only", "locked"):
            state = "degraded"
        else:
            state = "down"
        return cls(healthy=state == "healthy", state=state, sql=sql, redis=redis)

    def __bool__(self) -> bool:
        return self.healthy


class DamagedMemory(NamedTuple):
    """A memory of which a copy does not match its checksum."""

    agent_id: str
    """The agent it belongs to."""
    id: str
    """The memory's id."""
    where: str
    """`"SQL"` or `"Redis"`."""


@dataclass(slots=True)
class CheckReport:
    """What a check found."""

    scanned: int = 0
    """Memories and tombstones that were read."""
    damaged: list[DamagedMemory] = field(default_factory=list)
    """At most `check`'s `limit` of them; `damaged_count` counts all."""
    damaged_count: int = 0
    """How many memories are damaged."""
    quarantined: int = 0
    """Damaged copies in Redis that are out of the way of synchronisation since this check."""
    database: list[str] = field(default_factory=list)
    """What the database finds damaged in its own files, in its own words."""
    is_complete: bool = True
    """Whether all was read: not where Redis is away, or a damaged file ends the reading of an agent."""

    @property
    def is_intact(self) -> bool:
        """Whether all was read and nothing is damaged."""
        return self.is_complete and not self.damaged_count and not self.database


@dataclass(slots=True)
class SyncReport:
    """What a round of synchronisation did, in copies."""

    synced: int = 0
    """Dirty copies that SQL holds now."""
    beaten: int = 0
    """Dirty copies that went because SQL held a greater one."""
    followed: int = 0
    """Rows of the feed that were applied to Redis."""
    evicted: int = 0
    """Clean copies whose residency was over."""
    remaining: bool = False
    """Whether dirty copies may be left: SQL or Redis went away meanwhile."""


@dataclass(slots=True)
class ReembedReport:
    """What `reembed()` did, in memories."""

    embedded: int = 0
    """Texts that have a vector of the new model now."""
    dropped: int = 0
    """Memories that are no text: their vector, made by the caller with the old model, is gone."""


@dataclass(slots=True)
class MaintenanceReport:
    """What a pass did, in memories."""

    moved: dict[str, int] = field(default_factory=lambda: {"STM to IM": 0, "STM to LTM": 0, "IM to LTM": 0})
    """Memories that changed their tier, by the two tiers."""
    expired: int = 0
    """Memories that were forgotten because their time was over."""
    purged_tombstones: int = 0
    """Tombstones older than `MaintenanceSettings.tombstone_ttl_s` that were removed."""
    erased: int = 0
    """Memories that were erased for erasures begun earlier."""
    accesses: int = 0
    """Memories whose statistics of use were written."""
    snapshots: int = 0
    """Index snapshots that were written."""
    embedded: int = 0
    """Memories that got the embedding that could not be made before, or one of the model that `reembed()` has begun with."""
    sync: SyncReport = field(default_factory=SyncReport)
    """What the round of synchronisation did with which the pass begins."""
