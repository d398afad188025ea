"""What is remembered of each write to the socket, and what follows from it when the connection ends."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeAlias

from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.exactly_once.slots import OnceSlot
from agent_memory.redis.exactly_once.tickets import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent_memory.redis.exactly_once.tickets import Stream

__all__ = ["Mark", "conclude_writes"]

Mark: TypeAlias = tuple[int, float, int, list[bytes]]
"""One write: number behind its last slot, when, offset of its first byte in our stream, and what was handed over for each of
its slots, large commands cut off unless offsets are asked for later."""


def conclude_writes(
    stream: Stream, marks: Iterable[Mark], slots: Sequence[Any], answered: int, maybe_executed: int
) -> None:
    """Say of each write that can be resolved that it was not sent, or that its reply is lost; and where it ends.

    `slots` are the unanswered ones, of which the first `maybe_executed` may have been executed.
    """
    ends: dict[int, int] = {}  # by absolute number of a slot
    if stream.level is Level.OFFSET:
        for slots_upto, _, first_byte, parts in marks:
            lengths = itertools.accumulate(map(len, parts), initial=stream.first_byte + first_byte)
            next(lengths)
            ends.update(zip(range(slots_upto - len(parts), slots_upto), lengths, strict=True))
    last = None
    for index, slot in enumerate(slots):
        if slot.__class__ is OnceSlot and slot is not last:
            last = slot
            slot.ticket.end_bytes = ends.get(answered + index)
            if index < maybe_executed:
                stream.lose(slot.ticket)
            else:
                slot.ticket.conclude(Verdict.NOT_APPLIED)
