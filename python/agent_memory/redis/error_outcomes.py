"""What an error says about the command: the kind of failure (for the guard) and the outcome (for the caller).

Two places ask: the transports, which attach an outcome to every error reply as it is parsed (`reply_error`), and the
guard of a call, which must distinguish a failing server from a caller's mistake (`classify`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from redis import exceptions as redis_py

from agent_memory.errors import (
    ClientClosedError,
    ConnectionLimitError,
    Outcome,
    RedisTimeoutError,
    RedisUnavailableError,
)
from agent_memory.policy import FailureKind
from agent_memory.redis.redis_py_internals.features import code_of
from agent_memory.redis.redis_py_internals.replies import parse_reply_error

if TYPE_CHECKING:
    from agent_memory._core import Guard

__all__ = [
    "ERRORS_OF_CONNECTIONS",
    "UNREADABLE",
    "as_ours",
    "breaks_connection",
    "classify",
    "describe",
    "is_full",
    "is_misreading",
    "reply_error",
    "undecodable",
]

# First words of error replies that say "I did not run this, and it is not the command's fault".
_UNAVAILABLE_CODES: Final = frozenset({"LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY"})
"""The server cannot serve any client now: counts for the breaker, may be retried."""
_RETRYABLE_CODES: Final = frozenset({"TRYAGAIN", "READONLY", "NOREPLICAS"})
"""This command could not run here and now: may be retried, does not count for the breaker."""

ERRORS_OF_CONNECTIONS: Final = (redis_py.ConnectionError, redis_py.TimeoutError, OSError, asyncio.IncompleteReadError)
"""What a broken or missing connection raises, in our transports, in redis-py's and in injected clients."""

UNREADABLE: Final = (redis_py.RedisError, MemoryError, TypeError)
"""What hiredis raises over bytes that are no reply: not the protocol, longer than memory, a map with a list for a key."""

_MISREADINGS: Final = (AttributeError, LookupError, MemoryError, TypeError, ValueError)
"""What redis-py's own code raises over a reply of another shape than it expects, beside `InvalidResponse`."""
_READING_FUNCTIONS: Final = frozenset(
    {
        "_execute_transaction",
        "async_read_push",
        "handle_push_response",
        "next_command",
        "on_connect_check_health",
        "read_push",
        "read_response",
    }
)
"""Functions of redis-py's, and around them, that read: an error out of what they call speaks of what was read."""

_CALLERS_CONNECTION_ERRORS: Final = (
    redis_py.MaxConnectionsError,
    redis_py.AuthenticationError,
    redis_py.AuthorizationError,
    ConnectionLimitError,
    ClientClosedError,
)
"""ConnectionErrors by type that say nothing about the health of the server."""


class _ReplyFacts:
    """What the first word of an error reply decides."""

    __slots__ = ("kind", "outcome")

    def __init__(self, kind: FailureKind | None, outcome: Outcome) -> None:
        self.kind = kind
        self.outcome = outcome


_ORDINARY: Final = _ReplyFacts(None, Outcome.REJECTED)
_UNAVAILABLE: Final = _ReplyFacts(FailureKind.UNAVAILABLE_REPLY, Outcome.REJECTED)
_RETRYABLE: Final = _ReplyFacts(FailureKind.REJECTED_REPLY, Outcome.REJECTED)
_PARTIAL: Final = _ReplyFacts(None, Outcome.APPLIED)

_FULL: Final = "max number of clients reached"
"""What a server answers to a connection beyond its maxclients, before it closes it."""

_SCRIPT_MARKS: Final = ("script:", "user_script", "Error running script", "on @user_function")


def _facts_of(text: str) -> _ReplyFacts:
    code = text.split(" ", 1)[0]
    # A script that fails half-way answers with the code of the command that failed in it ("READONLY … script: 4e6d…"):
    # what it did before has happened, so such a reply must not look like "did not run".
    if any(mark in text for mark in _SCRIPT_MARKS):
        return _PARTIAL
    if code in _UNAVAILABLE_CODES:
        return _UNAVAILABLE
    if code in _RETRYABLE_CODES:
        return _RETRYABLE
    if text == f"ERR {_FULL}":
        return _UNAVAILABLE
    return _ORDINARY


def reply_error(text: str) -> Exception:
    """The exception for one error reply: redis-py's class, with `.outcome` and the kind the guard needs attached."""
    error: Exception = parse_reply_error(text)
    facts = _facts_of(text)
    error.outcome = facts.outcome  # type: ignore[attr-defined]
    error.failure_kind = facts.kind  # type: ignore[attr-defined]
    return error


def is_full(error: BaseException) -> bool:
    """Whether connecting failed with `error` because the server has no room for more clients."""
    return isinstance(error, redis_py.ConnectionError) and error.args[:1] == (_FULL,)


def breaks_connection(error: Exception) -> bool:
    """Whether a connection that raised this over what it read or sent is of no use any more."""
    if isinstance(error, ERRORS_OF_CONNECTIONS):
        return classify(error)[0] is not FailureKind.CLIENT
    return is_misreading(error)


def undecodable(error: UnicodeError) -> UnicodeError:
    """The same error with its outcome: the reply came whole, so the command ran and the stream is in step."""
    error.outcome = Outcome.APPLIED  # type: ignore[attr-defined]
    return error


def is_misreading(error: BaseException) -> bool:
    """Whether redis-py raised `error` over what it read: then it is no Redis that answers, or not in the protocol.

    An AttributeError may as well come out of the caller's own code, such as a credential provider: what tells is where it was
    raised.
    """
    if isinstance(error, redis_py.InvalidResponse):
        return True
    if not isinstance(error, _MISREADINGS) or isinstance(error, UnicodeError):  # that comes of a whole reply
        return False
    reading = False
    module = ""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        reading = reading or frame.f_code.co_name in _READING_FUNCTIONS
        module = frame.f_globals.get("__name__", "")
        traceback = traceback.tb_next
    return reading and module.startswith(("redis.", "agent_memory.redis."))


def classify(error: BaseException) -> tuple[FailureKind | None, Outcome]:
    """The kind of failure and the outcome of `error`, from any layer.

    The kind is None when the server answered and is well (WRONGTYPE, a caller's bug, …): such an error is passed on and
    counts neither for nor against the server. An error of a foreign client whose outcome is not stated is UNKNOWN unless
    its type proves more.
    """
    outcome: Outcome | None = getattr(error, "outcome", None)
    if isinstance(error, _CALLERS_CONNECTION_ERRORS):
        return FailureKind.CLIENT, Outcome.NOT_SENT if outcome is None else outcome
    if isinstance(error, redis_py.ResponseError | redis_py.BusyLoadingError):
        kind = getattr(error, "failure_kind", None)
        if outcome is None:  # raised by redis-py's own path: its text lost the code, its class kept it
            facts = _facts_of(f"{code_of(error)} {error}")
            kind, outcome = facts.kind, facts.outcome
        return kind, outcome
    if isinstance(error, RedisTimeoutError) and error.moving:
        return FailureKind.CLIENT, error.outcome
    if isinstance(error, redis_py.TimeoutError | TimeoutError):
        return FailureKind.TIMEOUT, Outcome.UNKNOWN if outcome is None else outcome
    if isinstance(error, ERRORS_OF_CONNECTIONS):
        refused = outcome is Outcome.NOT_SENT or isinstance(error, ConnectionRefusedError)
        if outcome is None:
            outcome = Outcome.NOT_SENT if refused else Outcome.UNKNOWN
        kind = FailureKind.REFUSED if refused else FailureKind.RESET
        return getattr(error, "failure_kind", kind) if is_full(error) else kind, outcome
    return FailureKind.RESET if is_misreading(error) else None, Outcome.UNKNOWN if outcome is None else outcome


def as_ours(error: Exception, endpoint: str) -> Exception:
    """The same error as a class of this package, with its outcome, where it came out of redis-py's own path.

    Errors that are ours already, replies of the server and callers' bugs come back as they are.
    """
    if isinstance(error, RedisUnavailableError | RedisTimeoutError):
        return error
    if is_misreading(error):
        reason = f"protocol error: {str(error) or type(error).__name__}"
        return RedisUnavailableError(reason, outcome=classify(error)[1], endpoint=endpoint)
    if isinstance(error, UnicodeDecodeError):
        return undecodable(error)
    if not isinstance(error, ERRORS_OF_CONNECTIONS):
        return error
    kind, outcome = classify(error)
    if kind is FailureKind.CLIENT or kind is FailureKind.UNAVAILABLE_REPLY:
        return error
    ours = RedisTimeoutError if kind is FailureKind.TIMEOUT else RedisUnavailableError
    return ours(str(error) or type(error).__name__, outcome=outcome, endpoint=endpoint)


def describe(error: Exception, guard: Guard | None, operation: str) -> None:
    """Add to an error what the transport does not know: the client, the operation, the state of the circuit."""
    if isinstance(error, RedisUnavailableError | RedisTimeoutError):
        error.operation = operation
        if guard is not None:
            error.client = guard.name
            error.state, retry_after_s = guard.state_and_retry_after_s()
            if error.state == "open":
                error.retry_after_s = retry_after_s
