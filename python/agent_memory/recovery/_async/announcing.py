"""What the journal records of a batch before it is sent, for a successor: which of its writes may have been executed.

Relative writes that are in the journal are marked there before they are sent, with what will resolve them: a successor finds
their outcome unknown. Sent together they have one ticket, in one announcement; sent alone, each has its own in its record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent_memory.errors import Outcome, RecoveryJournalError, RedisUnavailableError

if TYPE_CHECKING:
    from agent_memory._core import RecoveryEntry
    from agent_memory.recovery._async.queued_writes import AsyncCommandWrite
    from agent_memory.recovery._async.record_keeper import AsyncRecordKeeper
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["AsyncAnnouncement", "AsyncAnnouncer"]


class AsyncAnnouncement:
    """What the journal says just now of the writes that are being sent together; one for each life of the journal."""

    def __init__(self, keeper: AsyncRecordKeeper) -> None:
        self._keeper = keeper
        self._ticket: Ticket | None = None
        self._is_made = False

    async def make(self, writes: Sequence[AsyncCommandWrite], ticket: Ticket | None) -> None:
        """Has the journal say that these writes, and no others, are being sent, and what resolves them.

        Raises RecoveryJournalError.
        """
        journal = self._keeper.journal
        if journal is None:
            return
        records = [write.record for write in writes if write.record is not None]
        if not (records or self._is_made):
            return
        before, self._ticket = self._ticket, ticket
        self._is_made = bool(records)
        if ticket is not None:
            ticket.hold(self)
        await journal.announce(records, b"" if ticket is None else ticket.token)
        if before is not None and before is not ticket:
            before.release(self)

    async def withdraw(self) -> None:
        """Nothing is being sent any more."""
        try:
            await self.make([], None)
        except RecoveryJournalError:
            pass  # then a successor resolves what it need not resolve

    def release(self) -> None:
        """The journal is given free, and nothing of it is left for a successor to resolve."""
        if self._ticket is not None:
            self._ticket.release(self)


class AsyncAnnouncer:
    """Tells the journal how the entries of one batch are sent, before they are; each method raises RecoveryJournalError.

    `check` is called before each attempt, and raises where nothing may be sent any more: a worker that outlives its client,
    because closing waits only so long for it, gets no further than here.
    """

    def __init__(
        self,
        announcement: AsyncAnnouncement,
        keeper: AsyncRecordKeeper,
        entries: Sequence[RecoveryEntry],
        check: Callable[[], None],
    ) -> None:
        self._announcement = announcement
        self._keeper = keeper
        self._entries = entries
        self.check = check
        self._begun: dict[int, Ticket | None] = {}

    def interrupted(self) -> None:
        """The event loop ends in the middle of it: what has begun may be executed."""
        for entry in self._entries:
            write = entry.payload
            if id(write) in self._begun:
                lost = RedisUnavailableError("interrupted", outcome=Outcome.UNKNOWN)
                lost.ticket = self._begun[id(write)]
                write.note_unknown(lost)

    async def together(self, writes: Sequence[AsyncCommandWrite], ticket: Ticket | None) -> None:
        """The relative ones of these are sent with one ticket, or with none; no others are being sent."""
        self.check()
        await self._announcement.make([write for write in writes if not write.shape.is_absolute], ticket)
        self._begun = dict.fromkeys(map(id, writes), ticket)

    async def nothing(self) -> None:
        """What is sent from now on says so for itself."""
        self._begun = {}
        await self._announcement.make([], None)

    async def alone(self, write: AsyncCommandWrite, ticket: Ticket) -> None:
        """A write is sent with a ticket of its own."""
        self.check()
        if not write.shape.is_absolute:
            entry = next(entry for entry in self._entries if entry.payload is write)
            await self._keeper.rewrite_attempt(write, entry, ticket)
        self._begun[id(write)] = ticket
