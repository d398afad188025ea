# Generated from ../_async/record_keeper.py by tools/generate_sync.py: edit that file, not this one.

"""What is kept of queued writes on disk: the journal, the functions whose calls it can keep, the notes of connections.

A record is written before its write is queued (or sent, with `write_ahead`), and removed before its write leaves the queue. A
child of fork() begins without a journal, and opens a segment of its own with its first write.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _wall_clock
from agent_memory.errors import Outcome, RecoveryJournalError, RedisUnavailableError
from agent_memory.policy import Priority
from agent_memory.recovery._sync.connection_notes import ConnectionNotes
from agent_memory.recovery._sync.journal import Journal
from agent_memory.recovery._sync.queued_writes import CommandWrite, FunctionWrite
from agent_memory.recovery._sync.write_records import commands_of, record_of
from agent_memory.recovery.functions import FunctionRegistry, RegisteredFunction, UnregisteredRecords
from agent_memory.recovery.journal_damage import report_damage
from agent_memory.recovery.queued_data import estimate_bytes
from agent_memory.recovery.records import encode

if TYPE_CHECKING:
    from agent_memory.policy import RecoveryConfig
    from agent_memory.recovery.records import Record
    from agent_memory.redis.exactly_once.mode import Mode
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["RecordKeeper"]

logger: Final = logging.getLogger("agent_memory.storage")

# What a child of fork() has inherited and must neither use nor destroy. Bounded by the forks a process descends from.
_abandoned: list[Journal] = []


class RecordKeeper:
    """Keeps the records of one client's queued writes; without a `path` it keeps nothing."""

    def __init__(self, settings: RecoveryConfig | None, client_name: str, identity: str) -> None:
        self._settings = settings
        self._client_name = client_name
        self._identity = identity
        self._has_path = settings is not None and settings.path is not None
        self.resolves = False
        """Whether writes of unknown outcome can be resolved: where the client's commands have exactly once."""
        self.writes_ahead = settings is not None and settings.write_ahead
        """Whether writes are in the journal before they are sent."""
        self.connections = ConnectionNotes(client_name)
        self.functions = FunctionRegistry()
        self.journal: Journal | None = None
        self.overtaken = 0
        """Writes that were given up since their agent was stored anew before their function was registered."""
        self._unregistered = UnregisteredRecords()
        self._has_reported_closures = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start_afresh(self) -> None:
        """In a child of fork(): the parent's segments stay his."""
        if self.journal is not None:
            self.journal.abandon()
            _abandoned.append(self.journal)
            self.journal = None
        self.connections.start_afresh()

    def open(self) -> list[tuple[int, Record]]:
        """Opens the journal if it is not open; what predecessors left in it, oldest first."""
        if not self._has_path or self.journal is not None:
            return []
        assert self._settings is not None
        journal = self.journal = Journal(self._settings, self._identity)
        found = journal.recovered()
        figures = journal.stats()
        if found:
            logger.warning("%s: %d writes were found in the journal", self._client_name, len(found))
        report_damage(logger, self._client_name, figures)
        if figures["foreign_segments"]:
            logger.warning(
                "%s: the journal's directory holds %d segments of other clients or servers",
                self._client_name,
                figures["foreign_segments"],
            )
        self.connections.attach(journal)
        return found

    def bind(self, mode: Mode) -> None:
        """The client's pool has exactly once: the journal, where there is one, names the pool's connections."""
        if self._has_path:  # without a journal, the pool may be another client's, whose journal names them
            self.connections.bind(mode)

    def detach(self) -> Journal | None:
        """The journal, for its caller to close: from now on nothing is kept in it, and what is in it is another's."""
        journal, self.journal = self.journal, None
        if journal is not None:
            self.connections.detach()
            self._unregistered.clear()
        return journal

    def has_left(self, write: CommandWrite | FunctionWrite) -> bool:
        """Whether the journal that has its record was given free meanwhile: then it is a successor's, and not queued here."""
        if not self._has_path:
            return False  # nothing has a record
        record = write.record
        if record is None or (self.journal is not None and self.journal.owns(record)):
            return False
        write.result.durable = True
        write.result._queue()
        write.result._release()
        return True

    # --- functions ----------------------------------------------------------------------------------------------------

    def take_unregistered(self, name: str) -> Iterator[tuple[int, Record]]:
        """The records of a function that has been registered now, one by one."""
        return self._unregistered.take(name)

    def overtake(self, agent_id: str) -> None:
        """`agent_id` was stored anew, or a newer write of it waits: what a predecessor left for it is executed no more.

        Older data would replace newer if a function were registered afterwards. Such writes become dead letters
        ("overtaken") once their function is registered; until then they stay in the journal.
        """
        for record, entry in self._unregistered.overtake(agent_id):
            self.overtaken += 1
            logger.error(
                "%s: gave up a write that a predecessor left for %r, which is not registered: its agent was stored anew",
                self._client_name,
                entry.parts[0].decode(),
            )
            if self.journal is None:
                continue
            try:
                self.journal.replace_now(record, encode(entry))
            except RecoveryJournalError as error:
                logger.error("%s: the journal could not keep that: %s", self._client_name, error)

    def write_of(self, record: int, entry: Record) -> tuple[CommandWrite | FunctionWrite, int] | None:
        """The write of a predecessor's record and its size in bytes; None where it has to wait for its function."""
        if entry.kind != "function":
            commands = commands_of(entry)
            commands.record = record
            return commands, commands.size_bytes
        registered = self.functions.get(entry.parts[0].decode())
        if registered is None:
            self._unregistered.add(record, entry)
            return None
        agent_id = entry.parts[1].decode("utf-8", "surrogatepass")
        try:
            state = registered.loads(entry.parts[2])
            size_bytes = estimate_bytes(state)
        except Exception as error:
            self._unregistered.add(record, entry)
            logger.error(
                "%s: a record of %r cannot be read by its loads (%s): it stays in the journal",
                self._client_name,
                registered.name,
                type(error).__name__,
            )
            return None
        except BaseException:
            self._unregistered.put_back(record, entry)
            raise
        write = FunctionWrite(self._client_name, agent_id, state, registered.function, entry.priority)
        write.name = registered.name
        write.record = record
        if "d" in entry.flags:
            write.unknown_token = entry.unknown_token
        return write, size_bytes

    def _report_closures(self) -> None:
        if not self._has_reported_closures:
            self._has_reported_closures = True
            logger.warning(
                "%s: writes by functions that are not registered are kept in memory only: recovery.register(name, function)",
                self._client_name,
            )

    def _report_unencodable(self, registered: RegisteredFunction, error: Exception) -> None:
        logger.error(
            "%s: data for %r cannot be encoded by its dumps (%s): the write is kept in memory only",
            self._client_name,
            registered.name,
            type(error).__name__,
        )

    # --- records ------------------------------------------------------------------------------------------------------

    def can_keep(self, write: CommandWrite | FunctionWrite, *, ahead: bool = False) -> bool:
        """Whether a write gets a record. Raises RedisUnavailableError (NOT_SENT) for one `ahead` whose record is another's."""
        if not self._has_path:
            return False
        if isinstance(write, FunctionWrite) and self.functions.get(write.name) is None:
            self._report_closures()
            return False
        if ahead and self.has_left(write):
            raise RedisUnavailableError("the client was closed", outcome=Outcome.NOT_SENT)
        return True

    def keep(
        self,
        write: CommandWrite | FunctionWrite,
        keys: Sequence[bytes],
        priority: Priority,
        *,
        coalesce: bool = False,
        ahead: bool = False,
        unknown_token: bytes | None = None,
    ) -> None:
        """Writes a write's record, or writes it anew; raises RecoveryJournalError if it could not be kept.

        What is written anew because it is about to be sent (`ahead`, resolved by `unknown_token`) is waited for as well.
        """
        journal = self.journal
        assert journal is not None
        registered = self.functions.get(write.name) if isinstance(write, FunctionWrite) else None
        try:
            body = record_of(
                write,
                keys,
                priority,
                coalesce=coalesce,
                ahead=ahead,
                registered=registered,
                unknown_token=unknown_token,
            )
        except Exception as error:
            if registered is None:
                raise
            self._report_unencodable(registered, error)
            return
        if write.record is not None:
            if ahead:
                journal.replace_now(write.record, body)
            else:
                journal.replace(write.record, body)
            return
        write.record, ticket = journal.append(body)
        try:
            journal.settled(ticket)
        except RecoveryJournalError:
            write.record = None
            raise

    def keep_newer(self, write: CommandWrite | FunctionWrite, keys: Sequence[bytes], priority: int) -> None:
        """The record that a write has, or has taken over, is of this write from now on."""
        if write.record is not None and self.journal is not None:
            self.journal.replace(write.record, record_of(write, keys, Priority(priority), coalesce=True))

    def rewrite(self, write: Any, entry: Any, reason: str = "") -> None:
        """Brings the record of a write up to date with what has become of it."""
        journal = self.journal
        if write.record is None or journal is None:
            return
        registered = self.functions.get(write.name) if isinstance(write, FunctionWrite) else None
        if isinstance(write, FunctionWrite) and registered is None:
            return
        queued_ms = int(_wall_clock.now_ns() / 1e6 - (0 if reason else entry.age_s * 1000))
        try:
            body = record_of(
                write, entry.keys, Priority(entry.priority), queued_ms=queued_ms, reason=reason, registered=registered
            )
        except Exception as error:
            if registered is None:
                raise
            self._report_unencodable(registered, error)  # the record stays as it is
            return
        journal.replace(write.record, body)

    def rewrite_attempt(self, write: CommandWrite, entry: Any, ticket: Ticket) -> None:
        """Has the record of a queued write say how it is about to be sent; raises RecoveryJournalError."""
        journal = self.journal
        if write.record is None or journal is None:
            return
        queued_ms = int(_wall_clock.now_ns() / 1e6 - entry.age_s * 1000)
        body = record_of(write, entry.keys, Priority(entry.priority), queued_ms=queued_ms, unknown_token=ticket.token)
        before, write.ticket = write.ticket, ticket
        ticket.hold(write)
        journal.replace_now(write.record, body)
        if before is not None and before is not ticket:
            before.release(write)

    def forget(self, write: CommandWrite | FunctionWrite) -> None:
        """Has the record of a write removed, without waiting for it."""
        if write.record is not None and self.journal is not None:
            self.journal.forget_write(write)
            write.record = None

    def forget_all(self, writes: Sequence[Any]) -> None:
        """Has the records of dead letters removed that are not kept any more."""
        if self.journal is not None:
            self.journal.forget([write.record for write in writes if write.record is not None])

    def finish(self, writes: Sequence[Any]) -> None:
        """Removes the records of writes that have been executed; returns when they will not come back."""
        if self.journal is not None:
            self.journal.finish([write.record for write in writes if write.record is not None])

    # --- figures ------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """With a journal "journal", its figures, and "unregistered"; else empty."""
        if self.journal is None:
            return {}
        return {"journal": self.journal.stats(), "unregistered": len(self._unregistered)}

    @property
    def damaged_records(self) -> int:
        """Records that were lost, or found in an older state, when the journal was opened; at least 1 if it was damaged."""
        figures: dict[str, int] = {} if self.journal is None else self.journal.stats()
        return max(figures.get("damaged_records", 0), figures.get("damaged_segments", 0))
