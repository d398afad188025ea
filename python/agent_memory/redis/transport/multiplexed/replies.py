"""Where a reply is matched to its caller: the queue of slots, and the reader that takes replies out of what arrives.

A slot is the future of one command, a `Window` for the commands of a pipeline, or a `OnceSlot`. It stays in the queue until
its reply arrives, whatever became of its caller.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import hiredis
from redis import exceptions as redis_py

from agent_memory._core import ReplyScanner
from agent_memory.redis.error_outcomes import undecodable
from agent_memory.redis.transport.common import INCOMPLETE, RECEIVE_BUFFER_BYTES, new_reader

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from agent_memory.redis.exactly_once.slots import OnceSlot

    Slot: TypeAlias = "asyncio.Future[Any] | Window | OnceSlot"

__all__ = ["Replies", "Window"]

_PushNotification: Final = hiredis.PushNotification


class Window:
    """The slot of a window of a pipeline: stands in the queue once for each of its commands, resolves once for all."""

    __slots__ = ("_missing", "future", "replies")

    def __init__(self, future: asyncio.Future[list[Any]], count: int) -> None:
        self.future = future
        self.replies: list[Any] = []
        self._missing = count

    def done(self) -> bool:
        """Whether its replies are here, or its caller has gone."""
        return self.future.done()

    def set_result(self, reply: Any) -> None:
        """One more of its replies has arrived."""
        self.replies.append(reply)
        self._missing -= 1
        if not self._missing:
            self.future.set_result(self.replies)

    def set_exception(self, error: Exception) -> None:
        """Its other replies will not arrive."""
        error.replies = self.replies  # type: ignore[attr-defined]  # those that came: a replay need not doubt them
        self.future.set_exception(error)


class Replies:
    """The slots of one connection in the order of their commands, and its reply reader."""

    __slots__ = ("_bytes", "_feed", "_gets", "_scanner", "_torn", "buffer", "has_part", "raw", "slots")

    def __init__(self, encoder: Any) -> None:
        reader = new_reader(encoder)
        self._feed: Callable[..., None] = reader.feed
        self._gets: Callable[..., Any] = reader.gets
        self.has_part: Callable[[], bool] = reader.has_data
        """Whether the reader holds bytes that complete no reply."""
        # Whether the reader holds the beginning of something that came while no command was unanswered: a push, or a reply
        # that no command asked for, whose rest must not be taken for the next command's.
        self._torn = False
        self._bytes = bytearray(RECEIVE_BUFFER_BYTES)
        self.buffer = memoryview(self._bytes)
        """Where to read to. A view: asyncio's TLS reads record by record into slices, and a bytearray's would be copies."""
        self._scanner = ReplyScanner()
        self.slots: collections.deque[Slot] = collections.deque()
        """Unanswered commands; bounded by `MAX_IN_FLIGHT`, beyond which the connection takes no more."""
        self.raw: collections.deque[int] = collections.deque()
        """Absolute numbers of the slots whose replies stay undecoded; at most one for each slot."""

    def match(self, received: int, answered: int) -> int:
        """Give the replies in the first `received` bytes of the buffer to their slots.

        `answered` is the absolute number of the oldest slot; returns what it is now. Raises one of `UNREADABLE` where what
        came is not the protocol, or a reply that no command asked for.
        """
        parts = self._scanner.scan(self._bytes, 0, received)
        if parts is None:
            self._feed(self.buffer, 0, received)
        else:
            for offset, count in parts:
                self._feed(self.buffer, offset, count)
        if self._torn and not self._skip_torn():
            pass
        elif self.raw:
            answered = self._match_raw(answered)
        else:
            gets, slots = self._gets, self.slots
            popleft = slots.popleft
            while slots or self.has_part():
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
        if parts is not None:
            self._check_scanned()
        return answered

    def _match_raw(self, answered: int) -> int:
        """The same while some slot in flight wants its reply undecoded."""
        raw, slots = self.raw, self.slots
        while slots or self.has_part():
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

    def _skip_torn(self) -> bool:
        """Whether the push that had begun while no command was unanswered is complete; anything else is not the protocol."""
        reply = self._gets(False)
        if reply is INCOMPLETE:
            return False
        if reply.__class__ is not _PushNotification:
            raise redis_py.InvalidResponse("a reply that no command asked for")
        self._torn = False
        return True

    def _check_scanned(self) -> None:
        violation = self._scanner.violation
        if violation is not None:
            raise redis_py.InvalidResponse(violation)
        if not self.slots and not self._torn and not self._scanner.is_between_replies:
            # It would take what is answered to later commands for its own.
            raise redis_py.InvalidResponse("an attribute of something that no command asked for")
