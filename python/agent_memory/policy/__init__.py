"""The policies of the client: settings, and the Python faces of the state machines in Rust. Each is usable on its
own.
"""

from __future__ import annotations

from .kinds import CommandCategory, FailureKind, Priority
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
    "BreakerSettings",
    "CommandCategory",
    "FailureKind",
    "JitterName",
    "Priority",
    "RetryBudget",
    "RetryDecision",
    "RetryPolicy",
    "Strategy",
    "make_guard",
]
