"""How long a call and the reply to its command may take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agent_memory.redis.commands.bound_command import Route
from agent_memory.redis.commands.categories import NOT_BLOCKING, blocking_timeout_s
from agent_memory.redis.redis_py_internals.settings import DEFAULT_SOCKET_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_memory.policy.resilience import ResiliencePolicy
    from agent_memory.redis.commands.bound_command import BoundCommand

__all__ = ["BLOCKING_MARGIN_S", "deadline_of", "read_timeout_s"]

BLOCKING_MARGIN_S: Final = 5.0
"""How much longer than a blocking command's own timeout its reply may take, where `socket_timeout` is None."""


def read_timeout_s(command: BoundCommand, args: Sequence[Any], timeout_s: float | None) -> float | None:
    """How long to wait for the reply: a blocking command gets its own timeout plus the ordinary one as a margin."""
    if command.route is not Route.BLOCKING:
        return timeout_s
    block_s = blocking_timeout_s(command.name, args)
    if block_s is None:
        return None
    if block_s == NOT_BLOCKING:
        return timeout_s
    return block_s + (BLOCKING_MARGIN_S if timeout_s is None else timeout_s)


def deadline_of(resilience: ResiliencePolicy | None, timeout_s: float | None) -> float:
    """The bound of a whole call, retries and pauses included: the policy's, else twice the socket's timeout (seconds)."""
    if resilience is not None and resilience.retry.deadline_s is not None:
        return resilience.retry.deadline_s
    return 2.0 * (DEFAULT_SOCKET_TIMEOUT if timeout_s is None else timeout_s)
