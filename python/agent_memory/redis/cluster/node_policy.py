"""The policy of the clients of one cluster's nodes: a breaker for each node, one retry budget for all of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from agent_memory.policy.resilience import ResiliencePolicy

if TYPE_CHECKING:
    from agent_memory._core import Guard

__all__ = ["NodePolicy"]


class NodePolicy(ResiliencePolicy):
    """A `ResiliencePolicy` whose guards pay retries from one bucket.

    A retry storm against one shard is a storm of the whole client: with a budget for each node a client of N nodes could repeat
    N times as much.
    """

    __slots__ = ("budget_holder", "guard_name")

    guard_name: str
    budget_holder: Guard

    @classmethod
    def of(cls, resilience: ResiliencePolicy, name: str, deadline_s: float | None) -> NodePolicy:
        """The policy of nodes whose calls take `deadline_s` at most; `name` is the client's in errors, logs and metrics."""
        if isinstance(resilience, NodePolicy):
            name = resilience.guard_name
        fields: dict[str, Any] = {one.name: getattr(resilience, one.name) for one in dataclasses.fields(resilience)}
        fields["retry"] = dataclasses.replace(resilience.retry, deadline_s=deadline_s)
        policy = cls(**fields)
        object.__setattr__(policy, "guard_name", name)
        object.__setattr__(policy, "budget_holder", ResiliencePolicy.make_guard(policy, name))
        return policy

    def make_guard(self, name: str, endpoint: str | None = None) -> Guard:
        """The guard of a node, with the budget of the cluster. `name` gives way to the client's."""
        guard = ResiliencePolicy.make_guard(self, self.guard_name or name, endpoint)
        guard.share_budget_of(self.budget_holder)
        return guard
