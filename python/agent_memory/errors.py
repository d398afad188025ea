"""Every exception this package raises by itself, and `Outcome`.

All of them subclass redis-py's, so code written for redis-py keeps working: `RedisUnavailableError` is a
`redis.exceptions.ConnectionError`, `RedisTimeoutError` a `redis.exceptions.TimeoutError`.

Errors are raised on hot paths (a rejection by an open circuit must cost little), so they only store their arguments
and build their message in `__str__`. They never carry a password or a stored value.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisPyConnectionError
from redis.exceptions import MaxConnectionsError, RedisError
from redis.exceptions import TimeoutError as RedisPyTimeoutError

from agent_memory._enums import NamedIntEnum

__all__ = [
    "CircuitOpenError",
    "ClientClosedError",
    "ConnectionLimitError",
    "ConnectionStateError",
    "LostWrite",
    "Outcome",
    "RecoveryJournalError",
    "RecoveryQueueFullError",
    "RedisTimeoutError",
    "RedisUnavailableError",
]


class Outcome(NamedIntEnum):
    """What is known about the effect of a command that raised; every error carries it as `error.outcome`."""

    NOT_SENT = 0
    """No complete command left this process (or none reached the server): it was not executed."""
    REJECTED = 1
    """The server answered that it did not run the command."""
    APPLIED = 2
    """The server ran it and answered; a script or transaction may have had effects before it failed."""
    UNKNOWN = 3
    """Bytes left and no answer came: it may or may not have been executed, now or a little later."""


_OUTCOME_WORDS = {
    Outcome.NOT_SENT: "not sent",
    Outcome.REJECTED: "rejected",
    Outcome.APPLIED: "applied",
    Outcome.UNKNOWN: "outcome unknown",
}


class LostWrite(Protocol):
    """A write whose answer was lost, as an error carries it: an `agent_memory.redis.exactly_once.Ticket`."""

    @property
    def token(self) -> bytes:
        """What another process needs to resolve it."""
        ...

    @property
    def verdict(self) -> enum.IntEnum | None:
        """What became of it, an `agent_memory.redis.exactly_once.Verdict`; None while that is not known."""
        ...


class _Described:
    """The facts every error of the client carries, and the message built when it is read."""

    # redis-py's base class would set these two in its __init__, which costs more than the rest of a rejection.
    error_type: Any = getattr(RedisPyConnectionError(), "error_type", None)  # since redis-py 7.2
    status_code: str | None = None

    outcome: Outcome = Outcome.UNKNOWN
    client: str | None = None
    endpoint: str | None = None
    operation: str | None = None
    state: str | None = None
    retry_after_s: float | None = None
    ticket: LostWrite | None = None
    """What a lost write can be resolved by; None without exactly once."""
    args: tuple[Any, ...]

    @property
    def unknown_token(self) -> bytes:
        """What a recovery queue keeps of a lost write, so that it can be resolved later; empty without exactly once."""
        return b"" if self.ticket is None else self.ticket.token

    def __init__(
        self,
        *args: object,
        outcome: Outcome | None = None,
        client: str | None = None,
        endpoint: str | None = None,
        operation: str | None = None,
    ) -> None:
        # BaseException.__new__ has stored args already; calling redis-py's __init__ is what makes its errors slow.
        if outcome is not None:
            self.outcome = outcome
        if client is not None:
            self.client = client
        if endpoint is not None:
            self.endpoint = endpoint
        if operation is not None:
            self.operation = operation

    def _reason(self) -> str:
        return str(self.args[0]) if self.args else "Redis is unavailable"

    def __str__(self) -> str:
        where = [word for word in (self.client, self.operation) if word]
        prefix = " ".join(where)
        if self.endpoint:
            prefix = f"{prefix} at {self.endpoint}" if prefix else self.endpoint
        details = [_OUTCOME_WORDS[self.outcome]]
        if self.state is not None:
            details.append(f"circuit {self.state}")
        if self.retry_after_s is not None:
            details.append(f"next probe in {self.retry_after_s:.1f} s")
        message = f"{self._reason()} ({', '.join(details)})"
        return f"{prefix}: {message}" if prefix else message


class RedisUnavailableError(_Described, RedisPyConnectionError):
    """The server could not be reached, or the connection broke.

    Attributes: `outcome`, and where known `client`, `endpoint`, `operation`, `state` of the circuit and
    `retry_after_s`.
    """


class RedisTimeoutError(_Described, RedisPyTimeoutError):
    """The server did not answer in time. A timeout does not mean "not executed": look at `outcome`."""

    moving: bool = False
    """Whether bytes were arriving or leaving when the call's deadline passed: the link is slow, or the value large.

    Such a timeout says nothing against the server: it does not count for the breaker and nothing is tried again.
    """

    def _reason(self) -> str:
        return str(self.args[0]) if self.args else "timed out"


class CircuitOpenError(RedisUnavailableError):
    """The circuit breaker rejected the call without trying: nothing was sent.

    `retry_after_s` is the time until the server is asked again: by the background probe, where there is one, within its
    interval, else by the first call after `reset_timeout_s`.
    """

    outcome = Outcome.NOT_SENT
    state = "open"

    def _reason(self) -> str:
        return str(self.args[0]) if self.args else "rejected, the circuit is open"


class ClientClosedError(RedisUnavailableError):
    """The client or its pool was closed while the call was under way.

    NOT_SENT while the call waited to be sent, else UNKNOWN. It is not tried again, and says nothing about the server.
    """

    def _reason(self) -> str:
        return str(self.args[0]) if self.args else "the client was closed"


class ConnectionLimitError(RedisUnavailableError, MaxConnectionsError):
    """All `max_connections` connections stayed busy for as long as the call may wait. Says nothing about the server."""

    outcome = Outcome.NOT_SENT


class ConnectionStateError(RedisError):
    """The command only means something on a connection of one's own, and this client's connections carry other callers too.

    Nothing was sent. The message names what to use instead.
    """

    outcome = Outcome.NOT_SENT

    def __init__(self, operation: str, instead: str) -> None:
        super().__init__(operation, instead)

    def __str__(self) -> str:
        return f"{self.args[0]} changes a connection that is shared with other callers: {self.args[1]}"


class RecoveryQueueFullError(RuntimeError):
    """The recovery queue is at its bound in entries or bytes; the write was not queued."""


class RecoveryJournalError(RuntimeError):
    """The journal of the recovery queue can't be opened, or can't keep a write: disk full, fdatasync failed, closed."""

    outcome = Outcome.NOT_SENT
