"""What a failed connect or handshake is reported as, by both transports and by redis-py's own path."""

from __future__ import annotations

from typing import Final

from redis import exceptions as redis_py

from agent_memory.errors import (
    ClientClosedError,
    ConnectionLimitError,
    Outcome,
    RedisTimeoutError,
    RedisUnavailableError,
)
from agent_memory.redis.error_outcomes import is_misreading

__all__ = ["connect_failure", "reason_of"]

_OF_THE_CALLER: Final = (
    redis_py.AuthenticationError,
    redis_py.AuthorizationError,
    redis_py.ResponseError,
    redis_py.MaxConnectionsError,
    ConnectionLimitError,
    ClientClosedError,
)
"""What is raised on the way to a connection and is passed on as it is: it says nothing about the server's health."""


def connect_failure(error: BaseException, endpoint: str) -> BaseException:
    """What a failed connect or handshake raises: nothing of the command has been sent, whatever went wrong."""
    if isinstance(error, _OF_THE_CALLER):
        error.outcome = Outcome.NOT_SENT  # type: ignore[union-attr]
        return error
    if isinstance(error, redis_py.TimeoutError | TimeoutError):
        return RedisTimeoutError("timed out while connecting", outcome=Outcome.NOT_SENT, endpoint=endpoint)
    if isinstance(error, redis_py.ConnectionError | OSError):
        return RedisUnavailableError(reason_of(error), outcome=Outcome.NOT_SENT, endpoint=endpoint)
    if is_misreading(error) or isinstance(error, UnicodeDecodeError):
        # A TLS port spoken to in clear, an HTTP proxy, whatever answers HELLO with something else.
        return RedisUnavailableError(
            f"what answers is no Redis: {reason_of(error)}", outcome=Outcome.NOT_SENT, endpoint=endpoint
        )
    return error


def reason_of(error: BaseException) -> str:
    """The text of an error, without a full stop; its class where it has none."""
    text = str(error) or type(error).__name__
    return text[:-1] if text.endswith(".") else text
