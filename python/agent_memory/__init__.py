"""agent_memory: a fast, resilient Redis client for Python with a Rust core.

The names below are loaded when they are first used, so `import agent_memory` costs little more than `import redis`.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _core

if TYPE_CHECKING:
    from agent_memory._core import Guard
    from agent_memory.errors import (
        CircuitOpenError,
        ClientClosedError,
        ConnectionLimitError,
        ConnectionStateError,
        Outcome,
        RecoveryJournalError,
        RecoveryQueueFullError,
        RedisTimeoutError,
        RedisUnavailableError,
    )
    from agent_memory.memory import AsyncMemorySystem, MemoryEntry, MemoryId, MemorySettings, MemorySystem, Tier
    from agent_memory.policy import (
        AsyncCircuitBreaker,
        BreakerSettings,
        CircuitBreaker,
        Priority,
        RecoveryConfig,
        RecoveryQueue,
        RetryBudget,
        RetryPolicy,
        async_exponential_backoff,
        exponential_backoff,
    )
    from agent_memory.policy.resilience import ResiliencePolicy
    from agent_memory.recovery.results import DeadLetter, Health, PendingWrite, StoreStatus
    from agent_memory.storage.async_redis_client import (
        AsyncResilientRedisClient,
        AsyncStoreResult,
        resilient_operation,
    )
    from agent_memory.storage.redis_client import ResilientRedisClient, StoreResult

__all__ = [
    "AsyncCircuitBreaker",
    "AsyncMemorySystem",
    "AsyncResilientRedisClient",
    "AsyncStoreResult",
    "BreakerSettings",
    "CircuitBreaker",
    "CircuitOpenError",
    "ClientClosedError",
    "ConnectionLimitError",
    "ConnectionStateError",
    "DeadLetter",
    "Guard",
    "Health",
    "MemoryEntry",
    "MemoryId",
    "MemorySettings",
    "MemorySystem",
    "Outcome",
    "PendingWrite",
    "Priority",
    "RecoveryConfig",
    "RecoveryJournalError",
    "RecoveryQueue",
    "RecoveryQueueFullError",
    "RedisTimeoutError",
    "RedisUnavailableError",
    "ResiliencePolicy",
    "ResilientRedisClient",
    "RetryBudget",
    "RetryPolicy",
    "StoreResult",
    "StoreStatus",
    "Tier",
    "__version__",
    "async_exponential_backoff",
    "exponential_backoff",
    "resilient_operation",
]

_MODULES: Final = {
    "agent_memory._core": ("Guard",),
    "agent_memory.errors": (
        "CircuitOpenError",
        "ClientClosedError",
        "ConnectionLimitError",
        "ConnectionStateError",
        "Outcome",
        "RecoveryJournalError",
        "RecoveryQueueFullError",
        "RedisTimeoutError",
        "RedisUnavailableError",
    ),
    "agent_memory.memory": (
        "AsyncMemorySystem",
        "MemoryEntry",
        "MemoryId",
        "MemorySettings",
        "MemorySystem",
        "Tier",
    ),
    "agent_memory.policy": (
        "AsyncCircuitBreaker",
        "BreakerSettings",
        "CircuitBreaker",
        "Priority",
        "RecoveryConfig",
        "RecoveryQueue",
        "RetryBudget",
        "RetryPolicy",
        "async_exponential_backoff",
        "exponential_backoff",
    ),
    "agent_memory.policy.resilience": ("ResiliencePolicy",),
    "agent_memory.storage.async_redis_client": (
        "AsyncResilientRedisClient",
        "AsyncStoreResult",
        "resilient_operation",
    ),
    "agent_memory.storage.redis_client": ("ResilientRedisClient", "StoreResult"),
    "agent_memory.recovery.results": ("DeadLetter", "Health", "PendingWrite", "StoreStatus"),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


__version__: Final[str] = _core.__version__


def _warn_of_debug_build(is_debug_build: bool) -> None:
    if is_debug_build:
        warnings.warn(
            "agent_memory._core was built without optimisation and is several times slower; build it with --release",
            RuntimeWarning,
            stacklevel=3,
        )


_warn_of_debug_build(_core.DEBUG_BUILD)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
