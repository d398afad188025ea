"""A Redis Cluster of three primaries: our clients beside redis-py's, valkey-glide's and a bare ceiling, in turns.

    python benches/python/bench_cluster.py                     # all rows, about two minutes
    python benches/python/bench_cluster.py --rows sync,tasks   # these
    python benches/python/bench_cluster.py --json FILE         # also as JSON

The ceiling (`benches/ceilings/cluster_get.py`) is a table of slots, a connection per node and hiredis, nothing else. Servers
and client share one processor. Beside the wall time stands the processor time of the client's process with all its threads,
which other load on the machine moves less. valkey-glide takes part where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from side_by_side import Row, Target, describe_machine, in_turns, pin, print_report, time_calls, usable_cores

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory.testing import EmbeddedCluster

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

from ceilings import cluster_get

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Contenders = dict[str, dict[str, Callable[..., Any]]]
    """By client: its work, by name."""

CEILING, OURS, ONE_SERVER, REDIS_PY, GLIDE = "ceiling", "agent_memory", "ours, one server", "redis-py", "valkey-glide"
PACKAGES = ("agent-memory-redis", "redis", "hiredis", "valkey-glide", "valkey-glide-sync")
KEYS = [f"key:{number}" for number in range(999)]
PIPELINE = KEYS[:100]
VALUE = "value" * 4


class Turning:
    """The next key of each call."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> str:
        self.number = (self.number + 1) % len(KEYS)
        return KEYS[self.number]


def pipeline_of(client: Any) -> Any:
    """A pipeline that has collected GETs."""
    pipeline = client.pipeline()
    for key in PIPELINE:
        pipeline.get(key)
    return pipeline


@contextlib.contextmanager
def blocking_contenders(cluster: EmbeddedCluster) -> Iterator[Contenders]:
    """Every blocking client that is installed, connected."""
    key = Turning()
    with contextlib.ExitStack() as stack:
        bare = cluster_get.Sync([node.port or 0 for node in cluster.nodes])
        stack.callback(bare.close)
        contenders: Contenders = {
            CEILING: {"GET": lambda: bare.get(key()), "pipeline": lambda: bare.pipeline(PIPELINE)}
        }

        def add(name: str, client: Any) -> None:
            stack.callback(client.close)
            contenders[name] = {
                "GET": lambda: client.get(key()),
                "SET": lambda: client.set(key(), VALUE),
                "pipeline": lambda: pipeline_of(client).execute(),
                "MGET": lambda: client.mget_nonatomic(PIPELINE),
            }

        add(OURS, agent_memory.redis.RedisCluster(**cluster.connection_kwargs))
        add(REDIS_PY, redis.RedisCluster(**cluster.connection_kwargs))
        with contextlib.suppress(ImportError):
            import glide_sync

            nodes = [glide_sync.NodeAddress("127.0.0.1", cluster.nodes[0].port)]
            glide = glide_sync.GlideClusterClient.create(glide_sync.GlideClusterClientConfiguration(nodes))
            stack.callback(glide.close)

            def batch() -> Any:
                collected = glide_sync.ClusterBatch(is_atomic=False)
                for each in PIPELINE:
                    collected.get(each)
                return glide.exec(collected, raise_on_error=True)

            contenders[GLIDE] = {
                "GET": lambda: glide.get(key()),
                "SET": lambda: glide.set(key(), VALUE),
                "pipeline": batch,
                "MGET": lambda: glide.mget(PIPELINE),
            }
        yield contenders


@contextlib.asynccontextmanager
async def asyncio_contenders(cluster: EmbeddedCluster) -> AsyncIterator[Contenders]:
    """Every asyncio client that is installed, connected in the running loop."""
    async with contextlib.AsyncExitStack() as stack:
        bare = await cluster_get.connect([node.port or 0 for node in cluster.nodes])
        stack.callback(bare.close)

        async def ceiling(key: str) -> object:
            return await bare.get(key)

        contenders: Contenders = {CEILING: {"GET": ceiling, "pipeline": lambda: bare.pipeline(PIPELINE)}}

        def add(name: str, client: Any) -> None:
            stack.push_async_callback(client.aclose)
            contenders[name] = {
                "GET": client.get,
                "SET": lambda key: client.set(key, VALUE),
                "pipeline": lambda: pipeline_of(client).execute(),
                "MGET": lambda: client.mget_nonatomic(PIPELINE),
            }

        add(OURS, agent_memory.redis.asyncio.RedisCluster(**cluster.connection_kwargs))
        single = agent_memory.redis.asyncio.Redis(**cluster.nodes[0].connection_kwargs)
        stack.push_async_callback(single.aclose)
        own = [key for key in KEYS if cluster_get.node_of(key) == 0]
        there = dict(zip(KEYS, own * 4, strict=False))
        contenders[ONE_SERVER] = {"GET": lambda key: single.get(there[key])}
        add(REDIS_PY, redis.asyncio.RedisCluster(**cluster.connection_kwargs, max_connections=500))
        with contextlib.suppress(ImportError):
            import glide

            nodes = [glide.NodeAddress("127.0.0.1", cluster.nodes[0].port)]
            peer = await glide.GlideClusterClient.create(glide.GlideClusterClientConfiguration(nodes))
            stack.push_async_callback(peer.close)

            async def batch() -> Any:
                collected = glide.ClusterBatch(is_atomic=False)
                for each in PIPELINE:
                    collected.get(each)
                return await peer.exec(collected, raise_on_error=True)

            contenders[GLIDE] = {
                "GET": peer.get,
                "SET": lambda key: peer.set(key, VALUE),
                "pipeline": batch,
                "MGET": lambda: peer.mget(PIPELINE),
            }
        yield contenders


# --- rows -----------------------------------------------------------------------------------------------------------


def two_rows(name: str, *targets: Target) -> tuple[Row, Row]:
    """Wall time with the targets, processor time without."""
    return Row(f"{name}, wall", targets), Row(f"{name}, client CPU", ())


def baseline_of(contenders: Contenders, work: str) -> str:
    """What a row is compared with: the ceiling, or redis-py where there is none."""
    return CEILING if work in contenders[CEILING] else REDIS_PY


def measure_blocking(cluster: EmbeddedCluster, works: dict[str, tuple[tuple[Row, Row], int, int]]) -> list[Any]:
    """`works` are (rows, calls per round, rounds) by the name of the work."""
    measured: list[Any] = []
    with blocking_contenders(cluster) as contenders:
        for work, ((wall, cpu), calls, rounds) in works.items():
            names = [name for name, each in contenders.items() if work in each]
            for name in in_turns(names, rounds):
                wall_us, cpu_us = time_calls(contenders[name][work], calls)
                wall.add(name, wall_us)
                cpu.add(name, cpu_us)
            measured += [(wall, baseline_of(contenders, work)), (cpu, baseline_of(contenders, work))]
    return measured


def measure_sync(cluster: EmbeddedCluster) -> list[Any]:
    """One caller, one command at a time."""
    targets = (Target(CEILING, at_most=1.15), Target(REDIS_PY, at_least=4.0), Target(GLIDE, at_least=2.8))
    works = {"GET": (two_rows("sync GET", *targets), 50, 100), "SET": (two_rows("sync SET"), 50, 60)}
    return measure_blocking(cluster, works)


def measure_pipelines(cluster: EmbeddedCluster) -> list[Any]:
    """Pipelines of 100 over three nodes, and 100 keys of 100 slots."""
    works = {
        "pipeline": (two_rows("sync pipeline of 100", Target(CEILING, at_most=1.1)), 4, 80),
        "MGET": (two_rows("sync mget_nonatomic of 100 keys"), 4, 20),
    }
    measured = measure_blocking(cluster, works)
    asynchronous = {
        "pipeline": (two_rows("asyncio pipeline of 100", Target(CEILING, at_most=1.3)), 4, 80),
        "MGET": (two_rows("asyncio mget_nonatomic of 100 keys"), 4, 20),
    }

    async def measure() -> list[Any]:
        found: list[Any] = []
        async with asyncio_contenders(cluster) as contenders:
            for work, ((wall, cpu), calls, rounds) in asynchronous.items():
                names = [name for name, each in contenders.items() if work in each]
                for name in in_turns(names, rounds):
                    await time_awaits(contenders[name][work], 1)
                    wall_us, cpu_us = await time_awaits(contenders[name][work], calls)
                    wall.add(name, wall_us)
                    cpu.add(name, cpu_us)
                found += [(wall, baseline_of(contenders, work)), (cpu, baseline_of(contenders, work))]
        return found

    return measured + asyncio.run(measure())


async def time_awaits(work: Callable[[], Awaitable[object]], calls: int) -> tuple[float, float]:
    """Microseconds per call: wall, and CPU of this process."""
    cpu_started_s, started_s = time.process_time(), time.perf_counter()
    for _ in range(calls):
        await work()
    return (time.perf_counter() - started_s) / calls * 1e6, (time.process_time() - cpu_started_s) / calls * 1e6


async def time_tasks(get: Callable[[str], Awaitable[object]], tasks: int, calls: int) -> tuple[float, float]:
    """The same where `tasks` tasks share `calls` calls."""

    async def work(first: int) -> None:
        for number in range(calls // tasks):
            await get(KEYS[(first * 37 + number) % len(KEYS)])

    async def all_tasks() -> None:
        await asyncio.gather(*(work(number) for number in range(tasks)))

    wall_us, cpu_us = await time_awaits(all_tasks, 1)
    return wall_us / calls, cpu_us / calls


def measure_tasks(cluster: EmbeddedCluster) -> list[Any]:
    """Tasks that share a client."""
    many = (
        Target(CEILING, at_most=0.85),
        Target(ONE_SERVER, at_most=1.25),
        Target(REDIS_PY, at_least=14.0),
        Target(GLIDE, at_least=6.0),
    )
    rows = [
        ("GET", two_rows("asyncio GET, 1 task", Target(CEILING, at_most=1.1)), 1, 50, 100),
        ("GET", two_rows("asyncio GET, 50 tasks", *many), 50, 1_000, 40),
        ("GET", two_rows("asyncio GET, 200 tasks", *many), 200, 2_000, 30),
        ("SET", two_rows("asyncio SET, 50 tasks"), 50, 1_000, 20),
    ]

    async def measure() -> list[Any]:
        found: list[Any] = []
        async with asyncio_contenders(cluster) as contenders:
            for work, (wall, cpu), tasks, calls, rounds in rows:
                names = [name for name, each in contenders.items() if work in each]
                for name in names:
                    await time_tasks(contenders[name][work], tasks, 2 * tasks)
                for name in in_turns(names, rounds):
                    wall_us, cpu_us = await time_tasks(contenders[name][work], tasks, calls)
                    wall.add(name, wall_us)
                    cpu.add(name, cpu_us)
                found += [(wall, baseline_of(contenders, work)), (cpu, baseline_of(contenders, work))]
        return found

    return asyncio.run(measure())


ROWS = {"sync": measure_sync, "tasks": measure_tasks, "pipelines": measure_pipelines}


def main() -> None:
    """Measure, and print medians with their spread and their ratios."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help=f"which of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"--rows: no such row: {', '.join(sorted(unknown))}")
    figures: dict[str, Any] = {"machine": describe_machine(PACKAGES), "rows": []}
    pin(sorted(usable_cores())[:1])
    with EmbeddedCluster(3, 0, protected=False) as cluster:
        assert [cluster.nodes.index(cluster.owner_of(slot)) for slot in (0, 8_000, 16_000)] == [0, 1, 2]
        with agent_memory.redis.RedisCluster(**cluster.connection_kwargs) as client:
            for key in KEYS:
                client.set(key, VALUE)
        for name in names:
            for row, baseline in ROWS[name](cluster):
                figures["rows"].append(report := row.report((OURS,), baseline))
                if baseline != CEILING:
                    print(f"\n(no ceiling: times {baseline})", end="")
                print_report(report)
    figures["machine"]["load_after"] = os.getloadavg()[0]
    print("\n" + "\n".join(f"{key}: {value}" for key, value in figures["machine"].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
