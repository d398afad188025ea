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
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _core, _wall_clock
from agent_memory._commits import JournalCommits
from agent_memory.errors import RecoveryJournalError
from agent_memory.policy import Priority
from agent_memory.recovery._sync.queued_writes import (
    CommandWrite,
    FunctionWrite,
    InheritedCommandWrite,
    shape_of,
)
from agent_memory.recovery.records import Record, decode, encode, words_of

if TYPE_CHECKING:
    from agent_memory.policy import RecoveryConfig

__all__ = ["Journal", "Registered", "commands_of", "record_of", "segment_of"]

_RECORD_BITS: Final = 64
_SEGMENT_BITS: Final = 48
_SERIALS: Final = itertools.count(1)

logger: Final = logging.getLogger("agent_memory.storage")


class Registered:
    """A function that is registered by name, and how its data becomes bytes and back."""

    __slots__ = ("dumps", "function", "loads", "name")

    def __init__(
        self,
        name: str,
        function: Callable[[str, Any], Any],
        dumps: Callable[[Any], str | bytes],
        loads: Callable[[bytes], Any],
    ) -> None:
        self.name = name
        self.function = function
        self.dumps = dumps
        self.loads = loads

    def encoded(self, state: Any) -> bytes:
        """Data as bytes. Raises whatever `dumps` raises, TypeError where it gives neither str nor bytes."""
        data = self.dumps(state)
        if isinstance(data, str):
            return data.encode()
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"dumps must return str or bytes, got {type(data).__name__}")
        return bytes(data)


def _open(config: RecoveryConfig, identity: str) -> tuple[Any, Any]:
    """The engine, and what waits for its tickets; a simulated disk brings both."""
    simulated = getattr(config.path, "open_journal", None)
    if simulated is not None:
        engine = simulated(identity, config.fsync, float(config.fsync_interval))
        return engine, engine
    assert config.path is not None
    core = _core.Journal(config.path, identity, fsync=config.fsync, fsync_interval_s=float(config.fsync_interval))
    return core, JournalCommits(core)


class Journal:
    """Records of queued writes, and waiting for them to be kept.

    The number of a record says which open journal it is of: one that was given free meanwhile is a successor's, and what is
    asked of its records here is passed over.
    """

    def __init__(self, config: RecoveryConfig, identity: str) -> None:
        self._core, self._commits = _open(config, identity)
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
            self._let_go()
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
        """Has the record of a write removed, without waiting for it; then its ticket is let go of."""
        if write.record is None or not self.owns(write.record):
            return
        asked = self._quietly(self._core.remove, self._own([write.record]))
        if isinstance(write, CommandWrite) and write.ticket is not None and asked is not None:
            self._removing.append((asked, write))

    def _let_go(self) -> None:
        if self._sweeping.acquire(blocking=False):
            try:
                done, removing = self._core.done(), self._removing
                while removing and removing[0][0] <= done:
                    removing.popleft()[1].let_go()
            finally:
                self._sweeping.release()

    def finish(self, records: Sequence[int]) -> None:
        """Removes records; returns when they will not come back."""
        if own := self._own(records):
            try:
                self._commits.wait(self._core.remove(own))
            except RecoveryJournalError as error:
                logger.error("a replayed write could not be removed from the journal: %s", error)

    def announce(self, records: Sequence[int], doubt: bytes = b"") -> None:
        """Remembers that these records, and no others, are being sent, and what will resolve them.

        Raises RecoveryJournalError if that can't be kept.
        """
        self._commits.wait(self._core.mark_sent(self._own(records), doubt))

    def note(self, name: str, body: bytes) -> None:
        """Keeps a note beside the records."""
        self._commits.wait(self._core.note(name, body))

    def ask_note(self, name: str, body: bytes) -> int:
        """Asks for a note; the ticket to wait for. Raises RecoveryJournalError."""
        ticket: int = self._core.note(name, body)
        return ticket

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
                # It was being sent, so what had been in doubt before was settled.
                entry.doubt = sent
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
        figures: dict[str, Any] = self._core.stats()
        return figures

    def close(self) -> None:
        """Writes what is asked for and gives the segments free. Blocks for the disk."""
        self._core.close()
        self._let_go()

    def close_tickets(self) -> None:
        """Frees what waiting needed; nobody waits any more."""
        self._commits.close()

    def abandon(self) -> None:
        """In a child of fork(): the parent's segments stay his."""
        self._core.abandon()


def segment_of(record: int) -> int:
    """The number of the segment that a record is in."""
    return (record & ((1 << _RECORD_BITS) - 1)) >> _SEGMENT_BITS


def record_of(
    write: CommandWrite | FunctionWrite,
    keys: Sequence[bytes],
    priority: Priority,
    *,
    queued_ms: int | None = None,
    coalesce: bool = False,
    ahead: bool = False,
    reason: str = "",
    registered: Registered | None = None,
    doubt: bytes | None = None,
) -> bytes:
    """The bytes of a write's record; `doubt` is what resolves it should its process die, without it what the write knows."""
    doubt = write.doubt if doubt is None else doubt
    flags = "c" * coalesce + "w" * ahead + "d" * (doubt is not None) + "x" * bool(reason)
    if isinstance(write, CommandWrite):
        kind = "transaction" if write.shape.is_transaction else "commands"
        flags += "a" * write.shape.is_absolute
        parts = tuple(write.packed)
    else:
        assert registered is not None
        kind = "function"
        parts = (
            registered.name.encode(),
            write.agent_id.encode("utf-8", "surrogatepass"),
            registered.encoded(write.state),
        )
    now_ms = _wall_clock.now_ns() // 1_000_000 if queued_ms is None else queued_ms
    return encode(Record(kind, flags, priority, now_ms, reason, doubt or b"", tuple(keys), parts))


def commands_of(record: Record) -> CommandWrite:
    """The commands that a record holds."""
    names = tuple(words_of(command)[0].decode("ascii", "replace").upper() for command in record.parts)
    is_pipeline, is_transaction = len(record.parts) > 1, record.kind == "transaction"
    packed = record.parts[0] if len(record.parts) == 1 else record.parts
    commands = InheritedCommandWrite(packed, shape_of(names, "a" in record.flags, is_pipeline, is_transaction))
    if "d" in record.flags:
        commands.doubt = record.doubt
    return commands
