"""Exactly once on blocking sockets: while an old connection is not fenced, no other may be taken.

The hot path takes channels off the transport's list of idle ones without a check. So that list is exchanged: while
something is not fenced the transport has a `_Parking`, which gives nothing away, and a call that needs a channel comes to
`ChannelPool._acquire`, which fences first. The thread whose call failed makes the exchange before its caller hears of
it; calls of other threads that are under way at that moment are concurrent with the one that failed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from agent_memory._core import monotonic_ns, next_step, pack_command
from agent_memory._interruptible import Line
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import CommandCategory
from agent_memory.redis.commands.categories import SCRIPTS
from agent_memory.redis.error_outcomes import is_full
from agent_memory.redis.exactly_once._sync.fencing import fence, greet
from agent_memory.redis.exactly_once.common import conclude_by_reply, keeper_of
from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.exactly_once.tickets import MISSING, NextStep, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.redis.commands.bound_command import BoundCommand
    from agent_memory.redis.exactly_once._sync.fencing import Ask
    from agent_memory.redis.exactly_once.mode import Mode
    from agent_memory.redis.exactly_once.tickets import Stream, Ticket, Wrapped
    from agent_memory.redis.pool_state import PoolState

__all__ = ["BlockingOnce", "CountingSocket", "FencedChannel", "FencedPool"]


class FencedChannel(Protocol):
    """What is asked of a channel."""

    stream: Stream | None
    protocol: int
    wire: Any

    def use(self, wire: Any) -> None:
        """Send and receive by this object, the socket or one that stands for it."""
        ...

    def close(self) -> None:
        """Close the socket; never raises."""
        ...


C = TypeVar("C", bound=FencedChannel)


class FencedPool(Protocol[C]):
    """What is asked of a transport of blocking sockets."""

    idle: list[C]
    generation: int
    timeout_s: float | None
    shared: PoolState

    def patience_s(self, timeout_s: float | None) -> float | None:
        """How long a connection may be silent in a call that may take `timeout_s` in all."""
        ...

    def acquire(self, now_ns: int, timeout_s: float | None) -> C:
        """Lease a channel."""
        ...

    def release(self, channel: C, now_ns: int) -> None:
        """Return a leased channel."""
        ...

    def round_trips(
        self, channel: C, packed: bytes, count: int, raw: frozenset[int], timeout_s: float | None
    ) -> list[Any]:
        """Send packed commands in one piece on a leased channel; returns their replies."""
        ...

    def open_channel(self, deadline_ns: int | None = None, *, greet: bool = True) -> C:
        """Connect outside the bound."""
        ...

    def lend_held(self, parked: list[C]) -> C | None:
        """One of these idle channels, outside the bound until `take_back`."""
        ...

    def take_back(self, channel: C, generation: int) -> None:
        """What `lend_held` has given is idle again."""
        ...

    def wait_for_return(self, deadline_ns: int | None) -> bool:
        """Wait a little for a channel in use to come back."""
        ...


class _Parking(list[Any]):
    """A list of idle channels that takes them back and gives none away."""

    __slots__ = ()

    def pop(self, *_: Any) -> NoReturn:
        raise IndexError


class CountingSocket:
    """A channel's wire that counts what is sent, for the level of the offset."""

    __slots__ = ("_wire", "written")

    def __init__(self, wire: Any) -> None:
        self._wire = wire
        self.written = 0

    def send(self, data: Any) -> int:
        """As the socket's."""
        sent: int = self._wire.send(data)
        self.written += sent
        return sent

    def recv_into(self, buffer: Any) -> int:
        """As the socket's."""
        received: int = self._wire.recv_into(buffer)
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)


class BlockingOnce(Generic[C]):
    """What the mode adds to one transport of blocking sockets. Thread-safe."""

    def __init__(self, transport: FencedPool[C], mode: Mode) -> None:
        self.mode = mode
        self._transport = transport
        self.start_afresh()

    def start_afresh(self) -> None:
        """In a child of fork(): what the parent has lost is the parent's."""
        self.unfenced: list[Stream] = []
        """Old connections that are not fenced yet: as many as were in use at once, since no other is taken meanwhile."""
        self.left = False
        """Whether the client was closed: no connection is opened from here until it is used again."""
        self._fencer: object = None  # one thread fences, the others wait for it
        self._fencers = Line()
        self._parking = threading.Lock()
        self._idle: list[C] | None = None  # the list that the parking stands for

    # --- writes ---------------------------------------------------------------------------------------------------

    def call(
        self,
        command: BoundCommand,
        packed: bytes,
        raw: bool,
        timeout_s: float | None,
        keep: Callable[[Ticket], object] | None = None,
    ) -> Any:
        """One write with what will tell whether it was executed; as `call_within`, errors carry `.ticket`.

        `keep(ticket)` is called before the write is sent: what it keeps is enough to resolve the write after a kill.
        """
        is_script = command.name in SCRIPTS

        def wrap(stream: Stream) -> Wrapped:
            return stream.wrap(packed, self._transport.patience_s(timeout_s), is_script=is_script)

        wrapped, replies = self._call(wrap, raw, timeout_s, keep)
        reply = wrapped.unwrap(replies)
        conclude_by_reply(wrapped.ticket, reply)
        if isinstance(reply, RedisUnavailableError | RedisTimeoutError):
            raise reply
        return reply

    def call_transaction(
        self, packed: bytes, count: int, timeout_s: float | None, keep: Callable[[Ticket], object] | None = None
    ) -> list[Any]:
        """A caller's MULTI … EXEC in the same way; returns its `count` replies."""
        wrapped, replies = self._call(lambda stream: stream.wrap_transaction(packed, count), False, timeout_s, keep)
        wrapped.ticket.conclude(Verdict.APPLIED)
        return wrapped.unwrap_transaction(replies)

    def _call(
        self,
        wrap: Callable[[Stream], Wrapped],
        raw: bool,
        timeout_s: float | None,
        keep: Callable[[Ticket], object] | None,
    ) -> tuple[Wrapped, list[Any]]:
        transport = self._transport
        channel = self._acquire(keep is not None, timeout_s)
        stream = channel.stream
        assert stream is not None
        wrapped = wrap(stream)
        ticket = wrapped.ticket
        if keep is not None:
            try:
                keep(ticket)
            except BaseException:
                ticket.conclude(Verdict.NOT_APPLIED)
                transport.release(channel, monotonic_ns())
                raise
        before = getattr(channel.wire, "written", 0)
        ticket.end_bytes = stream.first_byte + before + len(wrapped.packed)
        # Before anything can go wrong: a thread that fences at once must find it.
        stream.lose(ticket)
        try:
            raw_replies = frozenset({wrapped.raw_reply}) if raw else frozenset()
            replies = transport.round_trips(channel, wrapped.packed, wrapped.count, raw_replies, timeout_s)
        except (RedisUnavailableError, RedisTimeoutError) as error:
            if error.outcome is Outcome.NOT_SENT:
                ticket.conclude(Verdict.NOT_APPLIED)
            error.ticket = ticket
            raise
        stream.open_tickets = []
        return wrapped, replies

    def _acquire(self, ready: bool, timeout_s: float | None) -> C:
        """A channel; where it has to be `ready`, one whose marker has been made: what is kept of a write names it."""
        transport = self._transport
        while True:
            channel = transport.acquire(monotonic_ns(), transport.patience_s(timeout_s))
            making = channel.stream.fresh_marker() if ready and channel.stream is not None else None
            if not making:
                return channel
            try:
                transport.round_trips(channel, b"".join(making), len(making), frozenset(), timeout_s)
            except (RedisUnavailableError, RedisTimeoutError) as error:
                error.outcome = Outcome.NOT_SENT
                raise

    def settle(self, error: Exception, category: CommandCategory, left_s: float) -> tuple[NextStep, Any]:
        """What becomes of a command that failed with `error`, known within `left_s`."""
        ticket: Ticket | None = getattr(error, "ticket", None)
        if ticket is None:
            # Whatever is sent from now on is sent behind a fence.
            level = self.mode.level
            fenced = level is not None and level not in (Level.NOTHING, Level.GATE)
            return NextStep(next_step(category, fenced, None)), MISSING
        started_ns = monotonic_ns()
        deadline_ns = started_ns + int(max(0.0, left_s) * 1e9)
        pause_s = 0.01
        while ticket.verdict is None:
            self._take_over(ticket.stream)
            try:
                self.fence_now(deadline_ns)
            except Exception:
                # The server is not there yet.
                left_ns = deadline_ns - monotonic_ns()
                if left_ns <= 0:
                    break
                if self._transport.shared.pause(started_ns, min(pause_s, left_ns / 1e9)):
                    break  # the client was closed
                pause_s = min(0.5, pause_s * 2.0)
                continue
            break
        return NextStep(next_step(CommandCategory.RELATIVE_WRITE, True, ticket.verdict)), MISSING

    # --- connections ----------------------------------------------------------------------------------------------

    def greet(self, channel: C) -> None:
        """Learn what has to be known of a new channel."""
        counting = CountingSocket(channel.wire)
        channel.use(counting)
        stream = greet(self.mode, self._asker(channel), channel.protocol)
        stream.first_byte -= counting.written
        if stream.level is not Level.OFFSET:
            channel.use(counting._wire)
        timeout_s = self._transport.timeout_s
        stream.allowance_us = int((60.0 if timeout_s is None else timeout_s) * 1e6)
        channel.stream = stream
        if self.mode.keep is not None:
            self.mode.keep(stream)

    def sees_to(self) -> bool:
        """Whether what was lost here will be fenced from here."""
        return not self.left

    def _take_over(self, stream: Stream) -> None:
        """What its own transport will not fence any more, because its client was closed, is fenced from here."""
        if stream.keeper is not None and not stream.keeper() and stream not in self.unfenced:
            self.lose(stream)

    def lose(self, stream: Stream) -> None:
        """A channel was closed in the middle of a round trip: from now on no other is taken before it is fenced."""
        transport = self._transport
        stream.keeper = keeper_of(self)
        with self._parking:
            if stream not in self.unfenced:
                self.unfenced.append(stream)
            if self._idle is None:
                parking = _Parking()
                self._idle, transport.idle = transport.idle, parking

    def fence_now(self, deadline_ns: int | None) -> None:
        """Fence what is unfenced, or wait for the thread that does; raises where that cannot be done until `deadline_ns`."""
        if not self.unfenced and not self.mode.inherited:
            return
        me = object()
        waiter = Line.waiter()
        try:
            while not self._claim(me, waiter):
                left_s = None if deadline_ns is None else (deadline_ns - monotonic_ns()) / 1e9
                if left_s is not None and left_s <= 0:
                    raise RedisTimeoutError("an old connection could not be fenced in time", outcome=Outcome.NOT_SENT)
                if waiter.acquire(timeout=Line.patience_s(left_s)):
                    self._fencers.pop(waiter, None)
                    waiter = Line.waiter()
            if self.unfenced or self.mode.inherited:
                self._fence(deadline_ns)
        except (RedisUnavailableError, RedisTimeoutError) as error:
            error.outcome = Outcome.NOT_SENT  # of the waiters for a channel
            raise
        finally:
            # A comparison and a store: an interruption comes before or after them.
            if self._fencer is me:
                self._fencer = None
            self._fencers.pop(waiter, None)
            self._fencers.wake()

    def _claim(self, me: object, waiter: threading.Lock) -> bool:
        """Whether it is this thread that fences."""
        self._fencers[waiter] = None
        with self._parking:
            if self._fencer is None:
                self._fencer = me
        return self._fencer is me

    def _fence(self, deadline_ns: int | None) -> None:
        generation = self._transport.generation
        channel, held = self._channel_to_fence_from(deadline_ns)
        stream, channel.stream = channel.stream, None  # nothing of a caller's goes over it meanwhile
        assert stream is not None
        try:
            self.left = False
            called_back = self.mode.called_back(stream)
            with self._parking:
                self.unfenced.extend(called_back)
            ask = self._asker(channel)
            while True:
                with self._parking:
                    old = self.unfenced[0] if self.unfenced else None
                if old is None:
                    break
                fence(self.mode, ask, stream, old, self._transport.timeout_s)
                with self._parking:
                    self.unfenced.remove(old)
            keys = [] if held else stream.markers(self.mode.stale_markers)
            if keys:
                ask([pack_command((b"UNLINK", *keys))])
            channel.stream = stream if held else None
        finally:
            if channel.stream is None:
                channel.close()
            else:
                self._transport.take_back(channel, generation)
        self._end_parking()

    def _channel_to_fence_from(self, deadline_ns: int | None) -> tuple[C, bool]:
        """A connection of its own: those that are idle may be dead as well. Where the server has no room for one, one of them.

        The second says whether it is one of them.
        """
        transport = self._transport
        while True:
            try:
                return transport.open_channel(deadline_ns), False
            except RedisUnavailableError as error:
                if not is_full(error):
                    raise
                for parked in (self._idle, transport.idle):
                    channel = None if parked is None else transport.lend_held(parked)
                    if channel is not None:
                        return channel, True
                if not transport.wait_for_return(deadline_ns):
                    raise

    def _end_parking(self) -> None:
        transport = self._transport
        with self._parking:
            if self.unfenced or self._idle is None:
                return
            parked, idle = transport.idle, self._idle
            transport.idle, self._idle = idle, None
            # Only now: were this interrupted, a channel that is in both lists would be put in twice the next time.
            idle.extend(parked)

    def take_idle(self) -> list[C]:
        """Empty the list of idle channels, whichever it is, and return them."""
        transport = self._transport
        with self._parking:
            idle = list(transport.idle)
            if self._idle is None:
                # The list itself stays: others append to it without a lock.
                del transport.idle[:]
            else:
                idle += self._idle
                transport.idle, self._idle = _Parking(), []
        return idle

    def _asker(self, channel: C) -> Ask:
        def ask(commands: list[bytes]) -> list[Any]:
            return self._transport.round_trips(
                channel, b"".join(commands), len(commands), frozenset(), self._transport.timeout_s
            )

        return ask

    def prepare_shutdown(self, channels: list[C]) -> None:
        """These are about to be closed in good order while nothing is under way: their markers have served."""
        for channel in channels:
            stream = channel.stream
            keys = [] if stream is None else stream.markers(self.mode.stale_markers) + self.mode.swept()
            if keys:
                try:
                    channel.wire.send(pack_command((b"UNLINK", *keys)))
                except (OSError, ValueError):
                    pass  # they expire
        for old in self.unfenced:
            old.end()
