# Generated from ../_async/resolver.py by tools/generate_sync.py: edit that file, not this one.

"""The place where a queued write of unknown outcome is decided before it is sent again.

An entry is *in doubt* when an attempt at it ended with `Outcome.UNKNOWN`, or when a restarted process finds it in the journal
of a predecessor that wrote ahead: the server may have executed it, and the old connection may still carry it. The worker of
the queue never sends such an entry without a verdict from here. `Recovery.resolver` holds the resolver; the default
knows nothing of the server, so it sends absolute writes again, which leaves the same data, and gives up all others.

What an attempt's error says for a resolver travels as bytes: an error with an attribute `doubt` (bytes) has it kept with the
entry, in the journal too. `Recovery.note(name, bytes)` is kept with the journal, for entries that were written
ahead or being replayed when the process died; a successor finds it in `Recovery.notes`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_memory.recovery._sync.queued_writes import CommandWrite
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["Resolver", "InDoubt", "Resolution"]


class Resolution(enum.Enum):
    """What may be done with an entry whose outcome was unknown."""

    SEND = "send"
    """It has not been executed, never will be, or may be executed again: send it."""
    APPLIED = "applied"
    """It has been executed: it is done with."""
    UNKNOWN = "unknown"
    """Nobody can tell: it becomes a dead letter with this reason."""
    LATER = "later"
    """It cannot be told now (the server is away or busy): it keeps its place and is asked about again."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """An entry as a resolver sees it."""

    packed: Sequence[bytes]
    """Its commands, packed; more than one for a pipeline."""
    is_transaction: bool
    """Whether its commands are sent as MULTI … EXEC."""
    is_absolute: bool
    """Whether executing it again leaves the same data."""
    keys: Sequence[bytes]
    """The keys it writes."""
    doubt: bytes
    """What the error of its last attempt said for the resolver; empty where that was nothing, or the process died."""
    predecessor: int | None
    """The number of the journal's segment, where a process that has died left it (see `Recovery.notes`); else None."""
    ticket: Ticket | None = None
    """What exactly once knows of its last attempt; None for nothing."""


class Resolver:
    """The default: absolute writes are sent again, of others nothing is known."""

    def adopt(self, writes: Sequence[CommandWrite]) -> None:
        """All that a predecessor left in doubt; told before the first of them is to be resolved, and again if that raises."""

    def resolve(self, entries: Sequence[InDoubt]) -> list[Resolution]:
        """One verdict for each entry, in order. What it raises counts as LATER for all."""
        return [Resolution.SEND if entry.is_absolute else Resolution.UNKNOWN for entry in entries]
