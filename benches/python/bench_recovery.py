"""What the recovery queue and its journal cost: queueing, durably queueing, draining, a million entries.

    python benches/python/bench_recovery.py [--directory DIRECTORY]

The journal's rates stand beside the fdatasync of the same disk in the same run, which is what bounds them; drains beside a
pipeline of the same commands by the same client. The journal lies in DIRECTORY (default: the current one), which has to be on
a disk: on a tmpfs fdatasync costs nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent_memory import AsyncResilientRedisClient, Priority, RecoveryConfig, ResilientRedisClient
from agent_memory.policy import RecoveryQueue
from agent_memory.testing import EmbeddedServer

TASKS = 256
DURABLE_WRITES = 60_000
DRAINED = 100_000
MILLION = 1_000_000
WINDOW = 1_000


def microseconds(function, calls=20_000, rounds=7):
    """Best and median time of one call."""
    figures = []
    for _ in range(rounds):
        started = time.perf_counter()
        for number in range(calls):
            function(number)
        figures.append((time.perf_counter() - started) / calls * 1e6)
    return min(figures), statistics.median(figures)


def fdatasync_ms(directory):
    """Appending 4 KiB and forcing it to the disk: median and ninth decile of 200."""
    figures = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(200):
            started = time.perf_counter()
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())
            figures.append((time.perf_counter() - started) * 1e3)
    figures.sort()
    return figures[100], figures[180]


def bench_enqueue(server):
    queue = RecoveryQueue(max_entries=MILLION, max_bytes=1 << 40)
    keys = [f"agent:{number}:state".encode() for number in range(MILLION)]
    place = iter(keys)
    best, median = microseconds(lambda _: queue.put(next(place), b"payload", priority=1, size_bytes=100))
    print(f"enqueue, the queue alone             best {best:6.2f} us   median {median:6.2f} us   (target 2)")
    config = RecoveryConfig(max_entries=MILLION, max_bytes=1 << 40)
    with ResilientRedisClient("bench", **server.connection_kwargs, recovery=config, probe_interval_s=None) as client:
        client.recovery.pause()
        client.guard.force_open()
        high = client.with_priority(Priority.HIGH)
        best, median = microseconds(lambda number: high.set(f"key:{number}:{time.perf_counter_ns()}", "value"), 5_000)
        print(f"enqueue, with_priority().set(), sync best {best:6.2f} us   median {median:6.2f} us")
        client._engine.queue.start_afresh()


class Timed:
    """The journal's core with a stopwatch on each call that an event loop makes."""

    def __init__(self, core):
        self._core, self.longest_ms, self.count = core, 0.0, 0

    def __getattr__(self, name):
        method = getattr(self._core, name)

        def timed(*arguments):
            started = time.perf_counter()
            value = method(*arguments)
            self.longest_ms = max(self.longest_ms, (time.perf_counter() - started) * 1e3)
            self.count += 1
            return value

        return timed


async def bench_durable(server, directory, fsync):
    with tempfile.TemporaryDirectory(dir=directory) as path:
        config = RecoveryConfig(path=path, fsync=fsync, max_entries=MILLION, max_bytes=1 << 40, close_timeout_s=0)
        client = AsyncResilientRedisClient("bench", **server.connection_kwargs, recovery=config, probe_interval_s=None)
        client.recovery.pause()
        client.guard.force_open()
        high = client.with_priority(Priority.HIGH)
        numbers = iter(range(DURABLE_WRITES))
        latencies = []

        async def work():
            for number in numbers:
                started = time.perf_counter()
                await high.set(f"key:{number}", "x" * 50)
                latencies.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(TASKS)))
        elapsed = time.perf_counter() - started
        figures = client.recovery.stats()["journal"]
        timed = client._engine.keeper.journal._core = Timed(client._engine.keeper.journal._core)
        numbers = iter(range(DURABLE_WRITES, DURABLE_WRITES + 20_000))
        await asyncio.gather(*(work() for _ in range(TASKS)))
        latencies.sort()
        print(
            f"durable, {TASKS} tasks, fsync={fsync:8}  {DURABLE_WRITES / elapsed:8.0f} writes/s   "
            f"{DURABLE_WRITES / figures['commits']:5.0f} a commit   "
            f"latency median {statistics.median(latencies) * 1e3:.1f} ms, "
            f"99 % {latencies[len(latencies) * 99 // 100] * 1e3:.1f} ms"
            f"   longest of {timed.count} calls from the loop {timed.longest_ms:.2f} ms"
        )
        client._engine.keeper.journal._core = timed._core
        await client.close()


async def bench_ahead(server, directory):
    """What a healthy write costs with and without a record before it."""
    rates = {}
    for ahead in (False, True):
        for fsync in ("always", "never"):
            with tempfile.TemporaryDirectory(dir=directory) as path:
                config = RecoveryConfig(path=path, fsync=fsync, write_ahead=ahead)
                async with AsyncResilientRedisClient("bench", **server.connection_kwargs, recovery=config) as client:
                    high = client.with_priority(Priority.HIGH)
                    numbers = iter(range(20_000))

                    async def work(high=high, numbers=numbers):
                        for number in numbers:
                            await high.set(f"key:{number}", "x" * 50)

                    started = time.perf_counter()
                    await asyncio.gather(*(work() for _ in range(TASKS)))
                    rates[ahead, fsync] = 20_000 / (time.perf_counter() - started)
    print(
        f"healthy writes, {TASKS} tasks: write_ahead=False {rates[False, 'always']:.0f}/s, "
        f"True with fsync=never {rates[True, 'never']:.0f}/s, with fsync=always {rates[True, 'always']:.0f}/s"
    )


async def bench_drain(server, directory, kind, *, exactly_once=False, command="set"):
    with tempfile.TemporaryDirectory(dir=directory) as path:
        config = RecoveryConfig(
            path=path if kind else None,
            fsync=kind or "always",
            max_entries=MILLION,
            max_bytes=1 << 40,
        )
        async with AsyncResilientRedisClient(
            "bench", **server.connection_kwargs, recovery=config, exactly_once=exactly_once
        ) as client:
            words = [(f"{command}:{number}", number) for number in range(DRAINED)]
            await client.set("warm", "up")
            client.recovery.pause()
            client.guard.force_open()
            high = client.with_priority(Priority.HIGH)
            for first in range(0, DRAINED, TASKS):
                await asyncio.gather(*(getattr(high, command)(*pair) for pair in words[first : first + TASKS]))
            client.guard.reset()
            started = time.perf_counter()
            client.recovery.resume()
            assert await client.recovery.flush(300)
            drain = DRAINED / (time.perf_counter() - started)
            started = time.perf_counter()
            for first in range(0, DRAINED, WINDOW):
                pipeline = client.pipeline(transaction=False)
                for pair in words[first : first + WINDOW]:
                    getattr(pipeline, command)(*pair)
                await pipeline.execute()
            bare = DRAINED / (time.perf_counter() - started)
            name = f"journal, fsync={kind}" if kind else f"in memory, {command}"
            name += ", exactly once" * exactly_once
            print(
                f"drain, {name:31}  {drain:8.0f} writes/s   pipelines of {WINDOW}: {bare:8.0f}   ratio {drain / bare:.2f}"
            )


CURVE = """
import os, sys, time
from agent_memory import Priority, RecoveryConfig, ResilientRedisClient
def rss_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
config = RecoveryConfig(max_entries=1_000_000, max_bytes=1 << 40, close_timeout_s=0)
client = ResilientRedisClient("curve", recovery=config, probe_interval_s=None)
client.recovery.pause()
client.guard.force_open()
high = client.with_priority(Priority.HIGH)
base = rss_mb()
for part in range(10):
    started = time.perf_counter()
    for number in range(part * 100_000, (part + 1) * 100_000):
        high.set(f"agent:{number:08}", "x" * 16)
    took_us = (time.perf_counter() - started) * 10
    print(f"  {(part + 1) * 100_000:9,} entries  {rss_mb() - base:6.0f} MB  {took_us:5.1f} us each", flush=True)
os._exit(0)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--directory", type=Path, default=Path())
    directory = parser.parse_args().directory
    print("load", *(f"{figure:.1f}" for figure in os.getloadavg()), f"on {os.cpu_count()} cores")
    print("fdatasync of 4 KiB: median {:.2f} ms, 90 % {:.2f} ms".format(*fdatasync_ms(directory)))
    with EmbeddedServer(transport="tcp") as server:
        bench_enqueue(server)
        for fsync in ("always", "interval", "never"):
            asyncio.run(bench_durable(server, directory, fsync))
        asyncio.run(bench_ahead(server, directory))
        for kind in (None, "always", "never"):
            asyncio.run(bench_drain(server, directory, kind))
        for command in ("set", "incrby"):
            asyncio.run(bench_drain(server, directory, None, exactly_once=True, command=command))
    print("fdatasync of 4 KiB: median {:.2f} ms, 90 % {:.2f} ms".format(*fdatasync_ms(directory)))
    print("a million entries by with_priority().set(), sync, in memory (target 500 MB):")
    subprocess.run([sys.executable, "-c", CURVE], check=True)


if __name__ == "__main__":
    main()
