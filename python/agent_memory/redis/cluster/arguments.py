"""Arguments of the cluster clients: checked, and turned into what the nodes' clients take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agent_memory.redis.client_arguments import check_guarding, check_named, parameters_of
from agent_memory.redis.cluster.node_policy import NodePolicy
from agent_memory.redis.redis_py_internals.features import (
    DEFAULT_SOCKET_TIMEOUT,
    no_maintenance_notifications,
    takes_maintenance,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent_memory.policy.resilience import ResiliencePolicy

__all__ = ["SHORTEST_DEADLINE_S", "check_cluster", "check_policy", "deadline_s_of", "max_retries_of", "node_policy"]

SHORTEST_DEADLINE_S: Final = 20.0
"""The least that a call of a cluster client may take by default: longer than a failover, which then costs time, not errors."""


def check_cluster(
    client: type, positional: tuple[Any, ...], named: dict[str, Any], *, asynchronous: bool
) -> Mapping[str, Any]:
    """Raises ValueError for the first argument outside its rule; returns them all by name.

    Switches maintenance notifications off where they were not asked for.
    """
    given = {**dict(zip(parameters_of(client), positional, strict=False)), **named}
    check_named({name: value for name, value in given.items() if name != "retry"}, asynchronous=asynchronous)
    for name in ("cache", "cache_config", "retry_on_error"):
        if given.get(name):
            raise ValueError(f"{name} must be left out: the cluster client has no use for it, got one")
    notifications = given.get("maint_notifications_config")
    if notifications is not None and notifications.enabled:
        raise ValueError("maint_notifications_config must be disabled for a cluster client, got an enabled one")
    if takes_maintenance(asynchronous):
        named["maint_notifications_config"] = no_maintenance_notifications()
    return given


def check_policy(resilience: object, exactly_once: object) -> None:
    """The same for what this package adds."""
    check_guarding(resilience)
    if exactly_once is not False:
        raise ValueError(f"exactly_once must be False for a cluster client, got {exactly_once!r}")


def deadline_s_of(resilience: ResiliencePolicy | None, given: Mapping[str, Any]) -> float:
    """How long a call may take: the policy's deadline, else max(2 x socket_timeout, 20 s)."""
    if resilience is not None and resilience.retry.deadline_s is not None:
        return resilience.retry.deadline_s
    timeout_s = given.get("socket_timeout", DEFAULT_SOCKET_TIMEOUT)
    return max(2.0 * (DEFAULT_SOCKET_TIMEOUT if timeout_s is None else float(timeout_s)), SHORTEST_DEADLINE_S)


def node_policy(
    resilience: ResiliencePolicy | None, given: Mapping[str, Any], deadline_s: float
) -> ResiliencePolicy | None:
    """The policy of the nodes' clients: the cluster's deadline and retry budget are theirs."""
    if resilience is None:
        return None
    return NodePolicy.of(resilience, str(given.get("client_name") or "redis"), deadline_s)


def max_retries_of(given: Mapping[str, Any]) -> int | None:
    """How often a call may go on after a failure, where redis-py's `retry` or `cluster_error_retry_attempts` say so."""
    retry = given.get("retry")
    if retry is not None:
        return int(retry.get_retries())
    attempts = given.get("cluster_error_retry_attempts")
    return None if attempts is None else int(attempts)
