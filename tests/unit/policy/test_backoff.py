"""The delays as Python sees them; their formulas and distributions are tested where they live, in Rust."""

from __future__ import annotations

import asyncio
import inspect
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_memory import _core
from agent_memory.policy import Backoff, async_exponential_backoff, exponential_backoff


def reference(attempt, base_delay=0.5, max_delay=30.0):
    """The specification's text."""
    delay = base_delay * (2**attempt)
    return min(delay, max_delay)


@given(
    st.integers(-1000, 1000),
    st.floats(0, 1e6, allow_subnormal=False),
    st.floats(0, 1e6) | st.just(math.inf),
)
def test_exponential_backoff_is_the_formula(attempt, base_delay, max_delay):
    assert exponential_backoff(attempt, base_delay, max_delay) == reference(attempt, base_delay, max_delay)


def test_exponential_backoff_defaults_and_names():
    assert [exponential_backoff(attempt) for attempt in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert exponential_backoff(attempt=1, base_delay=0.1, max_delay=5.0) == 0.2
    assert str(inspect.signature(exponential_backoff)) == "(attempt, base_delay=0.5, max_delay=30.0)"


@pytest.mark.parametrize("attempt", [1024, 10**6, 10**18, 10**30])
def test_no_attempt_overflows(attempt):
    assert exponential_backoff(attempt) == 30.0
    assert 0.0 <= Backoff(jitter="decorrelated").delay(attempt) <= 30.0
    for strategy in ("exponential", "linear", "constant", "fibonacci"):
        assert 0.0 <= Backoff(0.5, strategy=strategy).delay(attempt) <= 30.0


@pytest.fixture
def sleeps(monkeypatch):
    """The sleeps that were asked for; none takes time."""
    asked = []

    async def sleep(delay_s):
        asked.append(delay_s)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return asked


async def test_async_exponential_backoff_sleeps_and_returns_the_delay(sleeps):
    assert await async_exponential_backoff(2) == 2.0
    assert await async_exponential_backoff(10**6, base_delay=1.0, max_delay=7.0) == 7.0
    assert sleeps == [2.0, 7.0]


async def test_async_exponential_backoff_can_be_cancelled():
    task = asyncio.create_task(async_exponential_backoff(10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_strategies_without_jitter():
    def delays(**options):
        backoff = Backoff(0.5, 4.0, jitter="none", **options)
        return [backoff.delay(attempt) for attempt in range(6)]

    assert delays() == [0.5, 1, 2, 4, 4, 4]
    assert delays(factor=3.0) == [0.5, 1.5, 4, 4, 4, 4]
    assert delays(strategy="linear") == [0.5, 1, 1.5, 2, 2.5, 3]
    assert delays(strategy="constant") == [0.5] * 6
    assert delays(strategy="fibonacci") == [0.5, 0.5, 1, 1.5, 2.5, 4]
    assert delays(strategy=lambda attempt: attempt / 10) == [0, 0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize(("jitter", "low", "mean"), [("full", 0.0, 2.0), ("equal", 2.0, 3.0)])
def test_jitter_spreads_the_capped_wait(jitter, low, mean):
    for strategy in ("exponential", lambda attempt: 999.0):
        backoff = Backoff(0.5, 4.0, strategy=strategy, jitter=jitter, seed=7)
        delays = [backoff.delay(20) for _ in range(20_000)]
        assert low <= min(delays)
        assert max(delays) < 4.0
        assert statistics.fmean(delays) == pytest.approx(mean, rel=0.02)
        assert backoff.ceiling(20) == 4.0


def test_decorrelated_jitter_walks_on_from_the_previous_delay():
    backoff = Backoff(0.5, 30.0, jitter="decorrelated", seed=7)
    delays = [backoff.delay(3, previous=2.0) for _ in range(20_000)]
    assert min(delays) >= 0.5
    assert max(delays) <= 6.0
    assert statistics.fmean(delays) == pytest.approx((0.5 + 6.0) / 2, rel=0.02)


def test_a_seed_repeats_the_delays_and_no_seed_does_not():
    def delays(seed):
        backoff = Backoff(seed=seed)
        return [backoff.delay(attempt) for attempt in range(10)]

    assert delays(42) == delays(42)
    assert delays(42) != delays(43)
    assert delays(None) != delays(None)


def test_what_a_strategy_of_ones_own_returns_is_checked():
    with pytest.raises(ValueError, match=r"strategy must return >= 0 seconds, got -1\.0"):
        Backoff(strategy=lambda attempt: -1.0).delay(0)
    with pytest.raises(TypeError):
        Backoff(strategy=lambda attempt: "soon").delay(0)

    def broken(attempt):
        raise LookupError("strategy")

    with pytest.raises(LookupError, match="strategy"):
        Backoff(strategy=broken).delay(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_delay": -1}, "base_delay must be finite and >= 0, got -1.0"),
        ({"max_delay": math.inf}, "max_delay must be finite and >= 0, got inf"),
        ({"base_delay": 5, "max_delay": 1}, "max_delay must be >= base_delay (5.0), got 1.0"),
        ({"factor": 0.5}, "factor must be finite and >= 1, got 0.5"),
        ({"jitter": "some"}, "jitter must be 'none', 'full', 'equal' or 'decorrelated', got 'some'"),
        (
            {"strategy": "quadratic"},
            "strategy must be 'exponential', 'linear', 'constant', 'fibonacci' or a callable, got 'quadratic'",
        ),
    ],
)
def test_configurations_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match="must be") as caught:
        Backoff(**options)
    assert str(caught.value) == message


def test_wrong_types_and_attempts_are_refused():
    with pytest.raises(TypeError, match="strategy must be a name or a callable, got int"):
        Backoff(strategy=3)
    with pytest.raises(ValueError, match="attempt must be >= 0, got -1"):
        Backoff().delay(-1)
    with pytest.raises(TypeError):
        exponential_backoff("1")
    with pytest.raises(TypeError):
        exponential_backoff(1.5)


def test_the_clock_of_permits_keeps_pace_with_pythons():
    """Not a measurement: both clocks are read around each other, so neither may leave the other's bounds by more than drift."""
    import time

    def offset():
        best = None
        for _ in range(50):
            before = time.monotonic_ns()
            ours = _core.monotonic_ns()
            after = time.monotonic_ns()
            if best is None or after - before < best[1] - best[0]:
                best = (before, after, ours)
        return best[2] - best[0], best[2] - best[1]

    high_before, low_before = offset()
    last = 0
    for _ in range(200_000):
        now_ns = _core.monotonic_ns()
        assert now_ns >= last
        last = now_ns
    high_after, low_after = offset()
    tolerance_ns = 1_000_000
    assert low_before - tolerance_ns <= high_after
    assert low_after - tolerance_ns <= high_before
