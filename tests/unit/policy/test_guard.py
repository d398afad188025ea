"""The guard as the transports use it: admission, results, retries, statistics, listeners."""

from __future__ import annotations

import gc
import logging
import math
import weakref

import pytest

from agent_memory import _core
from agent_memory.errors import CircuitOpenError, Outcome, RedisUnavailableError
from agent_memory.policy import (
    BreakerSettings,
    CommandCategory,
    FailureKind,
    RetryBudget,
    RetryPolicy,
    make_guard,
)

SECOND = 1_000_000_000


def fail(operation, kind=FailureKind.RESET, outcome=Outcome.NOT_SENT, attempt=0, deadline_ns=0):
    permit = operation.admit()
    return operation.failure(permit, kind, outcome, attempt, permit, deadline_ns)


def failing_fast(clock, **changes):
    retry = changes.pop("retry", RetryPolicy(jitter="none"))
    return make_guard("cache", retry=retry, clock=clock, **changes)


def test_a_permit_is_the_time_of_the_shared_clock():
    operation = make_guard("cache").operation("get", category=CommandCategory.READ)
    before = _core.monotonic_ns()
    permit = operation.admit()
    assert before <= permit <= _core.monotonic_ns()


def test_opens_at_the_threshold_and_names_the_client_and_the_wait(clock):
    guard = failing_fast(clock, endpoint="redis.example:6379", breaker=BreakerSettings(3, 300.0))
    operation = guard.operation("hset", category=CommandCategory.ABSOLUTE_WRITE)
    for _ in range(3):
        assert guard.state == "closed"
        fail(operation)
    assert guard.state == "open"
    clock.advance(100)
    with pytest.raises(CircuitOpenError) as caught:
        operation.admit()
    error = caught.value
    assert isinstance(error, RedisUnavailableError)
    assert (error.client, error.endpoint, error.operation, error.state) == (
        "cache",
        "redis.example:6379",
        "hset",
        "open",
    )
    assert error.retry_after_s == 200.0
    assert error.outcome is Outcome.NOT_SENT
    assert guard.retry_after_s == 200.0
    for word in ("cache", "hset", "redis.example:6379", "open", "200"):
        assert word in str(error)


def test_half_open_admits_one_probe_and_its_success_closes(clock):
    guard = failing_fast(clock, breaker=BreakerSettings(1, 10.0))
    operation = guard.operation("get", category=CommandCategory.READ)
    fail(operation)
    clock.advance(10)
    assert guard.state == "half_open"
    probe = operation.admit()
    with pytest.raises(CircuitOpenError) as caught:
        operation.admit()
    assert caught.value.state == "half_open"
    operation.success(probe)
    assert guard.state == "closed"


def test_a_late_result_of_an_older_generation_is_ignored_though_counted(clock):
    guard = failing_fast(clock, breaker=BreakerSettings(1, 10.0))
    operation = guard.operation("get", category=CommandCategory.READ)
    late_success, late_failure = operation.admit(), operation.admit()
    fail(operation)
    operation.success(late_success)
    assert guard.state == "open"
    clock.advance(10)
    operation.success(operation.admit())
    operation.failure(late_failure, FailureKind.RESET, Outcome.UNKNOWN, 0, late_failure, 0)
    assert guard.state == "closed"
    assert guard.stats()["operations"]["get"]["calls"] == 4


def test_a_command_error_is_a_success_of_the_transport(clock):
    guard = failing_fast(clock, breaker=BreakerSettings(2))
    operation = guard.operation("incr", category=CommandCategory.RELATIVE_WRITE)
    for _ in range(50):
        operation.answered_error(operation.admit())
    fail(operation)
    operation.answered_error(operation.admit())
    fail(operation)
    assert guard.state == "closed"
    assert guard.stats()["operations"]["incr"]["command_errors"] == 51


@pytest.mark.parametrize(
    ("kind", "opens"),
    [
        (FailureKind.REFUSED, True),
        (FailureKind.TIMEOUT, True),
        (FailureKind.RESET, True),
        (FailureKind.UNAVAILABLE_REPLY, True),
        (FailureKind.REJECTED_REPLY, False),
        (FailureKind.CLIENT, False),
        (FailureKind.OTHER, True),
    ],
)
def test_which_kinds_speak_against_the_server(clock, kind, opens):
    guard = failing_fast(clock, breaker=BreakerSettings(2))
    operation = guard.operation("get", category=CommandCategory.READ)
    for _ in range(2):
        fail(operation, kind)
    assert guard.state == ("open" if opens else "closed")
    assert guard.stats()["operations"]["get"]["failures"][kind.name.lower()] == 2


SAFE = {
    (outcome, category): outcome in (Outcome.NOT_SENT, Outcome.REJECTED)
    or (outcome is Outcome.UNKNOWN and category is CommandCategory.READ)
    for outcome in Outcome
    for category in CommandCategory
}


@pytest.mark.parametrize(("outcome", "category"), SAFE)
def test_only_what_is_safe_is_tried_again(clock, outcome, category):
    guard = failing_fast(clock, breaker=BreakerSettings(1000))
    operation = guard.operation("x", category=category)
    delay_s = fail(operation, FailureKind.TIMEOUT, outcome)
    assert delay_s == (1.0 if SAFE[outcome, category] else -1.0)


def test_faults_of_this_side_are_never_tried_again(clock):
    operation = failing_fast(clock).operation("get", category=CommandCategory.READ)
    assert fail(operation, FailureKind.CLIENT) < 0
    assert fail(operation, FailureKind.OTHER) < 0


def test_attempts_delays_and_deadlines_of_a_call(clock):
    guard = failing_fast(clock, breaker=BreakerSettings(1000), retry=RetryPolicy(3, jitter="none"))
    operation = guard.operation("get", category=CommandCategory.READ)
    assert [fail(operation, attempt=attempt) for attempt in range(5)] == [1.0, 2.0, 4.0, -1.0, -1.0]
    assert fail(operation, deadline_ns=clock() + SECOND) < 0
    assert fail(operation, deadline_ns=clock() + SECOND + 1) == 1.0


def test_the_policys_own_deadline_counts_from_the_start_of_the_call(clock):
    guard = failing_fast(clock, retry=RetryPolicy(100, jitter="none", strategy="constant", deadline_s=3.0))
    operation = guard.operation("get", category=CommandCategory.READ)
    started_ns = operation.admit()
    clock.advance(1.5)
    assert operation.failure(started_ns, FailureKind.RESET, Outcome.NOT_SENT, 0, started_ns, 0) == 1.0
    clock.advance(1.0)
    assert operation.failure(started_ns, FailureKind.RESET, Outcome.NOT_SENT, 1, started_ns, 0) < 0


def test_the_budget_bounds_retries_and_successes_refill_it(clock):
    budget = RetryBudget(10, retry_cost=5, success_refund=1, refill_per_s=0)
    guard = failing_fast(clock, breaker=BreakerSettings(1000), budget=budget)
    operation = guard.operation("get", category=CommandCategory.READ)
    assert [fail(operation) for _ in range(3)] == [1.0, 1.0, -1.0]
    for _ in range(5):
        operation.success(operation.admit())
    assert guard.stats()["budget_level"] == 5
    assert fail(operation) == 1.0
    stats = guard.stats()["operations"]["get"]
    assert (stats["retries"], stats["retries_refused"]) == (3, 1)
    assert guard.pay_retry() is False


def test_overrides_by_policy_and_by_callable(clock):
    asked = []

    def decide(attempt, kind, outcome):
        asked.append((attempt, FailureKind(kind), Outcome(outcome)))
        return 0.25 if attempt < 5 else None

    policy = RetryPolicy(
        1,
        jitter="none",
        overrides={
            "get": RetryPolicy(2, 0.5, jitter="none"),
            "hset": decide,
            "ping": RetryPolicy(strategy=lambda n: n + 7, max_delay=8.5, jitter="none"),
        },
    )
    guard = failing_fast(clock, breaker=BreakerSettings(1000), retry=policy)
    read = CommandCategory.READ
    assert [fail(guard.operation("get", category=read), attempt=n) for n in range(3)] == [0.5, 1.0, -1.0]
    assert [fail(guard.operation("exists", category=read), attempt=n) for n in range(2)] == [1.0, -1.0]
    assert [fail(guard.operation("ping", category=read), attempt=n) for n in range(4)] == [7.0, 8.0, 8.5, -1.0]
    hset = guard.operation("hset", category=CommandCategory.ABSOLUTE_WRITE)
    assert [fail(hset, attempt=n) for n in (0, 4, 5)] == [0.25, 0.25, -1.0]
    assert asked == [(n, FailureKind.RESET, Outcome.NOT_SENT) for n in (0, 4, 5)]
    assert fail(hset, outcome=Outcome.UNKNOWN) < 0
    assert len(asked) == 3, "a callable must not be asked where repeating is not safe"


def test_a_cancelled_call_counts_as_neither(clock):
    guard = failing_fast(clock, breaker=BreakerSettings(2, 10.0))
    operation = guard.operation("get", category=CommandCategory.READ)
    fail(operation)
    operation.abandon(operation.admit())
    fail(operation)
    assert guard.state == "open"
    clock.advance(10)
    operation.abandon(operation.admit())
    assert guard.state == "half_open"
    operation.success(operation.admit())
    assert guard.state == "closed"
    assert guard.stats()["operations"]["get"]["cancellations"] == 2


def test_a_probe_from_outside_brings_the_circuit_to_half_open(clock):
    guard = failing_fast(clock, breaker=BreakerSettings(1, 300.0))
    operation = guard.operation("get", category=CommandCategory.READ)
    assert guard.server_answered() is False
    fail(operation)
    assert guard.server_answered() is True
    assert guard.server_answered() is False
    assert guard.state == "half_open"
    operation.success(operation.admit())
    assert guard.state == "closed"


def test_forced_open_stays_open_until_reset(clock):
    guard = failing_fast(clock)
    operation = guard.operation("get", category=CommandCategory.READ)
    guard.force_open()
    clock.advance(10**6)
    assert guard.server_answered() is False
    with pytest.raises(CircuitOpenError) as caught:
        operation.admit()
    assert caught.value.retry_after_s is None
    assert math.isinf(guard.retry_after_s)
    guard.reset()
    operation.success(operation.admit())
    assert guard.state == "closed"


def test_listeners_hear_every_change_and_their_errors_are_logged(clock, caplog):
    guard = failing_fast(clock, breaker=BreakerSettings(1, 10.0))
    operation = guard.operation("get", category=CommandCategory.READ)
    heard = []

    def broken(name, old, new):
        raise LookupError("listener")

    def listener(name, old, new):
        # Called with no lock held: asking the guard does not deadlock.
        heard.append((name, old, new, guard.stats()["state"]))

    guard.add_listener(broken)
    guard.add_listener(listener)
    with caplog.at_level(logging.ERROR, "agent_memory.policy"):
        fail(operation)
    assert "LookupError" in caplog.text
    clock.advance(10)
    operation.success(operation.admit())
    assert heard == [
        ("cache", "closed", "open", "open"),
        ("cache", "open", "half_open", "half_open"),
        ("cache", "half_open", "closed", "closed"),
    ]
    assert guard.remove_listener(listener) is True
    assert guard.remove_listener(listener) is False
    guard.force_open()
    assert len(heard) == 3
    with pytest.raises(TypeError, match="listener must be callable, got int"):
        guard.add_listener(3)


def test_names_beyond_the_bound_share_one_place(clock):
    guard = failing_fast(clock)
    for number in range(2000):
        operation = guard.operation(f"command{number}", category=CommandCategory.READ)
        operation.success(operation.admit())
    operations = guard.stats()["operations"]
    assert len(operations) == 512
    assert operations["other"]["successes"] == 2000 - 511
    assert sum(operation["successes"] for operation in operations.values()) == 2000


def test_latencies_are_kept_per_operation(clock):
    guard = failing_fast(clock)
    operation = guard.operation("get", category=CommandCategory.READ)
    for elapsed_s in [0.001] * 98 + [0.050, 0.200]:
        permit = operation.admit()
        clock.advance(elapsed_s)
        operation.success(permit)
    latency = guard.stats()["operations"]["get"]["latency"]
    assert latency["count"] == 100
    assert latency["p50_s"] == pytest.approx(0.001, rel=1 / 32)
    assert latency["p99_s"] == pytest.approx(0.050, rel=1 / 32)
    assert latency["max_s"] == 0.2
    assert latency["sum_s"] == pytest.approx(0.348)
    assert sum(count for _, count in latency["buckets"]) == 100


def test_numbers_outside_the_enums_are_refused(clock):
    guard = failing_fast(clock)
    with pytest.raises(ValueError, match=r"category must be .*, got 5"):
        guard.operation("get", category=5)
    operation = guard.operation("get", category=CommandCategory.READ)
    with pytest.raises(ValueError, match=r"kind must be .*, got 99"):
        operation.failure(operation.admit(), 99, 0, 0, 0, 0)
    with pytest.raises(ValueError, match=r"outcome must be .*, got -1"):
        operation.failure(operation.admit(), 0, -1, 0, 0, 0)


def test_a_cycle_through_a_listener_is_collected():
    def make_cycle():
        guard = make_guard("cache")
        operation = guard.operation("get", category=CommandCategory.READ)
        guard.add_listener(lambda *change: (guard, operation, change))
        return weakref.ref(guard)

    reference = make_cycle()
    gc.collect()
    assert reference() is None
