"""Instructions of a cluster's GET, SET and pipelines, through the ceiling script and our clients; see count_instructions.py.

    python benches/python/count_cluster_instructions.py                # a table, about a minute
    python benches/python/count_cluster_instructions.py --check        # fails where a ratio leaves LIMITS by more than 3 %
    python benches/python/count_cluster_instructions.py --keep PREFIX  # also keeps callgrind's profiles, one for each row

Three canned servers stand for the nodes, a third of the slots each. Only what the process itself executes is counted: what
a write or a read costs in the kernel is not.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import count_instructions as counting

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

from ceilings import cluster_get

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS: Final = [f"key:{number}" for number in range(999)]
VALUE: Final = counting.VALUE
PIPELINE, PIPELINES = 100, 20
TASKS: Final = 50

LIMITS: Final = {
    "asyncio GET, cluster": 0.435,
    "asyncio SET, cluster": 0.540,
    "asyncio GET, 1 task, cluster": 0.561,
    "asyncio pipeline of 100, cluster": 0.506,
    "sync GET, cluster": 0.815,
    "sync SET, cluster": 1.016,
    "sync pipeline of 100, cluster": 0.715,
}
"""What rows cost, times the row that they are compared with: on CPython 3.11, built without profile-guided optimisation."""


# --- the servers --------------------------------------------------------------------------------------------------------


def run_servers() -> None:
    """Three servers that know each other; prints their ports."""
    listeners = [socket.create_server((counting.HOST, 0)) for _ in range(3)]
    ports = [listener.getsockname()[1] for listener in listeners]
    bounds = [(number * 16384 + 2) // 3 for number in range(4)]
    rows = b"".join(
        b"*3\r\n:%d\r\n:%d\r\n*4\r\n$9\r\n127.0.0.1\r\n:%d\r\n$40\r\n%s\r\n*0\r\n"
        % (bounds[number], bounds[number + 1] - 1, port, str(number).encode() * 40)
        for number, port in enumerate(ports)
    )
    info = b"cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_current_epoch:3\r\n"
    canned = counting.CANNED | {
        b"CLUSTER SLOTS": b"*3\r\n" + rows,
        b"CLUSTER INFO": b"$%d\r\n%s\r\n" % (len(info), info),
        b"COMMAND": b"*0\r\n",
    }

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while received := connection.recv(1 << 20):
                names = counting.COMMAND.finditer(received)
                connection.sendall(b"".join(canned.get(name_of(found), b"+OK\r\n") for found in names))

    def accept(listener: socket.socket) -> None:
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    for listener in listeners:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
    print(*ports, flush=True)
    sys.stdin.read()


def name_of(found: Any) -> bytes:
    """A command's name; that of CLUSTER with the word behind it."""
    return b" ".join(found[0].split(b"\r\n")[2:5:2]) if found[1] == b"CLUSTER" else found[1]


# --- the process that is counted ------------------------------------------------------------------------------------------


async def count_tasks(call: Callable[..., Any], arguments: tuple[str, ...], tasks: int) -> None:
    """`tasks` tasks call at the same time."""

    async def work(first: int, count: int) -> None:
        for number in range(count):
            await call(KEYS[(first * 37 + number) % len(KEYS)], *arguments)

    calls = counting.calls_of(tasks)
    await asyncio.gather(*(work(number, 5) for number in range(tasks)))
    await asyncio.gather(*counting.marked(work(number, calls // tasks) for number in range(tasks)))
    counting.mark()


async def count_pipelines(pipeline: Callable[[], Any]) -> None:
    """PIPELINES of them."""
    for _ in range(2):
        await pipeline()
    counting.mark()
    for _ in range(PIPELINES):
        await pipeline()
    counting.mark()


async def count_asyncio(ports: list[int]) -> None:
    """The rows of asyncio."""
    from agent_memory.redis.asyncio import Redis, RedisCluster

    bare = await cluster_get.connect(ports)
    keys = KEYS[:PIPELINE]

    async def ceiling(key: str) -> object:
        return await bare.get(key)

    async with (
        RedisCluster(host=counting.HOST, port=ports[0]) as ours,
        Redis(host=counting.HOST, port=ports[0]) as single,
    ):

        async def pipeline() -> None:
            collected = ours.pipeline()
            for key in keys:
                collected.get(key)
            await collected.execute()

        await count_tasks(ceiling, (), TASKS)
        await count_tasks(ours.get, (), TASKS)
        await count_tasks(single.get, (), TASKS)
        await count_tasks(ours.set, (VALUE,), TASKS)
        await count_tasks(ceiling, (), 1)
        await count_tasks(ours.get, (), 1)
        await count_pipelines(lambda: bare.pipeline(keys))
        await count_pipelines(pipeline)
    bare.close()


def count_blocking(ports: list[int]) -> None:
    """The rows of the sync clients."""
    from agent_memory.redis import RedisCluster

    bare, keys = cluster_get.Sync(ports), KEYS[:PIPELINE]
    with RedisCluster(host=counting.HOST, port=ports[0]) as ours:

        def pipeline() -> None:
            collected = ours.pipeline()
            for key in keys:
                collected.get(key)
            collected.execute()

        for call, arguments in ((bare.get, ()), (ours.get, ()), (ours.set, (VALUE,))):
            for key in KEYS[:20]:
                call(key, *arguments)
            counting.mark()
            for number in range(counting.CALLS):
                call(KEYS[number % len(KEYS)], *arguments)
            counting.mark()
        for call in (lambda: bare.pipeline(keys), pipeline):
            for _ in range(2):
                call()
            counting.mark()
            for _ in range(PIPELINES):
                call()
            counting.mark()
    bare.close()


ROWS: Final = {
    "asyncio GET, ceiling": counting.CALLS_OF_TASKS,
    "asyncio GET, cluster": counting.CALLS_OF_TASKS,
    "asyncio GET, one server": counting.CALLS_OF_TASKS,
    "asyncio SET, cluster": counting.CALLS_OF_TASKS,
    "asyncio GET, 1 task, ceiling": counting.CALLS,
    "asyncio GET, 1 task, cluster": counting.CALLS,
    "asyncio pipeline of 100, ceiling": PIPELINES,
    "asyncio pipeline of 100, cluster": PIPELINES,
    "sync GET, ceiling": counting.CALLS,
    "sync GET, cluster": counting.CALLS,
    "sync SET, cluster": counting.CALLS,
    "sync pipeline of 100, ceiling": PIPELINES,
    "sync pipeline of 100, cluster": PIPELINES,
}
"""How many calls each row counts, in the order in which the counted process makes them."""


def run_counted(ports: list[int]) -> None:
    """The body of the counted process."""
    gc.disable()
    asyncio.run(count_asyncio(ports))
    count_blocking(ports)


PEERS: Final = {
    "asyncio GET, one server": "asyncio GET, ceiling",
    "asyncio SET, cluster": "asyncio GET, ceiling",
    "sync SET, cluster": "sync GET, ceiling",
}
"""What rows are compared with that are not compared with the ceiling of the same name."""


def main() -> None:
    """Count, print, and with --check hold the ratios against their limits."""
    program = counting.Program(
        Path(__file__),
        ROWS,
        PEERS
        | {
            name: f"{name.removesuffix(', cluster')}, ceiling"
            for name in ROWS
            if name.endswith(", cluster") and name not in PEERS
        },
        LIMITS,
    )
    counting.run_program(program, str(__doc__), serve=run_servers, body=run_counted)


if __name__ == "__main__":
    main()
