"""Runs a command several times on a machine that is busy: tests that wait for time rather than for events fail there.

    python tools/under_load.py [--runs 3] [--loops N] -- COMMAND ...

Beside it run `loops` processes that do nothing but use a core (three for each core by default). They end with the command,
with an interrupt, and also when this process is killed: each watches a pipe that only this process holds open. The exit
status is that of the first run that failed, else 0; all runs are made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

LOOPS_PER_CORE = 3

_LOOP = """
import os, select
while not select.select([0], [], [], 0)[0]:
    for _ in range(1_000_000):
        pass
"""
"""Busy until standard input ends, which is when the process that started it is gone."""


@contextlib.contextmanager
def busy(loops: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many busy loops beside what is done in the `with` block."""
    reading, writing = os.pipe()
    started: list[subprocess.Popen[bytes]] = []
    try:
        while len(started) < loops:
            started.append(subprocess.Popen([sys.executable, "-c", _LOOP], stdin=reading))
        yield started
    finally:
        os.close(writing)
        os.close(reading)
        for loop in started:
            loop.kill()
            loop.wait()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command of the command line; returns its exit status."""
    parser = argparse.ArgumentParser(description="Runs a command several times beside busy loops.")
    parser.add_argument("--runs", type=int, default=3, help="how often (default %(default)s)")
    parser.add_argument(
        "--loops", type=int, default=LOOPS_PER_CORE * (os.cpu_count() or 1), help="busy loops (default: %(default)s)"
    )
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    options = parser.parse_args(arguments)
    status = 0
    for number in range(1, options.runs + 1):
        with busy(options.loops):
            ended = subprocess.run(options.command, check=False).returncode
        print(f"run {number} of {options.runs} beside {options.loops} busy loops: exit status {ended}", flush=True)
        status = status or ended
    return status


if __name__ == "__main__":
    sys.exit(main())
