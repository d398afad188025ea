# Generated from ../_async/retry.py by tools/generate_sync.py: edit that file, not this one.

"""What happens after a command has failed: ask the core "what now?" until it succeeds or is given up."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from agent_memory._concurrency import sleep
from agent_memory._core import monotonic_ns
from agent_memory.errors import CircuitOpenError, ClientClosedError, Outcome
from agent_memory.policy import FailureKind
from agent_memory.redis.call_notes import note_retry
from agent_memory.redis.error_outcomes import classify
from agent_memory.redis.exactly_once.tickets import MISSING, NextStep
from agent_memory.redis.redis_py_internals.features import call_with_retry

if TYPE_CHECKING:
    from agent_memory.redis.commands.bound_command import BoundCommand
    from agent_memory.redis.pool_state import PoolState

__all__ = ["Settle", "retry", "retry_as_given"]

Settle = Callable[[Exception, float], tuple[NextStep, Any]]
"""What became of a command whose answer was lost, found out within so many seconds; the reply where it came after all."""

_SETTLED: Final = FailureKind.REJECTED_REPLY
"""What a lost write counts as that was proven not to have been executed: the server answers, and did not run it."""


def retry(
    command: BoundCommand,
    attempt: Callable[[int, float | None], Any],
    permit: int,
    error: Exception,
    deadline_s: float,
    settle: Settle | None = None,
    shared: PoolState | None = None,
) -> Any:
    """Deal with the failure of a first attempt; return the reply of a later one or raise the last error.

    `attempt(permit, left_s)` tries once more; it returns the reply, an error reply as a value. `permit` is the first
    attempt's (and so says when the call began), `deadline_s` bounds the whole call, `left_s` is what is left of it.
    `settle(error, left_s)` finds out within `left_s` what became of a command whose answer was lost: with exactly once.
    `shared` says whether the client was closed meanwhile: then the call ends at once, with ClientClosedError.
    """
    started_ns = permit
    deadline_ns = started_ns + int(deadline_s * 1e9)
    failures = 0
    perhaps_executed = False  # by one of the attempts: what the last one met says nothing about those before
    try:
        while True:
            kind, outcome = classify(error)
            if kind is None:
                (command.answered_error if isinstance(error, ResponseError) else command.abandon)(permit)
                raise error
            if shared is not None and shared.was_closed_since(started_ns):
                command.abandon(permit)
                raise _closed(error, perhaps_executed or outcome is Outcome.UNKNOWN)
            delay_s = command.failure(permit, kind, outcome, failures, started_ns, deadline_ns)
            if settle is not None and outcome is Outcome.UNKNOWN:
                step, late = settle(error, (deadline_ns - monotonic_ns()) / 1e9)
                if late is not MISSING:
                    return _given_late(late)
                outcome = _outcome_of(step, error)
                if step is NextStep.RESEND:
                    # The failure has been counted; that it is settled says that the server is there again.
                    delay_s = command.failure(permit, _SETTLED, Outcome.NOT_SENT, failures, started_ns, deadline_ns)
            perhaps_executed = perhaps_executed or outcome is Outcome.UNKNOWN
            if _pause(shared, started_ns, delay_s):
                raise _closed(error, perhaps_executed)
            if delay_s < 0 or (admitted := _admit(command)) is None:
                # The error of the transport says what is wrong; "the circuit is open" would only say that we know it.
                raise _with_unknown(error, perhaps_executed)
            permit = admitted
            failures += 1
            note_retry()
            left_s = max(0.001, (deadline_ns - monotonic_ns()) / 1e9)
            reply = _attempt(command, attempt, permit, left_s)
            if not isinstance(reply, Exception):
                command.success(permit)
                return reply
            error = reply
    finally:
        del error  # its traceback refers to this frame: without this each failed call would leave a cycle


def retry_as_given(
    retry: Any,
    command: BoundCommand,
    attempt: Callable[[int, float | None], Any],
    permit: int,
    error: Exception,
    bounds: tuple[float, float],
    settle: Settle | None = None,
    shared: PoolState | None = None,
) -> Any:
    """The same where the caller gave redis-py's `retry`: it decides how often, how soon and after which errors.

    What is safe to repeat is decided here, as ever; so a write whose answer was lost is never sent again. `bounds` are the
    seconds of one attempt and those of the call (infinite unless a policy names a deadline).
    """
    calls = _GivenRetry(command, attempt, permit, error, bounds, settle, shared)
    del error
    try:
        return call_with_retry(retry, calls.attempt_next, calls.note, calls.may_repeat)
    except Exception as last:
        _with_unknown(last, calls.perhaps_executed)
        raise
    finally:
        calls.error = None  # as above: its traceback refers to the frames that hold this object


class _GivenRetry:
    """The attempts of one call that redis-py's `Retry` repeats; the first of them has failed already."""

    def __init__(
        self,
        command: BoundCommand,
        attempt: Callable[[int, float | None], Any],
        permit: int,
        error: Exception,
        bounds: tuple[float, float],
        settle: Settle | None,
        shared: PoolState | None,
    ) -> None:
        self._command, self._attempt, self._settle, self._shared = command, attempt, settle, shared
        self._permit = self._started_ns = permit
        self.error: Exception | None = error
        """The last failure of an attempt."""
        self._attempt_s, call_s = bounds
        self._deadline_ns = inf if call_s == inf else permit + int(call_s * 1e9)
        self._is_first = True
        self._is_safe = False
        self.perhaps_executed = False
        """Whether one of the attempts may have been executed."""

    def _left_s(self) -> float:
        return min(self._attempt_s, max(0.001, (self._deadline_ns - monotonic_ns()) / 1e9))

    def may_repeat(self, _error: Exception) -> bool:
        """Whether another attempt is safe, and there is time for it."""
        return self._is_safe and monotonic_ns() < self._deadline_ns

    def note(self, _error: Exception) -> None:
        """Nothing: a failed connection has been closed already."""

    def attempt_next(self) -> Any:
        """The first failure, then one attempt a call; returns the reply or raises."""
        assert self.error is not None
        if self._is_first:
            self._is_first = False
            return self._count(self.error)
        self._raise_if_closed(self.error)
        admitted = _admit(self._command)
        if admitted is None:
            # The error of the transport says what is wrong; the circuit may be closed by the next attempt.
            raise self.error
        self._permit = admitted
        note_retry()
        reply = _attempt(self._command, self._attempt, admitted, self._left_s())
        if isinstance(reply, Exception):
            return self._count(reply)
        self._command.success(admitted)
        return reply

    def _raise_if_closed(self, error: Exception) -> None:
        if self._shared is not None and self._shared.was_closed_since(self._started_ns):
            self._is_safe = False
            raise _closed(error, self.perhaps_executed)

    def _count(self, error: Exception) -> Any:
        """Tell the guard of a failure and find out whether it may be repeated; raises it, unless its answer comes late."""
        command, permit = self._command, self._permit
        self.error, self._is_safe = error, False
        kind, outcome = classify(error)
        if kind is not None:
            command.failure(permit, kind, outcome, 0, permit, permit)  # past its deadline: the guard does not repeat it
        else:
            (command.answered_error if isinstance(error, ResponseError) else command.abandon)(permit)
        if self._settle is not None and outcome is Outcome.UNKNOWN and kind is not None:
            step, late = self._settle(error, self._left_s())
            if late is not MISSING:
                return _given_late(late)
            outcome = _outcome_of(step, error)
        self.perhaps_executed = self.perhaps_executed or outcome is Outcome.UNKNOWN
        self._raise_if_closed(error)
        # Of a pipeline other commands may have run, unless the reply is one of the kinds that say that none has.
        not_executed = outcome in _NOT_EXECUTED and (kind is not None or command.name != "PIPELINE")
        self._is_safe = not_executed or command.only_reads
        raise error


_NOT_EXECUTED: Final = (Outcome.NOT_SENT, Outcome.REJECTED)


def _pause(shared: PoolState | None, started_ns: int, delay_s: float) -> bool:
    """Wait before the next attempt, not at all where there is none (below 0); returns whether the client was closed."""
    if shared is None:
        if delay_s >= 0:
            sleep(delay_s)
        return False
    if delay_s < 0:
        return shared.was_closed_since(started_ns)
    return bool(shared.pause(started_ns, delay_s))


def _admit(command: BoundCommand) -> int | None:
    try:
        return command.admit()
    except CircuitOpenError:
        return None


def _attempt(command: BoundCommand, attempt: Callable[[int, float | None], Any], permit: int, timeout_s: float) -> Any:
    """The reply of one more attempt, or its error as a value."""
    try:
        return attempt(permit, timeout_s)
    except Exception as error:
        return error
    except BaseException:
        command.abandon(permit)
        raise


def _closed(error: Exception, perhaps_executed: bool) -> Exception:
    """What a call raises whose client was closed: its own error where the server had answered."""
    if isinstance(error, ResponseError | ClientClosedError):
        return _with_unknown(error, perhaps_executed)
    outcome = Outcome.UNKNOWN if perhaps_executed else Outcome.NOT_SENT
    closed = ClientClosedError(outcome=outcome, endpoint=getattr(error, "endpoint", None))
    closed.ticket = getattr(error, "ticket", None)
    closed.__cause__ = error
    return closed


def _with_unknown(error: Exception, perhaps_executed: bool) -> Exception:
    if perhaps_executed:
        error.outcome = Outcome.UNKNOWN  # type: ignore[attr-defined]
    return error


def _given_late(reply: Any) -> Any:
    """The answer that came after its caller had given up."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def _outcome_of(step: NextStep, error: Exception) -> Outcome:
    """What is known of the command now that it is settled; raises the error where there is nothing more to do."""
    if step is NextStep.DONE:
        error.outcome = Outcome.APPLIED  # type: ignore[attr-defined]
        raise error
    if step is NextStep.RESEND and getattr(error, "ticket", None) is not None:
        error.outcome = Outcome.NOT_SENT  # type: ignore[attr-defined]
        return Outcome.NOT_SENT
    return Outcome.UNKNOWN
