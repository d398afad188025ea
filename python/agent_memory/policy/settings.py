"""Frozen settings of the policies, refused with parameter, rule and value when they make no sense.

The rules themselves, and every default that is a number, are explained in the Rust modules of the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from agent_memory import _check, _core
from agent_memory.policy.circuit_events import publish_changes_of

__all__ = ["BreakerSettings", "JitterName", "RetryBudget", "RetryDecision", "RetryPolicy", "Strategy", "make_guard"]

StrategyName: TypeAlias = Literal["exponential", "linear", "constant", "fibonacci"]
JitterName: TypeAlias = Literal["none", "full", "equal", "decorrelated"]

Strategy: TypeAlias = StrategyName | Callable[[int], float]
"""The growth of the delay: a name, or a callable that is given the attempt (from 0) and returns seconds."""

RetryDecision: TypeAlias = Callable[[int, int, int], float | None]
"""Retry logic of one's own: `decide(attempt, kind, outcome)` returns the seconds to wait, or None to give up.

`kind` is a `FailureKind`, `outcome` an `Outcome`. It is asked only where repeating the command is safe, and the
deadline and the budget still have the last word.
"""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a circuit opens, and how it closes again.

    It opens on `failure_threshold` failures in a row (None switches that off); and, where rates are given, when a
    window of the last `window_calls` calls (100 unless given) or `window_s` seconds holds at least
    `minimum_calls` results and the share of failures reaches `failure_rate`, or the share of calls slower than
    `slow_call_duration_s` seconds reaches `slow_call_rate`.

    It stays open for `reset_timeout_s` seconds, doubled after each failed probe up to `max_reset_timeout_s` (None: no
    growth). Then `half_open_max_calls` probes are admitted; as many successes close the circuit, one failure opens it
    again. A probe that has not come back after `probe_timeout_s` seconds makes room for another.

    Raises TypeError for what is no number, ValueError for a number outside its rule.
    """

    failure_threshold: int | None = 3
    reset_timeout_s: float = 300.0
    failure_rate: float | None = field(default=None, kw_only=True)
    slow_call_rate: float | None = field(default=None, kw_only=True)
    slow_call_duration_s: float | None = field(default=None, kw_only=True)
    window_calls: int | None = field(default=None, kw_only=True)
    window_s: float | None = field(default=None, kw_only=True)
    minimum_calls: int | None = field(default=None, kw_only=True)
    half_open_max_calls: int = field(default=1, kw_only=True)
    probe_timeout_s: float = field(default=30.0, kw_only=True)
    max_reset_timeout_s: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        _check.numbers(values, required=("reset_timeout_s", "half_open_max_calls", "probe_timeout_s"))
        for count in ("failure_threshold", "window_calls", "minimum_calls", "half_open_max_calls"):
            _check.whole_or_none(count, getattr(self, count))
        self.rules()

    def rules(self) -> _core.BreakerRules:
        """The same in the form the core takes; raises ValueError or TypeError for what makes no sense."""
        return _core.BreakerRules(
            self.failure_threshold,
            self.reset_timeout_s,
            failure_rate=self.failure_rate,
            slow_call_rate=self.slow_call_rate,
            slow_call_duration_s=self.slow_call_duration_s,
            window_calls=self.window_calls,
            window_s=self.window_s,
            minimum_calls=self.minimum_calls,
            half_open_max_calls=self.half_open_max_calls,
            probe_timeout_s=self.probe_timeout_s,
            max_reset_timeout_s=self.max_reset_timeout_s,
        )


_RETRY_NUMBERS = ("max_retries", "base_delay", "backoff_factor", "max_delay", "deadline_s")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a failed command is tried again, and after which delays.

    A command is repeated at most `max_retries` times. Attempt n (from 0) is followed by a delay of
    `min(base_delay * backoff_factor**n, max_delay)` seconds, spread by `jitter` ("none", "full", "equal" or "decorrelated").
    `strategy` is "exponential"; others are "linear", "constant", "fibonacci" and a callable of the attempt, whose result is
    capped and spread in the same way. `deadline_s` bounds the whole call in seconds. `overrides` maps operation names ("get",
    or a command's "GET") to policies of their own, or to a `RetryDecision`.

    Whatever the policy says, a command is repeated only where that is safe: it was not sent, the server rejected it,
    or it only reads.

    Raises TypeError for a value of the wrong type, ValueError for one outside its rule.
    """

    max_retries: int = 3
    base_delay: float = 1.0
    backoff_factor: float = 2.0
    max_delay: float = field(default=30.0, kw_only=True)
    strategy: Strategy = field(default="exponential", kw_only=True)
    jitter: JitterName = field(default="full", kw_only=True)
    deadline_s: float | None = field(default=None, kw_only=True)
    overrides: Mapping[str, RetryPolicy | RetryDecision] = field(default_factory=dict, kw_only=True, hash=False)

    def __post_init__(self) -> None:
        _check.numbers({name: getattr(self, name) for name in _RETRY_NUMBERS}, required=_RETRY_NUMBERS[:-1])
        _check.whole_or_none("max_retries", self.max_retries)
        if not isinstance(self.jitter, str):
            raise TypeError(f"jitter must be one of {', '.join(get_args(JitterName))}, got {self.jitter!r}")
        _check.instance("overrides", self.overrides, Mapping)
        # A copy, so that the caller cannot change it: the policy is frozen all the way down.
        object.__setattr__(self, "overrides", MappingProxyType(dict(self.overrides)))
        self.rules()
        self.override_rules()

    def rules(self) -> _core.RetryRules:
        """The same in the form the core takes; raises ValueError or TypeError for what makes no sense."""
        return _core.RetryRules(
            self.max_retries,
            self.base_delay,
            self.backoff_factor,
            max_delay=self.max_delay,
            strategy=self.strategy,
            jitter=self.jitter,
            deadline_s=self.deadline_s,
        )

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], RetryPolicy], tuple[dict[str, Any]]]:
        # The read-only view of the overrides cannot be pickled.
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        return _restore_policy, ({**values, "overrides": dict(self.overrides)},)

    def override_rules(self) -> dict[str, _core.RetryRules | RetryDecision]:
        """The overrides in the form the core takes; raises TypeError or ValueError for what makes no sense.

        Each stands under its name and under the name in capitals: "get" means the command, which counts as GET.
        """
        rules: dict[str, _core.RetryRules | RetryDecision] = {}
        for name, override in self.overrides.items():
            if isinstance(override, RetryPolicy):
                if override.overrides:
                    raise ValueError(f"overrides[{name!r}] must be a policy without overrides, got {override!r}")
                rules[name] = override.rules()
            elif callable(override):
                rules[name] = override
            else:
                given = type(override).__name__
                raise TypeError(f"overrides[{name!r}] must be a RetryPolicy or a callable, got {given}")
            rules.setdefault(name.upper(), rules[name])
        return rules


def _restore_policy(values: dict[str, Any]) -> RetryPolicy:
    return RetryPolicy(**values)


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """A bucket of tokens that retries pay from, so that retries never drown a server in trouble.

    A retry costs `retry_cost` tokens; a success gives `success_refund` back, and time `refill_per_s`, up to
    `capacity`. By default: a burst of 35 retries, then one for 14 successes plus one a second.

    Raises TypeError for what is no number, ValueError for a number outside its rule.
    """

    capacity: float = 500.0
    retry_cost: float = field(default=14.0, kw_only=True)
    success_refund: float = field(default=1.0, kw_only=True)
    refill_per_s: float = field(default=14.0, kw_only=True)

    def __post_init__(self) -> None:
        names = [known.name for known in fields(self)]
        _check.numbers({name: getattr(self, name) for name in names}, required=names)
        self.rules()

    def rules(self) -> _core.BudgetRules:
        """The same in the form the core takes; raises ValueError or TypeError for what makes no sense."""
        return _core.BudgetRules(
            self.capacity,
            retry_cost=self.retry_cost,
            success_refund=self.success_refund,
            refill_per_s=self.refill_per_s,
        )


_DEFAULT_BUDGET = RetryBudget()


def make_guard(
    name: str,
    *,
    endpoint: str | None = None,
    breaker: BreakerSettings | None = None,
    retry: RetryPolicy | None = None,
    budget: RetryBudget | None = _DEFAULT_BUDGET,
    seed: int | None = None,
    clock: Callable[[], int] | None = None,
) -> _core.Guard:
    """A guard for one client, made of settings; None means the defaults, except that `budget=None` lets every retry
    pass.

    `name` is the name in errors, logs and metrics, `endpoint` the address in errors. `breaker`, `retry` and `budget` are the
    settings.

    `seed` makes the jitter repeatable, `clock` replaces the monotonic clock (a callable that returns nanoseconds):
    both are for tests. Raises TypeError for what is no such settings, ValueError for a seed below 0.
    """
    _check.instance("name", name, str)
    if endpoint is not None:
        _check.instance("endpoint", endpoint, str)
    if seed is not None:
        _check.whole("seed", seed, 0)
    for parameter, settings, kind in (
        ("breaker", breaker, BreakerSettings),
        ("retry", retry, RetryPolicy),
        ("budget", budget, RetryBudget),
    ):
        if settings is not None:
            _check.instance(parameter, settings, kind)
    if clock is not None and not callable(clock):
        raise TypeError(f"clock must be a callable, got {clock!r}")
    retry = retry or RetryPolicy()
    guard = _core.Guard(
        name,
        endpoint=endpoint,
        breaker=(breaker or BreakerSettings()).rules(),
        retry=retry.rules(),
        budget=None if budget is None else budget.rules(),
        overrides=retry.override_rules(),
        seed=seed,
        clock=clock,
    )
    publish_changes_of(guard)
    return guard
