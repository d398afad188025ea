"""
For tests of code that uses Redis: a private server, a proxy that injects faults, a clock moved by hand.

Nothing here is needed in production; `EmbeddedServer` also serves `from_url("embedded://")`.
"""

from agent_memory.testing.errors import ServerError, ServerInUseError, ServerNotFoundError, ServerStartError
from agent_memory.testing.server import EmbeddedServer, open_embedded

__all__ = [
    "EmbeddedServer",
    "ServerError",
    "ServerInUseError",
    "ServerNotFoundError",
    "ServerStartError",
    "open_embedded",
]
