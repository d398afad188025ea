"""The breaker's rows of the speed table, and what the recovery queue costs per entry.

    python benches/python/bench_breaker.py

Prints, for each row, the best, the median and the quartiles of interleaved rounds, and the ratio the target speaks of.
A call is timed in a loop of its own; the loop is not subtracted, since a caller has one too. The process pins itself to
one core.
"""

from __future__ import annotations

import os
import statistics
import time
import timeit

from agent_memory.errors import CircuitOpenError
from agent_memory.policy import (
    AsyncCircuitBreaker,
    CircuitBreaker,
    CommandCategory,
    Priority,
    RecoveryQueue,
    make_guard,
)

CALLS_A_ROUND = 3_000
ROUNDS = 300
QUEUE_SIZES = (10_000, 100_000, 1_000_000)


def no_operation():
    pass


async def async_no_operation():
    pass


def one_argument(value):
    pass


def keyword_only(value, *, flag):
    pass


class Service:
    """Methods, bare and decorated."""

    def bare(self, value):
        pass

    guarded = CircuitBreaker("method")(bare)


def refuse():
    raise ConnectionError


async def bare_loop(function, calls):
    for _ in range(calls):
        await function()


async def guarded_loop(execute, calls):
    for _ in range(calls):
        await execute(async_no_operation)


def drive(coroutine):
    """Run a coroutine that waits for nothing, without a loop's own costs; returns nanoseconds a call."""
    started_ns = time.perf_counter_ns()
    try:
        coroutine.send(None)
    except StopIteration:
        return (time.perf_counter_ns() - started_ns) / CALLS_A_ROUND
    raise RuntimeError("the coroutine waits")


def timed(statement, **names):
    timer = timeit.Timer(statement, globals=names)
    return lambda: timer.timeit(CALLS_A_ROUND) / CALLS_A_ROUND * 1e9


def caught(call):
    """A statement that raises and catches."""
    return f"try:\n    {call}\nexcept error:\n    pass"


def open_breaker():
    """A breaker that a failure has opened."""
    breaker = CircuitBreaker("open", failure_threshold=1)
    try:
        breaker.execute(refuse)
    except ConnectionError:
        return breaker
    raise RuntimeError("the failure passed unseen")


def cases():
    breaker = CircuitBreaker("sync", failure_threshold=3)
    windowed = CircuitBreaker(
        "windowed",
        failure_rate=0.5,
        slow_call_rate=0.5,
        slow_call_duration_s=1.0,
        window_calls=100_000,
        minimum_calls=10,
    )
    async_breaker = AsyncCircuitBreaker("async")
    async_execute = async_breaker.execute
    async_decorated = async_breaker(async_no_operation)
    service = Service()
    operation = make_guard("client").operation("get", category=CommandCategory.READ)
    return {
        "bare call": timed("operation()", operation=no_operation),
        "breaker.execute": timed("execute(operation)", execute=breaker.execute, operation=no_operation),
        "breaker.execute, window of 100,000": timed(
            "execute(operation)", execute=windowed.execute, operation=no_operation
        ),
        "decorated call": timed("decorated()", decorated=breaker(no_operation)),
        "bare call, an argument": timed("operation(1)", operation=one_argument),
        "decorated call, an argument": timed("decorated(1)", decorated=breaker(one_argument)),
        "bare method": timed("service.bare(1)", service=service),
        "decorated method": timed("service.guarded(1)", service=service),
        "bare call, keyword-only": timed("operation(1, flag=2)", operation=keyword_only),
        "decorated call, keyword-only": timed("decorated(1, flag=2)", decorated=breaker(keyword_only)),
        "guard: admit + success": timed("success(admit())", admit=operation.admit, success=operation.success),
        "bare await": lambda: drive(bare_loop(async_no_operation, CALLS_A_ROUND)),
        "await breaker.execute": lambda: drive(guarded_loop(async_execute, CALLS_A_ROUND)),
        "await of a decorated call": lambda: drive(bare_loop(async_decorated, CALLS_A_ROUND)),
        "raise in a function and catch": timed(caught("refuse()"), refuse=refuse, error=ConnectionError),
        "raise in place and catch": timed(caught("raise error"), error=ConnectionError),
        "rejected and caught": timed(
            caught("execute(operation)"), execute=open_breaker().execute, operation=no_operation, error=CircuitOpenError
        ),
    }


RATIOS = [
    ("breaker.execute", "bare call", "at most 6, or 150 ns"),
    ("breaker.execute, window of 100,000", "breaker.execute", "O(1) in the window"),
    ("decorated call", "bare call", "at most 110 ns"),
    ("decorated call, an argument", "bare call, an argument", "beside it"),
    ("decorated method", "bare method", "beside it"),
    ("decorated call, keyword-only", "bare call, keyword-only", "beside it: packs a tuple and a dict"),
    ("await breaker.execute", "bare await", "at most 3.5"),
    ("await of a decorated call", "bare await", "at most 3.5"),
    ("rejected and caught", "raise in a function and catch", "at most 2"),
    ("rejected and caught", "raise in place and catch", "beside it: no call at all"),
]


def queue_ns_per_entry(entries):
    """Nanoseconds to push, and to pop and complete, an entry with a key of its own."""
    queue = RecoveryQueue(max_entries=entries)
    keys = [f"agent:{number:012}" for number in range(entries)]
    payload = object()
    push, pop, complete = queue.push, queue.pop_due, queue.complete
    started = time.perf_counter_ns()
    for key in keys:
        push(key, payload, priority=Priority.NORMAL)
    pushed = time.perf_counter_ns()
    while (entry := pop()) is not None:
        complete(entry.id)
    return (pushed - started) / entries, (time.perf_counter_ns() - pushed) / entries


def main():
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    measures = cases()
    rounds = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, measure in measures.items():
            rounds[name].append(measure())
    for name, times in rounds.items():
        low, median, high = statistics.quantiles(times, n=4)
        print(f"{name:38} best {min(times):7.1f} ns   median {median:7.1f} ns   quartiles {low:7.1f} to {high:7.1f} ns")
    print()
    for name, base, target in RATIOS:
        best = min(rounds[name]) / min(rounds[base])
        median = statistics.median(own / other for own, other in zip(rounds[name], rounds[base], strict=True))
        print(f"{name} / {base}: of the minima {best:.2f}, median of the rounds {median:.2f} ({target})")
    print()
    for entries in QUEUE_SIZES:
        push_ns, serve_ns = queue_ns_per_entry(entries)
        print(f"recovery queue, {entries:9,} entries: push {push_ns:6.0f} ns, pop and complete {serve_ns:6.0f} ns each")


if __name__ == "__main__":
    main()
