"""The channels of one pool: which are idle, in use, being opened; the waiters for one; which must not be used again.

A channel is on the idle list only between a complete reply and the next command. `list.pop` and `list.append` are atomic, so
taking and returning one takes no lock; the lock is for the rare things: connecting, waiting at the bound, closing, forking.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import hiredis

from agent_memory._core import monotonic_ns
from agent_memory._interruptible import Line, LiveSet
from agent_memory.errors import ConnectionLimitError, Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.error_outcomes import UNREADABLE, is_full, undecodable
from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.pool_state import pool_state_of
from agent_memory.redis.redis_py_internals.handshake import shut_down
from agent_memory.redis.redis_py_internals.pools import waits_for_place
from agent_memory.redis.transport.blocking.exchange import (
    BROKEN_STREAM,
    NS_PER_S,
    SEND_PIECE_BYTES,
    failure_of,
    outcome_of,
    receive_rest,
    rest_is_pushes,
    send_large,
)
from agent_memory.redis.transport.blocking.opening import ChannelOpener
from agent_memory.redis.transport.blocking.recall import Recall
from agent_memory.redis.transport.common import (
    DEFAULT_MAX_CONNECTIONS,
    DEMOTION_PAUSE_NS,
    FULL_PAUSE_S,
    INCOMPLETE,
    PING,
    endpoint_of,
)

if TYPE_CHECKING:
    from agent_memory.redis.exactly_once.blocking import BlockingOnce
    from agent_memory.redis.transport.blocking.channel import Channel

__all__ = ["IDLE_CHECK_NS", "ChannelPool"]

IDLE_CHECK_NS: Final = 1_000_000_000
"""A channel idle for longer is looked at before use: the server may have closed it meanwhile."""

_LOGGER: Final = logging.getLogger("agent_memory.redis")
_PushNotification: Final = hiredis.PushNotification


class Place:
    """A place under the bound of connections, held while one is being opened."""

    __slots__ = ("__weakref__",)


class ChannelPool:
    """The channels of one pool, at most `max_connections`. Thread-safe and fork-safe.

    `BlockingTransport` extends it by commands: what its hot path touches has to be its own attributes.
    """

    once: BlockingOnce[Channel] | None = None
    """Exactly once; None where it is off."""

    def __init__(self, pool: Any) -> None:
        arguments = pool.connection_kwargs
        self.shared = pool_state_of(pool, threading.Event)
        """What the clients of the pool share."""
        self._retired_ns = -DEMOTION_PAUSE_NS
        self.timeout_s: float | None = arguments.get("socket_timeout", 5)
        self._timeout_ns = None if self.timeout_s is None else int(self.timeout_s * NS_PER_S)
        self._health_check_ns = int((arguments.get("health_check_interval") or 0) * NS_PER_S)
        self._waits_for_place = waits_for_place(pool)
        self._place_wait_s: float | None = pool.timeout if self._waits_for_place else None
        """How long a call waits for a connection where the pool says it (None: for ever)."""
        self._max_connections: int = pool.max_connections or DEFAULT_MAX_CONNECTIONS
        self.endpoint = endpoint_of(arguments)
        self.protocol = int(arguments.get("protocol") or 3)
        """The protocol that was negotiated last; what the response callbacks have to follow."""
        self._opener = ChannelOpener(pool, self.timeout_s, self.endpoint, self.shared.reachability)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.idle: list[Channel] = []
        """Channels between a complete reply and the next command; exactly once puts one that gives none away in its place."""
        self._open: LiveSet[Channel] = LiveSet()
        self._connecting: LiveSet[Place] = LiveSet()
        self._waiting = Line()
        """Callers that wait for a channel, and reasons to look at a channel that is put back."""
        self.generation = 0
        self._renewal: bytes | None = None  # the AUTH of the credentials that were renewed last
        self._stale = Recall(self._waiting, "renewed credentials")  # channels that have not been sent them
        self._retired = Recall(self._waiting, "connections that must not be used again")
        self._lock = threading.Lock()

    def after_fork_in_child(self) -> None:
        """Drop the parent's sockets without a byte on the wire."""
        channels = list(self._open)
        self._start_afresh()
        self._opener.start_afresh()
        if self.once is not None:
            self.once.start_afresh()
        for channel in channels:
            channel.close()  # redis-py shuts down the sockets of its own process only

    def acquire(self, now_ns: int, timeout_s: float | None) -> Channel:
        """Lease a channel (a fresh one where none is idle); waiting at the bound and connecting have `timeout_s` in all."""
        try:
            channel = self.idle.pop()
        except IndexError:
            return self._acquire(timeout_s)
        if now_ns - channel.last_used_ns > IDLE_CHECK_NS:
            return self._freshen(channel, now_ns)
        return channel

    def release(self, channel: Channel, now_ns: int) -> None:
        """Return a leased channel that stands between a complete reply and the next command."""
        if channel not in self._open:  # the transport was closed or forked meanwhile
            channel.close()
            return
        try:
            channel.set_timeout(self.timeout_s)
        except OSError:
            self.discard(channel)
            return
        channel.last_used_ns = now_ns
        self.idle.append(channel)
        if self._waiting:
            self._wake_one()

    def discard(self, channel: Channel, *, is_unknown: bool = False) -> None:
        """Close a leased channel for good; `is_unknown` where a command on it has not been answered."""
        stream = channel.stream if is_unknown and self.once is not None else None
        if stream is not None and stream.level is Level.OFFSET:
            stream.hang_up = channel.close
        if stream is not None and self.once is not None:
            self.once.lose(stream)
        self._open.discard(channel)
        if self._waiting:
            self._waiting.wake()
        if stream is None or stream.hang_up is None:
            self._opener.close(channel)
        channel.given_up = True

    def _give_up(self, channel: Channel | None) -> None:
        """Discard what a call owned when it was interrupted, unless that has been done: its command has an unknown outcome."""
        if channel is not None and not channel.given_up:
            self.discard(channel, is_unknown=True)

    def _wake_one(self) -> None:
        if self._retired.pending:
            self._drop_retired()
        if self._stale.pending:
            self._renew_idle()
        self._waiting.wake()

    def _drop_retired(self) -> None:
        for channel in list(self._retired.channels):
            try:
                self.idle.remove(channel)
            except ValueError:
                continue  # in use: its turn is when it comes back
            self._retired.channels.discard(channel)
            self.discard(channel)
        with self._lock:
            self._retired.end()

    def renew(self, authentication: bytes) -> None:
        """Authenticate anew with the packed AUTH: idle channels now, each of the others when it comes back."""
        with self._lock:
            self._renewal = authentication
            self._stale.add(self._open)
        self._renew_idle()

    def _renew_idle(self) -> None:
        for channel in list(self._stale.channels):
            try:
                self.idle.remove(channel)
            except ValueError:
                continue  # in use: its turn is when it comes back
            if self._authenticate(channel):
                self.idle.append(channel)
        with self._lock:
            self._stale.end()

    def _authenticate(self, channel: Channel) -> bool:
        """Whether the channel may be used again."""
        renewal = self._renewal
        assert renewal is not None
        self._stale.channels.discard(channel)
        try:
            reply = self.round_trip(channel, renewal, self._until_ns(monotonic_ns(), None), False)
        except (RedisUnavailableError, RedisTimeoutError):
            return False
        if isinstance(reply, Exception):
            # It keeps its identity, which is of more use than no connection.
            _LOGGER.warning("%s refused renewed credentials: %s", self.endpoint, type(reply).__name__)
        return channel in self._open

    def _freshen(self, channel: Channel, now_ns: int) -> Channel:
        """Replace a channel that has died while it was idle; its idle siblings are checked when they are used."""
        while not self._is_alive(channel, now_ns):
            self.discard(channel)
            try:
                channel = self.idle.pop()
            except IndexError:
                return self._acquire(self.timeout_s)
        return channel

    def _is_alive(self, channel: Channel, now_ns: int) -> bool:
        if not channel.is_fresh():
            return False
        if not self._health_check_ns or now_ns - channel.last_used_ns < self._health_check_ns:
            return True
        # Idle for so long, a connection may have been forgotten by something in between without a word to either end.
        try:
            until_ns = self._until_ns(monotonic_ns(), None)
            return not isinstance(self.round_trip(channel, PING, until_ns, False), Exception)
        except (RedisUnavailableError, RedisTimeoutError):
            return False

    def _acquire(self, timeout_s: float | None) -> Channel:
        deadline_ns = _deadline_ns(timeout_s)
        if self.once is not None:
            self.once.fence_now(deadline_ns)
        place, generation = Place(), self.generation
        wait_s = self._place_wait_s if self._waits_for_place else timeout_s
        wait_until_ns = _deadline_ns(wait_s)
        while (channel := self._take(place, generation, wait_until_ns)) is None:
            if place not in self._connecting:
                bound = f"all {self._max_connections} connections"
                raise ConnectionLimitError(f"{bound} stayed busy for {wait_s} s", endpoint=self.endpoint)
            if self._waits_for_place:
                deadline_ns = _deadline_ns(timeout_s)  # the pool's own wait is not the connection's
            try:
                return self._connect(place, generation, deadline_ns)
            except RedisUnavailableError as error:
                if not is_full(error) or not self._open:
                    raise
            channel = self._take_held(place, generation, deadline_ns)
            if channel is not None:
                return channel
            if deadline_ns is not None and monotonic_ns() >= deadline_ns:
                bound = f"the server takes no more clients, and all {len(self._open)} connections"
                raise ConnectionLimitError(f"{bound} stayed busy for {timeout_s} s", endpoint=self.endpoint)
        return channel

    def _take_held(self, place: Place, generation: int, deadline_ns: int | None) -> Channel | None:
        """An open channel where the server admits no other; None after a pause in which none came back."""
        pause_end_ns = monotonic_ns() + int(FULL_PAUSE_S * NS_PER_S)
        end_ns = pause_end_ns if deadline_ns is None else min(pause_end_ns, deadline_ns)
        return self._take(place, generation, end_ns, may_connect=False)

    def _take(
        self, place: Place, generation: int, deadline_ns: int | None, *, may_connect: bool = True
    ) -> Channel | None:
        """An idle channel, as soon as there is one; None past the deadline, when none is open, or with the place counted
        under the bound, for the caller to connect. Raises ClientClosedError where the transport was closed meanwhile.
        """
        while True:
            waiter = Line.waiter()
            try:
                # Joining first makes this look decisive: a thread that returns a channel after it sees us and wakes a waiter.
                # (Others take channels without the lock, so it may still be too late.)
                self._waiting[waiter] = None
                if generation != self.generation:
                    raise self._opener.closed()
                try:
                    return self.idle.pop()
                except IndexError:
                    pass
                with self._lock:
                    if may_connect and len(self._open) + len(self._connecting) < self._max_connections:
                        self._connecting.add(place)
                        return None
                    none_is_in_use = not (may_connect or len(self._open))
                left_s = None if deadline_ns is None else (deadline_ns - monotonic_ns()) / NS_PER_S
                if (left_s is not None and left_s <= 0) or none_is_in_use:
                    return None
                waiter.acquire(timeout=Line.patience_s(left_s))
            except BaseException:
                self._waiting.wake()  # it may have been woken for a channel that it does not take now
                raise
            finally:
                self._waiting.pop(waiter, None)
                if waiter.acquire(blocking=False):
                    self._waiting.wake()  # it found what it needed before it was woken

    @property
    def open_count(self) -> int:
        """Connections that are open."""
        return len(self._open)

    @property
    def in_flight_count(self) -> int:
        """Connections that a call has just now."""
        return max(0, len(self._open) - len(self.idle))

    @property
    def is_connected(self) -> bool:
        """Whether a connection is held that calls go over, so far as is known."""
        return bool(self._open)

    def lend_held(self, parked: list[Channel]) -> Channel | None:
        """One of these idle channels for exactly once, outside the bound until `take_back`; None where none is alive."""
        while True:
            try:
                channel = list.pop(parked)
            except IndexError:  # also where another thread was first
                return None
            if channel.is_fresh():
                with self._lock:
                    self._open.discard(channel)
                return channel
            self.discard(channel)

    def take_back(self, channel: Channel, generation: int) -> None:
        """What `lend_held` has given is idle again."""
        with self._lock:
            if generation == self.generation:
                self._open.add(channel)
        self.release(channel, monotonic_ns())

    def wait_for_return(self, deadline_ns: int | None) -> bool:
        """Wait a little for a channel in use to come back; False past the deadline, and where there is none to wait for."""
        left_s = FULL_PAUSE_S if deadline_ns is None else (deadline_ns - monotonic_ns()) / NS_PER_S
        with self._lock:
            if left_s <= 0 or not self._open:
                return False
        waiter = Line.waiter()
        try:
            self._waiting[waiter] = None
            waiter.acquire(timeout=min(left_s, FULL_PAUSE_S))
        finally:
            self._waiting.pop(waiter, None)
        return True

    def _connect(self, place: Place, generation: int, deadline_ns: int | None) -> Channel:
        renewal = self._renewal
        try:
            channel = self.open_channel(deadline_ns)
        except BaseException as error:
            self._connecting.discard(place)
            if self._waiting:
                self._waiting.wake()
            if generation != self.generation and isinstance(error, RedisUnavailableError | RedisTimeoutError):
                raise self._opener.closed() from error
            raise
        with self._lock:
            self._connecting.discard(place)
            stays = generation == self.generation
            if stays:
                self._open.add(channel)
                if self._renewal is not renewal:
                    self._stale.add((channel,))  # what it has just told the server was renewed meanwhile
        if not stays:
            channel.close()
            raise self._opener.closed()
        return channel

    def open_channel(self, deadline_ns: int | None = None, *, greet: bool = True) -> Channel:
        """Connect and handshake outside the bound (a probe, or under `_connect`'s count); the caller owns the channel.

        Has `socket_timeout`, or until `deadline_ns` of `monotonic_ns()`. With exactly once the handshake ends with the
        greeting, unless `greet` is false because nothing will be written.
        """
        channel = self._opener.open(deadline_ns, self.once.greet if self.once is not None and greet else None)
        self.protocol = channel.protocol
        return channel

    def retire(self) -> None:
        """The server is no longer the one to ask: close what is idle, so that the next call connects anew."""
        self.close(in_use=False)

    def retire_demoted(self) -> bool:
        """The same after a READONLY; returns False where that was just done: those that were under way say it one by one."""
        now_ns = monotonic_ns()
        if now_ns - self._retired_ns < DEMOTION_PAUSE_NS:
            return False
        self._retired_ns = now_ns
        self.retire()
        return True

    def close(self, in_use: bool = True) -> None:
        """Close every channel, also those in use (their calls fail); the transport stays usable.

        Without `in_use` no call fails: a channel that carries one closes when it is answered.
        """
        if in_use:
            self.shared.close()
        with self._lock:
            connections = self._opener.connections() if in_use else set()
            # First the idle ones: were this interrupted, what is idle would be counted no more.
            if self.once is None:
                idle: list[Channel] = []
                with contextlib.suppress(IndexError):  # others take channels from the list without the lock
                    idle.extend(self.idle.pop() for _ in range(len(self.idle)))
            else:
                idle = self.once.take_idle()
            channels = idle
            if in_use:
                self.generation += 1
                channels = list(self._open)
                self._open = LiveSet()
            else:
                for channel in idle:
                    self._open.discard(channel)
            # A call that has its reply already returns its channel when this is over.
            self._retired.add(self._open if not in_use else set(channels).difference(idle))
        self._waiting.wake_all()
        if self.once is not None:
            self.once.left = in_use
            self.once.prepare_shutdown(idle)
        for channel in idle:
            channel.close()
        for channel in set(channels).difference(idle):
            channel.hang_up()
        for connection in connections:  # those that are being opened, too, and a probe's
            shut_down(connection)

    def round_trip(self, channel: Channel, packed: bytes, until_ns: int | None, raw: bool) -> Any:
        """Send and receive on a channel that the caller owns; on any error the channel is closed and forgotten.

        The channel's timeout bounds its silence; `until_ns` (of `monotonic_ns()`) is the end also while bytes come.
        """
        reply: Any = INCOMPLETE
        sent = 0
        try:
            try:
                sent = channel.send(packed)
                if sent != len(packed) or sent > SEND_PIECE_BYTES:
                    sent = send_large(channel, packed, sent, until_ns)
                count = channel.receive_into(channel.buffer)
                if not count:
                    raise EOFError
                channel.feed(count)
                reply = channel.gets(False) if raw else channel.gets()
                if reply is INCOMPLETE or reply.__class__ is _PushNotification:
                    reply = receive_rest(channel, until_ns, raw)
            except BROKEN_STREAM as error:
                raise self._broken(channel, error, sent == len(packed)) from error
            except UnicodeError as error:
                reply = undecodable(error)
            self._check_rest(channel)
            return reply
        except BaseException:
            self._give_up(channel)
            raise

    def _check_rest(self, channel: Channel, unscanned: int = 0) -> bool:
        """Whether the channel may be used again (`rest_is_pushes`); else it is closed."""
        try:
            reusable = rest_is_pushes(channel, unscanned)
        except UNREADABLE as error:
            raise self._broken(channel, error, True) from error
        if not reusable:
            self.discard(channel)
        return reusable

    def _broken(self, channel: Channel, error: Exception, all_sent: bool) -> RedisUnavailableError | RedisTimeoutError:
        """Close the channel and say what is known about the command."""
        outcome = outcome_of(channel, error, all_sent)
        self.discard(channel, is_unknown=outcome is Outcome.UNKNOWN)
        failure = failure_of(channel, error, all_sent, outcome, self.endpoint)
        self.shared.reachability.lost(self.endpoint, failure)
        return failure

    def _until_ns(self, started_ns: int, deadline_s: float | None) -> int | None:
        """When a call of the fast path ends also while bytes come."""
        timeout_ns = self._timeout_ns
        if timeout_ns is None:
            return None
        return started_ns + (timeout_ns if deadline_s is None else int(deadline_s * NS_PER_S))


def _deadline_ns(timeout_s: float | None) -> int | None:
    return None if timeout_s is None else monotonic_ns() + int(timeout_s * NS_PER_S)
