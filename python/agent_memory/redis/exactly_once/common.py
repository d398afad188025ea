"""What exactly once does alike on both transports."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from agent_memory.errors import Outcome
from agent_memory.redis.exactly_once.tickets import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["conclude_by_reply", "keeper_of"]


def keeper_of(once: Any) -> Callable[[], bool]:
    """Whether `once` still sees to what it has lost, without keeping it alive."""
    alive = weakref.ref(once)

    def sees_to() -> bool:
        keeper = alive()
        return keeper is not None and keeper.sees_to()

    return sees_to


def conclude_by_reply(ticket: Ticket, reply: Any) -> None:
    """The answer came after all."""
    outcome = getattr(reply, "outcome", None) if isinstance(reply, Exception) else None
    refused = outcome in (Outcome.NOT_SENT, Outcome.REJECTED)
    ticket.conclude(Verdict.NOT_APPLIED if refused else Verdict.APPLIED, reply)
