"""A Redis Cluster of three primaries: our clients beside redis-py's and a bare ceiling, interleaved in one run.

    python benches/python/bench_cluster.py --rounds 5

The ceiling is a table of slots, a connection per node and hiredis, nothing else. Servers and client share one processor: a
figure is what a call costs in all. Medians over the rounds, in microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
import redis
import redis.asyncio

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory._core import key_slot
from agent_memory.testing import EmbeddedCluster

KEYS = [f"key:{number}" for number in range(999)]
PIPELINE = 100
Owner = Callable[[str], int]


class Channel:
    """One blocking socket with a parser."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader, self.buffer = hiredis.Reader(), bytearray(65536)

    def read(self, count: int) -> list[Any]:
        """So many replies."""
        replies: list[Any] = []
        while True:
            reply = self.reader.gets()
            if reply is not False:
                replies.append(reply)
                if len(replies) == count:
                    return replies
                continue
            self.reader.feed(self.buffer, 0, self.sock.recv_into(self.buffer))


class Bare:
    """The ceiling of the synchronous clients."""

    def __init__(self, ports: list[int], owner: Owner) -> None:
        self.owner, self.channels = owner, [Channel(port) for port in ports]

    def get(self, key: str) -> Any:
        """GET."""
        channel = self.channels[self.owner(key)]
        channel.sock.sendall(hiredis.pack_command(("GET", key)))
        return channel.read(1)[0]

    def pipeline(self, keys: list[str]) -> list[Any]:
        """GET of all, written before any reply is read."""
        packed: list[list[bytes]] = [[] for _ in self.channels]
        places: list[list[int]] = [[] for _ in self.channels]
        for place, key in enumerate(keys):
            node = self.owner(key)
            packed[node].append(hiredis.pack_command(("GET", key)))
            places[node].append(place)
        for channel, words in zip(self.channels, packed, strict=True):
            channel.sock.sendall(b"".join(words))
        replies: list[Any] = [None] * len(keys)
        for channel, positions in zip(self.channels, places, strict=True):
            for place, reply in zip(positions, channel.read(len(positions)), strict=True):
                replies[place] = reply
        return replies


class BareConnection(asyncio.Protocol):
    """The ceiling of the asyncio clients: one multiplexed connection."""

    def __init__(self) -> None:
        self.reader, self.outgoing = hiredis.Reader(), list[bytes]()
        self.pending: collections.deque[asyncio.Future[Any]] = collections.deque()
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            self.pending.popleft().set_result(reply)

    def flush(self) -> None:
        outgoing, self.outgoing = self.outgoing, []
        self.transport.write(b"".join(outgoing))

    def call(self, *words: str) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()
        self.pending.append(future)
        if not self.outgoing:
            self.loop.call_soon(self.flush)
        self.outgoing.append(hiredis.pack_command(words))
        return future


def time_us(count: int, work: Callable[[], object]) -> float:
    """Microseconds of one of `count` calls."""
    began_s = time.perf_counter()
    work()
    return (time.perf_counter() - began_s) / count * 1e6


def measure_sync(cluster: EmbeddedCluster, owner: Owner, calls: int) -> dict[str, float]:
    """One round of the synchronous clients."""
    found = {}
    bare = Bare([node.port or 0 for node in cluster.nodes], owner)
    for name, client in (
        ("ceiling", bare),
        ("ours", agent_memory.redis.RedisCluster(**cluster.connection_kwargs)),
        ("redis-py", redis.RedisCluster(**cluster.connection_kwargs)),
    ):

        def get(client: Any = client) -> None:
            for number in range(calls):
                client.get(KEYS[number % 999])

        def pipelines(client: Any = client) -> None:
            for _ in range(calls // PIPELINE):
                if client is bare:
                    client.pipeline(KEYS[:PIPELINE])
                    continue
                pipeline = client.pipeline()
                for key in KEYS[:PIPELINE]:
                    pipeline.get(key)
                pipeline.execute()

        get()
        found[f"sync GET, {name}"] = time_us(calls, get)
        found[f"sync pipeline of {PIPELINE}, {name}"] = time_us(calls // PIPELINE, pipelines)
        if client is not bare:
            client.close()  # type: ignore[union-attr]
    for channel in bare.channels:
        channel.sock.close()
    return found


async def measure_tasks(tasks: int, calls: int, get: Callable[[str], Awaitable[Any]]) -> float:
    """Microseconds of a GET with so many tasks."""

    async def work(first: int) -> None:
        for number in range(calls // tasks):
            await get(KEYS[(first * 37 + number) % 999])

    began_s = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(tasks)))
    return (time.perf_counter() - began_s) / calls * 1e6


async def measure_asyncio(cluster: EmbeddedCluster, owner: Owner, calls: int) -> dict[str, float]:
    """One round of the asyncio clients."""
    found = {}
    loop = asyncio.get_running_loop()
    ports = [node.port or 0 for node in cluster.nodes]
    bare = [(await loop.create_connection(BareConnection, "127.0.0.1", port))[1] for port in ports]
    ours = agent_memory.redis.asyncio.RedisCluster(**cluster.connection_kwargs)
    single = agent_memory.redis.asyncio.Redis(**cluster.nodes[0].connection_kwargs)
    stock = redis.asyncio.RedisCluster(**cluster.connection_kwargs, max_connections=500)
    own_keys = [key for key in KEYS if owner(key) == 0]
    for tasks in (1, 50, 200):
        for name, get in (
            ("ceiling", lambda key: bare[owner(key)].call("GET", key)),
            ("ours", ours.get),
            ("ours, one server", lambda key: single.get(own_keys[hash(key) % len(own_keys)])),
            ("redis-py", stock.get),
        ):
            await measure_tasks(tasks, 1_000, get)  # type: ignore[arg-type]
            share = 10 if name == "redis-py" else 1
            found[f"asyncio GET, {tasks} tasks, {name}"] = await measure_tasks(tasks, calls // share, get)  # type: ignore[arg-type]
    for name, client in (("ours", ours), ("redis-py", stock)):
        began_s = time.perf_counter()
        for _ in range(calls // PIPELINE):
            pipeline: Any = client.pipeline()
            for key in KEYS[:PIPELINE]:
                pipeline.get(key)
            await pipeline.execute()
        found[f"asyncio pipeline of {PIPELINE}, {name}"] = (time.perf_counter() - began_s) / (calls // PIPELINE) * 1e6
    for connection in bare:
        connection.transport.close()
    await ours.aclose()
    await single.aclose()
    await stock.aclose()
    return found


def main() -> None:
    """Print medians, and shares of the ceiling."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10_000)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # servers inherit it
    rounds: dict[str, list[float]] = {}
    with EmbeddedCluster(3, 0, protected=False) as cluster:
        table = [cluster.nodes.index(cluster.owner_of(slot)) for slot in (0, 8000, 16000)]
        assert table == [0, 1, 2]
        edges = (16384 // 3, 2 * 16384 // 3)

        def owner(key: str) -> int:
            slot = key_slot(key)
            return 0 if slot < edges[0] else 1 if slot < edges[1] else 2

        with redis.RedisCluster(**cluster.connection_kwargs) as client:
            for key in KEYS:
                client.set(key, "value" * 4)
        for _ in range(options.rounds):
            found = measure_sync(cluster, owner, options.calls)
            found |= asyncio.run(measure_asyncio(cluster, owner, options.calls))
            for name, figure in found.items():
                rounds.setdefault(name, []).append(figure)
    medians = {name: statistics.median(figures) for name, figures in rounds.items()}
    for name, median in medians.items():
        base = medians.get(f"{name.partition(',')[0]}, ceiling") or medians.get(f"{name.rpartition(', ')[0]}, ceiling")
        if base is None and ", ours" in name:
            base = medians.get(f"{name.partition(', ours')[0]}, ceiling")
        print(f"{name:<45} {median:9.1f} us" + ("" if base is None else f"   {median / base:5.2f} x ceiling"))


if __name__ == "__main__":
    main()
