"""The slot of a write that can be resolved, in the queue of a multiplexed connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_memory.redis.exactly_once.common import conclude_by_reply

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from agent_memory.redis.exactly_once.tickets import Wrapped

__all__ = ["OnceSlot"]


class OnceSlot:
    """The slot of one write: stands in the queue once for each of its replies, takes them also when its caller has gone."""

    __slots__ = ("_missing", "_replies", "_unwrap", "future", "ticket")

    def __init__(self, future: asyncio.Future[Any], wrapped: Wrapped, unwrap: Callable[[list[Any]], Any]) -> None:
        self.future = future
        self.ticket = wrapped.ticket
        self._unwrap = unwrap
        self._replies: list[Any] = []
        self._missing = wrapped.count

    def done(self) -> bool:
        """Never before its replies are here: a caller that gave up may still ask what became of the write."""
        return False

    def set_result(self, reply: Any) -> None:
        """One more of its replies has arrived."""
        self._replies.append(reply)
        self._missing -= 1
        if self._missing:
            return
        value = self._unwrap(self._replies)
        conclude_by_reply(self.ticket, value)
        if not self.future.done():
            self.future.set_result(value)

    def set_exception(self, error: Exception) -> None:
        """Its caller shall wait no longer."""
        if not self.future.done():
            error.ticket = self.ticket  # type: ignore[attr-defined]
            self.future.set_exception(error)
