"""redis-py's own retries: off in our clients' pools, and taken over where the caller gave some."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from agent_memory.redis.redis_py_internals.features import (
    DEFAULT_RETRY_BASE,
    DEFAULT_RETRY_CAP,
    DEFAULT_RETRY_COUNT,
    is_asynchronous,
)

__all__ = [
    "given_retry",
    "no_async_retries",
    "no_retries",
]


class _Unasked(Retry):
    """The retries of a pool whose arguments set none: none, because the guard retries."""


class _AsyncUnasked(AsyncRetry):
    """The same for asyncio."""


def no_retries() -> Retry:
    """redis-py's way of saying "once"."""
    return _Unasked(NoBackoff(), 0)


def no_async_retries() -> AsyncRetry:
    """The same for asyncio."""
    return _AsyncUnasked(NoBackoff(), 0)


def given_retry(pool: Any, own: Mapping[str, Any]) -> Any:
    """A copy of the `retry` that the caller gave for this pool, with the `retry_on_error` added; None where none was given.

    `own` are those that were given to a client beside the pool; they win. Errors without a Retry get redis-py's default one.
    """
    settings = pool.connection_kwargs
    retry = own.get("retry") or settings.get("retry")
    errors = own.get("retry_on_error") or settings.get("retry_on_error")
    if isinstance(retry, _Unasked | _AsyncUnasked):
        retry = None
    if retry is None and not errors:
        return None
    retry = _retry_for_errors(pool) if retry is None else copy.deepcopy(retry)  # a backoff has a state of its own
    if errors:
        retry.update_supported_errors(list(errors))
    return retry


def _retry_for_errors(pool: Any) -> Any:
    kind: Any = AsyncRetry if is_asynchronous(pool) else Retry
    return kind(ExponentialWithJitterBackoff(base=DEFAULT_RETRY_BASE, cap=DEFAULT_RETRY_CAP), DEFAULT_RETRY_COUNT)
