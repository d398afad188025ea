"""What synchronisation and maintenance report."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["MaintenanceReport", "SyncReport"]


@dataclass(slots=True)
class SyncReport:
    """What a round of synchronisation did, in copies."""

    synced: int = 0
    """Dirty copies that SQL holds now."""
    beaten: int = 0
    """Dirty copies that went because SQL held a greater one."""
    followed: int = 0
    """Rows of the feed that Redis has been told about."""
    evicted: int = 0
    """Clean copies whose residency was over."""
    remaining: bool = False
    """Whether dirty copies may be left: SQL or Redis went away meanwhile."""


@dataclass(slots=True)
class MaintenanceReport:
    """What a pass did, in memories."""

    moved: dict[str, int] = field(default_factory=lambda: {"STM to IM": 0, "STM to LTM": 0, "IM to LTM": 0})
    expired: int = 0
    purged_tombstones: int = 0
    erased: int = 0
    accesses: int = 0
    snapshots: int = 0
    sync: SyncReport = field(default_factory=SyncReport)
