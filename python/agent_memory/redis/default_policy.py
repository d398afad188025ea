"""The policy of drop-in clients that are made without `resilience=`; `install()` may choose another for the process."""

from __future__ import annotations

from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy

__all__ = ["choose_default", "policy_of"]

_default: ResiliencePolicy | None = DEFAULT_RESILIENCE


def choose_default(resilience: ResiliencePolicy | None) -> None:
    """From now on new clients without a policy of their own have this one."""
    global _default
    _default = resilience


def policy_of(given: ResiliencePolicy | None) -> ResiliencePolicy | None:
    """The policy of a client that was given this one, or the parameter's default."""
    return _default if given is DEFAULT_RESILIENCE else given
