"""What became of queued writes whose answer was lost, where exactly once is on: asked of the drop-in client's tickets.

- A lost write of this process has a ticket, which the error in its result keeps alive. Its old connection is fenced before
  anything else is sent, so an absolute one may be sent again at once; any other waits for its ticket's verdict.
- A write of a predecessor that left a record is fenced and resolved by that; all records are asked for at once, since a
  marker is deleted when it is done with.
- Without either nothing tells: absolute writes are sent again, others become dead letters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.redis.exactly_once.tickets import Verdict as TicketVerdict
from agent_memory.redis.exactly_once.tickets import ticket_of
from agent_memory.storage._async_resolving import AsyncResolver, InDoubt, Verdict

if TYPE_CHECKING:
    from agent_memory.redis._async_guarded import AsyncGuardedCalls
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["AsyncTicketResolver"]

RESOLVE_TIMEOUT_S: Final = 5.0
"""How long one batch asks; what is not known by then is asked about again later."""


class AsyncTicketResolver(AsyncResolver):
    """Resolves by tickets, and by the records that a predecessor's tickets left."""

    def __init__(self, client: AsyncGuardedCalls) -> None:
        self._client = client

    async def resolve(self, entries: Sequence[InDoubt]) -> list[Verdict]:
        """One verdict for each entry, in order. What it raises counts as LATER for all."""
        tickets = [ticket_of(entry.doubt) if entry.doubt else None for entry in entries]
        left = [entry.doubt for entry, ticket in zip(entries, tickets, strict=True) if entry.doubt and ticket is None]
        outcomes: dict[bytes, Outcome] = {}
        if left:
            records: list[dict[str, Any]] = [json.loads(doubt) for doubt in dict.fromkeys(left)]
            found = await self._client.resolve_records(records, RESOLVE_TIMEOUT_S)
            outcomes = dict(zip(dict.fromkeys(left), found, strict=True))
        verdicts = []
        for entry, ticket in zip(entries, tickets, strict=True):
            if ticket is not None:
                verdicts.append(await self._by_ticket(entry, ticket))
            else:
                verdicts.append(_verdict_of(entry, outcomes.get(entry.doubt, Outcome.UNKNOWN)))
        return verdicts

    async def _by_ticket(self, entry: InDoubt, ticket: Ticket) -> Verdict:
        lost = RedisUnavailableError("the answer was lost")
        lost.ticket = ticket
        outcome = await self._client.resolve(lost, RESOLVE_TIMEOUT_S)
        if outcome is Outcome.UNKNOWN and ticket.verdict is not TicketVerdict.UNRESOLVABLE:
            return Verdict.LATER
        return _verdict_of(entry, outcome)


def _verdict_of(entry: InDoubt, outcome: Outcome) -> Verdict:
    if outcome is Outcome.APPLIED:
        return Verdict.APPLIED
    if outcome in (Outcome.NOT_SENT, Outcome.REJECTED) or entry.is_absolute:
        return Verdict.SEND
    return Verdict.UNKNOWN
