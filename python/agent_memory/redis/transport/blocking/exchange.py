"""Bytes out and in on one channel that the caller owns, within a deadline.

What goes wrong is raised as it comes (`BROKEN_STREAM`); `failure_of` makes of it what the call fails with. The channel's
timeout bounds one system call, and so its silence; `until_ns` (of `monotonic_ns()`, None for never) is the end of the call also
while bytes move. It is checked after every partial read and send.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis import exceptions as redis_py

from agent_memory._core import monotonic_ns, take_replies
from agent_memory.errors import ClientClosedError, Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.error_outcomes import UNREADABLE, undecodable
from agent_memory.redis.transport.common import INCOMPLETE
from agent_memory.redis.transport.failures import reason_of
from agent_memory.redis.transport.proof import acknowledged_bytes

if TYPE_CHECKING:
    from agent_memory.redis.transport.blocking.channel import Channel

__all__ = [
    "BROKEN_STREAM",
    "NS_PER_S",
    "SEND_PIECE_BYTES",
    "failure_of",
    "look_closer",
    "outcome_of",
    "receive_many",
    "receive_rest",
    "rest_is_pushes",
    "see_off",
    "send_large",
    "send_rest",
    "shorten",
]

BROKEN_STREAM: Final = (OSError, EOFError, *UNREADABLE)
"""After any of these nothing more can be read from a socket."""
SEND_PIECE_BYTES: Final = 262_144
"""The rest of a large command is handed to the kernel in such pieces, to distinguish a silent peer from a slow one."""
NS_PER_S: Final = 1_000_000_000

_PushNotification: Final = hiredis.PushNotification


class StillMovingError(TimeoutError):
    """The deadline of a call has passed while bytes were arriving or leaving."""


def send_large(channel: Channel, packed: bytes, sent: int, until_ns: int | None) -> int:
    """The rest of a large command; returns when the reply begins, or where that cannot be known."""
    timeout_s = channel.timeout_s
    try:
        sent = send_rest(channel, packed, sent, until_ns)
        see_off(channel, until_ns)
    finally:
        channel.set_timeout(timeout_s)
    return sent


def send_rest(channel: Channel, packed: bytes, sent: int, until_ns: int | None) -> int:
    view = memoryview(packed)
    channel.moved = True
    while sent < len(packed):
        shortened = shorten(channel, until_ns)
        try:
            sent += channel.send(view[sent : sent + SEND_PIECE_BYTES])
        except (BlockingIOError, TimeoutError):
            if shortened:
                raise StillMovingError from None
            raise
    return sent


def see_off(channel: Channel, until_ns: int | None) -> None:
    """Wait for the first byte of a reply: while the kernel still sends what it holds, the peer owes none."""
    silence_s = channel.timeout_s
    if silence_s is None or not channel.kernel_timeouts:
        return
    poller = select.poll()
    poller.register(channel.sock, select.POLLIN)
    acknowledged = acknowledged_bytes(channel.sock)
    while True:
        shortened = shorten(channel, until_ns)
        if poller.poll(1000.0 * (channel.timeout_s or silence_s)):
            return
        before, acknowledged = acknowledged, acknowledged_bytes(channel.sock)
        if acknowledged == before:
            raise StillMovingError if shortened and channel.moved else TimeoutError
        channel.moved = True


def receive_many(channel: Channel, count: int, replies: list[Any], until_ns: int | None, raw: frozenset[int]) -> None:
    gets = channel.gets
    append, upto = replies.append, len(replies) + count
    if not raw:
        while not take_replies(gets, replies, upto, INCOMPLETE, _PushNotification, undecodable):
            receive_more(channel, until_ns)
        return
    while len(replies) < upto:
        try:
            reply = gets(False) if len(replies) in raw else gets()
        except UnicodeError as error:
            reply = undecodable(error)
        if reply is INCOMPLETE:
            receive_more(channel, until_ns)
        elif reply.__class__ is not _PushNotification:
            append(reply)


def receive_rest(channel: Channel, until_ns: int | None, raw: bool) -> Any:
    gets, timeout_s = channel.gets, channel.timeout_s
    channel.moved = True
    try:
        while True:
            reply = gets(False) if raw else gets()
            if reply is INCOMPLETE:
                receive_more(channel, until_ns)
            elif reply.__class__ is not _PushNotification:
                return reply
    finally:
        channel.set_timeout(timeout_s)


def receive_more(channel: Channel, until_ns: int | None) -> None:
    """More bytes for the reader; raises where the channel stays silent, and past the deadline."""
    channel.check_scanned()
    shortened = shorten(channel, until_ns)
    try:
        count = channel.receive_into(channel.buffer)
    except (BlockingIOError, TimeoutError):
        if shortened and channel.moved:
            raise StillMovingError from None
        raise
    if not count:
        raise EOFError
    channel.moved = True
    channel.feed(count)


def look_closer(channel: Channel, count: int, reply: Any, until_ns: int | None, raw: bool) -> Any:
    """The reply, where the first `count` bytes after the command gave `reply`, which may hide an attribute."""
    if channel.feed_again(count) and reply is not INCOMPLETE and reply.__class__ is not _PushNotification:
        return reply
    return receive_rest(channel, until_ns, raw)


def shorten(channel: Channel, until_ns: int | None) -> bool:
    """Shorten the socket's timeout to what is left of a call: whether that is less than its silence may last.

    Raises past the deadline.
    """
    if until_ns is None:
        return False
    left_ns = until_ns - monotonic_ns()
    if left_ns <= 0:
        raise StillMovingError if channel.moved else TimeoutError
    left_s = left_ns / NS_PER_S
    timeout_s = channel.timeout_s
    if timeout_s is not None and left_s >= timeout_s:
        return False
    # A large reply that streams in takes many reads in a millisecond: only a real change is worth a system call.
    if timeout_s is None or left_s < timeout_s * 0.95:
        channel.set_timeout(left_s)
    return True


def rest_is_pushes(channel: Channel, unscanned: int = 0) -> bool:
    """Whether the channel may be used again: behind the last reply only whole pushes may stand.

    A whole reply means that the stream is out of step, which is an error. A part of something may be a push or a reply
    that no command asked for: its rest would be taken for the next caller's reply. `unscanned` is how many bytes came, where
    they were given to the reader as they were. Raises one of `UNREADABLE`.
    """
    if not channel.scanned and not channel.feed_again(unscanned):
        channel.check_scanned()
        raise redis_py.InvalidResponse("an attribute behind a reply")
    channel.scanned = False
    while channel.has_data():
        extra = channel.gets(False)
        if extra is INCOMPLETE:
            return False
        if extra.__class__ is not _PushNotification:
            raise redis_py.InvalidResponse("a reply that no command asked for")
    channel.check_scanned()
    return bool(channel.scanner.is_between_replies)


def outcome_of(channel: Channel, error: Exception, all_sent: bool) -> Outcome:
    """What is known of the last command on a channel that broke: NOT_SENT or UNKNOWN."""
    # What was not acknowledged when this side hung up may still arrive.
    proven = isinstance(error, EOFError | BrokenPipeError) and not channel.hung_up and channel.never_arrived()
    return Outcome.NOT_SENT if not all_sent or proven else Outcome.UNKNOWN


def failure_of(
    channel: Channel, error: Exception, all_sent: bool, outcome: Outcome, endpoint: str
) -> RedisUnavailableError | RedisTimeoutError:
    """What a call fails with whose channel broke with `error`."""
    if channel.hung_up:
        return ClientClosedError(outcome=outcome, endpoint=endpoint)
    if isinstance(error, BlockingIOError | TimeoutError):
        what = "no answer in time" if all_sent else "could not send in time"
        late = RedisTimeoutError(what, outcome=outcome, endpoint=endpoint)
        late.moving = isinstance(error, StillMovingError)
        return late
    if isinstance(error, UNREADABLE):
        # The reader met bytes that are not the protocol: whatever sits there, it is not a Redis that we can trust.
        return RedisUnavailableError(f"protocol error: {reason_of(error)}", outcome=outcome, endpoint=endpoint)
    what = "connection closed by the server" if isinstance(error, EOFError) else reason_of(error)
    return RedisUnavailableError(what, outcome=outcome, endpoint=endpoint)
