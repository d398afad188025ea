"""The transport of the synchronous client: a last-in-first-out list of idle blocking sockets.

A call takes a channel (one connected socket and its reply reader) off the list, sends, receives, parses and puts it back.
`list.pop` and `list.append` are atomic, so the common path takes no lock; the lock is for the rare things: connecting,
waiting at the bound of `max_connections`, closing, forking.

Rules
- A channel is on the idle list only between a complete reply and the next command. Whatever interrupts a round trip (an
  error, a timeout, KeyboardInterrupt) closes the channel: a stream that may be out of step is never used again.
- Timeouts are the kernel's (SO_RCVTIMEO and SO_SNDTIMEO on a blocking socket: no poll() per call). Where those cannot be
  trusted (TLS, sockets patched by gevent) `settimeout` is used instead. They bound one system call, so `socket_timeout` is
  how long a connection may be silent: a large value on a slow link takes its time, and no failure of the server is made of
  it. The deadline of the whole call is checked after every partial read and send, and the kernel's timeout is shortened to
  what is left of it, so a server that drips bytes cannot stretch a call. A signal ends the kernel's wait:
  `Wire` waits again for what is left only, where CPython's sockets would begin anew.
- Opening a connection, its handshake included, has `socket_timeout` as well, however small the pieces of the handshake.
- A server that has no room for more clients (maxclients) is no outage while we hold connections: whoever wanted a new one
  waits for one of those, as at the bound of `max_connections`.
- A place under the bound is held by an object that whoever interrupts a call (KeyboardInterrupt) cannot leak: weakly. Until its
  reply has come a call owns its channel and discards it when it is interrupted; afterwards it lets go of it, and what is not in
  the list of idle ones by then is nobody's.
- A child of fork() starts with an empty list and never touches a socket of its parent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis import exceptions as redis_py

from agent_memory._core import monotonic_ns
from agent_memory._interruptible import Line, LiveSet
from agent_memory.errors import (
    ClientClosedError,
    ConnectionLimitError,
    Outcome,
    RedisTimeoutError,
    RedisUnavailableError,
)
from agent_memory.redis.error_outcomes import UNREADABLE, is_full, undecodable
from agent_memory.redis.exactly_once.blocking import BlockingOnce
from agent_memory.redis.exactly_once.mode import mode_of
from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.pool_state import pool_state_of
from agent_memory.redis.redis_py_internals.handshake import blocking_connect, new_connection, shut_down
from agent_memory.redis.redis_py_internals.pools import waits_for_place
from agent_memory.redis.transport.blocking.channel import Channel
from agent_memory.redis.transport.common import (
    DEFAULT_MAX_CONNECTIONS,
    DEMOTION_PAUSE_NS,
    FULL_PAUSE_S,
    INCOMPLETE,
    PING,
    Incomplete,
    endpoint_of,
)
from agent_memory.redis.transport.failures import connect_failure, reason_of
from agent_memory.redis.transport.proof import acknowledged_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BlockingTransport"]

IDLE_CHECK_NS: Final = 1_000_000_000
"""A channel idle for longer is looked at before use: the server may have closed it meanwhile."""
SEND_PIECE_BYTES: Final = 262_144
"""The rest of a large command is handed to the kernel in such pieces, so that silence is told from slowness."""

BROKEN_STREAM: Final = (OSError, EOFError, *UNREADABLE)
"""After any of these nothing more can be read from a socket."""

_LOGGER: Final = logging.getLogger("agent_memory.redis")
_RENEWING: Final = "renewed credentials"
_RETIRING: Final = "connections that must not be used again"


_MAY_HIDE_MORE: Final = frozenset({Incomplete, hiredis.PushNotification, list, dict, set, type(None)})
"""What may not be the reply, or not all of it; hiredis makes a list, or None, of an attribute too, which is none."""
_PushNotification: Final = hiredis.PushNotification
_NS_PER_S: Final = 1_000_000_000


class _StillMovingError(TimeoutError):
    """The deadline of a call has passed while bytes were arriving or leaving."""


class _Place:
    """A place under the bound of connections, held while one is being opened."""

    __slots__ = ("__weakref__",)


class BlockingTransport:
    """Sends commands for any number of threads over at most `max_connections` sockets.

    Thread-safe and fork-safe. Errors are `RedisUnavailableError` and `RedisTimeoutError` with their outcome; error replies
    are returned as exception instances, not raised.
    """

    def __init__(self, pool: Any) -> None:
        arguments = pool.connection_kwargs
        # Weakly: a pool that is dropped goes at once, with its connections.
        self._pool = weakref.ref(pool)
        self.shared = pool_state_of(pool, threading.Event)
        """What the clients of the pool share."""
        self._retired_ns = -DEMOTION_PAUSE_NS
        self.timeout_s: float | None = arguments.get("socket_timeout", 5)
        self._timeout_ns = None if self.timeout_s is None else int(self.timeout_s * _NS_PER_S)
        self._health_check_ns = int((arguments.get("health_check_interval") or 0) * _NS_PER_S)
        self._waits_for_place = waits_for_place(pool)
        self._place_wait_s: float | None = pool.timeout if self._waits_for_place else None
        """How long a call waits for a connection where the pool says it (None: for ever)."""
        self._max_connections: int = pool.max_connections or DEFAULT_MAX_CONNECTIONS
        self.endpoint = endpoint_of(arguments)
        self.protocol = int(arguments.get("protocol") or 3)
        """The protocol that was negotiated last; what the response callbacks have to follow."""
        mode = mode_of(pool, None, self.endpoint)
        self.once: BlockingOnce[Channel] | None = None if mode is None else BlockingOnce(self, mode)
        """Exactly once; None where it is off."""
        self._start_afresh()
        _TRANSPORTS.add(self)

    def _start_afresh(self) -> None:
        self.idle: list[Channel] = []
        """Channels between a complete reply and the next command; exactly once puts one that gives none away in its place."""
        self._open: LiveSet[Channel] = LiveSet()
        self._connecting: LiveSet[_Place] = LiveSet()
        self._connections: LiveSet[Any] = LiveSet()  # redis-py's: of channels, and of what will be one
        self._waiting = Line()
        """Who waits for a channel, and why a channel that is put back has to be looked at."""
        self.generation = 0
        self._renewal: bytes | None = None  # the AUTH of the credentials that were renewed last
        self._stale: LiveSet[Channel] = LiveSet()  # channels that have not been told of them
        self._renewing = False  # whether there may be any: then this counts as one who waits for channels
        self._retired: LiveSet[Channel] = LiveSet()  # channels in use that must not be used again
        self._retiring = False  # likewise
        self._lock = threading.Lock()

    def after_fork_in_child(self) -> None:
        """Let go of the parent's sockets without a byte on the wire."""
        channels = list(self._open)
        self._start_afresh()
        if self.once is not None:
            self.once.start_afresh()
        for channel in channels:
            channel.close()  # redis-py shuts down the sockets of its own process only

    # --- one round trip -------------------------------------------------------------------------------------------

    def call(self, packed: bytes, started_ns: int, raw: bool = False, deadline_s: float | None = None) -> Any:
        """Send one packed command and return its reply; an error reply is returned as an exception instance.

        The connection may be silent for `socket_timeout`. While bytes arrive or leave, the call goes on for `deadline_s` from
        `started_ns` (of `_core.monotonic_ns`) or from when it has got a connection; None: `socket_timeout`. Getting a
        connection may take `socket_timeout`. `raw` leaves bytes undecoded.
        """
        channel: Any = None
        reply: Any = INCOMPLETE  # until it has come, the channel is this call's
        try:
            try:
                channel = self.idle.pop()
            except IndexError:
                channel = self._acquire(self.timeout_s)
                started_ns = monotonic_ns()
            if started_ns - channel.last_used_ns > IDLE_CHECK_NS:
                channel = self._freshen(channel, started_ns)
            # `round_trip`, written out: a frame less on the way that most commands take. Methods are called on their objects
            # because CPython remembers where it found them; a bound method of hiredis or of a socket costs a tuple more.
            wire, reader, buffer = channel.wire, channel.reader, channel.buffer
            sent = count = 0
            try:
                sent = wire.send(packed)
                if sent != len(packed) or sent > SEND_PIECE_BYTES:
                    sent = self._send_large(channel, packed, sent, self._until_ns(started_ns, deadline_s))
                count = wire.recv_into(buffer)
                if not count:
                    raise EOFError
                reader.feed(buffer, 0, count)
                reply = reader.gets(False) if raw else reader.gets()
                if reply.__class__ in _MAY_HIDE_MORE:
                    taken, reply = reply, INCOMPLETE
                    reply = self._look_closer(channel, count, taken, self._until_ns(started_ns, deadline_s), raw)
            except BROKEN_STREAM as error:
                raise self._broken(channel, error, sent == len(packed)) from error
            except UnicodeError as error:
                reply = self._not_decoded(channel, count, error)
            if (channel.scanned or reader.has_data()) and not self._check_rest(channel, count):
                return reply
            channel.last_used_ns = started_ns
            self.idle.append(channel)
            if self._waiting:
                self._wake_one()
            return reply
        except BaseException:
            if reply is INCOMPLETE or reply.__class__ is _PushNotification:
                self._give_up(channel)
            channel = None  # a traceback keeps this frame; what is not idle again is to be nobody's
            if self._waiting:
                self._waiting.wake()
            raise

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
                    sent = self._send_large(channel, packed, sent, until_ns)
                count = channel.receive_into(channel.buffer)
                if not count:
                    raise EOFError
                channel.feed(count)
                reply = channel.gets(False) if raw else channel.gets()
                if reply is INCOMPLETE or reply.__class__ is _PushNotification:
                    reply = self._receive_rest(channel, until_ns, raw)
            except BROKEN_STREAM as error:
                raise self._broken(channel, error, sent == len(packed)) from error
            except UnicodeError as error:
                reply = undecodable(error)
            self._check_rest(channel)
            return reply
        except BaseException:
            self._give_up(channel)
            raise

    def round_trips(
        self, channel: Channel, packed: bytes, count: int, raw: frozenset[int], timeout_s: float | None
    ) -> list[Any]:
        """Send `count` packed commands in one piece on a channel that the caller owns; returns their replies.

        They have an effect only when the last of them has arrived (a transaction does): that is what an outcome speaks of.

        On any error the channel is closed and forgotten. A channel of the pool is put back.
        """
        replies: list[Any] = []
        sent = 0
        try:
            started_ns = monotonic_ns()
            until_ns = self._begin(channel, started_ns, timeout_s)
            try:
                sent = channel.send(packed)
                if sent != len(packed) or sent > SEND_PIECE_BYTES:
                    sent = self._send_large(channel, packed, sent, until_ns)
                self._receive_many(channel, count, replies, until_ns, raw)
            except BROKEN_STREAM as error:
                raise self._broken(channel, error, sent == len(packed)) from error
            self._check_rest(channel)
        except BaseException:
            self._give_up(channel)
            raise
        if channel in self._open:
            self.release(channel, started_ns)
        return replies

    def _not_decoded(self, channel: Channel, count: int, error: UnicodeError) -> Exception:
        """The reply that could not be decoded; raises where it may not have been the reply."""
        if channel.scanned or channel.feed_again(count):
            return undecodable(error)
        reason = channel.scanner.violation or "an attribute that is no text"
        raise self._broken(channel, redis_py.InvalidResponse(reason), True) from error

    def _look_closer(self, channel: Channel, count: int, reply: Any, until_ns: int | None, raw: bool) -> Any:
        """The reply, where the first `count` bytes after the command gave `reply`, which may hide an attribute."""
        if channel.feed_again(count) and reply is not INCOMPLETE and reply.__class__ is not _PushNotification:
            return reply
        return self._receive_rest(channel, until_ns, raw)

    def _check_rest(self, channel: Channel, unscanned: int = 0) -> bool:
        """Whether the channel may be used again: behind the last reply only whole pushes may stand.

        A whole reply means that the stream is out of step, which is an error. A part of something may be a push or a reply
        that no command asked for: its rest would be taken for the next caller's reply, so the channel is closed. `unscanned`
        is how many bytes came, where they were given to the reader as they were.
        """
        try:
            if not channel.scanned and not channel.feed_again(unscanned):
                channel.check_scanned()
                raise redis_py.InvalidResponse("an attribute behind a reply")
            channel.scanned = False
            while channel.has_data():
                extra = channel.gets(False)
                if extra is INCOMPLETE:
                    self.discard(channel)
                    return False
                if extra.__class__ is not _PushNotification:
                    raise redis_py.InvalidResponse("a reply that no command asked for")
            channel.check_scanned()
        except UNREADABLE as error:
            raise self._broken(channel, error, True) from error
        if not channel.scanner.is_between_replies:
            self.discard(channel)
            return False
        return True

    def call_within(self, packed: bytes, started_ns: int, raw: bool, timeout_s: float | None) -> Any:
        """The same within `timeout_s` from `started_ns` to the reply (None: wait for ever), getting a connection included."""
        channel = self.acquire(started_ns, self.patience_s(timeout_s))
        try:
            until_ns = self._begin(channel, started_ns, timeout_s)
            reply = self.round_trip(channel, packed, until_ns, raw)
        except BaseException:
            self._give_up(channel)
            raise
        self.release(channel, started_ns)
        return reply

    def patience_s(self, timeout_s: float | None) -> float | None:
        """How long a connection may be silent, or be waited for, in a call that may take `timeout_s` in all."""
        if timeout_s is None or self.timeout_s is None:
            return timeout_s
        return min(timeout_s, self.timeout_s)

    def _until_ns(self, started_ns: int, deadline_s: float | None) -> int | None:
        """When a call of the straight way ends also while bytes come."""
        timeout_ns = self._timeout_ns
        if timeout_ns is None:
            return None
        return started_ns + (timeout_ns if deadline_s is None else int(deadline_s * _NS_PER_S))

    def _begin(self, channel: Channel, started_ns: int, timeout_s: float | None) -> int | None:
        """Give the socket of a leased channel what a call may take of silence; returns when the call ends.

        Raises NOT_SENT when that has passed.
        """
        try:
            channel.moved = False
            channel.set_timeout(self.patience_s(timeout_s))
            if timeout_s is None:
                return None
            until_ns = started_ns + int(timeout_s * _NS_PER_S)
            if until_ns <= monotonic_ns():
                raise TimeoutError
            self._shorten(channel, until_ns)
        except OSError as error:
            raise self._broken(channel, error, False) from error
        return until_ns

    def call_leased(
        self,
        packed: bytes,
        started_ns: int,
        raw: bool,
        timeout_s: float | None,
        *,
        keep: bool,
        ahead: bytes | None = None,
        extra_s: float = 0.0,
    ) -> Any:
        """The same for a command that blocks (`timeout_s` says how long) or changes its connection (`keep=False` closes it).

        While bytes arrive it may take `extra_s` more. `ahead` is a packed command that is sent first; if it is refused, that is
        the reply and the connection is closed.
        """
        channel = self.acquire(started_ns, self.timeout_s)
        try:
            started_ns = monotonic_ns()
            until_ns = None if timeout_s is None else started_ns + int((timeout_s + extra_s) * _NS_PER_S)
            try:
                channel.set_timeout(timeout_s)
            except OSError as error:
                raise self._broken(channel, error, False) from error
            refusal = None if ahead is None else self.round_trip(channel, ahead, until_ns, False)
            if isinstance(refusal, Exception):
                self.discard(channel)
                return refusal
            reply = self.round_trip(channel, packed, until_ns, raw)
        except BaseException:
            self._give_up(channel)
            raise
        if keep:
            self.release(channel, started_ns)
        else:
            self.discard(channel)
        return reply

    def ping_afresh(self) -> None:
        """PING on a new connection outside the bound, for a probe; raises what the connection raises.

        Where the server has no room for one, on a connection that is held.
        """
        try:
            channel = self.open_channel(greet=False)
        except RedisUnavailableError as error:
            if not is_full(error):
                raise
            self._ping_held(error)
            return
        try:
            reply = self.round_trip(channel, PING, self._until_ns(monotonic_ns(), None), False)
        finally:
            channel.close()
        if isinstance(reply, Exception):
            raise reply

    def _ping_held(self, full: RedisUnavailableError) -> None:
        now_ns = monotonic_ns()
        deadline_ns = None if self._timeout_ns is None else now_ns + self._timeout_ns
        place, generation = _Place(), self.generation
        while (channel := self._take(place, generation, deadline_ns, may_connect=False)) is not None:
            try:
                fresh = channel.is_fresh()
                reply = self.round_trip(channel, PING, self._until_ns(now_ns, None), False) if fresh else None
            except BaseException:
                self._give_up(channel)
                raise
            if fresh:
                self.release(channel, now_ns)
                if isinstance(reply, Exception):
                    raise reply
                return
            self.discard(channel)
        raise full

    def call_many(
        self,
        windows: Iterator[tuple[bytes, int]],
        started_ns: int,
        raw: frozenset[int] = frozenset(),
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Send windows of packed commands and return all replies; error replies as exception instances.

        A window is its bytes and the number of its replies; the next one is sent before the replies of the one before are
        read, so the server always has work. Every window has `timeout_s` (None: `socket_timeout`), of which the connection may
        be silent for `socket_timeout`. `raw` numbers the replies that stay bytes.
        """
        if timeout_s is None:
            timeout_s = self.timeout_s
        channel = self.acquire(started_ns, self.patience_s(timeout_s))
        replies: list[Any] = []
        unread = 0
        packed = b""
        sent = False
        try:
            started_ns = monotonic_ns()
            until_ns = self._begin(channel, started_ns, timeout_s)
            try:
                for packed, count in windows:
                    whole = channel.send(packed)
                    sent = sent or whole > 0
                    if whole != len(packed):
                        self._send_rest(channel, packed, whole, until_ns)
                    if unread:
                        if len(packed) > SEND_PIECE_BYTES:
                            self._see_off(channel, until_ns)
                        self._receive_many(channel, unread, replies, until_ns, raw)
                        started_ns = monotonic_ns()
                        until_ns = None if timeout_s is None else started_ns + int(timeout_s * _NS_PER_S)
                    unread = count
                if len(packed) > SEND_PIECE_BYTES:
                    self._see_off(channel, until_ns)
                self._receive_many(channel, unread, replies, until_ns, raw)
            except BROKEN_STREAM as error:
                failure = self._broken(channel, error, sent)
                failure.replies = replies  # type: ignore[union-attr]  # those that came: a replay need not doubt them
                if sent:
                    # That the last bytes never arrived says nothing about the first ones.
                    failure.outcome = Outcome.UNKNOWN
                raise failure from error
            self._check_rest(channel)
        except BaseException:
            self._give_up(channel)
            raise
        self.release(channel, started_ns)
        return replies

    def _receive_many(
        self, channel: Channel, count: int, replies: list[Any], until_ns: int | None, raw: frozenset[int]
    ) -> None:
        gets = channel.gets
        append, upto = replies.append, len(replies) + count
        while len(replies) < upto:
            try:
                reply = gets() if not raw or len(replies) not in raw else gets(False)
            except UnicodeError as error:
                reply = undecodable(error)
            if reply is INCOMPLETE:
                self._receive_more(channel, until_ns)
            elif reply.__class__ is not _PushNotification:
                append(reply)

    def _send_large(self, channel: Channel, packed: bytes, sent: int, until_ns: int | None) -> int:
        """The rest of a large command; returns when the reply begins, or where nobody can tell whether it does."""
        timeout_s = channel.timeout_s
        try:
            sent = self._send_rest(channel, packed, sent, until_ns)
            self._see_off(channel, until_ns)
        finally:
            channel.set_timeout(timeout_s)
        return sent

    def _send_rest(self, channel: Channel, packed: bytes, sent: int, until_ns: int | None) -> int:
        view = memoryview(packed)
        channel.moved = True
        while sent < len(packed):
            shortened = self._shorten(channel, until_ns)
            try:
                sent += channel.send(view[sent : sent + SEND_PIECE_BYTES])
            except (BlockingIOError, TimeoutError):
                if shortened:
                    raise _StillMovingError from None
                raise
        return sent

    def _see_off(self, channel: Channel, until_ns: int | None) -> None:
        """Wait for the first byte of a reply: while the kernel still sends what it holds, the peer owes none."""
        silence_s = channel.timeout_s
        if silence_s is None or not channel.kernel_timeouts:
            return
        poller = select.poll()
        poller.register(channel.sock, select.POLLIN)
        acknowledged = acknowledged_bytes(channel.sock)
        while True:
            shortened = self._shorten(channel, until_ns)
            if poller.poll(1000.0 * (channel.timeout_s or silence_s)):
                return
            before, acknowledged = acknowledged, acknowledged_bytes(channel.sock)
            if acknowledged == before:
                raise _StillMovingError if shortened and channel.moved else TimeoutError
            channel.moved = True

    def _receive_rest(self, channel: Channel, until_ns: int | None, raw: bool) -> Any:
        gets, timeout_s = channel.gets, channel.timeout_s
        channel.moved = True
        try:
            while True:
                reply = gets(False) if raw else gets()
                if reply is INCOMPLETE:
                    self._receive_more(channel, until_ns)
                elif reply.__class__ is not _PushNotification:
                    return reply
        finally:
            channel.set_timeout(timeout_s)

    def _receive_more(self, channel: Channel, until_ns: int | None) -> None:
        """More bytes for the reader; raises where the channel stays silent, and past the deadline."""
        channel.check_scanned()
        shortened = self._shorten(channel, until_ns)
        try:
            count = channel.receive_into(channel.buffer)
        except (BlockingIOError, TimeoutError):
            if shortened and channel.moved:
                raise _StillMovingError from None
            raise
        if not count:
            raise EOFError
        channel.moved = True
        channel.feed(count)

    @staticmethod
    def _shorten(channel: Channel, until_ns: int | None) -> bool:
        """Shorten the socket's timeout to what is left of a call: whether that is less than its silence may last.

        Raises past the deadline.
        """
        if until_ns is None:
            return False
        left_ns = until_ns - monotonic_ns()
        if left_ns <= 0:
            raise _StillMovingError if channel.moved else TimeoutError
        left_s = left_ns / _NS_PER_S
        timeout_s = channel.timeout_s
        if timeout_s is not None and left_s >= timeout_s:
            return False
        # A large reply that streams in takes many reads in a millisecond: only a real change is worth a system call.
        if timeout_s is None or left_s < timeout_s * 0.95:
            channel.set_timeout(left_s)
        return True

    def _broken(self, channel: Channel, error: Exception, all_sent: bool) -> RedisUnavailableError | RedisTimeoutError:
        """Close the channel and say what is known about the command."""
        # What was not acknowledged when this side hung up may still arrive.
        proven = isinstance(error, EOFError | BrokenPipeError) and not channel.hung_up and channel.never_arrived()
        outcome = Outcome.NOT_SENT if not all_sent or proven else Outcome.UNKNOWN
        self.discard(channel, in_doubt=outcome is Outcome.UNKNOWN)
        if channel.hung_up:
            return ClientClosedError(outcome=outcome, endpoint=self.endpoint)
        if isinstance(error, BlockingIOError | TimeoutError):
            what = "no answer in time" if all_sent else "could not send in time"
            late = RedisTimeoutError(what, outcome=outcome, endpoint=self.endpoint)
            late.moving = isinstance(error, _StillMovingError)
            return late
        if isinstance(error, UNREADABLE):
            # The reader met bytes that are not the protocol: whatever sits there, it is not a Redis that we can trust.
            return RedisUnavailableError(f"protocol error: {reason_of(error)}", outcome=outcome, endpoint=self.endpoint)
        what = "connection closed by the server" if isinstance(error, EOFError) else reason_of(error)
        return RedisUnavailableError(what, outcome=outcome, endpoint=self.endpoint)

    # --- channels -------------------------------------------------------------------------------------------------

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

    def discard(self, channel: Channel, *, in_doubt: bool = False) -> None:
        """Close a leased channel for good; `in_doubt` where a command on it has not been answered."""
        stream = channel.stream if in_doubt and self.once is not None else None
        if stream is not None and stream.level is Level.OFFSET:
            stream.hang_up = channel.close
        if stream is not None and self.once is not None:
            self.once.lose(stream)
        self._open.discard(channel)
        if self._waiting:
            self._waiting.wake()
        if stream is None or stream.hang_up is None:
            channel.close()
            self._connections.discard(channel.connection)
        channel.given_up = True

    def _give_up(self, channel: Channel | None) -> None:
        """Discard what a call owned when it was interrupted, unless that has been done: its command is in doubt."""
        if channel is not None and not channel.given_up:
            self.discard(channel, in_doubt=True)

    def _wake_one(self) -> None:
        if self._retiring:
            self._drop_retired()
        if self._renewing:
            self._renew_idle()
        self._waiting.wake()

    def _drop_retired(self) -> None:
        for channel in list(self._retired):
            try:
                self.idle.remove(channel)
            except ValueError:
                continue  # in use: its turn is when it comes back
            self._retired.discard(channel)
            self.discard(channel)
        with self._lock:
            if self._retiring and not self._retired:
                self._retiring = False
                self._waiting.pop(_RETIRING, None)

    # --- renewed credentials --------------------------------------------------------------------------------------

    def renew(self, authentication: bytes) -> None:
        """Authenticate anew with the packed AUTH: idle channels now, each of the others when it comes back."""
        with self._lock:
            self._renewal = authentication
            for channel in self._open:
                self._mark_stale(channel)
        self._renew_idle()

    def _mark_stale(self, channel: Channel) -> None:
        self._stale.add(channel)
        if not self._renewing:
            self._renewing = True
            self._waiting[_RENEWING] = None  # so that whoever returns a channel comes by `_wake_one`

    def _renew_idle(self) -> None:
        for channel in list(self._stale):
            try:
                self.idle.remove(channel)
            except ValueError:
                continue  # in use: its turn is when it comes back
            if self._authenticate(channel):
                self.idle.append(channel)
        with self._lock:
            if self._renewing and not self._stale:
                self._renewing = False
                self._waiting.pop(_RENEWING, None)

    def _authenticate(self, channel: Channel) -> bool:
        """Whether the channel may be used again."""
        renewal = self._renewal
        assert renewal is not None
        self._stale.discard(channel)
        try:
            reply = self.round_trip(channel, renewal, self._until_ns(monotonic_ns(), None), False)
        except (RedisUnavailableError, RedisTimeoutError):
            return False
        if isinstance(reply, Exception):
            # It stays who it was, which is of more use than no connection.
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
        place, generation = _Place(), self.generation
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

    def _take_held(self, place: _Place, generation: int, deadline_ns: int | None) -> Channel | None:
        """An open channel where the server admits no other; None after a pause in which none came back."""
        pause_end_ns = monotonic_ns() + int(FULL_PAUSE_S * _NS_PER_S)
        end_ns = pause_end_ns if deadline_ns is None else min(pause_end_ns, deadline_ns)
        return self._take(place, generation, end_ns, may_connect=False)

    def _take(
        self, place: _Place, generation: int, deadline_ns: int | None, *, may_connect: bool = True
    ) -> Channel | None:
        """An idle channel, as soon as there is one; None past the deadline, when none is open, or with the place counted
        under the bound, for the caller to connect. Raises ClientClosedError where the transport was closed meanwhile.
        """
        while True:
            waiter = Line.waiter()
            try:
                # Joining first makes this look decisive: whoever returns a channel after it sees us and wakes somebody.
                # (Others take channels without the lock, so it may still be too late.)
                self._waiting[waiter] = None
                if generation != self.generation:
                    raise self._closed()
                try:
                    return self.idle.pop()
                except IndexError:
                    pass
                with self._lock:
                    if may_connect and len(self._open) + len(self._connecting) < self._max_connections:
                        self._connecting.add(place)
                        return None
                    nobody_returns_one = not (may_connect or len(self._open))
                left_s = None if deadline_ns is None else (deadline_ns - monotonic_ns()) / _NS_PER_S
                if (left_s is not None and left_s <= 0) or nobody_returns_one:
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
        left_s = FULL_PAUSE_S if deadline_ns is None else (deadline_ns - monotonic_ns()) / _NS_PER_S
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

    def _connect(self, place: _Place, generation: int, deadline_ns: int | None) -> Channel:
        renewal = self._renewal
        try:
            channel = self.open_channel(deadline_ns)
        except BaseException as error:
            self._connecting.discard(place)
            if self._waiting:
                self._waiting.wake()
            if generation != self.generation and isinstance(error, RedisUnavailableError | RedisTimeoutError):
                raise self._closed() from error
            raise
        with self._lock:
            self._connecting.discard(place)
            stays = generation == self.generation
            if stays:
                self._open.add(channel)
                if self._renewal is not renewal:
                    self._mark_stale(channel)  # what it has just told the server was renewed meanwhile
        if not stays:
            channel.close()
            raise self._closed()
        return channel

    def _closed(self) -> ClientClosedError:
        return ClientClosedError(outcome=Outcome.NOT_SENT, endpoint=self.endpoint)

    def open_channel(self, deadline_ns: int | None = None, *, greet: bool = True) -> Channel:
        """Connect and handshake outside the bound (a probe, or under `_connect`'s count); the caller owns the channel.

        Has `socket_timeout`, or until `deadline_ns` of `monotonic_ns()`. With exactly once the handshake ends with the
        greeting, unless `greet` is false because nothing will be written.
        """
        if deadline_ns is None and self._timeout_ns is not None:
            deadline_ns = monotonic_ns() + self._timeout_ns
        pool = self._pool()
        if pool is None:
            raise self._closed()
        connection = new_connection(pool)
        with self._lock:
            self._connections.add(connection)
        try:
            blocking_connect(connection, deadline_ns)
            channel = Channel(connection, self.timeout_s, monotonic_ns())
            if self.once is not None and greet:
                self.once.greet(channel)
        except BaseException as error:
            connection.disconnect()
            self._connections.discard(connection)
            failure = connect_failure(error, self.endpoint)
            try:
                if failure is error:
                    raise
                raise failure from error
            finally:
                del failure  # an error that this frame holds would hold the frame, and the connection, in a circle
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
            connections = set(self._connections) if in_use else set()
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
            self._retired.update(self._open if not in_use else set(channels).difference(idle))
            if self._retired and not self._retiring:
                self._retiring = True
                self._waiting[_RETIRING] = None  # so that a returned channel comes by `_wake_one`
        self._waiting.wake_all()
        if self.once is not None:
            self.once.left = in_use
            self.once.bid_farewell(idle)
        for channel in idle:
            channel.close()
        for channel in set(channels).difference(idle):
            channel.hang_up()
        for connection in connections:  # those that are being opened, too, and a probe's
            shut_down(connection)


def _deadline_ns(timeout_s: float | None) -> int | None:
    return None if timeout_s is None else monotonic_ns() + int(timeout_s * _NS_PER_S)


_TRANSPORTS: weakref.WeakSet[BlockingTransport] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for transport in list(_TRANSPORTS):
        transport.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
