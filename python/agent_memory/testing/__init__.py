"""
For tests of code that uses Redis: a private server, a proxy that injects faults, a clock moved by hand.

Nothing here is needed in production; `EmbeddedServer` also serves `from_url("embedded://")`.
"""

from agent_memory.testing.clock import ManualClock
from agent_memory.testing.errors import ServerError, ServerInUseError, ServerNotFoundError, ServerStartError
from agent_memory.testing.proxy import DirectionFaults, FaultProxy, ReplyDrop, RequestCut
from agent_memory.testing.server import EmbeddedServer, open_embedded

__all__ = [
    "DirectionFaults",
    "EmbeddedServer",
    "FaultProxy",
    "ManualClock",
    "ReplyDrop",
    "RequestCut",
    "ServerError",
    "ServerInUseError",
    "ServerNotFoundError",
    "ServerStartError",
    "open_embedded",
]
