"""The synchronous drop-in client; `agent_memory.redis.asyncio` has its asyncio twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_memory.redis.cache import MISSING, Cache
from agent_memory.redis.client import Pipeline, PubSub, Redis
from agent_memory.redis.cluster.client import RedisCluster
from agent_memory.redis.subscriptions.gap import SubscriptionGap

if TYPE_CHECKING:
    from agent_memory.redis.installation import INSTALLED_RESILIENCE, install, is_installed, uninstall

__all__ = [
    "INSTALLED_RESILIENCE",
    "MISSING",
    "Cache",
    "Pipeline",
    "PubSub",
    "Redis",
    "RedisCluster",
    "SubscriptionGap",
    "install",
    "is_installed",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    # Loaded when first used: it needs the clients of both worlds.
    if name not in ("INSTALLED_RESILIENCE", "install", "is_installed", "uninstall"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agent_memory.redis import installation

    value = globals()[name] = getattr(installation, name)
    return value
