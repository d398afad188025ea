"""What exactly once costs where nothing goes wrong: client and server, per level, absolute and relative writes.

Contenders take turns within a round, so their ratios hold though the machine is busy. Server CPU is what the server says of
itself (`used_cpu_user` + `used_cpu_sys`), over all rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time

import redis

import agent_memory.redis as sync_redis
from agent_memory.redis.asyncio import Redis
from agent_memory.redis.exactly_once import ExactlyOnce
from agent_memory.testing import EmbeddedServer

LEVELS = {"off": False, "offset": ExactlyOnce("offset"), "marker": ExactlyOnce("marker"), "gate": ExactlyOnce("gate")}
ROUNDS = int(os.environ.get("ROUNDS", "15"))
CALLS = 200
TASKS = 50


def cpu_s(observer):
    """Seconds of processor time that the server has used."""
    figures = observer.info("cpu")
    return figures["used_cpu_user"] + figures["used_cpu_sys"]


async def in_parallel(call):
    """Microseconds per call of many tasks at once."""

    async def some():
        for _ in range(CALLS // 10):
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(TASKS)))
    return (time.perf_counter() - began) / (TASKS * (CALLS // 10)) * 1e6


def one_by_one(call):
    """Microseconds per call, one after the other."""
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS * 1e6


def show(title, rounds, cpu):
    """One table: the median, its ratio to `off`, the server's share."""
    print(f"\n{title}")
    for level, times in rounds.items():
        ratios = [mine / base for mine, base in zip(times, rounds["off"], strict=True)]
        low, high = min(ratios), max(ratios)
        print(
            f"  {level:8} {statistics.median(times):7.1f} us/call  x {statistics.median(ratios):4.2f} ({low:.2f} to {high:.2f})"
            f"   server {cpu[level]:5.2f} us"
        )


async def measure_asyncio(server, observer):
    """Asyncio, many tasks on one connection."""
    clients = {level: Redis(**server.connection_kwargs, exactly_once=how) for level, how in LEVELS.items()}
    for title, command in (("asyncio, SET (absolute)", "set"), ("asyncio, INCR (relative)", "incr")):
        calls = {
            level: (lambda c=c: c.set("key", "value")) if command == "set" else (lambda c=c: c.incr("counter"))
            for level, c in clients.items()
        }
        rounds = {level: [] for level in calls}
        cpu = dict.fromkeys(calls, 0.0)
        for number in range(ROUNDS + 1):
            for level, call in calls.items():
                before = cpu_s(observer)
                took = await in_parallel(call)
                if number:
                    rounds[level].append(took)
                    cpu[level] += (cpu_s(observer) - before) / (ROUNDS * TASKS * (CALLS // 10)) * 1e6
        show(f"{title}, {TASKS} tasks", rounds, cpu)
    for client in clients.values():
        await client.aclose()


def measure_sync(server, observer):
    """Blocking sockets, one thread."""
    clients = {level: sync_redis.Redis(**server.connection_kwargs, exactly_once=how) for level, how in LEVELS.items()}
    for title, command in (("sync, SET (absolute)", "set"), ("sync, INCR (relative)", "incr")):
        rounds = {level: [] for level in clients}
        cpu = dict.fromkeys(clients, 0.0)
        for number in range(ROUNDS + 1):
            for level, client in clients.items():
                call = (
                    (lambda c=client: c.set("key", "value"))
                    if command == "set"
                    else (lambda c=client: c.incr("counter"))
                )
                before = cpu_s(observer)
                took = one_by_one(call)
                if number:
                    rounds[level].append(took)
                    cpu[level] += (cpu_s(observer) - before) / (ROUNDS * CALLS) * 1e6
        show(f"{title}, 1 thread", rounds, cpu)
    for client in clients.values():
        client.close()


def main():
    with EmbeddedServer(transport="tcp") as server, redis.Redis(**server.connection_kwargs) as observer:
        print(f"{server.product} {server.version}, load {os.getloadavg()[0]:.1f}, {ROUNDS} rounds")
        measure_sync(server, observer)
        asyncio.run(measure_asyncio(server, observer))


if __name__ == "__main__":
    main()
