"""What happens after a command has failed: ask the core "what now?" until it succeeds or is given up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from agent_memory._compat import async_sleep
from agent_memory._core import monotonic_ns
from agent_memory.errors import CircuitOpenError, Outcome
from agent_memory.policy import FailureKind
from agent_memory.redis.exactly_once.tickets import MISSING, Next
from agent_memory.redis.outcomes import classify

if TYPE_CHECKING:
    from agent_memory.redis.plans import Plan

__all__ = ["AsyncSettle", "async_retry"]

AsyncSettle = Callable[[Exception, float], Awaitable[tuple[Next, Any]]]
"""What became of a command whose answer was lost, found out within so many seconds; the reply where it came after all."""

_SETTLED: Final = FailureKind.REJECTED_REPLY
"""What a lost write counts as that was proven not to have been executed: the server answers, and did not run it."""


async def async_retry(
    plan: Plan,
    attempt: Callable[[int, float | None], Awaitable[Any]],
    permit: int,
    error: Exception,
    deadline_s: float,
    settle: AsyncSettle | None = None,
) -> Any:
    """Deal with the failure of a first attempt; return the reply of a later one or raise the last error.

    `attempt(permit, left_s)` tries once more; it returns the reply, an error reply as a value. `permit` is the first
    attempt's (and so says when the call began), `deadline_s` bounds the whole call, `left_s` is what is left of it.
    `settle(error, left_s)` finds out within `left_s` what became of a command whose answer was lost: with exactly once.
    """
    started_ns = permit
    deadline_ns = started_ns + int(deadline_s * 1e9)
    failures = 0
    perhaps_executed = False  # by one of the attempts: what the last one met says nothing about those before
    try:
        while True:
            kind, outcome = classify(error)
            if kind is None:
                if isinstance(error, ResponseError):
                    plan.answered_error(permit)
                else:
                    plan.abandon(permit)
                raise error
            delay_s = plan.failure(permit, kind, outcome, failures, started_ns, deadline_ns)
            if settle is not None and outcome is Outcome.UNKNOWN:
                step, late = await settle(error, (deadline_ns - monotonic_ns()) / 1e9)
                if late is not MISSING:
                    return _given_late(late)
                outcome = _outcome_of(step, error)
                if step is Next.RESEND:
                    # The failure has been counted; that it is settled says that the server is there again.
                    delay_s = plan.failure(permit, _SETTLED, Outcome.NOT_SENT, failures, started_ns, deadline_ns)
            perhaps_executed = perhaps_executed or outcome is Outcome.UNKNOWN
            if delay_s < 0:
                raise _with_doubt(error, perhaps_executed)
            await async_sleep(delay_s)
            try:
                permit = plan.admit()
            except CircuitOpenError:
                # The error of the transport says what is wrong; "the circuit is open" would only say that we know it.
                raise _with_doubt(error, perhaps_executed) from None
            failures += 1
            left_s = max(0.001, (deadline_ns - monotonic_ns()) / 1e9)
            try:
                reply = await attempt(permit, left_s)
            except Exception as again:
                error = again
                continue
            except BaseException:
                plan.abandon(permit)
                raise
            if isinstance(reply, Exception):
                error = reply
                continue
            plan.success(permit)
            return reply
    finally:
        del error  # its traceback refers to this frame: without this each failed call would leave a cycle


def _with_doubt(error: Exception, perhaps_executed: bool) -> Exception:
    if perhaps_executed:
        error.outcome = Outcome.UNKNOWN  # type: ignore[attr-defined]
    return error


def _given_late(reply: Any) -> Any:
    """The answer that came after its caller had given up."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def _outcome_of(step: Next, error: Exception) -> Outcome:
    """What is known of the command now that it is settled; raises the error where there is nothing more to do."""
    if step is Next.DONE:
        error.outcome = Outcome.APPLIED  # type: ignore[attr-defined]
        raise error
    if step is Next.RESEND and getattr(error, "ticket", None) is not None:
        error.outcome = Outcome.NOT_SENT  # type: ignore[attr-defined]
        return Outcome.NOT_SENT
    return Outcome.UNKNOWN
