"""A private Redis-compatible server: what `from_url("embedded://")` and a memory system without a server start."""

from agent_memory.embedded.errors import ServerError, ServerInUseError, ServerNotFoundError, ServerStartError
from agent_memory.embedded.server import EmbeddedServer, open_embedded

__all__ = [
    "EmbeddedServer",
    "ServerError",
    "ServerInUseError",
    "ServerNotFoundError",
    "ServerStartError",
    "open_embedded",
]
