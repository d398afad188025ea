"""The first phase: the same workload on redis-py's clients and on ours, in slices that take turns.

Neighbouring slices meet the same machine, so their ratio means something even where the absolute figures swing. Every lane
has its client for the whole phase, and in every round each lane has one slice; the order is reversed in every second round.
Ours run as they would in use: with circuit breaker, deadlines, metrics and the reply handling of redis-py. redis-py runs
with its defaults.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import redis
import redis.asyncio

from agent_memory.storage._async.client import AsyncResilientRedisClient
from agent_memory.storage._sync.client import ResilientRedisClient
from demo.settings import DemoSettings

__all__ = ["Lane", "LaneResult", "compare", "percentile"]

_KEYS: Final = 64
_VALUE: Final = "x" * 100
_WARM_UP_S: Final = 0.1

OURS: Final = "agent_memory"
THEIRS: Final = "redis-py"


def percentile(ordered: list[int], share: float) -> int:
    """The value below which `share` (0 to 1) of a sorted list lies; 0 for an empty list."""
    if not ordered:
        return 0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(slots=True)
class Lane:
    """One library under one way of calling it."""

    library: str
    way: str
    """Such as "16 threads"."""
    run_slice: Callable[[float], list[int]]
    """Works for so many seconds, returns the latency of every call in nanoseconds."""
    close: Callable[[], None]
    latencies_ns: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Operations per second of each slice."""


@dataclass(frozen=True, slots=True)
class LaneResult:
    """What a lane reached."""

    library: str
    way: str
    operations_per_s: float
    p50_us: float
    p99_us: float
    ratio: float
    """Throughput over redis-py's, the median of the rounds; 1 for redis-py itself."""


def _command(client: Any, number: int) -> Any:
    """Call `number` of the workload: six GETs, three SETs, one HSET in ten. A value, or an awaitable of it."""
    key = f"compare:{number % _KEYS}"
    turn = number % 10
    if turn < 6:
        return client.get(key)
    if turn < 9:
        return client.set(key, _VALUE)
    return client.hset("compare:hash", key, _VALUE)


def _run_threads(client: Any, count: int, seconds: float) -> list[int]:
    results: list[list[int]] = [[] for _ in range(count)]
    begin = threading.Event()
    end_ns = 0

    def work(latencies_ns: list[int], first: int) -> None:
        clock = time.perf_counter_ns
        number = first
        begin.wait()
        started_ns = clock()
        while started_ns < end_ns:
            _command(client, number)
            number += 1
            ended_ns = clock()
            latencies_ns.append(ended_ns - started_ns)
            started_ns = ended_ns

    threads = [
        threading.Thread(target=work, args=(latencies_ns, first), daemon=True)
        for first, latencies_ns in enumerate(results)
    ]
    try:
        for thread in threads:
            thread.start()
        end_ns = time.perf_counter_ns() + int(seconds * 1e9)
        begin.set()
        for thread in threads:
            thread.join()
    except BaseException:
        # Interrupted: no thread may be left to meet the end of the server.
        end_ns = 0
        begin.set()
        for thread in threads:
            if thread.is_alive():
                thread.join()
        raise
    return [latency_ns for latencies_ns in results for latency_ns in latencies_ns]


async def _run_tasks(client: Any, count: int, seconds: float) -> list[int]:
    latencies_ns: list[int] = []
    clock = time.perf_counter_ns
    end_ns = clock() + int(seconds * 1e9)

    async def work(first: int) -> None:
        number = first
        started_ns = clock()
        while started_ns < end_ns:
            await _command(client, number)
            number += 1
            ended_ns = clock()
            latencies_ns.append(ended_ns - started_ns)
            started_ns = ended_ns

    await asyncio.gather(*(work(first) for first in range(count)))
    return latencies_ns


def _sync_lane(library: str, client: Any, settings: DemoSettings) -> Lane:
    count = settings.compared_threads
    return Lane(library, f"{count} threads", lambda seconds: _run_threads(client, count, seconds), client.close)


def _async_lane(
    library: str, client: Any, close: Callable[[], Any], runner: asyncio.Runner, settings: DemoSettings
) -> Lane:
    count = settings.compared_tasks
    return Lane(
        library,
        f"{count} asyncio tasks",
        lambda seconds: runner.run(_run_tasks(client, count, seconds)),
        lambda: runner.run(close()),
    )


def _make_lanes(connection: dict[str, Any], runner: asyncio.Runner, settings: DemoSettings) -> list[Lane]:
    """redis-py's lane before ours, for each way."""
    their_sync = redis.Redis(**connection, decode_responses=True)
    their_async = redis.asyncio.Redis(**connection, decode_responses=True)
    our_sync = ResilientRedisClient("compare-sync", **connection)
    our_async = AsyncResilientRedisClient("compare-async", **connection)
    return [
        _sync_lane(THEIRS, their_sync, settings),
        _sync_lane(OURS, our_sync, settings),
        _async_lane(THEIRS, their_async, their_async.aclose, runner, settings),
        _async_lane(OURS, our_async, our_async.close, runner, settings),
    ]


def compare(
    connection: dict[str, Any], settings: DemoSettings, on_slice: Callable[[str, float], None]
) -> list[LaneResult]:
    """Runs the phase; `on_slice(what, operations_per_s)` is called for every slice. Takes settings.duration_s("compare")."""
    with asyncio.Runner() as runner:
        lanes = _make_lanes(connection, runner, settings)
        try:
            slice_s = settings.compared_slice_s
            warm_up_s = len(lanes) * _WARM_UP_S
            rounds = round((settings.duration_s("compare") - warm_up_s) / (len(lanes) * slice_s))
            for lane in lanes:
                lane.run_slice(_WARM_UP_S)
            for number in range(max(1, rounds)):
                for lane in lanes if number % 2 == 0 else reversed(lanes):
                    _run_slice(lane, slice_s)
                    on_slice(f"{lane.library}, {lane.way}", lane.rates[-1])
        finally:
            for lane in lanes:
                lane.close()
    return [_result_of(lane, lanes) for lane in lanes]


def _run_slice(lane: Lane, seconds: float) -> None:
    # What one lane leaves behind should not be collected in the next one's time.
    gc.collect()
    started_s = time.perf_counter()
    latencies_ns = lane.run_slice(seconds)
    lane.rates.append(len(latencies_ns) / (time.perf_counter() - started_s))
    lane.latencies_ns += latencies_ns


def _result_of(lane: Lane, lanes: list[Lane]) -> LaneResult:
    theirs = next(other for other in lanes if other.way == lane.way and other.library == THEIRS)
    ordered_ns = sorted(lane.latencies_ns)
    return LaneResult(
        lane.library,
        lane.way,
        statistics.median(lane.rates),
        percentile(ordered_ns, 0.50) / 1e3,
        percentile(ordered_ns, 0.99) / 1e3,
        statistics.median(mine / other for mine, other in zip(lane.rates, theirs.rates, strict=True)),
    )
