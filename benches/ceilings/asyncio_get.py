"""The least an asyncio GET can cost from CPython with hiredis: the denominator of the speed targets.

One connection for all tasks; the commands of one iteration of the loop leave in one write; replies are matched in order. No
breaker, no deadlines, no bounds, no reconnect, no typed errors, no response callbacks.

    python benches/ceilings/asyncio_get.py PORT [uvloop]      # measures it beside redis-py, against your own server
"""

from __future__ import annotations

import asyncio
import collections
import statistics
import sys
import time
from typing import TYPE_CHECKING

import hiredis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Multiplexed(asyncio.Protocol):
    """One connection shared by all tasks of a loop."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.waiting: collections.deque[asyncio.Future] = collections.deque()
        self.unsent: list[bytes] = []
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            future = self.waiting.popleft()
            if not future.done():  # its caller was cancelled: dropping the reply keeps the others in step
                future.set_result(reply)

    def flush(self) -> None:
        unsent, self.unsent = self.unsent, []
        self.transport.write(b"".join(unsent))

    def call(self, *args) -> asyncio.Future:
        """Add one command to this iteration's write."""
        future = self.loop.create_future()
        self.waiting.append(future)
        if not self.unsent:
            self.loop.call_soon(self.flush)
        self.unsent.append(hiredis.pack_command(args))
        return future


async def connect(host: str, port: int) -> Multiplexed:
    """Open the connection of the running loop."""
    _, connection = await asyncio.get_running_loop().create_connection(Multiplexed, host, port)
    return connection


async def time_tasks(get: Callable[[str], Awaitable[object]], tasks: int, calls: int) -> float:
    """Wall time per GET in microseconds when `tasks` tasks share `calls` calls."""

    async def work(count: int) -> None:
        for _ in range(count):
            await get("foo")

    await asyncio.gather(*(work(2) for _ in range(tasks)))
    share = calls // tasks
    started_s = time.perf_counter()
    await asyncio.gather(*(work(share) for _ in range(tasks)))
    return (time.perf_counter() - started_s) / (share * tasks) * 1e6


async def main() -> None:
    """Measure the ceiling and redis-py in turns."""
    import redis.asyncio

    port = int(sys.argv[1])
    connection = await connect("127.0.0.1", port)

    async def ceiling(key: str) -> object:
        return await connection.call("GET", key)

    peer = redis.asyncio.Redis(host="127.0.0.1", port=port, max_connections=2000)
    await peer.set("foo", "barbarbarbarbar")
    for tasks in (1, 50, 500):
        wall_us: dict[str, list[float]] = {"ceiling": [], "redis-py": []}
        for _ in range(9):
            for name, get in (("ceiling", ceiling), ("redis-py", peer.get)):
                wall_us[name].append(await time_tasks(get, tasks, 2000 if tasks > 1 else 800))
        for name, values in wall_us.items():
            print(f"{tasks:4d} tasks {name:10s} us/op median {statistics.median(values):6.1f} min {min(values):6.1f}")
    await peer.aclose()
    connection.transport.close()


if __name__ == "__main__":
    if sys.argv[2:] == ["uvloop"]:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
