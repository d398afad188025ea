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
- A server that has no room for more clients (maxclients) is no outage while we hold connections: a call that wanted a new one
  waits for one of those, as at the bound of `max_connections`.
- A place under the bound is held weakly, by an object that an interrupted call (KeyboardInterrupt) cannot leak. Until its
  reply has come a call owns its channel and discards it when it is interrupted; afterwards it releases it, and what is not in
  the list of idle ones by then has no owner.
- A child of fork() starts with an empty list and never touches a socket of its parent.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis import exceptions as redis_py

from agent_memory._core import monotonic_ns
from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.redis.error_outcomes import is_full, undecodable
from agent_memory.redis.exactly_once.blocking import BlockingOnce
from agent_memory.redis.exactly_once.mode import mode_of
from agent_memory.redis.transport.blocking.exchange import (
    BROKEN_STREAM,
    NS_PER_S,
    SEND_PIECE_BYTES,
    look_closer,
    receive_many,
    see_off,
    send_large,
    send_rest,
    shorten,
)
from agent_memory.redis.transport.blocking.pool import IDLE_CHECK_NS, ChannelPool, Place
from agent_memory.redis.transport.common import INCOMPLETE, PING, Incomplete

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent_memory.redis.transport.blocking.channel import Channel

__all__ = ["BlockingTransport"]

_MAY_HIDE_MORE: Final = frozenset({Incomplete, hiredis.PushNotification, list, dict, set, type(None)})
"""What may not be the reply, or not all of it; hiredis makes a list, or None, of an attribute too, which is none."""
_PushNotification: Final = hiredis.PushNotification


class BlockingTransport(ChannelPool):
    """Sends commands for any number of threads over at most `max_connections` sockets.

    Thread-safe and fork-safe. Errors are `RedisUnavailableError` and `RedisTimeoutError` with their outcome; error replies
    are returned as exception instances, not raised.
    """

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        mode = mode_of(pool, None, self.endpoint)
        if mode is not None:
            self.once = BlockingOnce(self, mode)
        _TRANSPORTS.add(self)

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
                    sent = send_large(channel, packed, sent, self._until_ns(started_ns, deadline_s))
                count = wire.recv_into(buffer)
                if not count:
                    raise EOFError
                reader.feed(buffer, 0, count)
                reply = reader.gets(False) if raw else reader.gets()
                if reply.__class__ in _MAY_HIDE_MORE:
                    taken, reply = reply, INCOMPLETE
                    reply = look_closer(channel, count, taken, self._until_ns(started_ns, deadline_s), raw)
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
            channel = None  # a traceback keeps this frame; what is not idle again must have no owner
            if self._waiting:
                self._waiting.wake()
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
                    sent = send_large(channel, packed, sent, until_ns)
                receive_many(channel, count, replies, until_ns, raw)
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

    def _begin(self, channel: Channel, started_ns: int, timeout_s: float | None) -> int | None:
        """Give the socket of a leased channel what a call may take of silence; returns when the call ends.

        Raises NOT_SENT when that has passed.
        """
        try:
            channel.moved = False
            channel.set_timeout(self.patience_s(timeout_s))
            if timeout_s is None:
                return None
            until_ns = started_ns + int(timeout_s * NS_PER_S)
            if until_ns <= monotonic_ns():
                raise TimeoutError
            shorten(channel, until_ns)
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
            until_ns = None if timeout_s is None else started_ns + int((timeout_s + extra_s) * NS_PER_S)
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
        place, generation = Place(), self.generation
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
                        send_rest(channel, packed, whole, until_ns)
                    if unread:
                        if len(packed) > SEND_PIECE_BYTES:
                            see_off(channel, until_ns)
                        receive_many(channel, unread, replies, until_ns, raw)
                        started_ns = monotonic_ns()
                        until_ns = None if timeout_s is None else started_ns + int(timeout_s * NS_PER_S)
                    unread = count
                if len(packed) > SEND_PIECE_BYTES:
                    see_off(channel, until_ns)
                receive_many(channel, unread, replies, until_ns, raw)
            except BROKEN_STREAM as error:
                failure = self._broken(channel, error, sent)
                failure.replies = replies  # type: ignore[union-attr]  # a replay knows the outcome of these
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

    def send_batch(self, packed: bytes, timeout_s: float) -> tuple[Channel, int | None]:
        """Send packed commands on a channel that the caller owns from now on, whose replies `receive_batch` reads.

        Returns the channel and the end of the call (of `_core.monotonic_ns`), `timeout_s` from now.
        """
        started_ns = monotonic_ns()
        channel = self.acquire(started_ns, self.patience_s(timeout_s))
        sent = 0
        try:
            until_ns = self._begin(channel, started_ns, timeout_s)
            try:
                sent = channel.send(packed)
                if sent != len(packed):
                    send_rest(channel, packed, sent, until_ns)
            except BROKEN_STREAM as error:
                failure = self._broken(channel, error, sent > 0)
                if sent:
                    failure.outcome = Outcome.UNKNOWN
                raise failure from error
        except BaseException:
            self._give_up(channel)
            raise
        return channel, until_ns

    def receive_batch(self, channel: Channel, count: int, raw: frozenset[int], until_ns: int | None) -> list[Any]:
        """The `count` replies to what `send_batch` has sent; the channel goes back, or is closed where that fails."""
        replies: list[Any] = []
        try:
            try:
                receive_many(channel, count, replies, until_ns, raw)
            except BROKEN_STREAM as error:
                failure = self._broken(channel, error, True)
                failure.replies = replies  # type: ignore[union-attr]
                failure.outcome = Outcome.UNKNOWN
                raise failure from error
            self._check_rest(channel)
        except BaseException:
            self._give_up(channel)
            raise
        self.release(channel, monotonic_ns())
        return replies

    def forget_batch(self, channel: Channel) -> None:
        """The replies to what `send_batch` has sent are not wanted any more."""
        self._give_up(channel)


_TRANSPORTS: weakref.WeakSet[BlockingTransport] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for transport in list(_TRANSPORTS):
        transport.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
