"""What the healthy shards of a cluster still answer while another shard's primary hangs or was killed: ours and redis-py's.

    python benches/python/bench_cluster_failover.py --rounds 3

Workers (tasks, threads) INCR keys of the healthy shards for a window. Then the third primary is stopped (SIGSTOP) or killed,
as many workers more call its slots, and the same is counted again. Printed: the rate in the second window as a share of that
in the first one, median and extremes. Three primaries, three replicas, node timeout 1 s, `cluster-require-full-coverage no`,
`socket_timeout` 0.5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory.testing import EmbeddedCluster

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS, WINDOW_S = 20, 1.5


class Counts:
    """What the workers have done."""

    def __init__(self) -> None:
        self.answered, self.errors, self.over = 0, 0, False

    def rate(self, before: int, began_s: float) -> float:
        """Answers a second since then."""
        return (self.answered - before) / (time.monotonic() - began_s)


async def share_asyncio(
    client: Any, healthy: list[str], hit: list[str], begin: Callable[[], None]
) -> tuple[float, int]:
    """The share of tasks."""
    counts = Counts()

    async def work(key: str, counted: int) -> None:
        while not counts.over:
            try:
                await client.incr(key)
                counts.answered += counted
            except Exception:
                counts.errors += 1
                await asyncio.sleep(0)

    async with client:
        for key in (*healthy, *hit):
            await client.incr(key)
        tasks = [asyncio.create_task(work(key, 1)) for key in healthy]
        rates = []
        for number in range(2):
            if number:
                begin()
                tasks += [asyncio.create_task(work(key, 0)) for key in hit]
            before, began_s = counts.answered, time.monotonic()
            await asyncio.sleep(WINDOW_S)
            rates.append(counts.rate(before, began_s))
        counts.over = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return rates[1] / rates[0], counts.errors


def share_sync(client: Any, healthy: list[str], hit: list[str], begin: Callable[[], None]) -> tuple[float, int]:
    """The share of threads."""
    counts = Counts()

    def work(key: str, counted: int) -> None:
        while not counts.over:
            try:
                client.incr(key)
                counts.answered += counted
            except Exception:
                counts.errors += 1

    def start(keys: list[str], counted: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=work, args=(key, counted), daemon=True) for key in keys]
        for thread in threads:
            thread.start()
        return threads

    for key in (*healthy, *hit):
        client.incr(key)
    threads, rates = start(healthy, 1), []
    for number in range(2):
        if number:
            begin()
            threads += start(hit, 0)
        before, began_s = counts.answered, time.monotonic()
        time.sleep(WINDOW_S)
        rates.append(counts.rate(before, began_s))
    counts.over = True
    client.close()
    for thread in threads:
        thread.join(10)
    return rates[1] / rates[0], counts.errors


def measure(cluster: EmbeddedCluster, client_name: str, kind: str, fault: str) -> tuple[float, int]:
    """One share, and how many errors the callers have seen."""
    victim = cluster.owner_of(0)
    tags = [f"{{{tag}}}" for tag in range(400)]
    hit = [tag for tag in tags if cluster.owner_of_key(tag) is victim][:WORKERS]
    healthy = [tag for tag in tags if cluster.owner_of_key(tag) is not victim][:WORKERS]
    begin = victim.pause if fault == "hangs" else victim.kill
    arguments: dict[str, Any] = cluster.connection_kwargs | {"socket_timeout": 0.5}
    try:
        if kind == "asyncio":
            module: Any = agent_memory.redis.asyncio if client_name == "agent_memory" else redis.asyncio

            async def run() -> tuple[float, int]:
                return await share_asyncio(module.RedisCluster(**arguments), healthy, hit, begin)

            return asyncio.run(run())
        sync: Any = agent_memory.redis if client_name == "agent_memory" else redis
        return share_sync(sync.RedisCluster(**arguments), healthy, hit, begin)
    finally:
        if victim.paused:
            victim.resume()
        cluster.start()
        cluster.wait_ok()
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", help="server binary (default: as EmbeddedCluster finds it)")
    options = parser.parse_args()
    shares: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
    with EmbeddedCluster(binary=options.binary, node_timeout_s=1.0) as cluster:
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        print(f"{cluster!r}, load {os.getloadavg()[0]:.1f}")
        for _ in range(options.rounds):
            for kind in ("sync", "asyncio"):
                for fault in ("hangs", "is killed"):
                    for client_name in ("agent_memory", "redis-py"):
                        found = measure(cluster, client_name, kind, fault)
                        shares.setdefault((kind, fault, client_name), []).append(found)
    for (kind, fault, client_name), found in shares.items():
        rates, errors = [share for share, _ in found], [count for _, count in found]
        print(
            f"{kind:8} a primary {fault:9}  {client_name:12}  healthy shards {statistics.median(rates):5.2f}"
            f"  ({min(rates):.2f} to {max(rates):.2f})   errors {statistics.median(errors):.0f}"
        )
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
