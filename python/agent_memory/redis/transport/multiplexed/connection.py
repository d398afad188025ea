"""One shared connection: the write of this iteration, what arrives, what it carries, and its end.

What happens for each command is the extension's: `Exchange` has the slots, the output and the matching of replies. The other
parts are objects of their own: `Deadlines` (the sweep), `Departures` (large writes), `HealthCheck`; `marks` says what is known
of each command when it ends.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Final, Protocol

import hiredis
from redis import exceptions as redis_py

from agent_memory._core import Exchange, Window
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.error_outcomes import UNREADABLE, undecodable
from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.exactly_once.slots import OnceSlot
from agent_memory.redis.redis_py_internals.handshake import detach_stream
from agent_memory.redis.transport.common import INCOMPLETE, RECEIVE_BUFFER_BYTES, new_reader, set_user_timeout
from agent_memory.redis.transport.multiplexed.deadlines import Deadlines
from agent_memory.redis.transport.multiplexed.departures import LARGE_WRITE_BYTES, Departures
from agent_memory.redis.transport.multiplexed.health import HealthCheck
from agent_memory.redis.transport.multiplexed.marks import conclude_writes
from agent_memory.redis.transport.multiplexed.order import KEPT_BYTES, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent_memory.redis.exactly_once.tickets import Stream, Wrapped

__all__ = ["BUSY_AFTER_S", "MAX_IN_FLIGHT", "ConnectionOwner", "MultiplexedConnection"]

BUSY_AFTER_S: Final = 0.02
"""A connection is busy when one reply has been arriving for so long, or one command leaving."""
MAX_IN_FLIGHT: Final = 8_192
"""Bound of unanswered commands on one connection, orphans included."""


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

    def note_lost(self, error: Exception) -> None:
        """A connection broke by itself, with `error`; `connection_closed` follows."""
        ...

    def connection_closed(self, connection: MultiplexedConnection) -> None:
        """The connection has failed, and its slots with it."""
        ...


class MultiplexedConnection(Exchange, asyncio.BufferedProtocol):
    """One shared connection of an event loop."""

    __slots__ = (
        "_context",
        "_deadlines",
        "_departures",
        "_health",
        "_loop",
        "_owner",
        "_transport",
        "_writable",
        "_writer",
        "has_unknown",
        "order",
        "protocol",
        "renewal",
        "retired",
        "stream",
        "writes",
    )

    def __init__(self, owner: ConnectionOwner, connection: Any, timeout_s: float | None) -> None:
        self._owner = owner
        self._loop = loop = owner.loop
        # One per connection: a Context can be entered by one thread at a time, and loops run in several.
        self._context = context = contextvars.Context()
        self.protocol = int(connection.protocol)
        # A view is read into: asyncio's TLS reads record by record into slices, and a slice of a bytearray would be a copy.
        self._begin(
            event_loop=loop,
            context=context,
            reader=new_reader(connection.encoder),
            incomplete=INCOMPLETE,
            push=hiredis.PushNotification,
            undecodable=undecodable,
            surplus=_surplus,
            raise_error=_raise,
            buffer=bytearray(RECEIVE_BUFFER_BYTES),
            max_in_flight=MAX_IN_FLIGHT,
            kept_bytes=KEPT_BYTES,
            large_write_bytes=LARGE_WRITE_BYTES,
        )
        self._writable = True
        self.order: Unanswered | None = None
        """What its unanswered commands touch, while there is a second connection to choose from."""
        self.retired = False
        self.renewal: bytes | None = None
        """The AUTH that it was last sent since its handshake."""
        self.stream: Stream | None = None
        """What exactly once knows of the connection; None without it."""
        self.has_unknown = False
        """Whether it ended with commands that may have been executed, or still may be."""
        self.writes = False
        """Whether callers' commands have been let onto it: what exactly once asks by itself can do no harm."""
        # The writer must live as long as the transport, which its finaliser would close.
        self._transport, self._writer = detach_stream(connection)
        # Paused meanwhile because uvloop chooses how to read (into our buffer or not) when reading starts.
        self._write_to(self._transport.write)
        self._transport.pause_reading()
        self._transport.set_protocol(self)
        self._transport.resume_reading()
        set_user_timeout(self._transport.get_extra_info("socket"))
        self._departures = Departures(self, self._transport, loop, context)
        self._deadlines = Deadlines(self, timeout_s, loop, context)
        self._health = HealthCheck(self, owner.health_check_s, loop, context)

    # --- the caller's side ----------------------------------------------------------------------------------------

    def send(self, packed: bytes, raw: bool = False) -> asyncio.Future[Any]:
        """Append one packed command to this iteration's write; its future gets the reply (error replies as values)."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.append(future, packed, raw)
        return future

    def send_window(self, packed: bytes, count: int, raw: Iterable[int]) -> asyncio.Future[list[Any]]:
        """Append the commands of a pipeline, packed as one, to this iteration's write; its future gets all the replies.

        `raw` numbers, from 0, the replies that stay undecoded.
        """
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self.append_all(Window(future, count), packed, count, list(raw))
        return future

    def send_once(self, wrapped: Wrapped, unwrap: Callable[[list[Any]], Any], raw: bool) -> OnceSlot:
        """Append a write that can be resolved to this iteration's write; `raw` leaves its own reply undecoded."""
        slot = OnceSlot(self._loop.create_future(), wrapped, unwrap)
        self.append_all(slot, wrapped.packed, wrapped.count, [wrapped.raw_reply] if raw else [])
        return slot

    def share(self, timeout_s: float | None) -> None:
        """It was leased, and is going to be shared: its commands have this timeout from now on."""
        self._deadlines.change_to(timeout_s)

    @property
    def last_moved_s(self) -> float:
        """When bytes last arrived, or bytes of a large write left, by the loop's clock."""
        return max(self.last_read_s, self._departures.last_left_s)

    @property
    def keeps_all(self) -> bool:
        """Whether a write of any size is buffered whole: the level `offset` needs the position of its end."""
        return self.stream is not None and self.stream.level is Level.OFFSET

    def _begin_sweep(self, now_s: float) -> None:
        """A write is handed over while no sweep is armed."""
        self._deadlines.begin(now_s)

    def _watch_write(self, largest: int, now_s: float) -> None:
        """A large write was handed over, in which the largest command has so many bytes."""
        self._departures.watch(largest, now_s)

    # --- the loop's side ------------------------------------------------------------------------------------------

    # What `buffer_updated` of the extension reports.

    def _refuse(self, error: Exception) -> None:
        """What was read raised `error`."""
        if not isinstance(error, UNREADABLE):
            raise error
        # Not the protocol: whatever answers there, nothing it says can be matched to a caller.
        reason = f"protocol error: {str(error) or type(error).__name__}"
        broken = RedisUnavailableError(reason, endpoint=self._owner.endpoint)
        if not self.closed:
            self._owner.note_lost(broken)
        self.fail(broken)

    def _note_alive(self) -> None:
        """Bytes have arrived on a suspect."""
        self._owner.trust_again(self)

    def _note_room(self) -> None:
        """Bytes have arrived while no commands are accepted: there may be room for some."""
        self._owner.admit_waiters(self)

    def _check_scanned(self) -> None:
        """What has arrived was not all for the parser."""
        violation = self.violation
        if violation is not None:
            raise redis_py.InvalidResponse(violation)
        if not self.in_flight and not self.is_torn and not self.is_between_replies:
            # It would take what is answered to later commands for its own.
            raise redis_py.InvalidResponse("an attribute of something that no command asked for")

    def _note_part(self, now_s: float) -> None:
        """Bytes have arrived that complete no reply."""
        if not self.in_flight or not self.has_part():
            return
        if not self._partial_since_s:
            self._partial_since_s = now_s
        elif now_s - self._partial_since_s >= BUSY_AFTER_S:
            self.busy = self._owner.relieve(self)

    def _note_through(self, now_s: float) -> None:
        """A large reply has arrived, or a large write has left: whether others still wait behind something."""
        if not (self._departures.leaving and self.in_flight) and not self._partial_since_s:
            oldest_s = self.oldest_s
            self.busy = oldest_s is not None and oldest_s <= now_s - BUSY_AFTER_S

    def begin_order(self) -> None:
        """From now on the second connection decides for each command whether it may be sent here."""
        self.accepting = False
        self.order = order = Unanswered()
        for slots_upto, _, _, parts in self.hand_overs():
            order.add_all(slots_upto - len(parts), parts)
        unsent = self.unsent_parts()
        order.add_all(self.answered + self.in_flight - len(unsent), unsent)
        order.answer(self.answered)

    def end_order(self) -> None:
        """There is no choice any more."""
        self.busy = False
        self.order = None
        self.accepting = not self.retired and self.has_room() > 0

    @property
    def executed_upto(self) -> int:
        """The number behind the command whose reply has begun to arrive, and which has therefore been executed; else 0."""
        return self.answered + 1 if self._partial_since_s else 0

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
        return MAX_IN_FLIGHT - self.in_flight if self._writable and not self.suspect and not self.closed else 0

    def eof_received(self) -> bool:
        """The server closed its side."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio reports that the socket is gone."""
        reason = "connection closed by the server" if exc is None else (str(exc) or type(exc).__name__)
        # An end of stream, unlike a reset, proves what was received.
        proves = exc is None or isinstance(exc, BrokenPipeError)
        received = self._departures.acknowledged() if proves else None
        error = RedisUnavailableError(reason, endpoint=self._owner.endpoint)
        if not self.closed:
            self._owner.note_lost(error)
        self.fail(error, received)

    # --- what its parts report and ask ----------------------------------------------------------------------------

    @property
    def patience_s(self) -> float:
        """How long commands are waited for while bytes move."""
        return self._owner.patience_s

    def late(self, moving: bool) -> RedisTimeoutError:
        """What a command past its deadline fails with."""
        return self._owner.late(moving)

    def report_silence(self) -> None:
        """The oldest command is late, and no byte has moved for as long."""
        self._owner.distrust(self)

    def leaves_slowly(self) -> None:
        """A large command is still leaving."""
        self.busy = self._owner.relieve(self)

    def has_left(self, now_s: float) -> None:
        """A large write has left."""
        if self.busy:
            self._note_through(now_s)
        if not self.accepting:
            self._owner.admit_waiters(self)

    # --- the end --------------------------------------------------------------------------------------------------

    def fail(self, error: RedisUnavailableError, received: int | None = None) -> None:
        """Close at once and fail every slot: NOT_SENT if it had not been flushed, else UNKNOWN.

        `received` says how many bytes of our stream the peer has received at the most, where that is proven: flushes that
        begin behind them were not executed either.
        """
        if self.closed:
            return
        answered, handed_over = self.answered, [] if self.stream is None else self.hand_overs()
        slots, maybe_executed = self.end(received)
        for part in (self._deadlines, self._departures, self._health):
            part.stop()
        self.has_unknown = maybe_executed > 0
        if self.stream is not None:
            conclude_writes(self.stream, handed_over, slots, answered, maybe_executed)
        if self.has_unknown and self.writes and self.stream is not None and self.stream.level is Level.OFFSET:
            self.stream.hang_up = self._transport.abort
        else:
            self._transport.abort()
        for index, future in enumerate(slots):
            if not future.done():
                outcome = Outcome.UNKNOWN if index < maybe_executed else Outcome.NOT_SENT
                # One instance each: a traceback grows with every task that raises it.
                future.set_exception(type(error)(*error.args, outcome=outcome, endpoint=error.endpoint))
        self._owner.connection_closed(self)


def _raise(error: BaseException) -> None:
    raise error


def _surplus() -> Exception:
    return redis_py.InvalidResponse("a reply that no command asked for")
