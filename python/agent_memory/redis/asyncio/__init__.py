"""The asyncio drop-in client."""

from agent_memory.redis.asyncio.client import Pipeline, Redis

__all__ = ["Pipeline", "Redis"]
