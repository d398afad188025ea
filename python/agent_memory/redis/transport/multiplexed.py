"""The transport of the asyncio client: one connection per event loop, shared by all its tasks; a second one now and then.

Commands issued in one iteration of the loop leave in one write; replies are matched to their callers in order. Nothing is
allocated per call but a future: deadlines are swept, not armed.

A connection (`MultiplexedConnection`) is in one of three states:

- *open*: takes commands.
- *suspect*: its oldest command is past its deadline and no byte has moved for as long, in either direction. It takes no new
  commands, and one replacement is being opened. If bytes arrive first, it is open again and the replacement is dropped: a
  server that stalled for seconds costs no reconnect. If the replacement's handshake ends first, the suspect is dead: a
  black hole is found.
- *closed*: its unanswered commands have failed, NOT_SENT where they had not been handed to the socket, else UNKNOWN.

Rules
- `socket_timeout` is how long a connection may be silent. While bytes arrive or leave, commands are waited for until the
  deadline of their calls: a large value on a slow link is no outage, and no failure of the server is made of it.
- While the connection carries something large over a slow link, others may go over a second one (`second`).
- A slot (the future of one command) stays in the queue until its reply arrives, whatever became of its caller. A cancelled
  or timed-out caller leaves an orphan whose reply is dropped, so the stream stays in step and a cancellation never costs a
  reconnect. Cancelled while it waits for room, a command is never sent; afterwards it is, and may be executed.
- Slots are bounded (`MAX_IN_FLIGHT`, orphans included) and so are bytes (the socket's own high-water mark closes admission).
  Callers beyond the bound wait in the order they came, at most for their timeout.
- The transport belongs to the running loop. Its tasks and callbacks run in an empty context, so that they keep no
  contextvars of whichever caller came first alive.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import itertools
import logging
import random
import socket
import weakref
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis import exceptions as redis_py

from agent_memory._core import ReplyScanner, monotonic_ns
from agent_memory.errors import (
    ClientClosedError,
    ConnectionLimitError,
    Outcome,
    RedisTimeoutError,
    RedisUnavailableError,
)
from agent_memory.redis import private
from agent_memory.redis.exactly_once.mode import mode_of
from agent_memory.redis.exactly_once.multiplexed import MultiplexedOnce, OnceSlot
from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.exactly_once.tickets import Verdict
from agent_memory.redis.outcomes import UNREADABLE, is_full, undecodable
from agent_memory.redis.transport.blocking import (
    DEFAULT_MAX_CONNECTIONS,
    FULL_PAUSE_S,
    INCOMPLETE,
    USER_TIMEOUT_MS,
    connect_failure,
    endpoint_of,
    new_reader,
)
from agent_memory.redis.transport.order import KEPT_BYTES, Unanswered, keep
from agent_memory.redis.transport.proof import acknowledged_bytes
from agent_memory.redis.transport.second import BUSY_AFTER_S, SecondConnection, Waiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from agent_memory.redis.exactly_once.tickets import Stream, Wrapped

    _Send = Callable[["MultiplexedConnection"], asyncio.Future[Any]]

__all__ = ["MultiplexedConnection", "MultiplexedTransport"]

MAX_IN_FLIGHT: Final = 8_192
"""Bound of unanswered commands on one connection, orphans included."""
RECEIVE_BUFFER_BYTES: Final = 65_536
"""Bytes asked of the kernel in one read."""
LARGE_WRITE_BYTES: Final = 262_144
"""Of a write beyond this it is watched whether it leaves: on a slow link that takes longer than any answer."""
LARGE_COMMAND_BYTES: Final = 16_384
"""A write with a command, or a pipeline's window, beyond this is relieved by the second connection where it leaves slowly. A
burst of small commands is not: they leave as the server executes them, which another connection does not speed up."""
DEPARTURES_INTERVAL_S: Final = 0.02
"""How often that is looked at, while such a write is under way."""
MAX_RECONNECT_DELAY_S: Final = 0.5
"""Longest pause between two attempts to connect; short, because a refused attempt costs next to nothing."""
FIRST_RECONNECT_DELAY_S: Final = 0.02
DEMOTION_PAUSE_NS: Final = 100_000_000
"""A READONLY within this time after one that retired the connections does not retire their successors."""
EARLY_TURN: Final = 0.1
"""The share of `socket_timeout` by which a call may exceed its deadline that had to wait for its turn, while bytes move."""
LATE_SWEEP_S: Final = 0.05
"""A sweep that runs this late means that the loop was blocked: replies may be waiting in the kernel, so let it read first."""

_LOGGER: Final = logging.getLogger("agent_memory.redis")
_PING: Final = hiredis.pack_command(("PING",))
_PushNotification: Final = hiredis.PushNotification


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
        self, owner: MultiplexedTransport, connection: Any, timeout_s: float | None
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
        _set_user_timeout(self._transport)
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
            self.busy = self._owner.second.relieve(self)

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
            self.send(_PING)
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
                self.busy = self._owner.second.relieve(self)
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


class MultiplexedTransport:
    """The shared connection of one event loop to one endpoint, and its replacement when it fails.

    Not thread-safe: used by the tasks of its loop only. Errors are `RedisUnavailableError` and `RedisTimeoutError` with
    their outcome; error replies are returned as exception instances, not raised.
    """

    def __init__(self, pool: Any) -> None:
        arguments = pool.connection_kwargs
        # Weakly: the loop holds the connections and through them the transport, but a pool that is dropped is to be collected.
        self._pool = weakref.ref(pool)
        self.loop = asyncio.get_running_loop()
        self.timeout_s: float | None = arguments.get("socket_timeout", 5)
        self.health_check_s: float = arguments.get("health_check_interval") or 0.0
        self.patience_s: float = 2.0 * (self.timeout_s or 0.0)
        """How long commands are waited for while bytes move: the longest deadline of the calls of this pool's clients."""
        self.endpoint = endpoint_of(arguments)
        self.protocol = int(arguments.get("protocol") or 3)
        """The protocol that was negotiated last; what the response callbacks have to follow."""
        self.current: MultiplexedConnection | None = None
        self._suspect: MultiplexedConnection | None = None
        self.second = SecondConnection(self)
        """The second connection, while there is one."""
        # In the order they came. When there is room for somebody his command leaves before he wakes, so that nobody who comes
        # later can overtake it. As many as there are tasks that wait: each holds one place.
        self._waiters: collections.deque[Waiter] = collections.deque()
        self._waiters_sweeper: asyncio.TimerHandle | None = None
        self._progress: tuple[Any, ...] | None = None  # what the last sweep of the waiters saw
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before_s = 0.0
        self._random = random.Random(random.getrandbits(64))  # so that random.seed() makes a simulation repeatable
        self._max_leases = max(1, (pool.max_connections or DEFAULT_MAX_CONNECTIONS) - 1)
        self._lease_wait_s = pool.timeout if private.waits_for_place(pool) else self.timeout_s
        """How long a call waits for a connection to lease; None for ever."""
        self._leases = asyncio.Semaphore(self._max_leases)
        self._idle_leases: list[MultiplexedConnection] = []  # at most _max_leases, by the semaphore
        self._leased: set[MultiplexedConnection] = set()  # likewise
        self._open: set[MultiplexedConnection] = set()  # all that are not closed: the shared one, leases, a probe's
        self._waits: set[asyncio.Timeout] = set()  # of callers and probes that wait for a connection of their own
        self.opening = 0
        """Connections that are being opened."""
        self._retired_ns = -DEMOTION_PAUSE_NS
        self.dismissed = False
        """Whether its pool was closed. The pool's next call has a transport of its own; one that was under way must not
        open a connection beside that."""
        self._renewal: bytes | None = None  # the AUTH of the credentials that were renewed last
        mode = mode_of(pool, None, self.endpoint)
        self.once = None if mode is None else MultiplexedOnce(self, mode)
        """Exactly once; None where it is off."""
        self.connections_opened = 0
        """Connections that became the shared one; a stall or a cancellation must not raise it."""

    # --- sending --------------------------------------------------------------------------------------------------

    def send(self, packed: bytes, raw: bool = False) -> asyncio.Future[Any] | None:
        """The fast path: hand the command to the open connection; None when the caller has to `wait_and_send`."""
        connection = self.current
        if connection is None or not connection.accepting:
            return None
        return connection.send(packed, raw)

    async def wait_and_send(
        self, packed: bytes, raw: bool = False, until_s: float | None = None
    ) -> asyncio.Future[Any]:
        """Wait for a connection and for room in it, then send: until `until_s` of the loop's clock, or as the sweep says.

        Raises RedisTimeoutError, RedisUnavailableError or ConnectionLimitError, all with outcome NOT_SENT.
        """
        future = self.send(packed, raw)
        if future is not None:
            return future
        return await self.wait_for_turn(lambda connection: connection.send(packed, raw), packed, until_s)

    async def call_within(self, packed: bytes, _permit: int, raw: bool, timeout_s: float | None) -> Any:
        """One command with a timeout of its own, from now to the reply: what is left of a call that is retried."""
        began_s = self.loop.time()
        until_s = None if timeout_s is None else began_s + timeout_s
        future = await self.wait_and_send(packed, raw, until_s)
        try:
            async with asyncio.timeout_at(until_s):
                return await future
        except TimeoutError:
            raise self.late(self.has_moved_since(began_s)) from None
        except BaseException:
            self.forget(future)
            raise

    async def call_in_turn(self, packed: bytes, raw: bool, deadline_s: float) -> Any:
        """One command that has to wait for its turn first; from now to the reply it has `deadline_s`."""
        began_s = self.loop.time()
        until_s = began_s + deadline_s
        future = await self.wait_and_send(packed, raw)
        try:
            # Whoever had his turn early is bounded by the sweep of the connection: no timer for him.
            early = self.timeout_s is None or self.loop.time() - began_s <= self.timeout_s * EARLY_TURN
            if early and deadline_s >= self.patience_s:
                return await future
            async with asyncio.timeout_at(until_s):
                return await future
        except TimeoutError:
            raise self.late(self.has_moved_since(began_s)) from None
        except BaseException:
            self.forget(future)
            raise

    def late(self, moving: bool) -> RedisTimeoutError:
        """What a command fails with that was sent and not answered in time; `moving` if the connection was not silent."""
        error = RedisTimeoutError("no answer in time", outcome=Outcome.UNKNOWN, endpoint=self.endpoint)
        error.moving = moving
        return error

    def has_moved_since(self, began_s: float) -> bool:
        """Whether bytes have arrived or left since then on a connection that takes calls."""
        both = (self.current, self.second.connection)
        return any(connection is not None and connection.last_moved_s > began_s for connection in both)

    @staticmethod
    def forget(future: asyncio.Future[Any] | None) -> None:
        """Nobody waits for this reply any more: make its slot an orphan, or its error one that was seen."""
        if future is not None and not future.cancel() and not future.cancelled():
            future.exception()

    async def wait_for_turn(
        self, send: _Send, packed: bytes, until_s: float | None = None, behind: MultiplexedConnection | None = None
    ) -> asyncio.Future[Any]:
        """First come, first served: when the turn has come and there is room, `send` is called; returns what it returns.

        `packed` is what it is going to send. `behind` is the connection that carries what it has to follow in any case.
        """
        waiter: asyncio.Future[asyncio.Future[Any]] = self.loop.create_future()
        one = Waiter(waiter, send, self.loop.time(), packed, behind)
        sent = self.second.send(one) if self.second.active else None
        if sent is not None:
            return sent
        self._waiters.append(one)
        if self._waiters_sweeper is None and self.timeout_s is not None:
            self._arm_waiters_sweep(self.timeout_s)
        if self.current is None and self._connecting is None:
            self._start_connecting()
        try:
            if until_s is None:
                return await waiter
            async with asyncio.timeout_at(until_s):
                return await waiter
        except TimeoutError:
            if not waiter.cancelled():
                return waiter.result()  # it was sent at the last moment: the reply has a deadline of its own
            raise self._no_turn(one.since_s) from None
        except BaseException:
            if not waiter.cancel() and not waiter.cancelled() and waiter.exception() is None:
                self.forget(waiter.result())  # it was sent at the last moment
            raise

    def _arm_waiters_sweep(self, delay_s: float) -> None:
        self._waiters_sweeper = self.loop.call_later(delay_s, self._sweep_waiters, context=contextvars.Context())

    def _sweep_waiters(self) -> None:
        """Fail the waiters whose time is over: `socket_timeout` without a connection or progress, else twice that."""
        self._waiters_sweeper = None
        timeout_s = self.timeout_s
        if timeout_s is None:
            return
        both = (self.current, self.second.connection)
        progress = (
            None if self.current is None else tuple(one and (id(one), one.answered, one.last_moved_s) for one in both)
        )
        moving = progress is not None and progress != self._progress
        self._progress = progress
        waiters = self._waiters
        due_s = self.loop.time() - timeout_s * (2.0 if moving else 1.0)
        while waiters and waiters[0].since_s <= due_s:
            waiter = waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(self._no_turn(waiter.since_s))
        if waiters:
            self._arm_waiters_sweep(timeout_s / 4)

    def _no_turn(self, since_s: float) -> Exception:
        """What somebody fails with who has waited for his turn since then."""
        recently_s = self.loop.time() - (self.timeout_s or 0.0) / 2.0
        both = (self.current, self.second.connection)
        if any(one and (one.last_read_s > since_s or one.last_moved_s > recently_s) for one in both):
            # The server answers, only not as fast as it is asked: that says nothing against it.
            bound = f"{MAX_IN_FLIGHT} commands in flight, or others of the same keys,"
            return ConnectionLimitError(f"{bound} left no room in time", endpoint=self.endpoint)
        return RedisTimeoutError("no connection in time", outcome=Outcome.NOT_SENT, endpoint=self.endpoint)

    def admit_waiters(self, connection: MultiplexedConnection) -> None:
        """There may be room: send for the waiters, in their order, and open the fast path when none is left."""
        if connection.retired:
            self._close_if_drained(connection)
        if self.second.active:
            self.second.settle()
            return
        if connection is not self.current:
            return
        waiters = self._waiters
        while waiters and connection.has_room():
            one = waiters.popleft()
            if not one.future.done():
                one.future.set_result(one.send(connection))
        connection.accepting = connection.has_room() > 0

    @property
    def has_waiters(self) -> bool:
        """Whether anybody waits for his turn."""
        return bool(self._waiters)

    def take_waiters(self) -> collections.deque[Waiter]:
        """All who wait for their turn, in their order: for whoever sends for them one by one."""
        waiters, self._waiters = self._waiters, collections.deque()
        return waiters

    def put_back_waiters(self, waiters: collections.deque[Waiter]) -> None:
        """Those of them whose turn has not come; others may have come meanwhile."""
        waiters.extend(self._waiters)
        self._waiters = waiters

    # --- connecting -----------------------------------------------------------------------------------------------

    def _start_connecting(self) -> None:
        self._connecting = self.loop.create_task(self._connect(), context=contextvars.Context())

    async def _connect(self) -> None:
        """Connect; on failure tell the waiters, and go on as long as a suspect needs a replacement."""
        try:
            while True:
                pause_s = self._not_before_s - self.loop.time()
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                try:
                    connection = await self._open_fenced()
                except Exception as error:
                    self._failures += 1
                    self._not_before_s = self.loop.time() + self._reconnect_delay_s()
                    self._fail_waiters(error)
                    if self._suspect is None and not (self.once is not None and self.once.settling):
                        return
                    continue
                self._adopt(connection)
                return
        finally:
            if self._connecting is asyncio.current_task():
                self._connecting = None

    async def _open_fenced(self) -> MultiplexedConnection:
        """A new connection that may be written to: with exactly once, only when nothing old can be executed any more."""
        try:
            connection = await self.open_connection(self.timeout_s)
        except RedisUnavailableError as error:
            lease = self._idle_lease() if is_full(error) else None
            if lease is None:
                raise
            lease.share(self.timeout_s)
            connection = lease
        if self.once is None:
            return connection
        if self._suspect is not None:
            # The server answers a new connection and not the old one: the old one is dead. Its writes are resolved now.
            suspect, self._suspect = self._suspect, None
            suspect.fail(RedisUnavailableError("silent past a deadline, replaced", endpoint=self.endpoint))
        try:
            await self.once.fence_from(connection)
        except BaseException:
            connection.fail(RedisUnavailableError("the old connection could not be fenced", endpoint=self.endpoint))
            raise
        return connection

    def reconnect(self) -> None:
        """Somebody needs a connection: open one unless there is one, or one being opened."""
        if self.current is None and self._connecting is None and self._suspect is None:
            self._start_connecting()

    def _reconnect_delay_s(self) -> float:
        """Full jitter under a cap that doubles: clients that lost a server together do not come back together."""
        cap_s = min(MAX_RECONNECT_DELAY_S, FIRST_RECONNECT_DELAY_S * 2.0 ** min(self._failures, 16))
        return self._random.uniform(0.0, cap_s)

    async def open_connection(self, timeout_s: float | None, *, greet: bool = True) -> MultiplexedConnection:
        """Connect and handshake one connection (names are resolved anew) whose commands may take `timeout_s`.

        Has `socket_timeout` for it, however small the pieces in which the handshake comes. With exactly once the handshake
        ends with the greeting, unless `greet` is false because nothing will be written.
        Raises with outcome NOT_SENT. The caller owns the connection.
        """
        if self.dismissed:
            raise self._closed()
        if self.once is None or not greet:
            return await self._open_connection(timeout_s)
        connection = await self._open_connection(timeout_s)
        try:
            async with self.until_closed(self.timeout_s):
                await self.once.greet(connection)
        except BaseException as error:
            connection.fail(RedisUnavailableError("the greeting failed", endpoint=self.endpoint))
            failure = connect_failure(error, self.endpoint)
            if failure is error:
                raise
            raise failure from error
        return connection

    async def _open_connection(self, timeout_s: float | None) -> MultiplexedConnection:
        renewal = self._renewal
        pool = self._pool()
        if pool is None:
            raise self._closed()
        connection = private.new_async_connection(pool)
        del pool
        self.opening += 1
        task = asyncio.current_task()
        cancellations = task.cancelling() if task is not None else 0
        try:
            async with self.until_closed(self.timeout_s):
                await private.async_connect(connection)
            if task is not None and task.cancelling() > cancellations:
                # redis-py's handshake goes through asyncio.wait_for, which before Python 3.12 loses a cancellation that
                # comes as what it waits for is done. Going on would keep a caller waiting that has been told to stop.
                raise asyncio.CancelledError
            made = MultiplexedConnection(self, connection, timeout_s)
            self._open.add(made)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            failure = connect_failure(error, self.endpoint)
            if failure is error:
                raise
            raise failure from error
        finally:
            self.opening -= 1
        made.renewal = renewal
        if self._renewal is not renewal:
            self._authenticate(made)  # what it has just told the server was renewed meanwhile
        return made

    def _adopt(self, connection: MultiplexedConnection) -> None:
        self._failures = 0
        self._not_before_s = 0.0
        self.connections_opened += 1
        self.protocol = connection.protocol
        suspect, self._suspect = self._suspect, None
        self.current = connection
        connection.writes = True
        if suspect is not None:
            # The server answers a new connection and not the old one: the old one is dead.
            suspect.fail(RedisUnavailableError("silent past a deadline, replaced", endpoint=self.endpoint))
        self.second.take_over(connection)
        self.admit_waiters(connection)

    async def open_second(self) -> MultiplexedConnection:
        """A connection beside the shared one, in the place of a leased one; raises where there is no place."""
        if not self.has_free_lease:
            raise self._no_lease()
        await self._leases.acquire()
        try:
            connection = await self.open_connection(self.timeout_s)
            if self.once is not None:
                try:
                    await self.once.fence_from(connection)
                except BaseException:
                    unfenced = RedisUnavailableError("the old connection could not be fenced", endpoint=self.endpoint)
                    connection.fail(unfenced)
                    raise
        except BaseException:
            self._leases.release()
            raise
        return connection

    @property
    def has_free_lease(self) -> bool:
        """Whether another leased connection may be opened now."""
        return not self._leases.locked()

    def free_lease(self) -> None:
        """The second connection has given up its place."""
        self._leases.release()

    def dismiss(self, connection: MultiplexedConnection) -> None:
        """Close a connection that nobody needs any more."""
        if self.once is not None:
            self.once.bid_farewell(connection)
        connection.fail(RedisUnavailableError("not needed any more", endpoint=self.endpoint))

    def _fail_waiters(self, error: Exception) -> None:
        waiters, self._waiters = self._waiters, collections.deque()
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_exception(_another(error))

    async def ping_afresh(self) -> None:
        """PING on a new connection, for a probe; raises what the connection raises. On an answer nobody waits to connect.

        Where the server has no room for one, on a connection that is held.
        """
        try:
            connection = await self.open_connection(self.timeout_s, greet=False)
        except RedisUnavailableError as error:
            held = self.current or self._idle_lease() if is_full(error) else None
            if held is None:
                raise
            reply = await self._ping_held(held)
        else:
            try:
                reply = await connection.send(_PING)
            finally:
                connection.fail(RedisUnavailableError("the probe is over", endpoint=self.endpoint))
        if isinstance(reply, Exception):
            raise reply
        self.hurry()

    async def _ping_held(self, connection: MultiplexedConnection) -> Any:
        try:
            async with asyncio.timeout(self.timeout_s):
                reply = await connection.send(_PING)
        except TimeoutError:
            raise self.late(moving=False) from None
        if connection is not self.current and not connection.retired:
            self._idle_leases.append(connection)
        return reply

    def hurry(self) -> None:
        """Somebody knows that the server is back: forget the pause before the next attempt."""
        self._failures = 0
        self._not_before_s = 0.0

    # --- pipelines ------------------------------------------------------------------------------------------------

    async def call_many(
        self,
        windows: Iterator[tuple[bytes, int]],
        _permit: int,
        raw: frozenset[int] = frozenset(),
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Send windows of packed commands and return all replies; error replies as exception instances.

        A window is its bytes and the number of its replies. It leaves in one piece; at most two of them are under way, and
        other tasks' commands go between them. `raw` numbers the replies that stay undecoded. Each window has what a command
        has, and all of them `timeout_s` where that is less.
        """
        replies: list[Any] = []
        under_way: collections.deque[asyncio.Future[list[Any]]] = collections.deque()
        sent = first = 0
        carrier: MultiplexedConnection | None = None
        in_a_hurry = timeout_s is not None and (self.timeout_s is None or timeout_s < self.patience_s)
        began_s = self.loop.time()
        try:
            async with asyncio.timeout(timeout_s if in_a_hurry else None):
                for packed, count in windows:
                    raw_here = [number - first for number in raw if first <= number < first + count] if raw else ()
                    future, carrier = await self._send_window(packed, count, raw_here, carrier)
                    under_way.append(future)
                    sent += 1
                    first += count
                    if len(under_way) > 1:
                        replies += await under_way[0]
                        under_way.popleft()
                if under_way:
                    replies += await under_way[0]
        except TimeoutError:
            late = self.late(bool(sent) and self.has_moved_since(began_s))
            late.outcome = Outcome.UNKNOWN if sent else Outcome.NOT_SENT
            raise late from None
        except (RedisUnavailableError, RedisTimeoutError) as error:
            # What is proven of a window holds for the pipeline only where it was the only one that left.
            if sent > 1 or (sent and not (under_way[0].done() and under_way[0].exception())):
                error.outcome = Outcome.UNKNOWN
            raise
        finally:
            for future in under_way:
                self.forget(future)
        return replies

    async def _send_window(
        self, packed: bytes, count: int, raw: Iterable[int], behind: MultiplexedConnection | None
    ) -> tuple[asyncio.Future[list[Any]], MultiplexedConnection]:
        """Send it, and say over which connection; it follows the window before it, which that one carries."""
        connection = self.current
        if connection is not None and connection.accepting:
            return connection.send_window(packed, count, raw), connection
        carriers: list[MultiplexedConnection] = []

        def send(connection: MultiplexedConnection) -> asyncio.Future[list[Any]]:
            carriers.append(connection)
            return connection.send_window(packed, count, raw)

        future = await self.wait_for_turn(send, packed, behind=behind)
        return future, carriers[0]

    # --- leased connections ---------------------------------------------------------------------------------------

    async def call_leased(
        self,
        packed: bytes,
        _permit: int,
        raw: bool,
        timeout_s: float | None,
        *,
        keep: bool,
        ahead: bytes | None = None,
        extra_s: float = 0.0,
    ) -> Any:
        """One command on a connection of its own, because it may block or changes its connection.

        `timeout_s` bounds the wait for the reply (None: for ever); `keep=False` closes the connection afterwards, as does
        any interruption: a blocked command that nobody waits for must not take an element later. `ahead` is a packed
        command that is sent first; if it is refused, that is the reply and the connection is closed. While bytes arrive it may
        take `extra_s` more.
        """
        connection = await self._lease()
        self._leased.add(connection)
        done = False
        try:
            await self._fence_before_lease(connection)
            connection.writes = True
            until_s = None if timeout_s is None else self.loop.time() + timeout_s
            if ahead is not None:
                refusal = await self._answer_of(connection, connection.send(ahead), until_s, extra_s)
                if isinstance(refusal, Exception):
                    return refusal
            reply = await self._answer_of(connection, connection.send(packed, raw), until_s, extra_s)
            done = keep
            return reply
        finally:
            self._leased.discard(connection)
            if done and not connection.closed and not connection.retired and connection.renewal is self._renewal:
                self._idle_leases.append(connection)
            else:
                connection.fail(RedisUnavailableError("the leased connection was closed", endpoint=self.endpoint))
            self._leases.release()

    async def _answer_of(
        self, connection: MultiplexedConnection, future: asyncio.Future[Any], until_s: float | None, extra_s: float
    ) -> Any:
        """The reply on a leased connection: until then, and while bytes arrive for `extra_s` more."""
        if until_s is None:
            return await future
        ends_s = until_s + extra_s
        while True:
            try:
                async with asyncio.timeout_at(until_s):
                    return await asyncio.shield(future)
            except TimeoutError:
                now_s = self.loop.time()
                silent_at_s = connection.last_moved_s + (self.timeout_s or 0.0)
                moving = silent_at_s > now_s
                if not moving or now_s >= ends_s:
                    self.forget(future)
                    raise self.late(moving) from None
                until_s = min(ends_s, silent_at_s)
            except BaseException:
                self.forget(future)
                raise

    async def _lease(self) -> MultiplexedConnection:
        acquired = False
        if not self.has_free_lease:
            self.second.make_room()
        try:
            async with self.until_closed(self._lease_wait_s):
                acquired = await self._leases.acquire()
        except ClientClosedError:
            if acquired:
                self._leases.release()
            raise
        except TimeoutError:
            raise self._no_lease() from None
        try:
            return self._idle_lease() or await self._open_lease()
        except BaseException:
            self._leases.release()
            raise

    def _no_lease(self) -> ConnectionLimitError:
        return ConnectionLimitError(
            f"all {self._max_leases} leased connections stayed busy for {self._lease_wait_s} s", endpoint=self.endpoint
        )

    def _idle_lease(self) -> MultiplexedConnection | None:
        while self._idle_leases:
            connection = self._idle_leases.pop()
            if not connection.closed:
                return connection
        return None

    async def _open_lease(self) -> MultiplexedConnection:
        """A new connection to lease; where the server has no room for one, one that comes back, or a place that is left."""
        until_s = self.loop.time() + (self.timeout_s or 0.0)
        while True:
            try:
                return await self.open_connection(None)
            except RedisUnavailableError as error:
                if not is_full(error) or not self.is_connected or self.loop.time() >= until_s:
                    raise
            await asyncio.sleep(FULL_PAUSE_S)
            connection = self._idle_lease()
            if connection is not None:
                return connection

    @property
    def is_connected(self) -> bool:
        """Whether a connection is held that calls go over, so far as is known."""
        return self.current is not None and not self.current.closed

    async def _fence_before_lease(self, connection: MultiplexedConnection) -> None:
        if self.once is None or not self.once.loose:
            return
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.once.fence_from(connection)
        except TimeoutError:
            raise RedisTimeoutError(
                "an old connection could not be fenced in time", outcome=Outcome.NOT_SENT, endpoint=self.endpoint
            ) from None

    # --- what connections report ----------------------------------------------------------------------------------

    def distrust(self, connection: MultiplexedConnection) -> None:
        """The connection is silent past a deadline: no new commands, open a replacement."""
        if connection.retired:
            connection.fail(RedisUnavailableError("silent past a deadline, retired", endpoint=self.endpoint))
        if connection is self.second.connection:
            first = self.current
            if first is not None and self._lives_without(first, connection):
                connection.fail(RedisUnavailableError("silent past a deadline", endpoint=self.endpoint))
            else:
                connection.suspect = True
            return
        if connection is not self.current:
            return
        if self.second.connection is not None and self._lives_without(self.second.connection, connection):
            connection.fail(RedisUnavailableError("silent past a deadline, replaced", endpoint=self.endpoint))
            return
        connection.suspect = True
        connection.accepting = False
        self.current = None
        self._suspect = connection
        if self._connecting is None:
            self._start_connecting()

    def _lives_without(self, other: MultiplexedConnection, silent: MultiplexedConnection) -> bool:
        """Whether the server was heard on the other connection well after the silence of this one had begun."""
        return other.last_read_s > silent.last_moved_s + (self.timeout_s or 0.0) / 2.0

    def trust_again(self, connection: MultiplexedConnection) -> None:
        """Bytes arrived on the suspect before its replacement stood: it goes on."""
        connection.suspect = False
        if connection is not self._suspect:
            return
        self._suspect = None
        self.current = connection
        self._failures = 0
        self._not_before_s = 0.0
        self._stop_connecting()
        self.admit_waiters(connection)

    def _stop_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    def connection_closed(self, connection: MultiplexedConnection) -> None:
        """A connection has failed and its slots with it; the next caller (or a waiter) connects anew."""
        self._open.discard(connection)
        if connection is self._suspect:
            self._suspect = None
        other = self.second.connection
        if connection is other:
            self.second.lost()
        elif connection is self.current and other is not None and not other.suspect:
            self.current = self.second.stop()
            self.connections_opened += 1
            self.admit_waiters(other)
        elif connection is self.current:
            self.current = None
            wanted = self._waiters or (self.once is not None and self.once.settling)
            if wanted and self._connecting is None and not self.loop.is_closed():
                self._start_connecting()
        if connection.in_doubt and connection.writes and connection.stream is not None and self.once is not None:
            self.once.lose(connection.stream)

    def renew(self, authentication: bytes) -> None:
        """Authenticate anew with the packed AUTH, between the commands of the shared connection.

        Connections that are being opened do so as soon as they stand; idle leases close, and leased ones when they come back:
        the next lease asks the provider.
        """
        self._renewal = authentication
        for connection in (self.current, self._suspect, self.second.connection):
            if connection is not None and not connection.closed:
                self._authenticate(connection)
        self._close_idle_leases()

    def _authenticate(self, connection: MultiplexedConnection) -> None:
        assert self._renewal is not None
        connection.renewal = self._renewal
        connection.send(self._renewal).add_done_callback(self._authenticated)

    def _authenticated(self, future: asyncio.Future[Any]) -> None:
        if future.exception() is not None:
            return  # the connection failed: the next one asks the provider
        reply = future.result()
        if isinstance(reply, Exception):
            _LOGGER.warning("%s refused renewed credentials: %s", self.endpoint, type(reply).__name__)

    def retire(self) -> None:
        """The server is no longer the one to ask: the next command connects anew.

        The shared connection takes no more commands and closes when it has answered those that are under way, and so does
        each leased one.
        """
        for leased in self._leased:
            leased.retired = True
        current, self.current = self.current, None
        for connection in (current, self.second.stop()):
            if connection is not None:
                connection.accepting = False
                connection.retired = True
                self._close_if_drained(connection)
        if self._waiters and self._connecting is None:
            self._start_connecting()
        self._close_idle_leases()

    def retire_demoted(self) -> bool:
        """The same after a READONLY; returns False where that was just done: those that were under way say it one by one."""
        now_ns = monotonic_ns()
        if now_ns - self._retired_ns < DEMOTION_PAUSE_NS:
            return False
        self._retired_ns = now_ns
        self.retire()
        return True

    def _close_if_drained(self, connection: MultiplexedConnection) -> None:
        if not connection.in_flight:
            connection.fail(RedisUnavailableError("retired", endpoint=self.endpoint))

    def _close_idle_leases(self) -> None:
        while self._idle_leases:
            idle = RedisUnavailableError("the pool was disconnected", endpoint=self.endpoint)
            self._idle_leases.pop().fail(idle)

    def close(self, in_use: bool = True) -> None:
        """Close the connections and fail what is in flight; the transport may be used again afterwards.

        Without `in_use` no call fails: a connection that carries one closes when it is answered.
        """
        if not in_use:
            self.retire()
            return
        self._stop_connecting()
        if self._waiters_sweeper is not None:
            self._waiters_sweeper.cancel()
            self._waiters_sweeper = None
        closed = self._closed()
        self.second.stop()
        self._fail_waiters(closed)
        waits, self._waits = self._waits, set()
        for wait in waits:
            if not wait.expired():
                wait.reschedule(self.loop.time())
        self._idle_leases.clear()
        for connection in sorted(self._open, key=lambda one: one is not self.current):
            if self.once is not None:
                self.once.bid_farewell(connection)
            connection.fail(closed)
        if self.once is not None:
            for stream in self.once.loose:
                stream.end()
            self.once.left = True
        self.current = self._suspect = None

    def _closed(self) -> ClientClosedError:
        return ClientClosedError("the client was closed", outcome=Outcome.NOT_SENT, endpoint=self.endpoint)

    @contextlib.asynccontextmanager
    async def until_closed(self, timeout_s: float | None) -> AsyncIterator[None]:
        """`asyncio.timeout` that ends when the client is closed, too: with ClientClosedError."""
        wait = asyncio.timeout(timeout_s)
        self._waits.add(wait)
        try:
            async with wait:
                yield
            if wait not in self._waits:
                raise self._closed()  # what it waited for came in the very turn of the closing
        except TimeoutError:
            if wait not in self._waits:
                raise self._closed() from None
            raise
        finally:
            self._waits.discard(wait)


def _another(error: Exception) -> Exception:
    """An equal exception for the next waiter: one instance raised by many tasks would grow its traceback."""
    if isinstance(error, RedisUnavailableError | RedisTimeoutError):
        twin = type(error)(*error.args, outcome=error.outcome, endpoint=error.endpoint)
        twin.__cause__ = error.__cause__
        return twin
    return error


def _set_user_timeout(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if sock is not None and option is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, USER_TIMEOUT_MS)
        except OSError:
            pass
