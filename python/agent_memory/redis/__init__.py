"""The synchronous drop-in client; `agent_memory.redis.asyncio` has its asyncio twin."""

from agent_memory.redis.client import Pipeline, Redis

__all__ = ["Pipeline", "Redis"]
