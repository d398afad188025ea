"""A bare asyncio subscriber: a protocol, hiredis, a future; no client, no timeouts, no reconnect."""

from __future__ import annotations

import asyncio

import hiredis

__all__ = ["Subscriber"]


class Subscriber(asyncio.Protocol):
    """Counts the replies and messages of its connection."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._count = 0
        self._waiter: asyncio.Future[None] | None = None

    def data_received(self, data: bytes) -> None:
        """Parse what came, and wake the waiter."""
        self._reader.feed(data)
        while self._reader.gets() is not False:
            self._count += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def heard(self, count: int) -> None:
        """Return when `count` replies and messages have come; each burst that comes wakes the waiting task once."""
        loop = asyncio.get_running_loop()
        while self._count < count:
            self._waiter = loop.create_future()
            await self._waiter
