"""`RecoverySettings`: the bounds and the pace of the recovery queue of a resilient client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent_memory.storage import _check

__all__ = ["DEFAULT_RECOVERY", "RecoverySettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySettings:
    """How much the recovery queue holds, how it retries, and what becomes of what it gives up.

    Immutable, so one object may serve many clients. Raises ValueError for a value outside its rule.
    """

    max_entries: int = 10_000
    """The most writes that wait, the one being retried included. A further write is refused (status "failed"). >= 1."""
    max_bytes: int = 64 * 1024 * 1024
    """The most memory their data may take, in bytes, as estimated when a write is queued. >= 1."""
    max_age: float = 3600.0
    """Seconds after which a write that waits is given up (to the dead letters). > 0."""
    max_attempts: int = 10
    """Retries of one write while the circuit is closed before it is given up; those during an outage do not count. >= 1."""
    base_delay: float = 0.5
    """Seconds before the first retry of a write that failed again; doubled with each further failure. > 0."""
    max_delay: float = 30.0
    """The longest pause between two retries of one write, in seconds. > 0."""
    max_dead_letters: int = 1_000
    """How many given-up writes are kept for inspection; beyond that the oldest is forgotten. >= 0."""
    close_timeout: float = 2.0
    """Seconds that closing the client waits for the queue to drain. >= 0."""

    def __post_init__(self) -> None:
        _check.whole("max_entries", self.max_entries, 1)
        _check.whole("max_bytes", self.max_bytes, 1)
        _check.above("max_age", self.max_age, 0)
        _check.whole("max_attempts", self.max_attempts, 1)
        _check.above("base_delay", self.base_delay, 0)
        _check.above("max_delay", self.max_delay, 0)
        _check.whole("max_dead_letters", self.max_dead_letters, 0)
        _check.at_least("close_timeout", self.close_timeout, 0)


DEFAULT_RECOVERY: Final = RecoverySettings()
