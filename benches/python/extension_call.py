"""What a call into the extension costs: version-specific build against abi3, and beside other ways to spend the time.

    python benches/python/extension_call.py                 builds both variants under target/ and times them, interleaved
    python benches/python/extension_call.py --instructions  counts instructions instead (needs valgrind), which repeats exactly

Each figure is nanoseconds a call, the bare loop subtracted: the best and the median of the rounds. The process pins itself to
one core.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
import timeit

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = "lib_core.so"
VARIANTS = {"version-specific": [], "abi3": ["--features", "abi3"]}
CALLS_A_ROUND = 5_000
ROUNDS = 200
COUNTED_CALLS = 20_000


def build(variant, options):
    """Build one variant; returns the shared library."""
    target = ROOT / "target" / f"extension-call-{variant}"
    command = ["cargo", "build", "--release", "--quiet", "-p", "agent-memory-bindings"]
    command += ["--features", "pyo3/extension-module", *options, "--target-dir", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYO3_PYTHON": sys.executable})
    return target / "release" / LIBRARY


def load(variant, path):
    """Load a variant under a name of its own, beside the installed one."""
    name = f"{variant.replace('-', '_')}._core"
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def no_operation():
    pass


def cases_of(core):
    """Statements by name, each with the names it uses."""
    guard = core.Guard("bench", breaker=core.BreakerRules(), budget=core.BudgetRules())
    operation = guard.operation("get", category=0)
    permit = operation.admit()
    breaker = core.Breaker("bench", core.BreakerRules(), OSError)
    return {
        "monotonic_ns()": ("call()", {"call": core.monotonic_ns}),
        "admit()": ("call()", {"call": operation.admit}),
        "abandon(permit)": ("call(permit)", {"call": operation.abandon, "permit": permit}),
        "success(permit)": ("call(permit)", {"call": operation.success, "permit": permit}),
        "success(admit())": ("done(start())", {"start": operation.admit, "done": operation.success}),
        "execute(no_operation)": ("call(function)", {"call": breaker._execute, "function": no_operation}),
    }


def print_times(modules):
    """Interleaved rounds of every case of every variant."""
    cases = {(variant, name): case for variant, core in modules.items() for name, case in cases_of(core).items()}
    cases["Python", "the bare loop"] = ("pass", {})
    cases["Python", "time.monotonic_ns()"] = ("call()", {"call": time.monotonic_ns})
    cases["Python", "abs(1)"] = ("call(1)", {"call": abs})
    timers = {key: timeit.Timer(statement, globals=names) for key, (statement, names) in cases.items()}
    rounds = {key: [] for key in timers}
    for _ in range(ROUNDS):
        for key, timer in timers.items():
            rounds[key].append(timer.timeit(CALLS_A_ROUND) / CALLS_A_ROUND * 1e9)
    loop = rounds["Python", "the bare loop"]
    for (variant, name), times in rounds.items():
        subtract = [0.0] if times is loop else loop
        best, median = min(times) - min(subtract), statistics.median(times) - statistics.median(subtract)
        print(f"{variant:18} {name:22} best {best:6.1f} ns   median {median:6.1f} ns")


def count(path, variant, name, calls):
    """Instructions of a whole process that makes `calls` calls."""
    own = [sys.executable, __file__, "--run", str(path), variant, name, str(calls)]
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *own]
    report = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "0"}
    ).stderr
    return int(re.search(r"Collected : (\d+)", report).group(1))


def print_instructions(paths):
    """The difference between many calls and none, a call: the start of the interpreter cancels out."""
    for variant, path in paths.items():
        for name in ("pass", *cases_of(load(variant, path))):
            without, with_calls = (count(path, variant, name, calls) for calls in (0, COUNTED_CALLS))
            print(f"{variant:18} {name:22} {(with_calls - without) / COUNTED_CALLS:8.1f} instructions")


def run_one(path, variant, name, calls):
    """The body of a counted process."""
    cases = {"pass": ("pass", {}), **cases_of(load(variant, path))}
    statement, names = cases[name]
    timeit.Timer(statement, globals=names).timeit(int(calls))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_one(*arguments.run)
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    paths = {variant: build(variant, options) for variant, options in VARIANTS.items()}
    if arguments.instructions:
        print_instructions(paths)
    else:
        print_times({variant: load(variant, path) for variant, path in paths.items()})


if __name__ == "__main__":
    main()
