"""What happens after a command has failed: ask the core "what now?" until it succeeds or is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from agent_memory._compat import async_sleep
from agent_memory._core import monotonic_ns
from agent_memory.errors import CircuitOpenError, Outcome
from agent_memory.redis.outcomes import classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent_memory.redis.plans import Plan

__all__ = ["async_retry"]


async def async_retry(
    plan: Plan,
    attempt: Callable[[int, float | None], Awaitable[Any]],
    permit: int,
    error: Exception,
    timeout_s: float | None,
    deadline_s: float,
) -> Any:
    """Deal with the failure of a first attempt; return the reply of a later one or raise the last error.

    `attempt(permit, timeout_s)` tries once more; it returns the reply, an error reply as a value. `permit` is the first
    attempt's (and so says when the call began), `timeout_s` bounds one attempt, `deadline_s` the whole call.
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
            perhaps_executed = perhaps_executed or outcome is Outcome.UNKNOWN
            if delay_s < 0:
                if perhaps_executed:
                    error.outcome = Outcome.UNKNOWN  # type: ignore[attr-defined]
                raise error
            await async_sleep(delay_s)
            try:
                permit = plan.admit()
            except CircuitOpenError:
                # The error of the transport says what is wrong; "the circuit is open" would only say that we know it.
                if perhaps_executed:
                    error.outcome = Outcome.UNKNOWN  # type: ignore[attr-defined]
                raise error from None
            failures += 1
            left_s = max(0.001, (deadline_ns - monotonic_ns()) / 1e9)
            try:
                reply = await attempt(permit, left_s if timeout_s is None else min(timeout_s, left_s))
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
