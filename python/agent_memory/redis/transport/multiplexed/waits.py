"""Waits that end when the client is closed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from agent_memory.errors import ClientClosedError, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Waits"]


class Waits:
    """The callers of one event loop that wait for a connection of their own; as many as there are tasks that wait."""

    def __init__(self, endpoint: str, loop: asyncio.AbstractEventLoop) -> None:
        self._endpoint = endpoint
        self._loop = loop
        self._waits: set[asyncio.Timeout] = set()

    @contextlib.asynccontextmanager
    async def until_closed(self, timeout_s: float | None) -> AsyncIterator[None]:
        """`asyncio.timeout` that ends when the client is closed, too: with ClientClosedError."""
        wait = asyncio.timeout(timeout_s)
        self._waits.add(wait)
        try:
            async with wait:
                yield
            if wait not in self._waits:
                raise self.closed()  # what it waited for came in the very turn of the closing
        except TimeoutError:
            if wait not in self._waits:
                raise self.closed() from None
            raise
        finally:
            self._waits.discard(wait)

    def end(self) -> None:
        """The client is closed: all of them fail."""
        waits, self._waits = self._waits, set()
        for wait in waits:
            if not wait.expired():
                wait.reschedule(self._loop.time())

    def closed(self) -> ClientClosedError:
        """What they fail with."""
        return ClientClosedError("the client was closed", outcome=Outcome.NOT_SENT, endpoint=self._endpoint)
