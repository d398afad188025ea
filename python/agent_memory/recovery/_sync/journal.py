# Generated from ../_async/journal.py by tools/generate_sync.py: edit that file, not this one.

"""The journal of one client: queued writes as records on disk, in the words of the recovery queue.

Opening it is blocking work of a few milliseconds (more where there is much to recover) and done when the client is made;
afterwards nothing here blocks the caller's thread for the disk.
"""

from __future__ import annotations

import collections
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent_memory import _core
from agent_memory._commits import JournalCommits
from agent_memory.errors import RecoveryJournalError
from agent_memory.recovery._sync.queued_writes import CommandWrite, FunctionWrite
from agent_memory.recovery.journal_engine import JournalEngine
from agent_memory.recovery.records import Record, decode, encode

if TYPE_CHECKING:
    from agent_memory.policy import RecoveryConfig

__all__ = ["Journal", "JournalProgress", "OpenJournal"]

_RECORD_BITS: Final = 64
_SERIALS: Final = itertools.count(1)

logger: Final = logging.getLogger("agent_memory.storage")


class JournalProgress(Protocol):
    """Waits for the requests of one engine."""

    def wait(self, ticket: int) -> None:
        """Returns when a request is kept; raises the RecoveryJournalError it failed with."""
        ...

    def close(self) -> None:
        """Frees what waiting needed."""
        ...


OpenJournal = Callable[["RecoveryConfig", str], tuple[JournalEngine, JournalProgress]]
"""Opens the engine for a configuration and the identity of a client, and what waits for it."""


def open_on_disk(config: RecoveryConfig, identity: str) -> tuple[JournalEngine, JournalProgress]:
    """The engine in the directory `config.path`."""
    assert config.path is not None
    engine = _core.Journal(config.path, identity, fsync=config.fsync, fsync_interval_s=float(config.fsync_interval_s))
    return engine, JournalCommits(engine)


class Journal:
    """Records of queued writes, and waiting for them to be kept.

    The number of a record says which open journal it is of: one that was given free meanwhile is a successor's, and what is
    asked of its records here is passed over.
    """

    def __init__(self, config: RecoveryConfig, identity: str) -> None:
        open_journal: OpenJournal = config.open_journal or open_on_disk
        self._core, self._commits = open_journal(config, identity)
        self._serial = next(_SERIALS)
        self.notes: dict[tuple[int, str], bytes] = {
            (segment, name): body for segment, name, body in self._core.recovered_notes()
        }
        # Writes whose removal was asked for, by the request: their tickets are held until it has been done. As many as the
        # engine lets wait.
        self._removing: collections.deque[tuple[int, CommandWrite]] = collections.deque()
        self._sweeping = threading.Lock()

    # --- keeping ------------------------------------------------------------------------------------------------------

    def append(self, body: bytes) -> tuple[int, int]:
        """Asks for a record to be written; its id and the ticket to wait for. Raises RecoveryJournalError."""
        if self._removing:
            self._release_removed()
        record, ticket = self._core.append(body)
        return self._serial << _RECORD_BITS | record, ticket

    def owns(self, record: int) -> bool:
        """Whether a record is in this journal, and not in one that was given free."""
        return record >> _RECORD_BITS == self._serial

    def _own(self, records: Sequence[int]) -> list[int]:
        return [record & ((1 << _RECORD_BITS) - 1) for record in records if self.owns(record)]

    def settled(self, ticket: int) -> None:
        """Returns when what was asked for is kept; raises the RecoveryJournalError it failed with."""
        self._commits.wait(ticket)

    def replace(self, record: int, body: bytes) -> None:
        """Has a record replaced, before anything that is asked for later."""
        for own in self._own([record]):
            self._quietly(self._core.replace, own, body)

    def replace_now(self, record: int, body: bytes) -> None:
        """Replaces a record; raises the RecoveryJournalError it failed with."""
        for own in self._own([record]):
            self._commits.wait(self._core.replace(own, body))

    def forget(self, records: Sequence[int]) -> None:
        """Has records removed, without waiting for it."""
        if own := self._own(records):
            self._quietly(self._core.remove, own)

    def forget_write(self, write: CommandWrite | FunctionWrite) -> None:
        """Has the record of a write removed, without waiting for it; then its ticket is released."""
        if write.record is None or not self.owns(write.record):
            return
        asked = self._quietly(self._core.remove, self._own([write.record]))
        if isinstance(write, CommandWrite) and write.ticket is not None and asked is not None:
            self._removing.append((asked, write))

    def _release_removed(self) -> None:
        if self._sweeping.acquire(blocking=False):
            try:
                done, removing = self._core.done(), self._removing
                while removing and removing[0][0] <= done:
                    removing.popleft()[1].release()
            finally:
                self._sweeping.release()

    def finish(self, records: Sequence[int]) -> None:
        """Removes records; returns when they will not come back."""
        if own := self._own(records):
            try:
                self._commits.wait(self._core.remove(own))
            except RecoveryJournalError as error:
                logger.error("a replayed write could not be removed from the journal: %s", error)

    def announce(self, records: Sequence[int], unknown_token: bytes = b"") -> None:
        """Remembers that these records, and no others, are being sent, and what will resolve them.

        Raises RecoveryJournalError if that can't be kept.
        """
        self._commits.wait(self._core.mark_sent(self._own(records), unknown_token))

    def ask_note(self, name: str, body: bytes) -> int:
        """Asks for a note beside the records; the ticket to wait for. Raises RecoveryJournalError."""
        return self._core.note(name, body)

    def _quietly(self, ask: Callable[..., int], *arguments: Any) -> int | None:
        try:
            return ask(*arguments)
        except RecoveryJournalError as error:
            logger.error("the journal could not be brought up to date: %s", error)
            return None

    # --- recovering ---------------------------------------------------------------------------------------------------

    def recovered(self) -> list[tuple[int, Record]]:
        """What was there when it was opened, oldest first."""
        found: list[tuple[int, Record]] = []
        uncertain = frozenset(self._core.uncertain())
        for number, sent, body in self._core.take_recovered():
            record = self._serial << _RECORD_BITS | number
            try:
                entry = decode(body)
            except ValueError as error:
                # Its checksum is right, so it was written by another version; it stays for that one.
                logger.error("a record of the journal was passed over: %s", error)
                continue
            if "w" in entry.flags or sent is not None:
                entry.flags += "d"
            if sent is not None:
                # It was being sent, so the earlier unknown outcome was settled.
                entry.unknown_token = sent
                # The next announcement replaces the one that says so, perhaps before this entry has been decided.
                self.replace(record, encode(entry))
            if number in uncertain:
                # Damage may have hidden that it was executed or changed.
                entry.flags += "u"
            found.append((record, entry))
        return found

    # --- life ---------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """The journal's figures."""
        return self._core.stats()

    def close(self) -> None:
        """Writes what is asked for and gives the segments free. Blocks for the disk."""
        self._core.close()
        self._release_removed()

    def close_tickets(self) -> None:
        """Frees what waiting needed; no waiter is left."""
        self._commits.close()

    def abandon(self) -> None:
        """In a child of fork(): the parent's segments stay his."""
        self._core.abandon()
