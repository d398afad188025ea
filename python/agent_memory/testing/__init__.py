"""
For tests of code that uses Redis: a private server or cluster, a fault proxy, a simulation, a clock moved by hand.

Nothing here is needed in production. `EmbeddedServer` and its errors are those of `agent_memory.embedded`.
"""

from agent_memory.embedded import (
    EmbeddedServer,
    ServerError,
    ServerInUseError,
    ServerNotFoundError,
    ServerStartError,
    open_embedded,
)
from agent_memory.testing.clock import ManualClock
from agent_memory.testing.cluster import ClusterServer, EmbeddedCluster
from agent_memory.testing.proxy import DirectionFaults, FaultProxy, ReplyDrop, RequestCut
from agent_memory.testing.simulation import Faults, Simulation, SimulationError

__all__ = [
    "ClusterServer",
    "DirectionFaults",
    "EmbeddedCluster",
    "EmbeddedServer",
    "FaultProxy",
    "Faults",
    "ManualClock",
    "ReplyDrop",
    "RequestCut",
    "ServerError",
    "ServerInUseError",
    "ServerNotFoundError",
    "ServerStartError",
    "Simulation",
    "SimulationError",
    "open_embedded",
]
