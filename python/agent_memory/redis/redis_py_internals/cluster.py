"""redis-py's cluster clients: private attributes that are read or used."""

from __future__ import annotations

import logging
from typing import Any

from agent_memory.redis.redis_py_internals.features import (
    RequestPolicy,
    announce_slots,
    announce_slots_async,
    determine_nodes,
    policies_of,
    startup_nodes_of,
)

__all__ = [
    "RequestPolicy",
    "annotate_error",
    "announce_view",
    "announce_view_async",
    "determine_nodes",
    "determine_slot_async",
    "is_dynamic",
    "is_explicit",
    "is_node_flag",
    "is_sent_by_flag",
    "keys_of",
    "must_be_covered",
    "pipeline_of",
    "policies_of",
    "startup_nodes_of",
]

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
        await announce_slots_async(client)
    except Exception:
        _LOGGER.exception("a listener failed after a change of the topology")


def announce_view(client: Any) -> None:
    """The same for threads."""
    try:
        announce_slots(client)
    except Exception:
        _LOGGER.exception("a listener failed after a change of the topology")


def is_sent_by_flag(client: Any, flag: Any) -> bool:
    """Whether the flag of a command, not its keys, says which nodes it is for."""
    return flag in client._command_flags_mapping


def is_node_flag(client: Any, targets: Any) -> bool:
    """Whether `target_nodes` is a flag such as `Redis.PRIMARIES`, for both worlds."""
    return bool((client._is_node_flag if hasattr(client, "_is_node_flag") else client._is_nodes_flag)(targets))


async def determine_slot_async(client: Any, args: tuple[Any, ...]) -> int:
    """The slot of a command by its keys; asks a server where the keys are not at a known place."""
    return int(await client._determine_slot(*args))


def keys_of(client: Any, args: tuple[Any, ...]) -> Any:
    """The keys of a command as the server tells them."""
    return client._get_command_keys(*args)


def pipeline_of(strategy: Any) -> Any:
    """The pipeline that a strategy works for."""
    return strategy._pipe


def is_explicit(strategy: Any) -> bool:
    """Whether MULTI was called after WATCH."""
    return bool(strategy._explicit_transaction)


def annotate_error(strategy: Any, error: Exception, number: int, args: tuple[Any, ...]) -> None:
    """Name the command in its error."""
    strategy._annotate_exception(error, number, args)
