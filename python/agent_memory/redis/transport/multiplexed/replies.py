"""The slot of a pipeline's window: where several replies are put together for one caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["Window"]


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
        error.replies = self.replies  # type: ignore[attr-defined]  # a replay knows the outcome of these
        self.future.set_exception(error)
