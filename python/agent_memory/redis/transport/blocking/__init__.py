"""The transport of the synchronous client: a list of idle blocking sockets."""

from agent_memory.redis.transport.blocking.channel import Channel
from agent_memory.redis.transport.blocking.transport import BlockingTransport

__all__ = ["BlockingTransport", "Channel"]
