"""The stand-alone breakers, sync and asyncio: the same rules, tested from the same cases."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
import weakref

import pytest
import redis.exceptions

from agent_memory.errors import CircuitOpenError, RedisUnavailableError
from agent_memory.policy import AsyncCircuitBreaker, CircuitBreaker


class Sync:
    """Drives a `CircuitBreaker`."""

    kind = CircuitBreaker

    @staticmethod
    def run(breaker, result=None, during=None):
        """One call that returns `result`, or raises it."""

        def operation():
            if during is not None:
                during()
            if isinstance(result, BaseException):
                raise result
            return result

        return breaker.execute(operation)


class Async:
    """Drives an `AsyncCircuitBreaker`."""

    kind = AsyncCircuitBreaker

    @staticmethod
    def run(breaker, result=None, during=None):
        async def operation():
            if during is not None:
                during()
            if isinstance(result, BaseException):
                raise result
            return result

        coroutine = breaker.execute(operation)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("the operation waits for nothing, so the breaker must not either")


@pytest.fixture(params=[Sync, Async])
def face(request):
    return request.param


def fail(face, breaker, error=None):
    error = error if error is not None else ConnectionError("down")
    with pytest.raises(type(error)):
        face.run(breaker, error)


def test_returns_what_the_operation_returns_and_raises_what_it_raises(face, clock):
    breaker = face.kind("x", clock=clock)
    value = object()
    assert face.run(breaker, value) is value
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught:
        face.run(breaker, error)
    assert caught.value is error
    assert any("operation" in entry.name for entry in caught.traceback)


def test_opens_after_the_threshold_rejects_and_closes_again(face, clock):
    breaker = face.kind("search", failure_threshold=3, reset_timeout_s=60, clock=clock)
    for _ in range(3):
        assert breaker.state == "closed"
        fail(face, breaker)
    assert breaker.state == "open"
    clock.advance(20)
    reached = []
    with pytest.raises(CircuitOpenError) as caught:
        face.run(breaker, during=lambda: reached.append(1))
    assert not reached
    assert isinstance(caught.value, RedisUnavailableError)
    assert (caught.value.client, caught.value.state, caught.value.retry_after_s) == ("search", "open", 40.0)
    clock.advance(40)
    assert breaker.state == "half_open"
    assert face.run(breaker, "back") == "back"
    assert breaker.state == "closed"
    stats = breaker.stats()
    assert (stats["failures"], stats["rejections"], stats["successes"], stats["times_opened"]) == (3, 1, 1, 1)


def test_a_failed_probe_opens_it_again_for_longer(face, clock):
    breaker = face.kind("x", 1, 10, max_reset_timeout_s=15, clock=clock)
    fail(face, breaker)
    clock.advance(10)
    fail(face, breaker)
    assert (breaker.state, breaker.retry_after_s) == ("open", 15.0)


def test_fail_fail_ok_repeated_trips_the_rate(face, clock):
    """The pattern that a count of consecutive failures never sees."""
    breaker = face.kind("x", None, failure_rate=0.6, minimum_calls=9, clock=clock)
    for _ in range(3):
        fail(face, breaker)
        fail(face, breaker)
        face.run(breaker)
    assert breaker.state == "open"
    consecutive = face.kind("x", 3, clock=clock)
    for _ in range(100):
        fail(face, consecutive)
        fail(face, consecutive)
        face.run(consecutive)
    assert consecutive.state == "closed"


def test_slow_calls_trip_their_rate(face, clock):
    breaker = face.kind("x", slow_call_rate=0.5, slow_call_duration_s=1.0, window_s=60, minimum_calls=4, clock=clock)
    for seconds in (0.1, 2.0, 0.1):
        face.run(breaker, during=lambda seconds=seconds: clock.advance(seconds))
    assert breaker.state == "closed"
    face.run(breaker, during=lambda: clock.advance(2.0))
    assert breaker.state == "open"


class OwnError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (ConnectionError(), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (OSError(), True),
        (redis.exceptions.ConnectionError(), True),
        (redis.exceptions.TimeoutError(), True),
        (redis.exceptions.BusyLoadingError(), True),
        (redis.exceptions.MaxConnectionsError(), False),
        (redis.exceptions.AuthenticationError(), False),
        (redis.exceptions.AuthorizationError(), False),
        (redis.exceptions.ResponseError("WRONGTYPE"), False),
        (redis.exceptions.DataError(), False),
        (ValueError(), False),
        (OwnError(), False),
        (ModuleNotFoundError(), False),
        (KeyboardInterrupt(), False),
        (asyncio.CancelledError(), False),
        (GeneratorExit(), False),
        (SystemExit(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_counts_by_default(face, clock, error, counted):
    breaker = face.kind("x", failure_threshold=2, clock=clock)
    for _ in range(10):
        if breaker.state == "closed":
            fail(face, breaker, error)
    assert breaker.state == ("open" if counted else "closed")


def test_what_is_not_counted_is_no_success_either(face, clock):
    breaker = face.kind("x", failure_threshold=2, clock=clock)
    fail(face, breaker)
    fail(face, breaker, ValueError())
    fail(face, breaker, KeyboardInterrupt())
    fail(face, breaker)
    assert breaker.state == "open"
    stats = breaker.stats()
    assert (stats["failures"], stats["other_errors"], stats["cancellations"], stats["calls"]) == (2, 1, 1, 4)


@pytest.mark.parametrize(
    "counts",
    [OwnError, (KeyError, OwnError), lambda error: isinstance(error, OwnError)],
    ids=["class", "tuple", "callable"],
)
def test_counts_says_what_is_a_failure(face, clock, counts):
    breaker = face.kind("x", 1, counts=counts, clock=clock)
    fail(face, breaker, ConnectionError())
    assert breaker.state == "closed"
    fail(face, breaker, OwnError())
    assert breaker.state == "open"


def test_a_base_exception_is_neutral_whatever_counts_says(face, clock):
    breaker = face.kind("x", 1, counts=BaseException, clock=clock)
    fail(face, breaker, KeyboardInterrupt())
    assert breaker.state == "closed"


def test_a_broken_predicate_raises_its_own_error_and_keeps_no_probe(face, clock):
    def broken(error):
        raise LookupError("predicate")

    breaker = face.kind("x", 1, 10, counts=broken, clock=clock)
    breaker.force_open()
    breaker.reset()
    with pytest.raises(LookupError, match="predicate"):
        face.run(breaker, ConnectionError())
    assert breaker.stats()["calls"] == 1


def test_an_unrelated_error_of_a_probe_makes_room_for_the_next(face, clock):
    breaker = face.kind("x", 1, 10, clock=clock)
    fail(face, breaker)
    clock.advance(10)
    for error in (ValueError(), KeyboardInterrupt()):
        fail(face, breaker, error)
        assert breaker.state == "half_open"
    face.run(breaker)
    assert breaker.state == "closed"


def test_a_probe_that_hangs_loses_its_place(face, clock):
    breaker = face.kind("x", 1, 10, probe_timeout_s=5, clock=clock)
    fail(face, breaker)
    clock.advance(10)
    hanging = breaker.admit()
    with pytest.raises(CircuitOpenError) as caught:
        face.run(breaker)
    assert (caught.value.state, caught.value.retry_after_s) == ("half_open", 5.0)
    clock.advance(5)
    face.run(breaker)
    breaker.error(hanging, ConnectionError())
    assert breaker.state == "closed"


def test_a_late_success_does_not_close_an_open_circuit(face, clock):
    breaker = face.kind("x", 1, 10, clock=clock)
    late = breaker.admit()
    fail(face, breaker)
    breaker.success(late)
    assert breaker.state == "open"


def test_reset_and_force_open(face, clock):
    breaker = face.kind("x", clock=clock)
    breaker.force_open()
    clock.advance(10**7)
    assert breaker.state == "open"
    with pytest.raises(CircuitOpenError):
        face.run(breaker)
    breaker.reset()
    assert face.run(breaker, 1) == 1


def test_listeners(face, clock):
    breaker = face.kind("x", 1, 10, clock=clock)
    heard = []

    def listener(*change):
        heard.append((*change, breaker.state))

    breaker.add_listener(listener)
    fail(face, breaker)
    clock.advance(10)
    assert breaker.state == "half_open"
    face.run(breaker)
    assert heard == [
        ("x", "closed", "open", "open"),
        ("x", "open", "half_open", "half_open"),
        ("x", "half_open", "closed", "closed"),
    ]
    assert breaker.remove_listener(listener)
    breaker.force_open()
    assert len(heard) == 3


def test_decorating_a_function(clock):
    breaker = CircuitBreaker("x", 1, clock=clock)

    @breaker
    def divide(numerator, denominator=1, *, scale=1):
        """Divide."""
        if denominator == 0:
            raise ConnectionError("infinitely far away")
        return numerator / denominator * scale

    assert divide(6, 3) == 2
    assert divide(6, denominator=3, scale=10) == 20
    assert divide.__name__ == "divide"
    assert divide.__doc__ == "Divide."
    with pytest.raises(ConnectionError):
        divide(1, 0)
    with pytest.raises(CircuitOpenError):
        divide(6, 3)


async def test_decorating_a_coroutine_function(clock):
    breaker = AsyncCircuitBreaker("x", 1, clock=clock)

    @breaker
    async def divide(numerator, denominator=1, *, scale=1):
        if denominator == 0:
            raise ConnectionError("infinitely far away")
        await asyncio.sleep(0)
        return numerator / denominator * scale

    assert await divide(6, denominator=3, scale=10) == 20
    assert inspect.iscoroutinefunction(divide)
    with pytest.raises(ConnectionError):
        await divide(1, 0)
    with pytest.raises(CircuitOpenError):
        await divide(6, 3)


def test_the_sync_breaker_refuses_a_coroutine_function():
    """It would take the making of the coroutine for the call, and count a success at once."""

    async def fetch():
        pass

    with pytest.raises(TypeError, match="use AsyncCircuitBreaker"):
        CircuitBreaker("x")(fetch)


async def test_a_cancelled_task_counts_as_neither(clock):
    breaker = AsyncCircuitBreaker("x", 1, 10, clock=clock)
    task = asyncio.create_task(breaker.execute(asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (breaker.state, breaker.stats()["cancellations"]) == ("closed", 1)
    breaker.force_open()
    breaker.reset()
    await breaker.execute(lambda: asyncio.sleep(0))
    assert breaker.stats()["successes"] == 1


async def test_fifty_tasks_at_half_open_reach_the_server_once(clock):
    breaker = AsyncCircuitBreaker("x", 1, 10, clock=clock)
    with pytest.raises(ConnectionError):
        await breaker.execute(_refuse)
    clock.advance(10)
    reached, answer = [], asyncio.Event()

    async def operation():
        reached.append(1)
        await answer.wait()
        return "back"

    tasks = [asyncio.create_task(breaker.execute(operation)) for _ in range(50)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(reached) == 1
    answer.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results.count("back") == 1
    assert sum(isinstance(result, CircuitOpenError) for result in results) == 49
    assert breaker.state == "closed"


async def _refuse():
    raise ConnectionRefusedError


@pytest.fixture
def many_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("many_switches")
def test_fifty_threads_at_half_open_reach_the_server_once(clock):
    for _ in range(20):
        breaker = CircuitBreaker("x", 1, 10, clock=clock)
        fail(Sync, breaker)
        clock.advance(10)
        reached, rejected = [], []
        together, over = threading.Barrier(50), threading.Barrier(51)

        def operation(reached=reached, over=over):
            reached.append(1)
            over.wait()

        def caller(breaker=breaker, operation=operation, rejected=rejected, together=together, over=over):
            together.wait()
            try:
                breaker.execute(operation)
            except CircuitOpenError:
                rejected.append(1)
                over.wait()

        threads = [threading.Thread(target=caller) for _ in range(50)]
        for thread in threads:
            thread.start()
        over.wait()
        for thread in threads:
            thread.join()
        assert (len(reached), len(rejected)) == (1, 49)
        assert breaker.state == "closed"


@pytest.mark.usefixtures("many_switches")
def test_threads_count_exactly():
    breaker = CircuitBreaker("x", failure_threshold=2**32 - 1)
    threads_count, calls = 8, 2_000

    def ok():
        return None

    def down():
        raise ConnectionError

    def wrong():
        raise ValueError

    def work():
        for call in range(calls):
            try:
                breaker.execute((ok, down, wrong)[call % 3])
            except (ConnectionError, ValueError):
                pass

    threads = [threading.Thread(target=work) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = breaker.stats()
    successes = threads_count * len(range(0, calls, 3))
    failures = threads_count * len(range(1, calls, 3))
    assert (stats["successes"], stats["failures"], stats["calls"]) == (successes, failures, threads_count * calls)
    assert stats["latency"]["count"] == successes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"failure_threshold": 0}, "failure_threshold must be >= 1, got 0"),
        ({"failure_threshold": -(10**30)}, "failure_threshold must be >= 1, got "),
        ({"failure_threshold": 10**30}, "failure_threshold must be <= 4294967295, got "),
        ({"reset_timeout_s": 0}, "reset_timeout_s must be > 0 seconds, got 0.0"),
        ({"reset_timeout_s": float("nan")}, "reset_timeout_s must be > 0 seconds, got nan"),
        ({"failure_rate": 1.5}, "failure_rate must be > 0 and <= 1, got 1.5"),
        ({"slow_call_rate": 0.5}, "slow_call_duration_s must be given with slow_call_rate, got None"),
        ({"slow_call_duration_s": 0.5}, "slow_call_rate must be given with slow_call_duration_s, got None"),
        ({"failure_rate": 0.5, "window_calls": 0}, "window_calls must be >= 1, got 0"),
        (
            {"failure_rate": 0.5, "window_calls": 9, "window_s": 1},
            "window_s must be None when window_calls",
        ),
        ({"failure_rate": 0.5, "window_calls": 5, "minimum_calls": 6}, "minimum_calls must be <= 5, got 6"),
        ({"window_s": 5}, "failure_rate or slow_call_rate must be given with window_s, got None"),
        ({"half_open_max_calls": 0}, "half_open_max_calls must be >= 1, got 0"),
        ({"probe_timeout_s": -1}, "probe_timeout_s must be > 0 seconds, got -1.0"),
        ({"max_reset_timeout_s": 5}, "max_reset_timeout_s must be >= reset_timeout_s (300.0), got 5.0"),
        ({"failure_threshold": None}, "failure_threshold must be given when neither"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_configurations_that_make_no_sense_are_refused(face, arguments, message):
    with pytest.raises(ValueError, match="must be") as caught:
        face.kind("x", **arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "arguments",
    [
        {"failure_threshold": "3"},
        {"failure_threshold": 3.5},
        {"reset_timeout_s": "300"},
        {"failure_rate": "0.5"},
        {"half_open_max_calls": None},
        {"counts": 7},
        {"counts": (OSError, int)},
        {"counts": int},
    ],
    ids=str,
)
def test_wrong_types_are_type_errors(face, arguments):
    with pytest.raises(TypeError):
        face.kind("x", **arguments)


def test_the_name_must_be_a_str(face):
    with pytest.raises(TypeError):
        face.kind(7)


def test_repr_says_what_it_is(face):
    assert repr(face.kind("search")) == f"<{face.kind.__name__} 'search' closed>"


def test_a_cycle_through_counts_and_listeners_is_collected(face):
    def make_cycle():
        holder = []
        breaker = face.kind("x", counts=lambda error: bool(holder))
        holder.append(breaker)
        breaker.add_listener(lambda *change: holder)
        return weakref.ref(breaker)

    reference = make_cycle()
    gc.collect()
    assert reference() is None


def test_a_call_may_use_the_breaker_it_runs_under(clock):
    """No lock is held while the operation, a listener or the clock runs."""
    breaker = CircuitBreaker("x", clock=clock)
    assert breaker.execute(lambda: breaker.execute(lambda: breaker.stats()["state"])) == "closed"
