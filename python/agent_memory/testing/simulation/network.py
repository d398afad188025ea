"""The simulated network: connections as two streams of bytes, and what can happen to them.

A stream never loses bytes from its middle: what is lost is its end, or the connection.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["Link", "Listener", "SimulatedNetwork"]

SLOW_PIECE_S: Final = 0.005
"""With a bandwidth, what is on its way down arrives in pieces of so much time."""
PIECE_S: Final = 1e-6
"""Between two pieces of one stream: timers that are due at the same moment run in no certain order."""


class Listener(Protocol):
    """What the network needs of the server that it leads to."""

    up: bool

    def accept(self, link: Link) -> None:
        """A client has connected."""

    def receive(self, link: Link, data: bytes) -> None:
        """Bytes have arrived."""

    def forget(self, link: Link) -> None:
        """The connection is gone, and with it what was not executed yet."""


class Link:
    """One connection, seen from the middle: bytes on their way up (to the server) and down."""

    def __init__(self, network: SimulatedNetwork, number: int, host: str) -> None:
        self.network = network
        self.host = host
        """Under which name the client connected: whose process it is."""
        self.number = number
        self.transport: _Transport | None = None
        self.at_server = True
        """Whether the server still has its end."""
        self.at_client = True
        self.mute = False
        """Whether bytes down are lost from now on."""
        self.deaf = False
        """Whether bytes up are lost from now on."""
        self._last_up_s = 0.0
        self._last_down_s = 0.0

    def send_up(self, data: bytes) -> None:
        """The client has written."""
        if self.deaf or not self.at_server:
            return
        network = self.network
        self._last_up_s = max(self._last_up_s + PIECE_S, network.loop.time() + network.delay_s())
        network.loop.call_at(self._last_up_s, self._arrive_up, data)

    def _arrive_up(self, data: bytes) -> None:
        if self.at_server and not self.deaf:
            self.network.server.receive(self, data)

    def send_down(self, data: bytes) -> None:
        """The server has written."""
        if self.mute or not self.at_client:
            return
        network = self.network
        self._last_down_s = max(self._last_down_s + PIECE_S, network.loop.time() + network.delay_s())
        bandwidth = network.bandwidth_bytes_per_s
        size = len(data) if bandwidth is None else max(1, int(bandwidth * SLOW_PIECE_S))
        for first in range(0, len(data), size):
            if first:
                self._last_down_s += SLOW_PIECE_S
            network.loop.call_at(self._last_down_s, self._arrive_down, data[first : first + size])

    def _arrive_down(self, data: bytes) -> None:
        if self.at_client and not self.mute and self.transport is not None:
            self.transport.deliver(data)

    def hold_up(self, seconds: float) -> None:
        """What the client writes, and has on its way behind what is scheduled, arrives this much later."""
        self._last_up_s = max(self._last_up_s, self.network.loop.time() + seconds)

    def end_at_client(self, error: Exception | None) -> None:
        """The client hears that the connection is gone; `error` None for an orderly end."""
        if self.at_client and self.transport is not None:
            self.at_client = False
            self.network.loop.call_soon(self.transport.lose, error)

    def end_at_server(self) -> None:
        """The server hears that the connection is gone: it executes no more of it."""
        if self.at_server:
            self.at_server = False
            self.network.server.forget(self)

    def client_closed(self) -> None:
        """The client has closed its end: what is on its way still arrives, then the end."""
        self.at_client = False
        network = self.network
        at_s = max(self._last_up_s + PIECE_S, network.loop.time() + network.delay_s())
        network.loop.call_at(at_s, self.end_at_server)


class SimulatedNetwork:
    """Connects clients to one simulated server, with a latency drawn for each piece of data.

    `refusing` refuses new connections, `silent` accepts them and passes nothing on. For one thread, as the simulation is. A
    cancelled connection attempt leaves no connection.
    """

    def __init__(self, server: Listener, dice: random.Random) -> None:
        """Made by `Simulation`."""
        self.server = server
        self.refusing = False
        self.silent = False
        self.latency_s = (0.0001, 0.002)
        """Least and greatest latency in seconds."""
        self.bandwidth_bytes_per_s: float | None = None
        """What each connection carries down in a second; None for any amount at once."""
        self.dead: set[str] = set()
        """Names under which processes connected that are dead: from there nothing is sent, and no connection is opened."""
        self.links: collections.OrderedDict[int, Link] = collections.OrderedDict()
        self._dice = dice
        self._number = 0
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # set by the simulation

    def delay_s(self) -> float:
        """A latency, in seconds."""
        return self._dice.uniform(*self.latency_s)

    async def connect(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str = ""
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """For the loop: a connection of `protocol_factory` from `host`.

        Raises ConnectionRefusedError while refusing, or while the server is down.
        """
        await asyncio.sleep(self.delay_s())
        if host in self.dead:
            await self.loop.create_future()  # the asking process is dead
        if self.refusing or not self.server.up:
            raise ConnectionRefusedError(111, "Connect call failed (simulated)")
        self._number += 1
        link = Link(self, self._number, host)
        link.deaf = link.mute = self.silent
        self.links[link.number] = link
        self.server.accept(link)
        protocol = protocol_factory()
        transport = _Transport(link, protocol)
        link.transport = transport
        protocol.connection_made(transport)
        return transport, protocol

    def process_died(self, host: str) -> None:
        """For the simulation: the kernel closes the connections of a dead process, named `host`.

        What it had been handed still arrives, then the end.
        """
        self.dead.add(host)
        for link in self.links.values():
            if link.host == host and link.at_client:
                if link.transport is not None:
                    link.transport.die()
                link.client_closed()

    def end(self) -> None:
        """The simulation is over: what is still open closes without a word."""
        for link in self.links.values():
            if link.transport is not None:
                link.transport.die()

    def open_links(self) -> list[Link]:
        """Connections that the client believes in."""
        for number in [number for number, link in self.links.items() if not link.at_client and not link.at_server]:
            del self.links[number]
        return [link for link in self.links.values() if link.at_client]


class _Transport(asyncio.Transport):
    """The client's end of a link, as asyncio shows it."""

    def __init__(self, link: Link, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._link = link
        self._protocol: Any = protocol
        self._closing = False
        self._reading = True
        self._held: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._link.send_up(bytes(data))

    def deliver(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self._closing:
            return
        if not self._reading:
            self._held.append(data)
            return
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            while data:
                view = memoryview(self._protocol.get_buffer(-1))
                size = min(len(data), len(view))
                view[:size] = data[:size]
                self._protocol.buffer_updated(size)
                data = data[size:]
        else:
            self._protocol.data_received(data)

    def die(self) -> None:
        """Its process is dead: no peer is notified."""
        self._closing = True

    def lose(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self._closing:
            return
        self._closing = True
        if error is None:
            self._protocol.eof_received()
        self._protocol.connection_lost(error)

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._link.client_closed()
        self._link.network.loop.call_soon(self._protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        held, self._held = self._held, []
        for data in held:
            self.deliver(data)

    def is_reading(self) -> bool:
        return self._reading

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del name
        return default
