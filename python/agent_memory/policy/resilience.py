"""The resilience of one client in one frozen value: breaker, retries, budget, probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from agent_memory import _check
from agent_memory.policy.kinds import CommandCategory
from agent_memory.policy.settings import BreakerSettings, RetryBudget, RetryPolicy, make_guard

if TYPE_CHECKING:
    from agent_memory._core import Guard

__all__ = ["DEFAULT_RESILIENCE", "ResiliencePolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResiliencePolicy:
    """How a drop-in client guards its calls.

    - `breaker`: when the circuit opens and closes (default: three failures in a row).
    - `retry`: how often and how soon a failed call is tried again. The default retries three times after at most 50, 100 and
      200 ms (full jitter). Only what was not sent, what the server rejected, and reads are ever sent again. Its `deadline_s`
      bounds a whole call in seconds; None means twice the client's `socket_timeout`.
    - `budget`: the bucket that retries pay from; None lets every retry pass.
    - `probe_interval_s`: while the circuit is open, the longest pause in seconds between two background PINGs that look for
      the server; None leaves it to the breaker's `reset_timeout_s`.
    - `circuit_scope`: which clients share a circuit, given equal policies and names. "pool" (default): those of one pool.
      "endpoint": the clients of one server in this process, whichever pools they have, closed ones included; for frameworks
      that make a client or a pool for each call or thread. Pools of Sentinel, and pools and connections that are not derived
      from redis-py's, stay with "pool".
    - `categories`: what commands do that this package does not know, a module's or a renamed one, by upper-case name
      ({"JSON.GET": CommandCategory.READ}); they win over the built-in table. A command that is in neither counts as a relative
      write, which is never sent twice. BLOCKING and CONNECTION_STATE choose the connection, too.

    Raises TypeError for a value of the wrong type, ValueError for one outside its rule.
    """

    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(max_retries=3, base_delay=0.05, max_delay=1.0))
    budget: RetryBudget | None = field(default_factory=RetryBudget)
    probe_interval_s: float | None = 0.75
    circuit_scope: Literal["pool", "endpoint"] = "pool"
    categories: Mapping[str, CommandCategory] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check.instance("breaker", self.breaker, BreakerSettings)
        _check.instance("retry", self.retry, RetryPolicy)
        if self.budget is not None:
            _check.instance("budget", self.budget, RetryBudget)
        if self.probe_interval_s is not None:
            _check.above("probe_interval_s", self.probe_interval_s, 0)
        if self.circuit_scope not in ("pool", "endpoint"):
            raise ValueError(f"circuit_scope must be 'pool' or 'endpoint', got {self.circuit_scope!r}")
        _check.instance("categories", self.categories, Mapping)
        for name, category in self.categories.items():
            if not isinstance(name, str) or name != name.strip().upper():
                raise ValueError(f"categories must be keyed by upper-case command names, got {name!r}")
            if not isinstance(category, CommandCategory):
                raise TypeError(f"categories[{name!r}] must be a CommandCategory, got {category!r}")
        object.__setattr__(self, "categories", dict(self.categories))

    def make_guard(self, name: str, endpoint: str | None = None) -> Guard:
        """A guard of these settings; clients that share it are admitted and rejected together.

        `name` is the name in errors, logs and metrics, `endpoint` the address in errors. Raises TypeError for what is no str.
        """
        return make_guard(name, endpoint=endpoint, breaker=self.breaker, retry=self.retry, budget=self.budget)


DEFAULT_RESILIENCE: Final = ResiliencePolicy()
"""The default policy of a drop-in client."""
