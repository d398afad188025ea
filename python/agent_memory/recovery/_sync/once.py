# Generated from ../_async/once.py by tools/generate_sync.py: edit that file, not this one.

"""What became of queued writes whose answer was lost, where exactly once is on: asked of the drop-in client's tickets.

- A lost write has a ticket, which it holds: of this process, or made anew of what a predecessor's record says. Its old
  connection is fenced before anything else is sent; then the ticket gets its verdict.
- What a predecessor left is adopted all at once, and held until its records are gone: a marker answers for many writes, and
  is deleted when nobody holds it any more. So a process that dies while it resolves leaves to the next what it found.
- Without a ticket nothing tells: absolute writes are sent again, others become dead letters.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.recovery._sync.resolver import InDoubt, Resolution, Resolver
from agent_memory.redis.exactly_once.tickets import Verdict, adopt

if TYPE_CHECKING:
    from agent_memory.recovery._sync.queued_writes import CommandWrite
    from agent_memory.redis._sync.guarded import GuardedCalls
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["TicketResolver"]

logger: Final = logging.getLogger("agent_memory.storage")

RESOLVE_TIMEOUT_S: Final = 5.0
"""How long one batch asks; what is not known by then is asked about again later."""


class TicketResolver(Resolver):
    """Resolves by tickets, and by the records that a predecessor's tickets left."""

    def __init__(self, client: GuardedCalls) -> None:
        self._client = client

    def adopt(self, writes: Sequence[CommandWrite]) -> None:
        """Makes tickets of what a predecessor's records say, and has their connections fenced."""
        streams, tickets = adopt(_readable(writes))
        by_token = dict(zip(dict.fromkeys(write.doubt for write in writes if write.doubt), tickets, strict=True))
        for write in writes:
            if write.doubt:
                write.ticket = by_token[write.doubt]
                write.ticket.hold(write)
        self._client.see_to(streams)

    def resolve(self, entries: Sequence[InDoubt]) -> list[Resolution]:
        """One verdict for each entry, in order. What it raises counts as LATER for all."""
        verdicts = []
        away = False
        for entry in entries:
            ticket = entry.ticket
            if ticket is None:
                verdict = _verdict_of(entry, Outcome.UNKNOWN)
            elif away and ticket.verdict is None:
                verdict = Resolution.LATER  # one has been waited for in vain: that is enough for all
            else:
                verdict = self._by_ticket(entry, ticket)
                away = verdict is Resolution.LATER
            verdicts.append(verdict)
        return verdicts

    def _by_ticket(self, entry: InDoubt, ticket: Ticket) -> Resolution:
        lost = RedisUnavailableError("the answer was lost")
        lost.ticket = ticket
        outcome = self._client.resolve(lost, RESOLVE_TIMEOUT_S)
        if outcome is Outcome.UNKNOWN and ticket.verdict is not Verdict.UNRESOLVABLE:
            return Resolution.LATER
        return _verdict_of(entry, outcome)


def _readable(writes: Sequence[CommandWrite]) -> list[dict[str, object]]:
    """The records of their tickets, each once; what none can be made of resolves nothing."""
    records: dict[bytes, dict[str, object]] = {}
    for write in writes:
        if write.doubt and write.doubt not in records:
            try:
                record = json.loads(write.doubt)
                adopt([record])
                records[write.doubt] = record
            except (ValueError, TypeError, KeyError):
                logger.error("what a record of the journal says of its attempt cannot be read")
                write.doubt = b""
    return list(records.values())


def _verdict_of(entry: InDoubt, outcome: Outcome) -> Resolution:
    if outcome is Outcome.APPLIED:
        return Resolution.APPLIED
    if outcome in (Outcome.NOT_SENT, Outcome.REJECTED) or entry.is_absolute:
        return Resolution.SEND
    return Resolution.UNKNOWN
