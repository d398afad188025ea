"""The transport of the asyncio client: one shared connection per event loop."""

from agent_memory.redis.transport.multiplexed.connection import MAX_IN_FLIGHT, MultiplexedConnection
from agent_memory.redis.transport.multiplexed.transport import MultiplexedTransport

__all__ = ["MAX_IN_FLIGHT", "MultiplexedConnection", "MultiplexedTransport"]
