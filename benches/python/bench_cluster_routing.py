"""What routing costs: from a key to the handle of its node, and from a pipeline to the buffers of its nodes.

    python benches/python/bench_cluster_routing.py

Each figure is the best and the median of interleaved rounds, the bare loop subtracted: nanoseconds a call, microseconds a
pipeline of 100 commands over three nodes. `python` stands for the same in Python: `crc_hqx`, the hash tag, a list of owners.
The process pins itself to one core. Target: 60 ns to route a key of a usual length.
"""

from __future__ import annotations

import binascii
import os
import statistics
import timeit
from collections.abc import Callable

from redis.crc import key_slot as redis_py_slot

from agent_memory._core import ClusterCore, ClusterPipeline, key_slot, monotonic_ns, pack_command

TARGET_NS = 60
ROUNDS = 200
CALLS_A_ROUND = 2_000
PIPELINES_A_ROUND = 20
KEYS = {"key:123": "key:123", "hash tag": "{user1000}.following", "64 characters": "k" * 64, "bytes": b"key:123"}
COMMANDS = [("GET", f"key:{number}") for number in range(100)]
PLACES = {"GET": 1}


def three_nodes() -> ClusterCore:
    """A core that knows three primaries, each with a third of the slots."""
    core = ClusterCore([("127.0.0.1", 7000)], lambda node, host, port: (node, host, port))
    bounds = ((0, 5460), (5461, 10922), (10923, 16383))
    rows = [[first, last, [b"127.0.0.1", 7000 + place, b"id"]] for place, (first, last) in enumerate(bounds)]
    core.answer(0, 0, monotonic_ns(), rows, None)
    return core


CORE = three_nodes()
OWNERS = [CORE.route_slot(slot) for slot in range(16384)]


def python_route(key: str) -> object:
    """The owner of a key, in Python."""
    data = key.encode()
    start = data.find(b"{")
    if start >= 0 and (end := data.find(b"}", start + 1)) > start + 1:
        data = data[start + 1 : end]
    return OWNERS[binascii.crc_hqx(data, 0) & 16383]


def python_split() -> list[bytes]:
    """One buffer per node, in Python."""
    packed: dict[object, list[bytes]] = {}
    for command in COMMANDS:
        packed.setdefault(python_route(command[1]), []).append(pack_command(command))
    return [b"".join(parts) for parts in packed.values()]


def split() -> None:
    """The first round of a pipeline."""
    ClusterPipeline(CORE, COMMANDS, PLACES).next_round()


def whole() -> None:
    """A pipeline from its commands to its results."""
    pipeline = ClusterPipeline(CORE, COMMANDS, PLACES)
    _, batches, _ = pipeline.next_round() or (0.0, [], -1)
    for batch in batches:
        pipeline.answered(batch, [b"OK"] * batch.count, 0)
    pipeline.next_round()
    pipeline.results()


def measure(rows: dict[str, Callable[[], object]], calls: int) -> dict[str, tuple[float, float]]:
    """Nanoseconds a call of each row: best, median."""
    timers = {name: timeit.Timer(call) for name, call in rows.items()}
    empty = timeit.Timer("pass")
    times: dict[str, list[float]] = {name: [] for name in rows}
    loop_s = min(empty.timeit(calls) for _ in range(ROUNDS))
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            times[name].append((timer.timeit(calls) - loop_s) / calls * 1e9)
    return {name: (min(found), statistics.median(found)) for name, found in times.items()}


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows: dict[str, Callable[[], object]] = {"len('x'), for scale": lambda: len("x")}
    for name, key in KEYS.items():
        rows[f"route, {name}"] = lambda key=key: CORE.route(key)
        rows[f"key_slot, {name}"] = lambda key=key: key_slot(key)
    rows["python, key:123"] = lambda: python_route("key:123")
    rows["redis-py's key_slot, bytes"] = lambda: redis_py_slot(b"key:123")
    found = measure(rows, CALLS_A_ROUND)
    scale_ns = found["len('x'), for scale"][0]
    print("nanoseconds a call, a lambda around it included       best  median   best - lambda and len")
    for name, (best_ns, median_ns) in found.items():
        print(f"{name:50s} {best_ns:7.0f} {median_ns:7.0f} {best_ns - scale_ns:10.0f}")
    best_ns = found["route, key:123"][0] - scale_ns
    print(
        f"target: {TARGET_NS} ns for route, key:123: {'reached' if best_ns <= TARGET_NS else 'missed'} ({best_ns:.0f} ns)"
    )
    pipelines = {"split and packed": split, "the whole pipeline": whole, "split and packed, python": python_split}
    for name, (best, median) in measure(pipelines, PIPELINES_A_ROUND).items():
        print(f"{name:50s} {best / 1000:7.1f} {median / 1000:7.1f} us for 100 commands")


if __name__ == "__main__":
    main()
