# Generated from ../_async/write_queue.py by tools/generate_sync.py: edit that file, not this one.

"""The writes that wait: the core's queue, with what hangs on it kept in step (records, results, the waiters for a key).

Rules
- A write is in the journal before it is in the queue, and leaves the queue when it has left the journal. So what is in the
  queue is at least as much as what a successor would find, and a write that was reported as "queued" outlives the process.
- `_mutex` keeps the queue and the switch that sends plain writes the slow path in step; it is never held while waiting.
- A child of fork() starts with an empty queue: what waits is its parent's.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _wall_clock
from agent_memory._concurrency import Event
from agent_memory._core import RecoveryQueue, monotonic_ns
from agent_memory.errors import RecoveryJournalError, RecoveryQueueFullError
from agent_memory.policy import Priority
from agent_memory.recovery._sync.queued_writes import CommandWrite, FunctionWrite
from agent_memory.recovery.queue_level import QueueLevel
from agent_memory.recovery.queued_data import copy_of, estimate_bytes
from agent_memory.recovery.results import StoreStatus

if TYPE_CHECKING:
    from agent_memory._core import RecoveryEntry
    from agent_memory.policy import RecoveryConfig
    from agent_memory.recovery._sync.record_keeper import RecordKeeper
    from agent_memory.recovery._sync.worker import Worker
    from agent_memory.recovery.records import Record
    from agent_memory.redis._sync.guarded import GuardedCalls
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["WriteQueue"]

logger: Final = logging.getLogger("agent_memory.storage")

_NOT_DUE_S: Final = 1e9


class WriteQueue:
    """The recovery queue of one client; without settings nothing is queued."""

    def __init__(self, settings: RecoveryConfig | None, client_name: str, keeper: RecordKeeper, worker: Worker) -> None:
        self._settings = settings
        self._client_name = client_name
        self._keeper = keeper
        self._worker = worker
        self._dropin: weakref.ref[GuardedCalls] | None = None
        self.stored = 0
        self.given_up = 0
        self._level = QueueLevel(client_name)
        self.start_afresh()

    def start_afresh(self) -> None:
        """In a child of fork(): an empty queue without waiters."""
        self._mutex = threading.Lock()
        self._emptied = Event()
        self._key_events: dict[bytes, Event] = {}
        self.core: RecoveryQueue | None = None if self._settings is None else _queue_of(self._settings)
        """The core's queue; another one after the client was closed."""
        self._set_slow_path(False)

    def begin_anew(self) -> None:
        """An empty queue that keeps the dead letters that are in memory only: what else was here is in the journal."""
        self._level = QueueLevel(self._client_name)
        old = self.core
        assert self._settings is not None
        assert old is not None
        for entry in old.entries():
            entry.payload.result._release()
        core = self.core = _queue_of(self._settings)
        for letter in old.dead_letters():
            if letter.payload.record is None:
                place, _ = core.put(letter.keys, letter.payload, priority=letter.priority, restored=True)
                core.discard(place, letter.reason or "")
        self._note_emptied()

    def bind(self, commands: GuardedCalls) -> None:
        """Has the plain writes of a drop-in client take the slow path while anything is queued."""
        self._dropin = weakref.ref(commands)
        with self._mutex:
            self._set_slow_path(self.is_waiting())

    def _set_slow_path(self, on: bool) -> None:
        dropin = None if self._dropin is None else self._dropin()
        if dropin is not None:
            dropin._takes_slow_path = dropin._hurried or on

    # --- what waits ---------------------------------------------------------------------------------------------------

    def is_waiting(self) -> bool:
        """Whether anything is queued."""
        return self.core is not None and len(self.core) > 0

    def are_queued(self, keys: Sequence[bytes]) -> bool:
        """Whether earlier writes of any of these keys wait, so that a new one has to join them."""
        queue = self.core
        return queue is not None and len(queue) > 0 and any(queue.keys_queued(key) for key in keys)

    def wait_for_key(self, key: bytes, timeout_s: float) -> bool:
        """Waits until some write of a key has left the queue, or none waits; False at the end of the time."""
        with self._mutex:
            event = self._key_events.get(key)
            if event is None:
                event = self._key_events[key] = Event()
        return not self.are_queued([key]) or event.wait(timeout_s)

    def wait_until_empty(self, timeout_s: float | None) -> bool:
        """Waits until nothing is queued, at most `timeout_s` (None: for ever); returns whether that came."""
        deadline_ns = None if timeout_s is None else monotonic_ns() + int(timeout_s * 1e9)
        while self.is_waiting():
            self._emptied.clear()
            if not self.is_waiting():  # drained between the two lines above
                break
            left_s = None if deadline_ns is None else max(0.0, (deadline_ns - monotonic_ns()) / 1e9)
            if not self._emptied.wait(left_s):
                return False
        return True

    def note_progress(self, keys: Iterable[bytes]) -> None:
        """Writes of these keys have left the queue."""
        if self._key_events:
            with self._mutex:
                events = [self._key_events.pop(key, None) for key in keys]
            for event in events:
                if event is not None:
                    event.set()
        self._note_emptied()

    def _note_level(self, queue: RecoveryQueue) -> None:
        settings = self._settings
        assert settings is not None
        entries, size_bytes = len(queue), queue.size_bytes
        share = max(entries / settings.max_entries, size_bytes / settings.max_bytes)
        self._level.now(entries, size_bytes, share, self.stored, self.given_up)

    def _note_emptied(self) -> None:
        queue = self.core
        if queue is not None and not len(queue):
            with self._mutex:
                if not len(queue):
                    self._set_slow_path(False)
            self._emptied.set()
        if queue is not None and self._level.level != "empty":
            self._note_level(queue)

    # --- queueing -----------------------------------------------------------------------------------------------------

    def put(self, write: FunctionWrite) -> None:
        """Queues a call of store_with_retry; one that finds no place has failed."""
        # The caller may go on changing what he passed.
        write.state = copy_of(write.state)
        self._put(write, write.keys, write.priority, estimate_bytes(write.state))

    def put_commands(self, write: CommandWrite, keys: Sequence[bytes], priority: Priority, *, coalesce: bool) -> None:
        """Queues commands; what finds no place has failed."""
        self._put(write, keys, priority, write.size_bytes + 2 * sum(map(len, keys)), coalesce=coalesce)

    def put_unknown(self, write: CommandWrite, keys: Sequence[bytes], priority: Priority) -> None:
        """Commands of unknown outcome that cannot be resolved: they become a dead letter."""
        queue = self.core
        if self._keeper.has_left(write):
            return
        if queue is None:
            write.result._settle(StoreStatus.FAILED)
            return
        try:
            self.keep(write, keys, priority)
        except RecoveryJournalError as error:
            logger.error("%s: a dead letter could not be kept: %s", self._client_name, error)
        with self._mutex:
            place, _ = queue.put(
                keys, write, priority=priority, due_in_s=_NOT_DUE_S, size_bytes=write.size_bytes, restored=True
            )
        (entry,) = (entry for entry in queue.entries() if entry.id == place)
        self.bury(entry, "unknown")

    def _put(
        self,
        write: CommandWrite | FunctionWrite,
        keys: Sequence[bytes],
        priority: Priority,
        size_bytes: int,
        coalesce: bool = False,
    ) -> None:
        if self.core is None:
            write.result._settle(StoreStatus.FAILED)
            return
        if self._keeper.has_left(write):
            return
        try:
            self.keep(write, keys, priority, coalesce=coalesce)
        except RecoveryJournalError as error:
            logger.error("%s: a %s write could not be kept: %s", self._client_name, priority.name, error)
            write.result.error = error
            write.result._settle(StoreStatus.FAILED)
            return
        except BaseException:
            if write.record is not None:
                # The caller is gone (cancelled, interrupted), the record is not.
                self.push(write, keys, priority, size_bytes, coalesce)
            raise
        self.push(write, keys, priority, size_bytes, coalesce)

    def push(
        self,
        write: CommandWrite | FunctionWrite,
        keys: Sequence[bytes],
        priority: Priority,
        size_bytes: int,
        coalesce: bool,
    ) -> None:
        """Queues what has been kept, or is to be kept in memory only."""
        if self._keeper.has_left(write):
            return
        queue, result = self.core, write.result
        assert queue is not None
        result.durable = write.record is not None
        result._queue()
        try:
            with self._mutex:
                self._set_slow_path(True)
                _, displaced = queue.put(keys, write, priority=priority, size_bytes=size_bytes, coalesce=coalesce)
        except RecoveryQueueFullError as error:
            result.error = error
            result.durable = False
            self._keeper.forget(write)
            result._settle(StoreStatus.FAILED)
            self._level.refused(len(queue))
            self._note_emptied()
            return
        if displaced is not None:
            self._displace(write, displaced, keys, priority)
        self._note_level(queue)
        self._worker.note_queued(len(queue) == 1)

    def _displace(
        self, write: CommandWrite | FunctionWrite, displaced: Any, keys: Sequence[bytes], priority: Priority
    ) -> None:
        """A newer write stands in the place of an older one: its waiters get the outcome of this."""
        durable, write.result = write.result.durable, displaced.result
        write.result.durable = durable
        if displaced.unknown_token is not None:
            # The older one may be under way still, on a connection that is no longer read: the newer must not go before that
            # is settled.
            write.unknown_token = displaced.unknown_token
            if isinstance(write, CommandWrite) and displaced.ticket is not None:
                displaced.ticket.hold(write)
                write.ticket = displaced.ticket
            self._keeper.keep_newer(write, keys, priority)
        self._keeper.forget(displaced)

    # --- the journal --------------------------------------------------------------------------------------------------

    def open_journal(self) -> None:
        """Opens the journal if it is not open, and queues what predecessors left in it."""
        for record, entry in self._keeper.open():
            self.restore(record, entry)

    def restore(self, record: int, entry: Record) -> None:
        """Queues what a predecessor left."""
        made = self._keeper.write_of(record, entry)
        if made is None:
            return
        write, size_bytes = made
        queue, settings = self.core, self._settings
        assert queue is not None
        assert settings is not None
        write.result.durable = True
        write.result._queue()
        reason = entry.reason
        if not reason and _wall_clock.now_ns() / 1e9 - entry.queued_ms / 1000 >= settings.max_age_s:
            reason = "expired"
        if not reason and "u" in entry.flags:
            reason = "damaged"
        with self._mutex:
            self._set_slow_path(True)
            place, displaced = queue.put(
                entry.keys,
                write,
                priority=entry.priority,
                size_bytes=size_bytes,
                coalesce="c" in entry.flags and "d" not in entry.flags and not reason,
                restored=True,
            )
        self._note_level(queue)
        if displaced is not None:
            self._displace(write, displaced, entry.keys, entry.priority)
        if reason:
            (found,) = (found for found in queue.entries() if found.id == place)
            self.bury(found, reason, was_known=bool(entry.reason))

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
        """Has a write's record kept, where it gets one; raises RecoveryJournalError if it could not be."""
        if self._keeper.can_keep(write, ahead=ahead):
            self.open_journal()  # in a child of fork(), the first time
            self._keeper.keep(write, keys, priority, coalesce=coalesce, ahead=ahead, unknown_token=unknown_token)

    def keep_attempt(
        self,
        write: CommandWrite,
        keys: Sequence[bytes],
        priority: Priority,
        ticket: Ticket | None,
        *,
        coalesce: bool,
    ) -> None:
        """Has the record of a write say how it is about to be sent; raises RecoveryJournalError."""
        before = write.ticket
        if ticket is None and before is None and write.record is not None:
            return  # it says all there is to say
        if ticket is not None:
            ticket.hold(write)
        write.ticket = ticket
        self.keep(
            write, keys, priority, coalesce=coalesce, ahead=True, unknown_token=b"" if ticket is None else ticket.token
        )
        if before is not None and before is not ticket:
            before.release(write)

    # --- leaving ------------------------------------------------------------------------------------------------------

    def complete(self, entries: Sequence[RecoveryEntry]) -> None:
        """These leases have been executed, and are gone from the journal."""
        queue = self.core
        assert queue is not None
        writes = queue.complete_many([(entry.id, entry.lease) for entry in entries])
        for write in writes:
            if write is not None:  # else given up meanwhile, by closing
                self.stored += 1
                if isinstance(write, CommandWrite):
                    write.leave_journal()
                else:
                    write.record = None
                write.result._settle(StoreStatus.STORED)
        self.note_progress([key for entry in entries for key in entry.keys])

    def bury(self, entry: RecoveryEntry, reason: str, *, was_known: bool = False) -> None:
        """Gives an entry of the queue up: it becomes a dead letter. What a predecessor had given up is not reported again."""
        queue = self.core
        assert queue is not None
        write = entry.payload
        try:
            forgotten = queue.discard(entry.id, reason)
        except KeyError:
            return  # given up, or done with, meanwhile
        if not was_known:
            self.given_up += 1
            self._keeper.rewrite(write, entry, reason)
        self._keeper.forget_all(forgotten)
        if isinstance(write, CommandWrite):
            write.release()
        write.result._settle(StoreStatus.FAILED)
        if not was_known:
            name = Priority(entry.priority).name
            logger.error("%s: gave up a queued %s write: %s", self._client_name, name, reason)
        self.note_progress(entry.keys)

    def bury_unkept(self) -> tuple[int, int]:
        """Gives up what is not in the journal; how many that were, and how many are in it."""
        entries = [] if self.core is None else self.core.entries()
        unkept = [entry for entry in entries if entry.payload.record is None]
        for entry in unkept:
            self.bury(entry, "closed")
        return len(unkept), len(entries) - len(unkept)

    # --- for plain writes ---------------------------------------------------------------------------------------------

    def put_in_place(self, queue: RecoveryQueue, leased: RecoveryEntry, newer: CommandWrite) -> None:
        """A plain write may have been executed: it takes the place of the queued one, which must not follow it."""
        size_bytes = newer.size_bytes + 2 * sum(map(len, leased.keys))
        with self._mutex:
            try:
                queue.release(leased.id, lease=leased.lease)
            except KeyError:
                return  # given up meanwhile
            # The place was accepted before, so it is not refused now.
            _, displaced = queue.put(
                leased.keys, newer, priority=leased.priority, size_bytes=size_bytes, coalesce=True, restored=True
            )
        if displaced is None:
            newer.result._queue()
            return  # a worker was faster: it sends the older one before
        newer.result, newer.record = displaced.result, displaced.record
        self._keeper.keep_newer(newer, leased.keys, leased.priority)

    # --- dead letters -------------------------------------------------------------------------------------------------

    def retry_dead(self, letter: int | None) -> CommandWrite | FunctionWrite:
        """Queues a dead letter once more, behind what waits of its key.

        Raises KeyError if it is not kept (any more), RecoveryQueueFullError if there is no place for it.
        """
        queue = self.core
        found = [] if queue is None else [entry for entry in queue.dead_letters() if entry.id == letter]
        if queue is None or not found:
            raise KeyError(letter)
        write: CommandWrite | FunctionWrite = found[0].payload
        with self._mutex:
            self._set_slow_path(True)
            write.result._queue()
            write.unknown_token = None
            try:
                queue.retry_dead(found[0].id)
            except RecoveryQueueFullError:
                write.result._settle(StoreStatus.FAILED)
                raise
        self._keeper.rewrite(write, found[0])
        self._worker.start()
        return write


def _queue_of(settings: RecoveryConfig) -> RecoveryQueue:
    return RecoveryQueue(
        max_entries=settings.max_entries, max_bytes=settings.max_bytes, max_dead_letters=settings.max_dead_letters
    )
