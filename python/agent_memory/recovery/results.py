"""The results of writes, common to the sync and the asyncio client."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent_memory.policy import Priority

if TYPE_CHECKING:
    from agent_memory.redis.server_checks import Finding

__all__ = ["DeadLetter", "Health", "NodeHealth", "PendingWrite", "StoreStatus"]


class StoreStatus(enum.StrEnum):
    """The state of a write; equal to its plain string ("stored", …)."""

    STORED = "stored"
    """The server has executed it."""
    QUEUED = "queued"
    """It waits in the recovery queue."""
    DROPPED = "dropped"
    """It was given up at once, because its priority is LOW."""
    FAILED = "failed"
    """It was given up: the queue was full or absent, or every retry failed."""


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """A write in the recovery queue, with its `priority`, without the value that it would store."""

    agent_id: str
    """The agent_id of `store_with_retry`, or the first key of a command."""
    priority: Priority
    attempts: int
    """The number of attempts so far."""
    age_s: float
    """Seconds since it was queued."""
    operation: str = "store_with_retry"
    """ "store_with_retry", the command's name, or "PIPELINE"."""
    durable: bool = False
    """Whether it is in the journal."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A write that was given up, for `recovery.retry()`, by its `id` and `priority`. What it would have stored is not shown."""

    id: int
    agent_id: str
    """The agent_id of `store_with_retry`, or the first key of a command."""
    priority: Priority
    attempts: int
    """How often it was tried."""
    reason: str
    """Why it was given up: "rejected" (an error that is not the connection's), "attempts", "expired", "unknown" (nothing tells
    whether it was executed), "damaged" (damage to the journal may have hidden that it was executed or replaced) or "closed"."""
    error: str | None
    """The class of the last error, if it failed with one."""
    operation: str = "store_with_retry"
    """ "store_with_retry", the command's name, or "PIPELINE"."""


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """The circuit of one node of a cluster."""

    state: str
    """ "closed", "open" or "half_open"."""
    retry_after_s: float | None
    """Seconds until the node is asked again, while open; None while not open."""
    role: str | None
    """ "primary" or "replica"; None for a node that the cluster does not name."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a client is doing: by `health()` from what it knows, by `check_health()` as the server says."""

    healthy: bool
    """Whether the circuit is closed; of a cluster, whether those of all primaries are and every slot has an owner."""
    state: str
    """ "closed", "open" or "half_open"; of a cluster, the worst of its primaries."""
    retry_after_s: float | None
    """Seconds until the server is asked again, while open, and more than 0 then: by the background probe, or by the first call
    that is let through. Infinite when forced open; None while not open."""
    queued: int
    """Writes that wait in the recovery queue."""
    dead_letters: int
    """Writes that were given up and are kept for inspection."""
    damaged_records: int = 0
    """Records of the journal that were lost, or found in an older state, when it was opened; at least 1 if it was damaged."""
    latency_s: float | None = None
    """Seconds that a PING took; None by `health()`, and where there was no answer."""
    clock_skew_s: float | None = None
    """Seconds that the server's clock is ahead of this machine's, by half the latency at the worst; None by `health()`."""
    findings: tuple[Finding, ...] = ()
    """What the server's INFO says is wrong or risky: a failed snapshot, evicted keys, rejected connections and the like."""
    nodes: Mapping[str, NodeHealth] = field(default_factory=dict)
    """Of a cluster: its nodes that have been used, by "host:port"."""

    def __bool__(self) -> bool:
        return self.healthy
