"""Settings: defaults, what they refuse, and that they stay as they are."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from agent_memory.policy import BreakerSettings, Priority, RetryBudget, RetryPolicy, make_guard
from agent_memory.policy.kinds import CommandCategory, FailureKind


def test_the_defaults_of_the_specification():
    policy = RetryPolicy()
    assert (policy.max_retries, policy.base_delay, policy.backoff_factor) == (3, 1.0, 2.0)
    assert RetryPolicy(5, 0.1, 3.0) == RetryPolicy(max_retries=5, base_delay=0.1, backoff_factor=3.0)
    breaker = BreakerSettings()
    assert (breaker.failure_threshold, breaker.reset_timeout_s) == (3, 300.0)


def test_priorities_are_ordered_by_urgency():
    assert sorted(Priority) == [Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.LOW]


def test_the_numbers_the_core_knows():
    assert [kind.name for kind in FailureKind] == [
        "REFUSED",
        "TIMEOUT",
        "RESET",
        "UNAVAILABLE_REPLY",
        "REJECTED_REPLY",
        "CLIENT",
        "OTHER",
    ]
    counters = make_guard("x")
    counters.operation("get", category=CommandCategory.READ)
    names = counters.stats()["operations"]["get"]["failures"]
    assert list(names) == [kind.name.lower() for kind in FailureKind]


@pytest.mark.parametrize(
    "settings", [BreakerSettings(), RetryPolicy(), RetryBudget()], ids=lambda value: type(value).__name__
)
def test_settings_are_frozen(settings):
    field = dataclasses.fields(settings)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, field, 1)


def test_overrides_cannot_be_changed_from_outside():
    overrides = {"get": RetryPolicy(1)}
    policy = RetryPolicy(overrides=overrides)
    overrides["set"] = RetryPolicy(2)
    assert set(policy.overrides) == {"get"}
    with pytest.raises(TypeError):
        policy.overrides["set"] = RetryPolicy(2)


@pytest.mark.parametrize(
    "settings",
    [BreakerSettings(5, 60.0, failure_rate=0.5), RetryPolicy(5), RetryBudget(100)],
    ids=lambda value: type(value).__name__,
)
def test_settings_can_be_pickled_and_replaced(settings):
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert dataclasses.replace(settings) == settings
    assert hash(dataclasses.replace(settings)) == hash(settings)


def test_overrides_survive_pickling():
    policy = RetryPolicy(overrides={"get": RetryPolicy(7)})
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BreakerSettings(0), "failure_threshold must be >= 1, got 0"),
        (lambda: BreakerSettings(failure_rate=2.0), "failure_rate must be > 0 and <= 1, got 2.0"),
        (lambda: RetryPolicy(-1), "max_retries must be >= 0, got -1"),
        (lambda: RetryPolicy(10**7), "max_retries must be <= 1000000, got 10000000"),
        (lambda: RetryPolicy(base_delay=-1), "base_delay must be finite and >= 0, got -1.0"),
        (lambda: RetryPolicy(base_delay=60), "max_delay must be >= base_delay (60.0), got 30.0"),
        (lambda: RetryPolicy(backoff_factor=0), "backoff_factor must be finite and >= 1, got 0.0"),
        (lambda: RetryPolicy(deadline_s=0), "deadline_s must be > 0 seconds, got 0.0"),
        (lambda: RetryPolicy(jitter="loud"), "jitter must be 'none', 'full', 'equal' or 'decorrelated', got 'loud'"),
        (
            lambda: RetryPolicy(overrides={"get": RetryPolicy(overrides={"set": RetryPolicy()})}),
            "overrides['get'] must be a policy without overrides, got RetryPolicy(",
        ),
        (lambda: RetryBudget(10), "capacity must be >= retry_cost (14.0), got 10.0"),
        (lambda: RetryBudget(retry_cost=-1), "retry_cost must be finite and >= 0, got -1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match="must be") as caught:
        make()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BreakerSettings("3"),
        lambda: RetryPolicy("3"),
        lambda: RetryPolicy(base_delay=None),
        lambda: RetryPolicy(strategy=5),
        lambda: RetryPolicy(overrides={"get": 5}),
        lambda: RetryBudget("500"),
        lambda: make_guard("x", clock=5),
    ],
)
def test_wrong_types_are_type_errors(make):
    with pytest.raises(TypeError):
        make()
