"""Faults that strike a simulation at random, but the same way for the same seed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from agent_memory import _check

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from agent_memory.testing.simulation.network import Link, SimulatedNetwork
    from agent_memory.testing.simulation.server import SimulatedServer

__all__ = ["Faults"]

_RESET: Final = (104, "Connection reset by peer (simulated)")


class Faults:
    """Strikes again and again until it is healed: `kinds` names what may happen (all but the ones that lose data).

    - "refuse": new connections are refused for a while
    - "reset": a connection is reset, and what was on its way is lost
    - "zombie": the client's end is reset, and what was on its way arrives later than what is sent afterwards
    - "lost_replies": what the server says on a connection is lost, and then the connection
    - "silence": a connection passes nothing on any more, and stays open
    - "stall": the server stands still
    - "slow": what is sent from now on takes long
    - "crash": the server dies and comes back with its data
    - "fail_over": another server takes over, without the last writes
    - "clock": the server's wall clock jumps forward

    For one thread, as the simulation is. `run()` ends when it is cancelled, and faults that last end by themselves.
    """

    KINDS: Final = (
        "refuse",
        "reset",
        "zombie",
        "lost_replies",
        "silence",
        "stall",
        "slow",
        "crash",
        "fail_over",
        "clock",
    )
    LOSING: Final = frozenset({"fail_over"})

    def __init__(
        self,
        network: SimulatedNetwork,
        server: SimulatedServer,
        dice: random.Random,
        kinds: Iterable[str] | None = None,
        mean_gap_s: float = 0.1,
    ) -> None:
        """Made by `Simulation.faults(kinds, mean_gap_s=0.1)` (seconds), of its `network`, `server` and `dice`.

        Raises ValueError for a kind that is not known, TypeError for what holds none.
        """
        if kinds is not None:
            _check.iterable("kinds", kinds, "names")
        _check.above("mean_gap_s", mean_gap_s, 0)
        self.kinds = tuple(kind for kind in self.KINDS if kind not in self.LOSING) if kinds is None else tuple(kinds)
        for kind in self.kinds:
            if kind not in self.KINDS:
                raise ValueError(f"kinds must be of {', '.join(self.KINDS)}, got {kind!r}")
        self.struck: list[tuple[float, str]] = []
        """When (seconds of the loop) and what."""
        self._network = network
        self._server = server
        self._dice = dice
        self._mean_gap_s = mean_gap_s
        self._healed = False

    async def run(self) -> None:
        """Strike until healed or cancelled."""
        while not self._healed:
            await asyncio.sleep(self._dice.expovariate(1.0 / self._mean_gap_s))
            if not self._healed:
                self.strike(self._dice.choice(self.kinds))

    def heal(self) -> None:
        """No more faults; what has been lost stays lost."""
        self._healed = True
        self._network.refusing = False

    def strike(self, kind: str) -> None:
        """One fault of this `kind`, now. Raises ValueError for one that is not known."""
        _check.one_of("kind", kind, self.KINDS)
        self.struck.append((self._network.loop.time(), kind))
        links = self._network.open_links()
        getattr(self, f"_{kind}")(self._dice.choice(links) if links else None)

    def _later(self, low_s: float = 0.01, high_s: float = 1.5) -> float:
        return self._dice.uniform(low_s, high_s)

    def _refuse(self, _link: Link | None) -> None:
        self._network.refusing = True
        self._network.loop.call_later(self._later(), setattr, self._network, "refusing", False)

    def _reset(self, link: Link | None) -> None:
        if link is not None:
            link.deaf = link.mute = True
            link.end_at_server()
            link.end_at_client(ConnectionResetError(*_RESET))

    def _zombie(self, link: Link | None) -> None:
        if link is not None:
            link.hold_up(self._later())
            self._network.loop.call_later(self._later(0.0, 0.05), self._reset_client, link)

    def _reset_client(self, link: Link) -> None:
        link.end_at_client(ConnectionResetError(*_RESET))
        # Its end reaches the server behind what is on its way.
        link.client_closed()

    def _lost_replies(self, link: Link | None) -> None:
        if link is not None:
            link.mute = True
            self._network.loop.call_later(self._later(0.0, 0.1), self._reset, link)

    def _silence(self, link: Link | None) -> None:
        if link is not None:
            link.mute = True
            link.deaf = self._dice.random() < 0.5

    def _stall(self, _link: Link | None) -> None:
        self._server.stall(self._later())

    def _slow(self, link: Link | None) -> None:
        if link is not None:
            link.hold_up(self._later())

    def _crash(self, _link: Link | None) -> None:
        if self._server.up:
            self._server.crash(self._later())

    def _fail_over(self, _link: Link | None) -> None:
        if self._server.up:
            self._server.fail_over()

    def _clock(self, _link: Link | None) -> None:
        self._server.wall_offset_s += self._later(0.1, 30.0)
