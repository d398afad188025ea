"""`ResilientRedisClient` where the specification looks for it."""

from agent_memory.storage._sync.client import (
    CircuitOpenError,
    Priority,
    RecoveryConfig,
    RecoverySettings,
    RedisTimeoutError,
    RedisUnavailableError,
    ResilientRedisClient,
    RetryPolicy,
    StoreResult,
    exponential_backoff,
    resilient_operation,
)

__all__ = [
    "CircuitOpenError",
    "Priority",
    "RecoveryConfig",
    "RecoverySettings",
    "RedisTimeoutError",
    "RedisUnavailableError",
    "ResilientRedisClient",
    "RetryPolicy",
    "StoreResult",
    "exponential_backoff",
    "resilient_operation",
]
