"""One shared connection: the queue of slots, the write of this iteration, the replies, the sweep of deadlines."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import itertools
from typing import TYPE_CHECKING, Any, Final, Protocol

import hiredis
from redis import exceptions as redis_py

from agent_memory._core import ReplyScanner
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis import private
from agent_memory.redis.error_outcomes import UNREADABLE, undecodable
from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.exactly_once.slots import OnceSlot
from agent_memory.redis.exactly_once.tickets import Verdict
from agent_memory.redis.transport.common import INCOMPLETE, PING, RECEIVE_BUFFER_BYTES, new_reader, set_user_timeout
from agent_memory.redis.transport.multiplexed.order import KEPT_BYTES, Unanswered, keep
from agent_memory.redis.transport.proof import acknowledged_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent_memory.redis.exactly_once.tickets import Stream, Wrapped

__all__ = ["BUSY_AFTER_S", "MAX_IN_FLIGHT", "ConnectionOwner", "MultiplexedConnection"]

BUSY_AFTER_S: Final = 0.02
"""A connection is busy when one reply has been arriving for so long, or one command leaving."""
MAX_IN_FLIGHT: Final = 8_192
"""Bound of unanswered commands on one connection, orphans included."""
LARGE_WRITE_BYTES: Final = 262_144
"""Of a write beyond this it is watched whether it leaves: on a slow link that takes longer than any answer."""
LARGE_COMMAND_BYTES: Final = 16_384
"""A write with a command, or a pipeline's window, beyond this is relieved by the second connection where it leaves slowly. A
burst of small commands is not: they leave as the server executes them, which another connection does not speed up."""
DEPARTURES_INTERVAL_S: Final = 0.02
"""How often that is looked at, while such a write is under way."""
LATE_SWEEP_S: Final = 0.05
"""A sweep that runs this late means that the loop was blocked: replies may be waiting in the kernel, so let it read first."""

_PushNotification: Final = hiredis.PushNotification


class ConnectionOwner(Protocol):
    """What a connection needs of its transport, and what it reports to it."""

    loop: asyncio.AbstractEventLoop
    endpoint: str
    health_check_s: float
    patience_s: float

    def late(self, moving: bool) -> RedisTimeoutError:
        """What a command fails with that was sent and not answered in time."""
        ...

    def relieve(self, connection: MultiplexedConnection) -> bool:
        """The connection is carrying something large; returns whether that is made use of."""
        ...

    def admit_waiters(self, connection: MultiplexedConnection) -> None:
        """There may be room for more commands."""
        ...

    def distrust(self, connection: MultiplexedConnection) -> None:
        """The connection is silent past a deadline."""
        ...

    def trust_again(self, connection: MultiplexedConnection) -> None:
        """Bytes arrived on a suspect."""
        ...

    def connection_closed(self, connection: MultiplexedConnection) -> None:
        """The connection has failed, and its slots with it."""
        ...


class _Window:
    """The slot of a window of a pipeline: stands in the queue once for each of its commands, resolves once for all."""

    __slots__ = ("_missing", "future", "replies")

    def __init__(self, future: asyncio.Future[list[Any]], count: int) -> None:
        self.future = future
        self.replies: list[Any] = []
        self._missing = count

    def done(self) -> bool:
        return self.future.done()

    def set_result(self, reply: Any) -> None:
        self.replies.append(reply)
        self._missing -= 1
        if not self._missing:
            self.future.set_result(self.replies)

    def set_exception(self, error: Exception) -> None:
        error.replies = self.replies  # type: ignore[attr-defined]  # those that came: a replay need not doubt them
        self.future.set_exception(error)


class MultiplexedConnection(asyncio.BufferedProtocol):
    """One shared connection: the queue of slots, the write of this iteration, the sweep of deadlines."""

    __slots__ = (
        "_alone",
        "_answered",
        "_buffer",
        "_bytes",
        "_context",
        "_deferred",
        "_departed",
        "_departures",
        "_expired",
        "_feed",
        "_first_byte",
        "_gets",
        "_has_data",
        "_health_timer",
        "_large_upto",
        "_last_left_s",
        "_last_read_s",
        "_leaving",
        "_looked_s",
        "_loop",
        "_marks",
        "_outgoing",
        "_owner",
        "_partial_since_s",
        "_raw",
        "_read_at_check_s",
        "_scanner",
        "_slots",
        "_sweep_at_s",
        "_sweeper",
        "_timeout_s",
        "_torn",
        "_transport",
        "_writable",
        "_writer",
        "_written",
        "accepting",
        "busy",
        "closed",
        "in_doubt",
        "order",
        "protocol",
        "renewal",
        "retired",
        "stream",
        "suspect",
        "writes",
    )

    def __init__(  # noqa: PLR0915 - one statement for each thing that it has to know
        self, owner: ConnectionOwner, connection: Any, timeout_s: float | None
    ) -> None:
        reader = new_reader(connection.encoder)
        self._owner = owner
        self._loop = owner.loop
        self._timeout_s = timeout_s
        # One per connection: a Context can be entered by one thread at a time, and loops run in several.
        self._context = contextvars.Context()
        self.protocol = int(connection.protocol)
        self._feed: Callable[..., None] = reader.feed
        self._gets: Callable[..., Any] = reader.gets
        self._has_data: Callable[[], bool] = reader.has_data
        # Whether the reader holds the beginning of something that came while no command was unanswered: a push, or a reply
        # that no command asked for, whose rest must not be taken for the next command's.
        self._torn = False
        # A view: asyncio's TLS reads record by record into slices of it, and a slice of a bytearray would be a copy.
        self._bytes = bytearray(RECEIVE_BUFFER_BYTES)
        self._buffer = memoryview(self._bytes)
        self._scanner = ReplyScanner()
        self._slots: collections.deque[asyncio.Future[Any] | _Window | OnceSlot] = collections.deque()
        self._outgoing: list[bytes] = []
        # One mark per flush: (absolute number of its last slot + 1, when, offset of its first byte in our stream, and what
        # was handed over for each of its slots, large commands cut off unless offsets are asked for later).
        self._marks: collections.deque[tuple[int, float, int, bytes | list[bytes]]] = collections.deque()
        self._raw: collections.deque[int] = collections.deque()  # absolute numbers of the slots that want bytes
        self._answered = 0  # slots that have left the queue; the absolute number of the queue's head
        self._expired = 0  # absolute number up to which the sweep has failed the slots
        self._last_read_s = 0.0
        self._last_left_s = 0.0  # when bytes of a large write were last seen to leave
        self._departed = 0  # how many had left then
        self._looked_s = 0.0  # when that was last looked at
        self._departures: asyncio.TimerHandle | None = None
        self._large_upto = 0  # where the last write with a large command ends in our stream
        self._leaving = False  # whether a large command is known to leave slowly
        self._partial_since_s = 0.0  # since when the reply to the oldest slot has been arriving; 0: it has not begun
        self.busy = False
        """Whether it carries something large, and the second connection relieves it."""
        self.order: Unanswered | None = None
        """What its unanswered commands touch, while there is a second connection to choose from."""
        self._read_at_check_s = 0.0
        self._health_timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at_s = 0.0
        self._deferred = False
        self._writable = True
        self._written = 0
        self._alone = False  # whether the last flush had a single command
        self.accepting = True
        self.suspect = False
        self.retired = False
        self.renewal: bytes | None = None  # the AUTH that it was last sent since its handshake
        self.closed = False
        self.stream: Stream | None = None
        """What exactly once knows of the connection; None without it."""
        self.in_doubt = False
        """Whether it ended with commands that may have been executed, or still may be."""
        self.writes = False
        """Whether callers' commands have been let onto it: what exactly once asks by itself can do no harm."""
        # The writer must live as long as the transport, which its finaliser would close.
        self._transport, self._writer = private.detach_stream(connection)
        # Paused meanwhile because uvloop chooses how to read (into our buffer or not) when reading starts.
        self._transport.pause_reading()
        self._transport.set_protocol(self)
        self._transport.resume_reading()
        set_user_timeout(self._transport.get_extra_info("socket"))
        # What the handshake has sent is acknowledged by its replies: our stream begins behind it.
        secret = self._transport.get_extra_info("sslcontext") is not None
        self._first_byte = None if secret else acknowledged_bytes(self._transport.get_extra_info("socket"))
        self._arm_health_check()

    # --- the caller's side ----------------------------------------------------------------------------------------

    def send(self, packed: bytes, raw: bool = False) -> asyncio.Future[Any]:
        """Append one packed command to this iteration's write; its future gets the reply (error replies as values)."""
        future: asyncio.Future[Any] = self._loop.create_future()
        slots = self._slots
        if raw:
            self._raw.append(self._answered + len(slots))
        slots.append(future)
        outgoing = self._outgoing
        if outgoing:
            outgoing.append(packed)
            if len(slots) >= MAX_IN_FLIGHT:
                self.accepting = False
        elif self._alone and len(slots) == 1:
            # Callers have been coming one at a time: nobody to share a write with, so do not wait for the loop's next turn.
            self._write(packed)
        else:
            outgoing.append(packed)
            self._loop.call_soon(self._flush, context=self._context)
            if len(slots) >= MAX_IN_FLIGHT:
                self.accepting = False
        return future

    def send_window(self, packed: bytes, count: int, raw: Iterable[int]) -> asyncio.Future[list[Any]]:
        """Append the commands of a pipeline, packed as one, to this iteration's write; its future gets all the replies.

        `raw` numbers, from 0, the replies that stay undecoded.
        """
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        slots = self._slots
        first = self._answered + len(slots)
        self._raw.extend(first + number for number in sorted(raw))
        if not self._outgoing:
            self._loop.call_soon(self._flush, context=self._context)
        slots.extend([_Window(future, count)] * count)
        # One entry per slot, so that the unflushed slots can be counted from the end.
        self._outgoing.append(packed)
        self._outgoing.extend([b""] * (count - 1))
        if len(slots) >= MAX_IN_FLIGHT:
            self.accepting = False
        return future

    def send_once(self, wrapped: Wrapped, unwrap: Callable[[list[Any]], Any], raw: bool) -> OnceSlot:
        """Append a write that can be resolved to this iteration's write; `raw` leaves its own reply undecoded."""
        slot = OnceSlot(self._loop.create_future(), wrapped, unwrap)
        slots, count = self._slots, wrapped.count
        if raw:
            self._raw.append(self._answered + len(slots) + wrapped.raw_reply)
        if not self._outgoing:
            self._loop.call_soon(self._flush, context=self._context)
        slots.extend([slot] * count)
        self._outgoing.append(wrapped.packed)
        if count > 1:
            self._outgoing.extend([b""] * (count - 1))
        if len(slots) >= MAX_IN_FLIGHT:
            self.accepting = False
        return slot

    def share(self, timeout_s: float | None) -> None:
        """It was leased, and is going to be shared: its commands have this timeout from now on."""
        self._timeout_s = timeout_s

    @property
    def last_read_s(self) -> float:
        """When bytes last arrived, by the loop's clock."""
        return self._last_read_s

    @property
    def last_moved_s(self) -> float:
        """When bytes last arrived, or bytes of a large write left, by the loop's clock."""
        return max(self._last_read_s, self._last_left_s)

    @property
    def written(self) -> int:
        """Bytes handed to the socket so far."""
        return self._written

    @property
    def answered(self) -> int:
        """Commands answered since the connection was opened."""
        return self._answered

    @property
    def in_flight(self) -> int:
        """Unanswered commands, orphans included."""
        return len(self._slots)

    def _flush(self) -> None:
        outgoing = self._outgoing
        if not outgoing or self.closed:
            return
        self._outgoing = []
        self._alone = len(outgoing) == 1
        self._write(outgoing[0] if self._alone else b"".join(outgoing), outgoing)

    def flush(self) -> None:
        """Hand over now what would leave at the end of this iteration."""
        self._flush()

    def _write(self, packed: bytes, parts: list[bytes] | None = None) -> None:
        """Hand bytes to the socket and note when; from here on their commands may be executed.

        `parts` is what is handed over for each slot; None for one command.
        """
        now_s = self._loop.time()
        kept: bytes | list[bytes] = packed if parts is None else parts
        bound = KEPT_BYTES if parts is None else KEPT_BYTES * len(parts)
        if len(packed) > bound and (self.stream is None or self.stream.level is not Level.OFFSET):
            kept = keep([packed] if parts is None else parts)
        self._marks.append((self._answered + len(self._slots), now_s, self._written, kept))
        self._written += len(packed)
        if self._sweeper is None and self._timeout_s is not None:
            self._arm_sweep(now_s + self._timeout_s)
        self._transport.write(packed)
        if len(packed) > LARGE_WRITE_BYTES:
            self._watch_write(packed, parts, now_s)

    def _watch_write(self, packed: bytes, parts: list[bytes] | None, now_s: float) -> None:
        """It may take longer to leave than any answer: look whether it does."""
        if max(map(len, parts or (packed,))) > LARGE_COMMAND_BYTES:
            self._large_upto = self._written
        if self._departures is None:
            self._departed, self._looked_s = self._count_departed(), now_s
            self._departures = self._loop.call_later(
                DEPARTURES_INTERVAL_S, self._watch_departures, True, context=self._context
            )

    # --- the loop's side ------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio asks where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio has read `nbytes`: match the replies in them to the slots."""
        if self.closed:
            return  # it is open only until it is fenced
        unanswered = len(self._slots)
        try:
            parts = self._scanner.scan(self._bytes, 0, nbytes)
            if parts is None:
                self._feed(self._buffer, 0, nbytes)
            else:
                self._feed_parts(parts)
            if self._torn and not self._skip_torn():
                answered = self._answered
            else:
                answered = self._match_raw() if self._raw else self._match()
            if parts is not None:
                self._check_scanned()
        except UNREADABLE as error:
            # Not the protocol: whatever answers there, nothing it says can be matched to a caller.
            self._answered += unanswered - len(self._slots)
            reason = f"protocol error: {str(error) or type(error).__name__}"
            self.fail(RedisUnavailableError(reason, endpoint=self._owner.endpoint))
            return
        now_s = self._last_read_s = self._loop.time()
        if answered == self._answered:
            self._note_part(now_s)
        else:
            self._answered = answered
            marks = self._marks
            while marks and marks[0][0] <= answered:
                marks.popleft()
            if self._partial_since_s:
                self._partial_since_s = 0.0
            if self.busy:
                self._note_through(now_s)
        if self.suspect:
            self._owner.trust_again(self)
        if not self.accepting:
            self._owner.admit_waiters(self)

    def _note_part(self, now_s: float) -> None:
        """Bytes have arrived that complete no reply."""
        if not self._slots or not self._has_data():
            return
        if not self._partial_since_s:
            self._partial_since_s = now_s
        elif now_s - self._partial_since_s >= BUSY_AFTER_S:
            self.busy = self._owner.relieve(self)

    def _note_through(self, now_s: float) -> None:
        """A large reply has arrived, or a large write has left: whether others still wait behind something."""
        if not (self._leaving and self._slots) and not self._partial_since_s:
            self.busy = bool(self._marks) and self._marks[0][1] <= now_s - BUSY_AFTER_S

    def begin_order(self) -> None:
        """From now on somebody says for each command whether it may be sent here."""
        self.accepting = False
        self.order = order = Unanswered()
        for slots_upto, _, _, kept in self._marks:
            parts = kept if isinstance(kept, list) else [kept]
            order.add_all(slots_upto - len(parts), parts)
        order.add_all(self._answered + len(self._slots) - len(self._outgoing), self._outgoing)
        order.answer(self._answered)

    def end_order(self) -> None:
        """There is no choice any more."""
        self.busy = False
        self.order = None
        self.accepting = not self.retired and self.has_room() > 0

    @property
    def executed_upto(self) -> int:
        """The number behind the command whose reply has begun to arrive, and which has therefore been executed; else 0."""
        return self._answered + 1 if self._partial_since_s else 0

    def _feed_parts(self, parts: list[tuple[int, int]]) -> None:
        for offset, count in parts:
            self._feed(self._buffer, offset, count)

    def _check_scanned(self) -> None:
        violation = self._scanner.violation
        if violation is not None:
            raise redis_py.InvalidResponse(violation)
        if not self._slots and not self._torn and not self._scanner.is_between_replies:
            # It would take what is answered to later commands for its own.
            raise redis_py.InvalidResponse("an attribute of something that no command asked for")

    def _skip_torn(self) -> bool:
        """Whether the push that had begun while no command was unanswered is complete; anything else is not the protocol."""
        reply = self._gets(False)
        if reply is INCOMPLETE:
            return False
        if reply.__class__ is not _PushNotification:
            raise redis_py.InvalidResponse("a reply that no command asked for")
        self._torn = False
        return True

    def _match(self) -> int:
        gets, slots = self._gets, self._slots
        popleft = slots.popleft
        answered = self._answered
        while slots or self._has_data():
            try:
                reply = gets()
            except UnicodeError as error:
                reply = undecodable(error)
            if reply is INCOMPLETE:
                self._torn = not slots
                break
            if reply.__class__ is _PushNotification:
                continue
            if not slots:
                raise redis_py.InvalidResponse("a reply that no command asked for")
            future = popleft()
            answered += 1
            if not future.done():
                future.set_result(reply)
        return answered

    def _match_raw(self) -> int:
        """The same while some slot in flight wants its reply undecoded."""
        raw, slots, answered = self._raw, self._slots, self._answered
        while slots or self._has_data():
            wants_bytes = bool(raw) and raw[0] == answered
            try:
                reply = self._gets(False) if wants_bytes else self._gets()
            except UnicodeError as error:
                reply = undecodable(error)
            if reply is INCOMPLETE:
                self._torn = not slots
                break
            if reply.__class__ is _PushNotification:
                continue
            if not slots:
                raise redis_py.InvalidResponse("a reply that no command asked for")
            if wants_bytes:
                raw.popleft()
            future = slots.popleft()
            answered += 1
            if not future.done():
                future.set_result(reply)
        return answered

    def pause_writing(self) -> None:
        """The socket's buffer is full: close admission."""
        self._writable = False
        self.accepting = False

    def resume_writing(self) -> None:
        """The socket's buffer has drained."""
        self._writable = True
        self._owner.admit_waiters(self)

    def has_room(self) -> int:
        """How many more commands may be sent now."""
        return MAX_IN_FLIGHT - len(self._slots) if self._writable and not self.suspect and not self.closed else 0

    def eof_received(self) -> bool:
        """The server closed its side."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio reports that the socket is gone."""
        reason = "connection closed by the server" if exc is None else (str(exc) or type(exc).__name__)
        received = self._written
        if self._first_byte is not None and (exc is None or isinstance(exc, BrokenPipeError)):
            acknowledged = acknowledged_bytes(self._transport.get_extra_info("socket"))
            if acknowledged is not None:
                received = acknowledged - self._first_byte
        self.fail(RedisUnavailableError(reason, endpoint=self._owner.endpoint), received)

    # --- health ---------------------------------------------------------------------------------------------------

    def _check_health(self) -> None:
        """After an idle interval send a PING: a connection that died in silence is then replaced before it is needed."""
        if self.closed:
            return
        if not self._slots and self._last_read_s == self._read_at_check_s:
            self.send(PING)
        self._read_at_check_s = self._last_read_s
        self._arm_health_check()

    def _arm_health_check(self) -> None:
        interval_s = self._owner.health_check_s
        if interval_s:
            self._health_timer = self._loop.call_later(interval_s, self._check_health, context=self._context)

    # --- deadlines ------------------------------------------------------------------------------------------------

    def _arm_sweep(self, at_s: float) -> None:
        self._sweep_at_s = at_s
        self._sweeper = self._loop.call_at(at_s, self._sweep, context=self._context)

    def _watch_departures(self, first: bool = False) -> None:
        """Look now and then whether a large write is leaving, which may take longer than any answer."""
        self._departures = None
        departed = self._count_departed()
        gone = departed >= self._written
        if self.closed or (first and gone):
            return  # it left at once, as most do: its silence began when it was handed over
        now_s = self._loop.time()
        if departed != self._departed:
            self._departed = departed
            # A loop that was blocked looks late: that says nothing of when they left.
            self._last_left_s = min(now_s, self._looked_s + 2.0 * DEPARTURES_INTERVAL_S)
        self._looked_s = now_s
        self._leaving = departed < self._large_upto
        if gone:
            if self.busy:
                self._note_through(now_s)
            if not self.accepting:
                self._owner.admit_waiters(self)
        else:
            if self._leaving:
                self.busy = self._owner.relieve(self)
            self._departures = self._loop.call_later(
                DEPARTURES_INTERVAL_S, self._watch_departures, context=self._context
            )

    def _count_departed(self) -> int:
        """How many bytes of our stream have left, so far as the peer's kernel has said, or else ours."""
        if self._first_byte is not None:
            acknowledged = acknowledged_bytes(self._transport.get_extra_info("socket"))
            if acknowledged is not None:
                return acknowledged - self._first_byte
        return self._written - self._transport.get_write_buffer_size()

    def _sweep(self) -> None:
        """Fail the slots past their deadline, notice a silent server, and come back when the next deadline is due."""
        self._sweeper = None
        timeout_s = self._timeout_s
        if self.closed or timeout_s is None or not self._marks:
            return
        now_s = self._loop.time()
        if now_s - self._sweep_at_s > LATE_SWEEP_S and not self._deferred:
            self._deferred = True  # only once: in a loop that is always late the deadlines hold all the same
            self._arm_sweep(now_s)
            return
        self._deferred = False
        silent_since_s = max(self.last_moved_s, self._marks[0][1])
        silent = silent_since_s <= now_s - timeout_s
        allowed_s = timeout_s if silent else max(timeout_s, self._owner.patience_s)
        upto = self._expired
        next_s = now_s + timeout_s
        for slots_upto, flushed_s, _, _ in self._marks:
            if flushed_s > now_s - allowed_s:
                next_s = flushed_s + allowed_s
                break
            upto = slots_upto
        self._expire(upto, moving=not silent)
        if silent:
            self._owner.distrust(self)
        self._arm_sweep(next_s if silent else min(next_s, silent_since_s + timeout_s))

    def _expire(self, upto: int, *, moving: bool) -> None:
        first = max(self._expired, self._answered) - self._answered
        for future in list(itertools.islice(self._slots, first, max(first, upto - self._answered))):
            if not future.done():
                future.set_exception(self._owner.late(moving))
        self._expired = max(self._expired, upto)

    # --- the end --------------------------------------------------------------------------------------------------

    def fail(self, error: RedisUnavailableError, received: int | None = None) -> None:
        """Close at once and fail every slot: NOT_SENT if it had not been flushed, else UNKNOWN.

        `received` says how many bytes of our stream the peer has received at the most, where that is proven: flushes that
        begin behind them were not executed either.
        """
        if self.closed:
            return
        self.closed = True
        self.accepting = False
        for timer in (self._sweeper, self._health_timer, self._departures):
            if timer is not None:
                timer.cancel()
        self._sweeper = self._health_timer = self._departures = None
        slots, unsent = self._slots, len(self._outgoing)
        maybe_executed = len(slots) - unsent
        if received is not None:
            maybe_executed = 0
            for slots_upto, _, first_byte, _ in self._marks:
                if first_byte >= received:
                    break
                maybe_executed = slots_upto - self._answered
        self._slots, self._outgoing = collections.deque(), []
        self.in_doubt = maybe_executed > 0
        if self.stream is not None:
            self._lose(self.stream, slots, maybe_executed)
        if self.in_doubt and self.writes and self.stream is not None and self.stream.level is Level.OFFSET:
            self.stream.hang_up = self._transport.abort
        else:
            self._transport.abort()
        self._raw.clear()
        self._marks.clear()
        for index, future in enumerate(slots):
            if not future.done():
                outcome = Outcome.UNKNOWN if index < maybe_executed else Outcome.NOT_SENT
                # One instance each: a traceback grows with every task that raises it.
                future.set_exception(type(error)(*error.args, outcome=outcome, endpoint=error.endpoint))
        self._owner.connection_closed(self)

    def _lose(self, stream: Stream, slots: Iterable[Any], maybe_executed: int) -> None:
        """Say of each write that can be resolved that it was not sent, or that its answer is lost; and where it ends."""
        ends: dict[int, int] = {}  # by absolute number of a slot
        if stream.level is Level.OFFSET:
            for slots_upto, _, first_byte, kept in self._marks:
                parts = kept if isinstance(kept, list) else [kept]
                lengths = itertools.accumulate(map(len, parts), initial=stream.first_byte + first_byte)
                next(lengths)
                ends.update(zip(range(slots_upto - len(parts), slots_upto), lengths, strict=True))
        last = None
        for index, slot in enumerate(slots):
            if slot.__class__ is OnceSlot and slot is not last:
                last = slot
                slot.ticket.end_bytes = ends.get(self._answered + index)
                if index < maybe_executed:
                    stream.lose(slot.ticket)
                else:
                    slot.ticket.conclude(Verdict.NOT_APPLIED)
