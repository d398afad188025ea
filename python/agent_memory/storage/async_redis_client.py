"""`AsyncResilientRedisClient` where the specification looks for it."""

from agent_memory.storage._async.client import (
    AsyncResilientRedisClient,
    AsyncStoreResult,
    CircuitOpenError,
    Priority,
    RecoveryConfig,
    RecoverySettings,
    RedisTimeoutError,
    RedisUnavailableError,
    RetryPolicy,
    async_exponential_backoff,
    exponential_backoff,
    resilient_operation,
)

__all__ = [
    "AsyncResilientRedisClient",
    "AsyncStoreResult",
    "CircuitOpenError",
    "Priority",
    "RecoveryConfig",
    "RecoverySettings",
    "RedisTimeoutError",
    "RedisUnavailableError",
    "RetryPolicy",
    "async_exponential_backoff",
    "exponential_backoff",
    "resilient_operation",
]
