"""The policies of the client: settings, and the Python faces of the state machines in Rust. Each works on its own."""

from __future__ import annotations

from agent_memory._core import RecoveryEntry, RecoveryQueue

from .backoff import Backoff, async_exponential_backoff, exponential_backoff
from .breaker import AsyncCircuitBreaker, CircuitBreaker, Counts, counts_by_default
from .event_listeners import subscribe
from .events import Event, EventListener
from .kinds import CommandCategory, FailureKind, Priority
from .recovery import FsyncName, RecoveryConfig
from .settings import (
    BreakerSettings,
    JitterName,
    RetryBudget,
    RetryDecision,
    RetryPolicy,
    Strategy,
    make_guard,
)

__all__ = [
    "AsyncCircuitBreaker",
    "Backoff",
    "BreakerSettings",
    "CircuitBreaker",
    "CommandCategory",
    "Counts",
    "Event",
    "EventListener",
    "FailureKind",
    "FsyncName",
    "JitterName",
    "Priority",
    "RecoveryConfig",
    "RecoveryEntry",
    "RecoveryQueue",
    "RetryBudget",
    "RetryDecision",
    "RetryPolicy",
    "Strategy",
    "async_exponential_backoff",
    "counts_by_default",
    "exponential_backoff",
    "make_guard",
    "subscribe",
]
