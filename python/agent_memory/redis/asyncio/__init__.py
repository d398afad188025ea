"""The asyncio drop-in client."""

from agent_memory.redis.asyncio.client import Pipeline, PubSub, Redis
from agent_memory.redis.asyncio.cluster import RedisCluster
from agent_memory.redis.subscriptions.gap import SubscriptionGap

__all__ = ["Pipeline", "PubSub", "Redis", "RedisCluster", "SubscriptionGap"]
