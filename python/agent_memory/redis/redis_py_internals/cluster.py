"""redis-py's cluster clients: private attributes that are read or used."""

from __future__ import annotations

import logging
from typing import Any

from redis._parsers.commands import RequestPolicy
from redis.event import AfterSlotsCacheRefreshEvent, AsyncAfterSlotsCacheRefreshEvent

__all__ = ["RequestPolicy", "announce_view", "announce_view_async", "is_dynamic", "must_be_covered"]

_LOGGER = logging.getLogger(__name__)


def is_dynamic(manager: Any) -> bool:
    """Whether the nodes that were found take the place of the startup nodes."""
    return bool(manager._dynamic_startup_nodes)


def must_be_covered(manager: Any) -> bool:
    """Whether a cluster with slots without an owner is refused."""
    return bool(getattr(manager, "require_full_coverage", getattr(manager, "_require_full_coverage", False)))


async def announce_view_async(client: Any) -> None:
    """Subscribers of the cluster look where their slots are now. What a listener raises is logged."""
    try:
        await client._event_dispatcher.dispatch_async(AsyncAfterSlotsCacheRefreshEvent())
    except Exception:
        _LOGGER.exception("a listener failed after a change of the topology")


def announce_view(client: Any) -> None:
    """The same for threads."""
    try:
        client._event_dispatcher.dispatch(AfterSlotsCacheRefreshEvent())
    except Exception:
        _LOGGER.exception("a listener failed after a change of the topology")
