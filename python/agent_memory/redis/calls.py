"""What the sync and the asyncio client share about one call: packing, callbacks, timeouts, the words of an error."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import DataError, ResponseError

from agent_memory._core import pack_command
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import CommandCategory
from agent_memory.redis import private
from agent_memory.redis.commands import (
    BARRIER_CHANNEL,
    BARRIERS,
    COVER_WRITES,
    NOT_BLOCKING,
    READING_PIPELINE,
    blocking_timeout_s,
)
from agent_memory.redis.plans import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent_memory._core import Guard
    from agent_memory.policy.resilience import ResiliencePolicy
    from agent_memory.redis.plans import Plan, PlanTable

__all__ = [
    "barriers_of",
    "is_unknown_command",
    "SELECT_WARNING",
    "callback_of",
    "pack_command",
    "call_back",
    "deadline_of",
    "describe",
    "pipeline_operation",
    "read_timeout_s",
    "refused_words",
]

# dict's own `get`: the client's dictionary upper-cases every name it is asked for, in Python.
callback_of: Final = cast("Callable[[Any, str], Callable[..., Any] | None]", dict.get)
"""`callback_of(response_callbacks, "GET")`: the callback that shapes a reply, or None."""

BLOCKING_MARGIN_S: Final = 5.0
"""How much longer than a blocking command's own timeout its reply may take, where `socket_timeout` is None."""


SELECT_WARNING: Final = (
    "SELECT was carried out on a connection that has been closed: other callers share this client's connections, so it "
    "stays with its database; make a client with db=, or pin a connection with client()"
)
"""redis-py's pooled clients accept SELECT and leave one connection of many in the other database, so this is no error."""


def refused_words(error: TypeError) -> DataError:
    """What redis-py raises for arguments that cannot be sent."""
    return DataError(str(error))


def call_back(callback: Callable[..., Any], reply: Any, options: dict[str, Any]) -> Any:
    """Shape a reply as redis-py does; the options that are meant for the transport do not reach the callback."""
    if options:
        options.pop("keys", None)
        options.pop(private.NEVER_DECODE, None)
        options.pop(private.EMPTY_RESPONSE, None)
    try:
        return callback(reply, **options)
    except Exception as error:
        # The reply came whole, only that it is not what the callback expects: the command was executed.
        with contextlib.suppress(AttributeError):
            error.outcome = Outcome.APPLIED  # type: ignore[attr-defined]
        raise


def read_timeout_s(plan: Plan, args: Sequence[Any], timeout_s: float | None) -> float | None:
    """How long to wait for the reply: a blocking command gets its own timeout plus the ordinary one as a margin."""
    if plan.route is not Route.BLOCKING:
        return timeout_s
    block_s = blocking_timeout_s(plan.name, args)
    if block_s is None:
        return None
    if block_s == NOT_BLOCKING:
        return timeout_s
    return block_s + (BLOCKING_MARGIN_S if timeout_s is None else timeout_s)


def barriers_of(plan: Plan) -> tuple[bytes | None, ...]:
    """What has to be sent ahead of the command, over the same connection: packed, in the order of preference."""
    return _PACKED_BARRIERS if plan.name in COVER_WRITES else _NO_BARRIER


_NO_BARRIER: Final = (None,)
_PACKED_BARRIERS: Final = tuple(pack_command((name, BARRIER_CHANNEL, b"")) for name in BARRIERS)


def is_unknown_command(reply: Any) -> bool:
    """Whether the server answered that it does not know such a command."""
    return isinstance(reply, ResponseError) and str(reply).startswith("unknown command")


def deadline_of(resilience: ResiliencePolicy | None, timeout_s: float | None) -> float:
    """The bound of a whole call, retries and pauses included: the policy's, else twice the socket's timeout (seconds)."""
    if resilience is not None and resilience.retry.deadline is not None:
        return resilience.retry.deadline
    return 2.0 * (private.DEFAULT_SOCKET_TIMEOUT if timeout_s is None else timeout_s)


def describe(error: Exception, guard: Guard | None, operation: str) -> None:
    """Add to an error what the transport does not know: the client, the operation, the state of the circuit."""
    if isinstance(error, RedisUnavailableError | RedisTimeoutError):
        error.operation = operation
        if guard is not None:
            error.client = guard.name
            error.state, retry_after_s = guard.state_and_retry_after_s()
            if error.state == "open":
                error.retry_after_s = retry_after_s


def pipeline_operation(plans: PlanTable, commands: Sequence[Any], watching: bool) -> str:
    """The operation a pipeline counts as: as risky as its riskiest command, so only one that reads may be sent again."""
    if not watching and all(plans[command[0][0]].category is CommandCategory.READ for command in commands):
        return READING_PIPELINE
    return "PIPELINE"
