"""Instructions of a GET and of a SET, through the ceiling scripts and our clients: what load does not move.

    python benches/python/count_instructions.py                # a table, under a minute
    python benches/python/count_instructions.py --check        # fails where a ratio differs from LIMITS by more than 3 %
    python benches/python/count_instructions.py --keep PREFIX  # also keeps callgrind's profiles, one for each row

Needs valgrind. The clients run in one process under callgrind, the server is a script beside it that answers from a can: each
write of so many commands gets as many replies in one write. `PYTHONHASHSEED=0`, no garbage collections by the way. What a row
counts begins and ends with a system call that nothing else makes (`getpgid`), at which callgrind notes its counts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

from ceilings import asyncio_get, sync_get

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

HOST = "127.0.0.1"
KEY, VALUE = "foo", "barbarbarbarbar"
TASKS, CALLS_OF_TASKS, CALLS = 50, 5_000, 1_000
TOLERANCE = 0.03

HELLO = (
    b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n"
    b"$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
)
CANNED = {b"GET": b"$15\r\nbarbarbarbarbar\r\n", b"SET": b"+OK\r\n", b"HELLO": HELLO, b"PING": b"+PONG\r\n"}
COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Z]+)\r\n(?:\$\d+\r\n[^\r]*\r\n)*")

LIMITS: Final = {
    "asyncio GET, drop-in": 0.384,
    "asyncio GET, facade": 1.014,
    "asyncio SET, facade": 1.011,
    "asyncio GET, 1 task, drop-in": 0.567,
    "sync GET, drop-in": 0.903,
    "sync GET, facade": 1.009,
    "sync SET, facade": 1.007,
}
"""What rows cost, times the row that they are compared with: on CPython 3.11, built without profile-guided optimisation."""


# --- the server ---------------------------------------------------------------------------------------------------------


def serve(connection: socket.socket) -> None:
    """Answer every command of one connection."""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while received := connection.recv(1 << 20):
            connection.sendall(b"".join(CANNED.get(name, b"+OK\r\n") for name in COMMAND.findall(received)))


def run_server() -> None:
    """Listen, say where, and answer until the input ends."""
    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)

        def accept() -> None:
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        sys.stdin.read()


# --- the process that is counted ------------------------------------------------------------------------------------------


def mark() -> None:
    """Callgrind writes down what it has counted."""
    os.getpgid(0)


async def count_tasks(call: Callable[..., Awaitable[object]], arguments: tuple[str, ...], tasks: int) -> None:
    """`tasks` tasks call at the same time."""

    async def get(count: int) -> None:
        (key,) = arguments
        for _ in range(count):
            await call(key)

    async def set_(count: int) -> None:
        key, value = arguments
        for _ in range(count):
            await call(key, value)

    work = get if len(arguments) == 1 else set_
    await asyncio.gather(*(work(5) for _ in range(tasks)))
    await asyncio.gather(*marked(work(calls_of(tasks) // tasks) for _ in range(tasks)))
    mark()


def calls_of(tasks: int) -> int:
    """How many calls are counted."""
    return CALLS if tasks == 1 else CALLS_OF_TASKS


def marked(workers: Iterator[Any]) -> list[Any]:
    """All of them; what is counted begins when they stand ready."""
    ready = list(workers)
    mark()
    return ready


def count_calls(call: Callable[..., object], arguments: tuple[str, ...]) -> None:
    """CALLS calls of one thread."""
    for _ in range(20):
        call(*arguments)
    mark()
    if len(arguments) == 1:
        (key,) = arguments
        for _ in range(CALLS):
            call(key)
    else:
        key, value = arguments
        for _ in range(CALLS):
            call(key, value)
    mark()


async def count_asyncio(port: int) -> None:
    """The rows of asyncio."""
    from agent_memory import AsyncResilientRedisClient
    from agent_memory.redis.asyncio import Redis

    connection = await asyncio_get.connect(HOST, port)

    async def ceiling(key: str) -> object:
        return await connection.call("GET", key)

    async with (
        Redis(host=HOST, port=port) as ours,
        Redis(host=HOST, port=port, decode_responses=True) as text,
        AsyncResilientRedisClient("counted", HOST, port) as facade,
    ):
        await count_tasks(ceiling, (KEY,), TASKS)
        await count_tasks(ours.get, (KEY,), TASKS)
        await count_tasks(text.get, (KEY,), TASKS)
        await count_tasks(facade.get, (KEY,), TASKS)
        await count_tasks(text.set, (KEY, VALUE), TASKS)
        await count_tasks(facade.set, (KEY, VALUE), TASKS)
        await count_tasks(ceiling, (KEY,), 1)
        await count_tasks(ours.get, (KEY,), 1)
    connection.transport.close()


def count_blocking(port: int) -> None:
    """The rows of the sync clients."""
    from agent_memory import ResilientRedisClient
    from agent_memory.redis import Redis

    pool = sync_get.Pool(HOST, port)

    def ceiling(key: str) -> object:
        return pool.call("GET", key)

    with (
        Redis(host=HOST, port=port) as ours,
        Redis(host=HOST, port=port, decode_responses=True) as text,
        ResilientRedisClient("counted", HOST, port) as facade,
    ):
        count_calls(ceiling, (KEY,))
        count_calls(ours.get, (KEY,))
        count_calls(text.get, (KEY,))
        count_calls(facade.get, (KEY,))
        count_calls(text.set, (KEY, VALUE))
        count_calls(facade.set, (KEY, VALUE))
    pool.close()


ROWS: Final = (
    "asyncio GET, ceiling",
    "asyncio GET, drop-in",
    "asyncio GET, drop-in of text",
    "asyncio GET, facade",
    "asyncio SET, drop-in of text",
    "asyncio SET, facade",
    "asyncio GET, 1 task, ceiling",
    "asyncio GET, 1 task, drop-in",
    "sync GET, ceiling",
    "sync GET, drop-in",
    "sync GET, drop-in of text",
    "sync GET, facade",
    "sync SET, drop-in of text",
    "sync SET, facade",
)
"""In the order in which the counted process makes them."""


PEERS: Final = {"drop-in": "ceiling", "facade": "drop-in of text"}
"""What each client is compared with: the resilient clients give text."""


def run_counted(ports: list[int]) -> None:
    """The body of the counted process."""
    (port,) = ports
    gc.disable()
    asyncio.run(count_asyncio(port))
    count_blocking(port)


# --- counting -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A script whose rows are counted."""

    path: Path
    rows: Mapping[str, int]
    """How many calls each row makes, in the order in which the counted process makes them."""
    peers: Mapping[str, str]
    """The row that each row is compared with."""
    limits: Mapping[str, float]
    """What rows cost, times the row that they are compared with."""


def count(program: Program, keep: str | None) -> dict[str, float]:
    """Instructions of one call of each row."""
    own = [sys.executable, os.fspath(program.path.resolve())]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*own, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        ports = server.stdout.readline().split()
        callgrind = [
            "valgrind",
            "--tool=callgrind",
            "--compress-strings=no",
            f"--callgrind-out-file={folder}/profile",
            "--dump-before=getpgid",
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            [*callgrind, *own, "--count", *ports], capture_output=True, text=True, env=environment, check=False
        )
        server.communicate("")
        if done.returncode:
            raise SystemExit(done.stderr)
        profiles = sorted(Path(folder).glob("profile.*"), key=lambda path: int(path.suffix[1:]))
        counted = [profile.read_text(errors="replace") for profile in profiles]
        parts = [int(found[1]) for text in counted if (found := re.search(r"^totals: (\d+)", text, re.MULTILINE))]
        # Between the two marks of one row is what is counted; between rows, what comes before the next one.
        places = slice(1, 2 * len(program.rows), 2)
        assert len(parts[places]) == len(program.rows), (
            f"{len(parts[places])} rows were counted, not {len(program.rows)}"
        )
        if keep:
            for name, profile in zip(program.rows, profiles[places], strict=True):
                Path(f"{keep}{name.replace(', ', '-').replace(' ', '-')}").write_bytes(profile.read_bytes())
    return {name: total / calls for (name, calls), total in zip(program.rows.items(), parts[places], strict=True)}


def has_limits() -> bool:
    """Whether this is the interpreter that the limits were measured with."""
    options = str(sysconfig.get_config_var("CONFIG_ARGS"))
    return sys.version_info[:2] == (3, 11) and "--enable-optimizations" not in options


def report(program: Program, rows: dict[str, float], *, check: bool) -> int:
    """Print the table; how many rows have left their limits."""
    left = 0
    for name, instructions in rows.items():
        peer = program.peers.get(name)
        line = f"{name:34}{instructions:9,.0f}"
        if peer is not None:
            ratio = instructions / rows[peer]
            line += f"   {ratio:.3f} x {peer}"
            if name in program.limits and check:
                wanted = program.limits[name]
                is_off = abs(ratio / wanted - 1) > TOLERANCE
                left += is_off
                line += f" (is to be {wanted:.3f} within {TOLERANCE:.0%})" + (" LEFT IT" if is_off else "")
        print(line)
    return left


def run_program(
    program: Program, description: str, *, serve: Callable[[], None], body: Callable[[list[int]], None]
) -> None:
    """Count, print, and with --check hold the ratios against their limits."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a ratio has left its limits")
    parser.add_argument("--keep", help="keep the profiles under names that begin so")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
    elif arguments.count:
        body(arguments.count)
    elif arguments.check and not has_limits():
        print("left out: LIMITS are those of CPython 3.11, built without profile-guided optimisation")
    elif report(program, count(program, arguments.keep), check=arguments.check):
        raise SystemExit(
            "what a row costs has changed by more than it may: change LIMITS and docs/explanation/performance.md, or the code"
        )


def main() -> None:
    """The rows of one server."""
    peers = {}
    for name in ROWS:
        work, client = name.rsplit(", ", 1)
        peer = f"{work}, " + PEERS.get(client, "nothing")
        if peer in ROWS:
            peers[name] = peer
    calls = {name: CALLS_OF_TASKS if name.startswith("asyncio") and ", 1 task" not in name else CALLS for name in ROWS}
    program = Program(Path(__file__), calls, peers, LIMITS)
    run_program(program, str(__doc__), serve=run_server, body=run_counted)


if __name__ == "__main__":
    main()
