"""The least a pipeline can cost from CPython with hiredis: pack every command, send them in one piece, parse every reply.

The connection is that of `sync_get.py`; the asyncio one is that of `asyncio_get.py`. No errors, no callbacks, no deadlines.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import hiredis

from ceilings import asyncio_get, sync_get

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AsyncPipeline", "Pipeline"]


class Pipeline(sync_get.Connection):
    """One blocking connection that sends commands by the hundred."""

    def execute(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send the commands in one piece, return their replies."""
        self.sock.sendall(b"".join([hiredis.pack_command(command) for command in commands]))
        replies: list[Any] = []
        gets = self.reader.gets
        missing = len(commands)
        while missing:
            count = self.sock.recv_into(self.buffer)
            if not count:
                raise ConnectionError("closed by the server")
            self.reader.feed(self.buffer, 0, count)
            while (reply := gets()) is not False:
                replies.append(reply)
                missing -= 1
        return replies


class AsyncPipeline(asyncio_get.Multiplexed):
    """The same for asyncio: one future for all the replies."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[Any] = []
        self.missing = 0
        self.done: asyncio.Future[list[Any]] | None = None

    def data_received(self, data: bytes) -> None:
        """Collect replies, and hand them over when all are there."""
        self.reader.feed(data)
        gets, replies = self.reader.gets, self.replies
        while (reply := gets()) is not False:
            replies.append(reply)
        if self.done is not None and len(replies) >= self.missing:
            done, self.done, self.replies = self.done, None, []
            done.set_result(replies)

    async def execute(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send the commands in one piece, return their replies."""
        self.done = self.loop.create_future()
        self.missing = len(commands)
        self.transport.write(b"".join([hiredis.pack_command(command) for command in commands]))
        return await self.done


async def connect(host: str, port: int) -> AsyncPipeline:
    """A connection of the running loop."""
    _, protocol = await asyncio.get_running_loop().create_connection(AsyncPipeline, host, port)
    return protocol
