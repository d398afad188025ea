"""The least a GET and a pipeline cost in a cluster from CPython with hiredis: the denominator of the cluster's targets.

A table of slots, a connection per node, hiredis to pack and to parse. No redirects, no topology, no breaker, no deadline.
"""

from __future__ import annotations

import asyncio
import binascii
import collections
import socket
import struct
from typing import TYPE_CHECKING, Any

import hiredis

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Multiplexed", "Sync", "connect", "node_of"]

HOST, TIMEOUT_S, RECEIVE_BUFFER_BYTES = "127.0.0.1", 2, 65_536
SLOTS = 16_384


def slot(key: str) -> int:
    """The hash slot of a key."""
    data = key.encode()
    start = data.find(b"{")
    if start >= 0 and (end := data.find(b"}", start + 1)) > start + 1:
        data = data[start + 1 : end]
    return binascii.crc_hqx(data, 0) & (SLOTS - 1)


NODE = [number * 3 // SLOTS for number in range(SLOTS)]
"""The owner of each slot: three nodes with a third each, in order."""


def node_of(key: str) -> int:
    """The number of the node that owns a key."""
    return NODE[slot(key)]


class Connection:
    """One blocking socket with its parser."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection((HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT_S, 0))
        self.reader, self.buffer = hiredis.Reader(), bytearray(RECEIVE_BUFFER_BYTES)

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


class Sync:
    """A list of idle connections for each node."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.idle = [[Connection(port)] for port in ports]

    def get(self, key: str) -> Any:
        """GET."""
        idle = self.idle[NODE[slot(key)]]
        connection = idle.pop()
        connection.sock.sendall(hiredis.pack_command(("GET", key)))
        (reply,) = connection.read(1)
        idle.append(connection)
        return reply

    def pipeline(self, keys: Sequence[str]) -> list[Any]:
        """GET of each; all buffers are written before any reply is read."""
        packed: list[list[bytes]] = [[] for _ in self.idle]
        places: list[list[int]] = [[] for _ in self.idle]
        replies: list[Any] = [None] * len(keys)
        for place, key in enumerate(keys):
            node = NODE[slot(key)]
            packed[node].append(hiredis.pack_command(("GET", key)))
            places[node].append(place)
        for idle, words in zip(self.idle, packed, strict=True):
            idle[0].sock.sendall(b"".join(words))
        for idle, positions in zip(self.idle, places, strict=True):
            for place, reply in zip(positions, idle[0].read(len(positions)), strict=True):
                replies[place] = reply
        return replies

    def close(self) -> None:
        """Close the connections."""
        for idle in self.idle:
            for connection in idle:
                connection.sock.close()


class Multiplexed(asyncio.Protocol):
    """One connection that all tasks share."""

    def __init__(self) -> None:
        self.reader, self.outgoing = hiredis.Reader(), list[bytes]()
        self.pending: collections.deque[asyncio.Future[Any]] = collections.deque()
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: Any) -> None:
        """asyncio has connected it."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Match replies to commands."""
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            future = self.pending.popleft()
            if not future.done():
                future.set_result(reply)

    def flush(self) -> None:
        """Write what this turn of the loop has sent."""
        outgoing, self.outgoing = self.outgoing, []
        self.transport.write(b"".join(outgoing))

    def call(self, *args: str) -> asyncio.Future[Any]:
        """Send one command."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self.pending.append(future)
        if not self.outgoing:
            self.loop.call_soon(self.flush)
        self.outgoing.append(hiredis.pack_command(args))
        return future


class Nodes:
    """A connection for each node."""

    def __init__(self, nodes: list[Multiplexed]) -> None:
        self.nodes = nodes

    def get(self, key: str) -> asyncio.Future[Any]:
        """GET."""
        return self.nodes[NODE[slot(key)]].call("GET", key)

    async def pipeline(self, keys: Sequence[str]) -> list[Any]:
        """GET of each, in one write per node."""
        futures = [self.nodes[NODE[slot(key)]].call("GET", key) for key in keys]
        return [await future for future in futures]

    def close(self) -> None:
        """Close the connections."""
        for node in self.nodes:
            node.transport.close()


async def connect(ports: Sequence[int]) -> Nodes:
    """Connections of the running loop."""
    loop = asyncio.get_running_loop()
    return Nodes([(await loop.create_connection(Multiplexed, HOST, port))[1] for port in ports])
