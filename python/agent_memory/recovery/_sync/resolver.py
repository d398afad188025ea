# Generated from ../_async/resolver.py by tools/generate_sync.py: edit that file, not this one.

"""What becomes of a queued write of unknown outcome before it is sent again.

The outcome of an entry is unknown when an attempt at it ended with `Outcome.UNKNOWN`, or when a restarted process finds it in
the journal of a predecessor that wrote ahead: the server may have executed it, and the old connection may still carry it. The
drain never sends such an entry without a resolution from here.

- Where exactly once is on, a lost write has a ticket, which it holds: of this process, or made anew of what a predecessor's
  record says. Its old connection is fenced before anything else is sent; then the ticket gets its verdict.
- What a predecessor left is adopted all at once, and held until its records are gone: a marker answers for many writes, and
  is deleted when no ticket holds it any more. So a process that dies while it resolves leaves to the next what it found.
- Without a ticket nothing tells: absolute writes are sent again, which leaves the same data, others become dead letters.
"""

from __future__ import annotations

import enum
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.redis.exactly_once.tickets import Verdict, adopt

if TYPE_CHECKING:
    from agent_memory.recovery._sync.queued_writes import CommandWrite
    from agent_memory.redis._sync.guarded import GuardedCalls
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["Resolver", "Resolution"]

logger: Final = logging.getLogger("agent_memory.storage")

RESOLVE_TIMEOUT_S: Final = 5.0
"""How long one batch asks; what is not known by then is asked about again later."""


class Resolution(enum.Enum):
    """What may be done with an entry whose outcome was unknown."""

    SEND = "send"
    """It has not been executed, never will be, or may be executed again: send it."""
    APPLIED = "applied"
    """It has been executed: it is done with."""
    UNKNOWN = "unknown"
    """Nothing tells: it becomes a dead letter with this reason."""
    LATER = "later"
    """It cannot be resolved now (the server is away or busy): it keeps its place and is asked about again."""


class Resolver:
    """Resolves by tickets, once it is bound to a client that has exactly once; until then nothing is known."""

    def __init__(self) -> None:
        self._client: GuardedCalls | None = None

    def bind(self, client: GuardedCalls) -> None:
        """Asks this drop-in client, which has exactly once, from now on."""
        self._client = client

    def adopt(self, writes: Sequence[CommandWrite]) -> None:
        """Makes tickets of what a predecessor's records say, and has their connections fenced.

        Told of all that a predecessor left before the first is to be resolved, and again if that raises.
        """
        if self._client is None:
            return
        streams, tickets = adopt(_readable(writes))
        by_token = dict(
            zip(dict.fromkeys(write.unknown_token for write in writes if write.unknown_token), tickets, strict=True)
        )
        for write in writes:
            if write.unknown_token:
                write.ticket = by_token[write.unknown_token]
                write.ticket.hold(write)
        self._client.see_to(streams)

    def resolve(self, writes: Sequence[CommandWrite]) -> list[Resolution]:
        """One resolution for each write, in order. What it raises counts as LATER for all."""
        resolutions = []
        away = False
        for write in writes:
            client, ticket = self._client, write.ticket
            if client is None or ticket is None:
                resolution = _resolution_of(write, Outcome.UNKNOWN)
            elif away and ticket.verdict is None:
                resolution = Resolution.LATER  # one has been waited for in vain: that is enough for all
            else:
                resolution = _by_ticket(client, write, ticket)
                away = resolution is Resolution.LATER
            resolutions.append(resolution)
        return resolutions


def _by_ticket(client: GuardedCalls, write: CommandWrite, ticket: Ticket) -> Resolution:
    lost = RedisUnavailableError("the answer was lost")
    lost.ticket = ticket
    outcome = client.resolve(lost, RESOLVE_TIMEOUT_S)
    if outcome is Outcome.UNKNOWN and ticket.verdict is not Verdict.UNRESOLVABLE:
        return Resolution.LATER
    return _resolution_of(write, outcome)


def _readable(writes: Sequence[CommandWrite]) -> list[dict[str, object]]:
    """The records of their tickets, each once; what none can be made of resolves nothing."""
    records: dict[bytes, dict[str, object]] = {}
    for write in writes:
        if write.unknown_token and write.unknown_token not in records:
            try:
                record = json.loads(write.unknown_token)
                adopt([record])
                records[write.unknown_token] = record
            except (ValueError, TypeError, KeyError):
                logger.error("what a record of the journal says of its attempt cannot be read")
                write.unknown_token = b""
    return list(records.values())


def _resolution_of(write: CommandWrite, outcome: Outcome) -> Resolution:
    if outcome is Outcome.APPLIED:
        return Resolution.APPLIED
    if outcome in (Outcome.NOT_SENT, Outcome.REJECTED) or write.shape.is_absolute:
        return Resolution.SEND
    return Resolution.UNKNOWN
