"""The synchronous drop-in client; `agent_memory.redis.asyncio` has its asyncio twin."""

from agent_memory.redis.client import Pipeline, PubSub, Redis
from agent_memory.redis.subscriptions.gap import SubscriptionGap

__all__ = ["Pipeline", "PubSub", "Redis", "SubscriptionGap"]
