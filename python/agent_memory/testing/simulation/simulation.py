"""A simulation: one loop, one network, one server, and everything that is drawn, from one seed."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent_memory import _check
from agent_memory.testing.simulation.disk import SimulatedDisk
from agent_memory.testing.simulation.faults import Faults
from agent_memory.testing.simulation.loop import SimulatedLoop, SimulationError
from agent_memory.testing.simulation.network import SimulatedNetwork
from agent_memory.testing.simulation.process import SimulatedProcess
from agent_memory.testing.simulation.server import SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Simulation"]

T = TypeVar("T")

START_NS: Final = 3_600_000_000_000


class Simulation:
    """
    Runs a coroutine that uses our asyncio clients (or redis-py's) against a simulated server, from a seed.

    - `seed`: the same seed gives the same run. `random`'s generator is seeded with it and restored afterwards.
    - `limit_s` (600.0): simulated seconds after which `run` raises SimulationError: something hangs.
    - `product` ("valkey"): "redis" for a server that does not count bytes.

    `server` and `network` can be made to fail by hand, `faults()` does it at random. TLS, unix sockets, pub/sub, threads
    and the synchronous clients are not simulated. One at a time in a process, in one thread. Raises ValueError for an argument
    outside its rule.
    """

    def __init__(self, seed: int, *, limit_s: float = 600.0, product: str = "valkey") -> None:
        """Prepare; nothing runs yet."""
        _check.whole("seed", seed, 0)
        _check.above("limit_s", limit_s, 0)
        _check.one_of("product", product, ("valkey", "redis"))
        self.seed = seed
        self.dice = random.Random(seed)
        """What the simulated world draws from; the simulated program draws from `random`."""
        self.server = SimulatedServer(self.dice, product=product)
        self.network = SimulatedNetwork(self.server, self.dice)
        self.disk = SimulatedDisk(self.dice)
        self._limit_s = limit_s
        self._processes = 0
        self._loop: SimulatedLoop | None = None

    @property
    def connection_kwargs(self) -> dict[str, Any]:
        """What a client is made with to connect here."""
        return {"host": "simulated.invalid", "port": 6379}

    def process(self) -> SimulatedProcess:
        """A process whose clients can be killed, and leave a journal to the next."""
        self._processes += 1
        return SimulatedProcess(self._processes, self.network, self.disk)

    def jump_wall_clock(self, seconds: float) -> None:
        """The clients' wall clock jumps by `seconds`, forward or back; the server has one of its own (`server.wall_offset_s`).

        Raises TypeError for what is no number, ValueError for one that is not finite, SimulationError outside of `run()`.
        """
        _check.any_number("seconds", seconds)
        if not math.isfinite(seconds):
            raise ValueError(f"seconds must be finite, got {seconds!r}")
        if self._loop is None:
            raise SimulationError("the wall clock jumps while run() runs")
        self._loop.wall_offset_s += seconds

    def faults(self, kinds: Iterable[str] | None = None, *, mean_gap_s: float = 0.1) -> Faults:
        """Faults for `asyncio.create_task(faults.run())`, `mean_gap_s` (0.1) seconds apart on average.

        `kinds` names what may happen (None: all but the ones that lose data); see `Faults`. Raises ValueError for an unknown
        kind, or a gap not above 0.
        """
        return Faults(self.network, self.server, self.dice, kinds, mean_gap_s)

    def run(self, program: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine `program` to its end and return its result; cancels what it leaves behind. Once per simulation.

        Raises SimulationError where it hangs, TypeError for what is no coroutine, and what the program raises.
        """
        if not isinstance(program, Coroutine):
            raise TypeError(f"program must be a coroutine, got {program!r}")
        state = random.getstate()
        random.seed(self.seed)
        loop = SimulatedLoop(self.network, start_ns=START_NS + self.seed % 1_000_003, limit_s=self._limit_s)
        self.network.loop = self.server.loop = self.disk.loop = loop
        self._loop = loop
        try:
            try:
                return loop.run_until_complete(program)
            finally:
                left = asyncio.all_tasks(loop)
                for task in left:
                    task.cancel()
                if left:
                    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self.network.end()
            loop.close()
            random.setstate(state)
