"""
A deterministic simulation: real client code on a simulated loop, network and server, with faults drawn from a seed.

Nothing waits and nothing is random: time jumps to the next event, and the same seed gives the same run.
"""

from agent_memory.testing.simulation.disk import SimulatedDisk
from agent_memory.testing.simulation.faults import Faults
from agent_memory.testing.simulation.loop import SimulatedLoop, SimulationError
from agent_memory.testing.simulation.network import SimulatedNetwork
from agent_memory.testing.simulation.process import SimulatedProcess
from agent_memory.testing.simulation.server import SimulatedServer
from agent_memory.testing.simulation.simulation import Simulation

__all__ = [
    "Faults",
    "SimulatedDisk",
    "SimulatedLoop",
    "SimulatedNetwork",
    "SimulatedProcess",
    "SimulatedServer",
    "Simulation",
    "SimulationError",
]
