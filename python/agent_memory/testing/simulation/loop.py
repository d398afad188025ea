"""An asyncio event loop whose time is simulated: it never waits, and jumps to the next timer when nothing else is to do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _wall_clock
from agent_memory._core import set_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.testing.simulation.network import SimulatedNetwork

__all__ = ["SimulatedLoop", "SimulationError"]

WALL_OFFSET_S: Final = 1_700_000_000.0
RESOLUTION_S: Final = 1e-9
"""Timers that are due within this of each other run together, as loops with a real clock do it."""


class SimulationError(AssertionError):
    """The simulated program cannot go on: everything waits for nothing, or it ran beyond its limit."""


class _Selector:
    """Stands where a loop asks the kernel for events: here time passes instead."""

    def __init__(self, advance: Callable[[float | None], None]) -> None:
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[Any]:
        self._advance(timeout)
        return []

    def close(self) -> None:
        pass


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop on simulated time, whose connections go to a `SimulatedNetwork`.

    While it is open the clock of the extension (`agent_memory._core.monotonic_ns`, and with it breakers, deadlines and
    queues) shows its time, for the whole process: run one simulation at a time, and no other client beside it. Not
    thread-safe. A cancellation arrives as in every asyncio loop.
    """

    def __init__(self, network: SimulatedNetwork, *, start_ns: int, limit_s: float) -> None:
        """Made by `Simulation`: starts at `start_ns` nanoseconds, raises SimulationError `limit_s` seconds later."""
        super().__init__()
        self._selector = _Selector(self._advance)
        self._network = network
        self._now_ns = start_ns
        self._limit_ns = start_ns + round(limit_s * 1e9)
        self._clock_resolution = RESOLUTION_S
        self.wall_offset_s = WALL_OFFSET_S
        """What the clients' wall clock shows beyond the loop's time."""
        set_virtual_time(start_ns)
        _wall_clock.now_ns = lambda: self._now_ns + round(self.wall_offset_s * 1e9)

    def time(self) -> float:
        """The simulated time in seconds."""
        return self._now_ns / 1e9

    def _advance(self, timeout: float | None) -> None:
        if timeout is None:
            raise SimulationError(f"all tasks wait and no event is due, at {self.time():.3f} s")
        if timeout <= 0:
            return
        self._now_ns += max(1, round(timeout * 1e9))
        if self._now_ns > self._limit_ns:
            raise SimulationError(f"not at its end after the limit, at {self.time():.3f} s: something hangs")
        set_virtual_time(self._now_ns)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: Any = None, port: Any = None, **options: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect to the simulated server; raises ConnectionRefusedError as the network's faults say."""
        del port, options
        return await self._network.connect(protocol_factory, str(host))

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call it at once: there are no threads here."""
        del executor
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Close the loop and let real time pass again."""
        super().close()
        set_virtual_time(None)
        _wall_clock.now_ns = time.time_ns
