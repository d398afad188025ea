# Generated from ../_async/recovery.py by tools/generate_sync.py: edit that file, not this one.

"""The recovery queue of a resilient client: writes that wait for the server to come back, and what may not overtake them.

The queue itself (bounds, order, due times) is the core's `RecoveryQueue`; the journal (`_journal.py`) keeps what can be
kept of it on disk; the worker (`_draining.py`) sends what is due. This file is what the client and its users see.

Rules
- A write is in the journal before it is in the queue, and leaves the queue when it has left the journal. So what is in the
  queue is at least as much as what a successor would find, and a write that has been told "queued" outlives the process.
- Writes of one key keep their order. Calls with a priority for one key take turns; while a key has queued writes, a new one
  joins them. A plain write of such a key waits for them to drain; if it decides all of the key it takes the place of the one
  that waits.
- `_mutex` keeps the queue and the switch that sends plain writes this way (`_detour`) in step; it is never held while waiting.
- A child of fork() starts with an empty queue and a segment of its own: what waits is its parent's.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _at_fork, _check, _wall_clock
from agent_memory._concurrency import (
    Event,
    Home,
    KeyedLocks,
    Task,
    in_thread,
    spawn,
)
from agent_memory._core import RecoveryQueue, monotonic_ns
from agent_memory.errors import Outcome, RecoveryJournalError, RecoveryQueueFullError, RedisUnavailableError
from agent_memory.policy import Priority
from agent_memory.recovery._sync.drain import Drain, Sender, in_drain, work
from agent_memory.recovery._sync.journal import Journal, Registered, commands_of, record_of
from agent_memory.recovery._sync.once import TicketResolver
from agent_memory.recovery._sync.priority_commands import write_of
from agent_memory.recovery._sync.queued_writes import (
    CommandWrite,
    FunctionWrite,
    StoreResult,
    as_dead_letter,
    is_outage,
    shown_as,
)
from agent_memory.recovery._sync.resolver import Resolver
from agent_memory.recovery.functions import Unregistered
from agent_memory.recovery.journal_damage import tell_of_damage
from agent_memory.recovery.queued_data import copy_of, estimate_bytes
from agent_memory.recovery.records import encode
from agent_memory.recovery.results import DeadLetter, PendingWrite, StoreStatus
from agent_memory.redis._sync.guarded import GuardedCalls
from agent_memory.redis.commands.keys import keys_of, overwrites
from agent_memory.redis.error_outcomes import classify
from agent_memory.redis.exactly_once.tickets import Stream

if TYPE_CHECKING:
    from agent_memory._core import Guard, RecoveryEntry
    from agent_memory.policy import RecoveryConfig
    from agent_memory.recovery.records import Record
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["Recovery"]

logger: Final = logging.getLogger("agent_memory.storage")

_NOT_DUE_S: Final = 1e9
_CONNECTIONS: Final = "connections"  # the note that names the connections of a process
MAX_CONNECTIONS: Final = 4_096
"""Connections that the journal names at the most."""
STOP_TIMEOUT_S: Final = 1.0
"""How long closing waits for the write that the worker is trying at that moment, beyond the drain."""

_turns_held: ContextVar[frozenset[tuple[int, str]]] = ContextVar("agent_memory_turns_held", default=frozenset())

# What a child of fork() has inherited and must neither use nor destroy. Bounded by the forks a process descends from.
_abandoned: list[Journal] = []


class Recovery:
    """`client.recovery`: writes that wait for the server to come back, and those that were given up.

    Bounded by RecoveryConfig; safe to use from any thread.
    """

    def __init__(
        self, guard: Guard, settings: RecoveryConfig | None, client_name: str, identity: str = "", commands: Any = None
    ) -> None:
        self._guard = guard
        self._settings = settings
        self._client_name = client_name
        self._identity = identity or client_name
        self._home = Home()
        self._paused = False
        self.stored = 0
        self.given_up = 0
        self.resolver = Resolver()
        """Decides what becomes of an entry whose outcome is unknown; see agent_memory.recovery._sync.resolver."""
        self.sender = Sender(commands)
        """Sends the entries of a drain."""
        self._registered: dict[str, Registered] = {}
        self._unregistered = Unregistered()
        self._told_of_closures = False
        self._journal: Journal | None = None
        self._gated: weakref.ref[Any] | None = None
        self.notes: dict[tuple[int, str], bytes] = {}
        """What predecessors noted, by the number of the journal's segment and the name of the note."""
        self._calls = itertools.count()
        self._start_afresh()
        self._open_journal()
        self.order(commands)
        listener = _listener_of(weakref.ref(self))
        guard.add_listener(listener)
        # The guard may be shared and live longer.
        weakref.finalize(self, guard.remove_listener, listener).atexit = False
        _at_fork.in_child(self._start_afresh)
        if self.is_waiting():
            self.start_working()

    def _start_afresh(self) -> None:
        if self._journal is not None:
            self._journal.abandon()
            _abandoned.append(self._journal)
            self._journal = None
        self._left: list[Stream] = []  # connections of predecessors that have not been handed to a client yet
        self._connections: weakref.WeakSet[Stream] = weakref.WeakSet()  # those that a successor would have to fence
        self._turns = KeyedLocks()
        self._stopped = Event()
        self._wake = Event()
        # A worker that waits when this client is abandoned has to wake up, to find nobody and to end.
        weakref.finalize(self, self._wake.set).atexit = False
        self._drained = Event()
        self._worker: Task[None] | None = None
        self._mutex = threading.Lock()
        self._key_events: dict[bytes, Event] = {}
        self._replaced = Event()  # a plain write that was to take the place of a queued one has ended
        settings = self._settings
        self.queue: RecoveryQueue | None = None
        self._drain: Drain | None = None
        if settings is not None:
            self.queue = RecoveryQueue(
                max_entries=settings.max_entries,
                max_bytes=settings.max_bytes,
                max_dead_letters=settings.max_dead_letters,
            )
            self._drain = Drain(self.queue, settings, self._guard)
        self._set_detour(False)

    # --- the journal --------------------------------------------------------------------------------------------------

    def _open_journal(self) -> None:
        settings = self._settings
        if settings is None or settings.path is None or self._journal is not None:
            return
        self._journal = Journal(settings, self._identity)
        self.notes = self._journal.notes
        self._left = _connections_of(self.notes)
        found = self._journal.recovered()
        for record, entry in found:
            self._restore(record, entry)
        figures = self._journal.stats()
        if found:
            logger.warning("%s: %d writes were found in the journal", self._client_name, len(found))
        tell_of_damage(logger, self._client_name, figures)
        if figures["foreign_segments"]:
            logger.warning(
                "%s: the journal's directory holds %d segments of other clients or servers",
                self._client_name,
                figures["foreign_segments"],
            )
        self._hand_over_left()
        with self._mutex:
            self._note_connections()

    def _restore(self, record: int, entry: Record) -> None:
        """Queues what a predecessor left."""
        queue = self.queue
        assert queue is not None
        assert self._settings is not None
        write: CommandWrite | FunctionWrite
        if entry.kind == "function":
            registered = self._registered.get(entry.parts[0].decode())
            if registered is None:
                self._unregistered.add(record, entry)
                return
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
                return
            except BaseException:
                self._unregistered.put_back(record, entry)
                raise
            write = FunctionWrite(self._client_name, agent_id, state, registered.function, entry.priority)
            write.name = registered.name
            if "d" in entry.flags:
                write.doubt = entry.doubt
        else:
            write = commands_of(entry)
            size_bytes = write.size_bytes
        write.record = record
        write.result.durable = True
        write.result._queue()
        reason = entry.reason
        if not reason and _wall_clock.now_ns() / 1e9 - entry.queued_ms / 1000 >= self._settings.max_age:
            reason = "expired"
        if not reason and "u" in entry.flags:
            reason = "damaged"
        with self._mutex:
            self._set_detour(True)
            place, displaced = queue.put(
                entry.keys,
                write,
                priority=entry.priority,
                size_bytes=size_bytes,
                coalesce="c" in entry.flags and "d" not in entry.flags and not reason,
                restored=True,
            )
        self._displace(write, displaced, entry.keys, entry.priority)
        if reason:
            (found,) = (found for found in queue.entries() if found.id == place)
            self.bury(found, reason, was_known=bool(entry.reason))

    def _displace(
        self, write: CommandWrite | FunctionWrite, displaced: Any, keys: Sequence[bytes], priority: Priority
    ) -> None:
        """A newer write stands in the place of an older one: whoever waits for that is served by this."""
        if displaced is None:
            return
        durable, write.result = write.result.durable, displaced.result
        write.result.durable = durable
        if displaced.doubt is not None:
            # The older one may be under way still, on a connection that nobody listens to: the newer must not go before that
            # is settled.
            write.doubt = displaced.doubt
            if isinstance(write, CommandWrite) and displaced.ticket is not None:
                displaced.ticket.hold(write)
                write.ticket = displaced.ticket
            if write.record is not None and self._journal is not None:
                self._journal.replace(write.record, record_of(write, keys, priority, coalesce=True))
        if displaced.record is not None and self._journal is not None:
            self._journal.forget_write(displaced)

    def register(
        self,
        name: str,
        function: Callable[[str, Any], Any],
        *,
        dumps: Callable[[Any], str | bytes] = json.dumps,
        loads: Callable[[bytes], Any] = json.loads,
    ) -> None:
        """Gives a `store_func` a name, so that writes by it can be kept in the journal and repeated by another process.

        Pass the function itself, or its name, to `store_with_retry`. `dumps` and `loads` make bytes of the data and back
        (default: JSON). Data that `dumps` cannot encode is queued in memory only (`StoreResult.durable` is False). What a
        predecessor left for this name is queued now; what `loads` cannot read stays in the journal, counted in
        `stats()["unregistered"]`. Registering a name again replaces its function.
        Raises ValueError for an empty name and for what cannot be called.
        """
        _check.text("name", name)
        for parameter, value in (("function", function), ("dumps", dumps), ("loads", loads)):
            _check.function(parameter, value)
        self._registered[name] = Registered(name, function, dumps, loads)
        found = False
        for record, entry in self._unregistered.take(name):
            self._restore(record, entry)
            found = True
        if found:
            self.start_working()

    def overtake(self, agent_id: str) -> None:
        """`agent_id` was stored anew, or a newer write of it waits: what a predecessor left for it is executed no more.

        Older data would replace newer if a function were registered afterwards. Such writes become dead letters
        ("overtaken") once their function is registered; until then they stay in the journal.
        """
        for record, entry in self._unregistered.overtake(agent_id):
            self.given_up += 1
            logger.error(
                "%s: gave up a write that a predecessor left for %r, which is not registered: its agent was stored anew",
                self._client_name,
                entry.parts[0].decode(),
            )
            if self._journal is None:
                continue
            try:
                self._journal.replace_now(record, encode(entry))
            except RecoveryJournalError as error:
                logger.error("%s: the journal could not keep that: %s", self._client_name, error)

    def registered(self, store: Callable[[str, Any], Any] | str) -> tuple[str | None, Callable[[str, Any], Any]]:
        """The name (None if there is none) and the function of a `store_func`.

        Raises ValueError for an unknown name and for what cannot be called.
        """
        if isinstance(store, str):
            known = self._registered.get(store)
            if known is None:
                raise ValueError(f"store_func must be a function or a registered name, got {store!r}")
            return store, known.function
        _check.function("store_func", store)
        for name, known in list(self._registered.items()):
            if known.function == store:
                return name, store
        return None, store

    def note(self, name: str, body: bytes) -> None:
        """Keeps a note beside the records of the journal, for a successor; nothing without a journal."""
        if self._journal is not None:
            self._journal.note(name, body)

    # --- for the client -----------------------------------------------------------------------------------------------

    @property
    def resolves(self) -> bool:
        """Whether writes of unknown outcome can be told to be applied or not."""
        return self._settings is not None and self._settings.exactly_once

    @property
    def writes_ahead(self) -> bool:
        """Whether writes are in the journal before they are sent."""
        return self._settings is not None and self._settings.write_ahead

    @contextmanager
    def turn(self, agent_id: str) -> Iterator[bool]:
        """The right to write `agent_id`: one call at a time, so that writes of one key do not overtake each other.

        Gives whether earlier writes of `agent_id` wait (the one being retried included), so that a new one has to join
        them. A store within a store of the same key has its turn already and stands behind nothing.
        """
        place = (id(self), agent_id)
        held = _turns_held.get()
        if place in held:
            yield False
            return
        with self._turns.hold(agent_id):
            token = _turns_held.set(held | {place})
            try:
                yield self.are_queued([b"agent_memory:agent:" + agent_id.encode("utf-8", "surrogatepass")])
            finally:
                _turns_held.reset(token)

    def turns(self, keys: Sequence[bytes]) -> AbstractContextManager[None]:
        """The same for the keys of commands: their right to be written with a priority, taken in the order of the keys."""
        return self._turns.hold(*keys) if len(keys) < 2 else self._turns.hold(*sorted(set(keys)))

    @contextmanager
    def retrying(self, agent_id: str) -> Iterator[None]:
        """Marks the worker's retry: a store of the same agent within it stands behind nothing."""
        token = _turns_held.set(frozenset({(id(self), agent_id)}))
        try:
            yield
        finally:
            _turns_held.reset(token)

    def are_queued(self, keys: Sequence[bytes]) -> bool:
        """Whether earlier writes of any of these keys wait, so that a new one has to join them."""
        queue = self.queue
        return queue is not None and len(queue) > 0 and any(queue.keys_queued(key) for key in keys)

    def put(self, write: FunctionWrite) -> None:
        """Queues a call of store_with_retry; one that finds no place has failed."""
        # The caller may go on changing what he passed.
        write.state = copy_of(write.state)
        self._put(write, write.keys, write.priority, estimate_bytes(write.state))

    def put_commands(self, write: CommandWrite, keys: Sequence[bytes], priority: Priority, *, coalesce: bool) -> None:
        """Queues commands; what finds no place has failed."""
        self._put(write, keys, priority, write.size_bytes + 2 * sum(map(len, keys)), coalesce=coalesce)

    def put_unknown(self, write: CommandWrite, keys: Sequence[bytes], priority: Priority) -> None:
        """Commands of unknown outcome that nobody can resolve: they become a dead letter."""
        queue = self.queue
        if self._has_left(write):
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
        if self.queue is None:
            write.result._settle(StoreStatus.FAILED)
            return
        if self._has_left(write):
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
        if self._has_left(write):
            return
        queue, result = self.queue, write.result
        assert queue is not None
        result.durable = write.record is not None
        result._queue()
        try:
            with self._mutex:
                self._set_detour(True)
                _, displaced = queue.put(keys, write, priority=priority, size_bytes=size_bytes, coalesce=coalesce)
        except RecoveryQueueFullError as error:
            result.error = error
            result.durable = False
            if write.record is not None and self._journal is not None:
                self._journal.forget([write.record])
            result._settle(StoreStatus.FAILED)
            self._note_emptied()
            return
        self._displace(write, displaced, keys, priority)
        worker = self._worker
        if worker is None or worker.is_done() or len(queue) == 1 or not (self._paused or self._guard.state == "open"):
            self.start_working()  # else it sleeps until something changes, and one entry more changes nothing

    def _has_left(self, write: CommandWrite | FunctionWrite) -> bool:
        """Whether the journal that has its record was given free meanwhile: then it is a successor's, and not queued here."""
        if self._settings is None or self._settings.path is None:
            return False  # nothing has a record
        record = write.record
        if record is None or (self._journal is not None and self._journal.owns(record)):
            return False
        write.result.durable = True
        write.result._queue()
        write.result._release()
        return True

    def keep(
        self,
        write: CommandWrite | FunctionWrite,
        keys: Sequence[bytes],
        priority: Priority,
        *,
        coalesce: bool = False,
        ahead: bool = False,
        doubt: bytes | None = None,
    ) -> None:
        """Writes a write's record, or writes it anew; raises RecoveryJournalError if it could not be kept.

        What is written anew because it is about to be sent (`ahead`, resolved by `doubt`) is waited for as well.
        """
        if self._settings is None or self._settings.path is None:
            return
        registered: Registered | None = None
        if isinstance(write, FunctionWrite):
            registered = None if write.name is None else self._registered.get(write.name)
            if registered is None:
                self._tell_of_closures()
                return
        if ahead and self._has_left(write):
            raise RedisUnavailableError("the client was closed", outcome=Outcome.NOT_SENT)
        self._open_journal()  # in a child of fork(), the first time
        journal = self._journal
        assert journal is not None
        try:
            body = record_of(write, keys, priority, coalesce=coalesce, ahead=ahead, registered=registered, doubt=doubt)
        except Exception as error:
            if registered is None:
                raise
            self._tell_of_unencodable(registered, error)
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
        self.keep(write, keys, priority, coalesce=coalesce, ahead=True, doubt=b"" if ticket is None else ticket.token)
        if before is not None and before is not ticket:
            before.let_go(write)

    def keep_connection(self, stream: Stream) -> None:
        """Has the journal name a connection, for a successor to fence, before anything is written on it."""
        try:
            with self._mutex:
                self._connections.add(stream)
                asked = self._note_connections(stream)
            if asked is not None and self._journal is not None:
                self._journal.settled(asked)
        except RecoveryJournalError as error:
            logger.error("%s: a successor would not know of a connection: %s", self._client_name, error)

    def _note_connections(self, newest: Stream | None = None) -> int | None:
        """Asks for them to be noted, in the order in which they came to be known."""
        known = [stream.record() for stream in self._connections if stream is not newest and not stream.fenced]
        records = [*known[: MAX_CONNECTIONS - 1], *([] if newest is None else [newest.record()])]
        if self._journal is None or not records:
            return None
        return self._journal.ask_note(_CONNECTIONS, json.dumps(records).encode())

    def _hand_over_left(self) -> None:
        """Has the client fence what predecessors left, before it sends anything."""
        gated = None if self._gated is None else self._gated()
        if gated is not None and gated._once is not None and self.resolves:
            left, self._left = self._left, []
            gated._once.inherited.extend(left)
            with self._mutex:
                self._connections.update(left)

    def _tell_of_closures(self) -> None:
        if not self._told_of_closures:
            self._told_of_closures = True
            logger.warning(
                "%s: writes by functions that are not registered are kept in memory only: recovery.register(name, function)",
                self._client_name,
            )

    def _tell_of_unencodable(self, registered: Registered, error: Exception) -> None:
        logger.error(
            "%s: data for %r cannot be encoded by its dumps (%s): the write is kept in memory only",
            self._client_name,
            registered.name,
            type(error).__name__,
        )

    def forget(self, write: CommandWrite | FunctionWrite) -> None:
        """A write that was written ahead is done with."""
        if write.record is not None and self._journal is not None:
            self._journal.forget_write(write)
            write.record = None

    def start_working(self) -> None:
        """There is something to do for the worker."""
        self._stopped.clear()
        self._home.post(self._ensure_worker)
        self._wake.set()

    # --- plain writes -------------------------------------------------------------------------------------------------

    def order(self, commands: Any) -> None:
        """Has the plain writes of a drop-in client pass here while anything is queued."""
        self.sender.commands = commands
        if isinstance(commands, GuardedCalls):
            commands._ordering = weakref.ref(self)
            if self.resolves and commands._once is not None:
                self.resolver = TicketResolver(commands)
                commands._once.keep = _connection_keeper_of(weakref.ref(self))
            self._gated = weakref.ref(commands)
            self._hand_over_left()
            with self._mutex:
                self._set_detour(self.queue is not None and len(self.queue) > 0)

    def _set_detour(self, on: bool) -> None:
        gated = None if self._gated is None else self._gated()
        if gated is not None:
            gated._detour = gated._hurried or on

    @contextmanager
    def admit(self, commands: Sequence[tuple[Any, ...]], deadline_s: float) -> Iterator[None]:
        """The right of plain writes to be sent: not before the queued writes of their keys.

        Waits for those at most `deadline_s`, then raises RedisUnavailableError (NOT_SENT). A write that decides all of its key
        takes the place of the one that waits if it succeeds, or if nothing tells whether it was executed: then it is sent
        again by the worker, since the older one must not follow it.
        """
        queue = self.queue
        keys = [key for command in commands for key in keys_of(command)] if queue is not None else []
        if queue is None or not self.are_queued(keys):
            yield
            return
        called_ms, call = _wall_clock.now_ns() // 1_000_000, next(self._calls) & 0xFFFF_FFFF
        decides = len(commands) == 1 and overwrites(commands[0])
        leased: RecoveryEntry | None = None
        is_executed = False
        try:
            if decides:
                leased = self._lease_superseded(queue, keys[0], call)
            if leased is None and self._guard.state != "open":  # else it will be rejected
                self._wait_for_keys(keys, deadline_s)
            yield
            is_executed = True
            if leased is not None:
                self._leave_replaced(queue, leased)
        except BaseException as error:
            if leased is not None and (is_executed or _may_be_executed(error)):
                self._put_in_place(queue, leased, write_of(commands[0], called_ms))
            elif leased is not None:
                _quietly(queue.release, leased.id, lease=leased.lease)
            elif decides:
                queue.release_call(call)  # where an interrupt came between the lease and its name
            raise
        finally:
            if decides:
                self._wake.set()
                self._replaced.set()

    def _lease_superseded(self, queue: RecoveryQueue, key: bytes, call: int) -> RecoveryEntry | None:
        entry = queue.lease_superseded(key, call)
        if entry is not None and entry.payload.doubt is not None:
            # Its first attempt may still be executed: the worker sees to that.
            queue.release(entry.id, lease=entry.lease)
            return None
        return entry

    def _put_in_place(self, queue: RecoveryQueue, leased: RecoveryEntry, newer: CommandWrite) -> None:
        """A plain write may have been executed: it takes the place of the queued one, which must not follow it."""
        priority, journal = Priority(leased.priority), self._journal
        size_bytes = newer.size_bytes + 2 * sum(map(len, leased.keys))
        with self._mutex:
            try:
                queue.release(leased.id, lease=leased.lease)
            except KeyError:
                return  # given up meanwhile
            # The place was accepted before, so it is not refused now.
            _, displaced = queue.put(
                leased.keys, newer, priority=priority, size_bytes=size_bytes, coalesce=True, restored=True
            )
        if displaced is None:
            newer.result._queue()
            return  # a worker was faster: it sends the older one before
        newer.result, newer.record = displaced.result, displaced.record
        if newer.record is not None and journal is not None:
            journal.replace(newer.record, record_of(newer, leased.keys, priority, coalesce=True))

    def _leave_replaced(self, queue: RecoveryQueue, leased: RecoveryEntry) -> None:
        """A plain write has taken the place of a queued one: that leaves the journal, then the queue."""
        write = leased.payload
        if self._has_left(write):
            raise RedisUnavailableError(
                "the client was closed meanwhile, and an older queued write of the key is left to a successor",
                outcome=Outcome.UNKNOWN,
            )
        if write.record is not None and self._journal is not None:
            self._journal.finish([write.record])
        (completed,) = queue.complete_many([(leased.id, leased.lease)])
        if completed is not None:  # else given up meanwhile, by closing
            if write.record is not None:
                write.let_go()
            write.result._settle(StoreStatus.STORED)
            self.note_progress(leased.keys)

    def _wait_for_replacing(self) -> None:
        """Waits for plain writes that are about to take the place of queued ones: else those would be left to a successor."""
        queue, ends_ns = self.queue, monotonic_ns() + int(STOP_TIMEOUT_S * 1e9)
        while queue is not None and queue.is_leased_to_calls():
            self._replaced.clear()
            left_s = (ends_ns - monotonic_ns()) / 1e9
            if queue.is_leased_to_calls() and (left_s <= 0 or not self._replaced.wait(left_s)):
                return

    def _wait_for_keys(self, keys: Sequence[bytes], deadline_s: float) -> None:
        ends_ns = monotonic_ns() + int(deadline_s * 1e9)
        self.start_working()
        for key in keys:
            while self.are_queued([key]):
                with self._mutex:
                    event = self._key_events.get(key)
                    if event is None:
                        event = self._key_events[key] = Event()
                if not self.are_queued([key]):
                    break
                left_s = (ends_ns - monotonic_ns()) / 1e9
                if in_drain.get() or left_s <= 0 or not event.wait(left_s):
                    raise RedisUnavailableError(
                        "earlier writes of its key wait in the recovery queue", outcome=Outcome.NOT_SENT
                    )

    def note_progress(self, keys: Sequence[bytes]) -> None:
        """Writes of these keys have left the queue."""
        if self._key_events:
            with self._mutex:
                events = [self._key_events.pop(key, None) for key in keys]
            for event in events:
                if event is not None:
                    event.set()
        self._note_emptied()

    def _note_emptied(self) -> None:
        queue = self.queue
        if queue is not None and not len(queue):
            with self._mutex:
                if not len(queue):
                    self._set_detour(False)
            self._drained.set()

    # --- for everybody ------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Figures: queued (and queued_bytes), dead_letters, paused, and the totals stored, given_up, refused, superseded.

        With a journal also "journal", its own figures, and "unregistered", the writes found in it whose functions have not
        been registered yet.
        """
        queue = self.queue
        figures = {} if queue is None else queue.stats()
        totals = {
            "queued": figures.get("entries", 0),
            "queued_bytes": figures.get("size_bytes", 0),
            "dead_letters": figures.get("dead_letters", 0),
            "paused": self._paused,
            "stored": self.stored,
            "given_up": self.given_up,
            "refused": figures.get("refused", 0),
            "superseded": figures.get("superseded", 0),
        }
        if self._journal is not None:
            totals["journal"] = self._journal.stats()
            totals["unregistered"] = len(self._unregistered)
        return totals

    @property
    def damaged_records(self) -> int:
        """Records that were lost, or found in an older state, when the journal was opened; at least 1 if it was damaged."""
        figures: dict[str, int] = {} if self._journal is None else self._journal.stats()
        return max(figures.get("damaged_records", 0), figures.get("damaged_segments", 0))

    def pending(self) -> list[PendingWrite]:
        """The writes that wait, those being retried included, oldest first; a snapshot."""
        pending = []
        for entry in [] if self.queue is None else self.queue.entries():
            write = entry.payload
            operation, shown = shown_as(write, entry.keys)
            attempts = write.attempts if isinstance(write, FunctionWrite) else entry.attempts
            durable = write.record is not None
            pending.append(PendingWrite(shown, Priority(entry.priority), attempts, entry.age_s, operation, durable))
        return pending

    def dead_letters(self) -> list[DeadLetter]:
        """The writes that were given up and are kept, oldest first; a snapshot."""
        entries = [] if self.queue is None else self.queue.dead_letters()
        return [as_dead_letter(entry.payload, entry) for entry in entries]

    def retry(self, dead: DeadLetter) -> StoreResult:
        """Queues a dead letter once more, behind what waits of its key, and returns its result.

        One whose outcome was unknown is sent again as if it had not been executed: that is your decision then. Raises
        ValueError if it is not kept (any more), RecoveryQueueFullError if there is no place for it.
        """
        queue, letter = self.queue, getattr(dead, "id", None)
        found = [entry for entry in queue.dead_letters() if entry.id == letter] if queue is not None else []
        if queue is None or not found:
            raise ValueError(f"dead must be one of dead_letters(), got {dead!r}, which is not kept")
        write = found[0].payload
        with self._mutex:
            self._set_detour(True)
            write.result._queue()
            write.doubt = None
            try:
                queue.retry_dead(dead.id)
            except KeyError:
                raise ValueError(f"dead must be one of dead_letters(), got {dead!r}, which is not kept") from None
            except RecoveryQueueFullError:
                write.result._settle(StoreStatus.FAILED)
                raise
        self.rewrite(write, found[0])
        self.start_working()
        result: StoreResult = write.result
        return result

    def pause(self) -> None:
        """Stops retrying after the batch under way; what fails is queued all the same."""
        self._paused = True

    def resume(self) -> None:
        """Goes on after `pause()`."""
        self._paused = False
        self._wake.set()

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until no write waits any more, at most `timeout` seconds (None: for ever); returns whether that came.

        Raises ValueError for a timeout that is not a number >= 0.
        """
        if timeout is not None:
            _check.at_least("timeout", timeout, 0)
        deadline_ns = None if timeout is None else monotonic_ns() + int(timeout * 1e9)
        if self.is_waiting():
            self.start_working()  # where this client was made outside of any thread
        while self.is_waiting():
            self._drained.clear()
            if not self.is_waiting():  # drained between the two lines above
                break
            left_s = None if deadline_ns is None else max(0.0, (deadline_ns - monotonic_ns()) / 1e9)
            if not self._drained.wait(left_s):
                return False
        return True

    def is_waiting(self) -> bool:
        """Whether anything is queued."""
        return self.queue is not None and len(self.queue) > 0

    # --- life ---------------------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """The client was opened (again): the running thread is where the worker lives."""
        self._home.settle()
        self._stopped.clear()
        self._open_journal()
        self.order(self.sender.commands)
        if self.is_waiting():
            self.start_working()

    def close(self) -> None:
        """Drains for at most `close_timeout` seconds and ends the worker.

        What is left stays in the journal, for the next client of this name and server; what is not in the journal becomes dead
        letters.
        """
        settings, queue = self._settings, self.queue
        if settings is None or queue is None:
            return
        if self.is_waiting():
            self.flush(settings.close_timeout)
        self._stopped.set()
        self._wake.set()
        worker = self._worker
        if worker is not None:
            worker.join(STOP_TIMEOUT_S)
        self._wait_for_replacing()
        left = queue.entries()
        kept = [entry for entry in left if entry.payload.record is not None]
        for entry in left:
            if entry.payload.record is None:
                self.bury(entry, "closed")
        if len(left) > len(kept):
            logger.warning(
                "%s: closed with %d queued writes that were not stored", self._client_name, len(left) - len(kept)
            )
        if kept:
            logger.warning("%s: closed with %d queued writes left in the journal", self._client_name, len(kept))
        self._leave_to_journal()

    def _leave_to_journal(self) -> None:
        """Closes the journal; what is in it is another's from now on, so it is not kept here as well."""
        journal, queue, settings = self._journal, self.queue, self._settings
        if queue is None or settings is None:
            return
        if journal is None:
            self._start_drain_afresh(settings, queue)
            return
        self._journal = None
        self._unregistered.clear()
        for entry in queue.entries():
            entry.payload.result._release()
        if self._drain is not None:
            self._drain.end(leaves=len(queue) > 0)
        self._start_queue_afresh()
        in_thread(journal.close)
        journal.close_tickets()

    def _start_drain_afresh(self, settings: RecoveryConfig, queue: RecoveryQueue) -> None:
        """A worker that is at work still, because closing waits only so long for it, sends nothing any more."""
        if self._drain is not None:
            self._drain.end(leaves=False)
        self._drain = Drain(queue, settings, self._guard)

    def _start_queue_afresh(self) -> None:
        """An empty queue that keeps the dead letters that are in memory only."""
        settings, old = self._settings, self.queue
        assert settings is not None
        assert old is not None
        self.queue = RecoveryQueue(
            max_entries=settings.max_entries, max_bytes=settings.max_bytes, max_dead_letters=settings.max_dead_letters
        )
        self._drain = Drain(self.queue, settings, self._guard)
        for letter in old.dead_letters():
            if letter.payload.record is None:
                place, _ = self.queue.put(letter.keys, letter.payload, priority=letter.priority, restored=True)
                self.queue.discard(place, letter.reason or "")
        self._note_emptied()

    # --- the worker ---------------------------------------------------------------------------------------------------

    def _ensure_worker(self) -> None:
        with self._mutex:
            if self._worker is None or self._worker.is_done():
                if self._drain is not None:
                    self._drain.take_over()
                name = f"agent_memory recovery of {self._client_name}"
                self._worker = spawn(work, weakref.ref(self), self._wake, self._stopped, name=name)

    def hand_over(self) -> None:
        """The worker's thread ends: another one that the client lives in goes on with what waits."""
        with self._mutex:
            self._worker = None
        self._home.post_elsewhere(self._ensure_worker)

    def drain(self) -> float | None:
        """Sends what is due, as long as the circuit lets it; returns the seconds until there is more to do, or None."""
        drain = self._drain
        return None if drain is None else drain.run(self)

    @property
    def is_paused(self) -> bool:
        """Whether `pause()` holds."""
        return self._paused

    @property
    def is_stopped(self) -> bool:
        """Whether the worker has been told to end."""
        return self._stopped.is_set()

    @property
    def journal(self) -> Journal | None:
        """The journal, if there is one."""
        return self._journal

    def complete(self, entries: Sequence[Any]) -> None:
        """These leases have been executed, and are gone from the journal."""
        queue = self.queue
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

    def rewrite(self, write: Any, entry: Any, reason: str = "") -> None:
        """Brings the record of a write up to date with what has become of it."""
        journal = self._journal
        if write.record is None or journal is None:
            return
        registered = self._registered.get(write.name) if isinstance(write, FunctionWrite) and write.name else None
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
            self._tell_of_unencodable(registered, error)  # the record stays as it is
            return
        journal.replace(write.record, body)

    def rewrite_attempt(self, write: CommandWrite, entry: Any, ticket: Ticket) -> None:
        """Has the record of a queued write say how it is about to be sent; raises RecoveryJournalError."""
        journal = self._journal
        if write.record is None or journal is None:
            return
        queued_ms = int(_wall_clock.now_ns() / 1e6 - entry.age_s * 1000)
        body = record_of(write, entry.keys, Priority(entry.priority), queued_ms=queued_ms, doubt=ticket.token)
        before, write.ticket = write.ticket, ticket
        ticket.hold(write)
        journal.replace_now(write.record, body)
        if before is not None and before is not ticket:
            before.let_go(write)

    def bury(self, entry: Any, reason: str, *, was_known: bool = False) -> None:
        """Gives an entry of the queue up: it becomes a dead letter. What a predecessor had given up is not told of again."""
        queue = self.queue
        assert queue is not None
        write = entry.payload
        try:
            forgotten = queue.discard(entry.id, reason)
        except KeyError:
            return  # given up, or done with, meanwhile
        if not was_known:
            self.given_up += 1
            self.rewrite(write, entry, reason)
        if self._journal is not None:
            self._journal.forget([letter.record for letter in forgotten if letter.record is not None])
        if isinstance(write, CommandWrite):
            write.let_go()
        write.result._settle(StoreStatus.FAILED)
        if not was_known:
            name = Priority(entry.priority).name
            logger.error("%s: gave up a queued %s write: %s", self._client_name, name, reason)
        self.note_progress(entry.keys)


def _connections_of(notes: dict[tuple[int, str], bytes]) -> list[Stream]:
    """The connections that predecessors had."""
    streams = []
    for (_, name), body in notes.items():
        if name == _CONNECTIONS:
            try:
                streams += [Stream.of_record(record) for record in json.loads(body)]
            except (ValueError, TypeError, KeyError):
                logger.error("what the journal says of a predecessor's connections cannot be read")
    return streams


def _connection_keeper_of(recovery: weakref.ref[Recovery]) -> Callable[[Stream], None]:
    def keep(stream: Stream) -> None:
        owner = recovery()
        if owner is not None:
            owner.keep_connection(stream)

    return keep


def _quietly(function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    try:
        function(*arguments, **named)
    except KeyError:
        pass  # given up meanwhile


def _may_be_executed(error: BaseException) -> bool:
    """Whether a command that ended with this error may have been executed, as far as is known."""
    if not isinstance(error, Exception):
        return True  # its caller went away
    return is_outage(error) and classify(error)[1] not in (Outcome.NOT_SENT, Outcome.REJECTED)


def _listener_of(recovery: weakref.ref[Recovery]) -> Callable[..., None]:
    def on_change(*_: Any) -> None:
        owner = recovery()
        if owner is not None:
            owner._wake.set()

    return on_change
