"""A simulated process: clients that can be killed together with all that they have in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from agent_memory import _check
from agent_memory.policy import RecoveryConfig

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from agent_memory.testing.simulation.disk import SimulatedDisk
    from agent_memory.testing.simulation.network import SimulatedNetwork

__all__ = ["SimulatedProcess"]

T = TypeVar("T")


class SimulatedProcess:
    """
    What is made with its `connection_kwargs` and a `recovery_config` belongs to it, and ends when it is killed.

    From then on nothing that its code still does reaches network or disk, and its connections tell it nothing; what it had
    handed to the network arrives. Tasks begun by `run` are cancelled. For one thread, as the simulation is.
    """

    def __init__(self, number: int, network: SimulatedNetwork, disk: SimulatedDisk) -> None:
        """Made by `Simulation.process()`."""
        self.host = f"process{number}.simulated.invalid"
        """The name under which it connects, by which the network knows whose a connection is."""
        self.alive = True
        self.journals: list[Any] = []
        self._disk = disk
        self._network = network
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def connection_kwargs(self) -> dict[str, Any]:
        """The connection arguments for a client of this process."""
        return {"host": self.host, "port": 6379}

    def recovery_config(self, **settings: Any) -> RecoveryConfig:
        """`RecoveryConfig(**settings)` with the journal on the simulated disk, where clients of one name share it."""
        return RecoveryConfig(path="simulated", open_journal=self._open_journal, **settings)

    def _open_journal(self, config: RecoveryConfig, identity: str) -> tuple[Any, Any]:
        # All processes connect to one server, each under a name of its own.
        identity = identity.replace(self.host, "simulated.invalid")
        journal = self._disk.open(self, identity, config.fsync, float(config.fsync_interval_s))
        return journal, journal

    def run(self, program: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin the coroutine `program` in this process. Raises TypeError for what is none."""
        task = asyncio.get_running_loop().create_task(program)
        self._tasks.append(task)
        return task

    def stop(self) -> None:
        """Cancel what `run` began; what is left ends with its clients."""
        for task in self._tasks:
            task.cancel()

    def kill(self, *, power: bool = False) -> None:
        """It is dead at once, as by SIGKILL; with `power` the machine goes out, and what was not synced is lost.

        Raises ValueError for a `power` that is no bool.
        """
        _check.flag("power", power)
        if not self.alive:
            return
        self.alive = False
        for journal in self.journals:
            journal.die(power=power)
        self._network.process_died(self.host)
        for task in self._tasks:
            task.cancel()
