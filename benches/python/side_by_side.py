"""Contenders measured in turns on the same machine at the same minute, and what came out of it.

A figure alone says little on a machine that others use too. So every round measures each contender once, shortly, in an
order that rotates; a ratio is taken within a round, and the median over the rounds is quoted with its extremes. Rounds last
a few milliseconds, so that most of them are not interrupted. The ratio of the two minima stands beside it: on a machine under
load it is the steadier of the two.
"""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable


WARM_UP_CALLS = 5
"""Unmeasured calls at the start of a round: the contender before has left its own things in the caches."""


@dataclass(frozen=True)
class Target:
    """A promise about one contender in terms of another.

    With `at_most`, the time per call is at most so many times the baseline's. With `at_least`, the calls per second are at
    least so many times the baseline's.
    """

    baseline: str
    at_most: float | None = None
    at_least: float | None = None

    def ratios(self, ours_us: list[float], baseline_us: list[float]) -> list[float]:
        pairs = zip(ours_us, baseline_us, strict=True)
        return [ours / base if self.at_most is not None else base / ours for ours, base in pairs]

    def is_met(self, ratio: float) -> bool:
        return ratio <= self.at_most if self.at_most is not None else ratio >= (self.at_least or 0.0)

    def __str__(self) -> str:
        if self.at_most is not None:
            return f"at most {self.at_most:g} x the time of {self.baseline}"
        return f"at least {self.at_least:g} x the rate of {self.baseline}"


@dataclass
class Row:
    """One line of the speed table: what every contender took, round by round, in microseconds per call."""

    name: str
    targets: tuple[Target, ...]
    rounds_us: dict[str, list[float]] = field(default_factory=dict)

    def add(self, contender: str, value_us: float) -> None:
        self.rounds_us.setdefault(contender, []).append(value_us)

    def report(self, judged: Iterable[str], ceiling: str) -> dict[str, Any]:
        """What is written as JSON: spreads per contender, ratios to the ceiling, targets of the judged contenders."""
        contenders = {}
        for name, values_us in self.rounds_us.items():
            ratios = [own / base for own, base in zip(values_us, self.rounds_us[ceiling], strict=True)]
            contenders[name] = {"us_per_call": spread(values_us), "times_ceiling": spread(ratios)}
        verdicts = []
        for name in judged:
            for target in self.targets:
                if name in self.rounds_us and target.baseline in self.rounds_us:
                    ratios = target.ratios(self.rounds_us[name], self.rounds_us[target.baseline])
                    minima = target.ratios([min(self.rounds_us[name])], [min(self.rounds_us[target.baseline])])
                    ratio = spread(ratios) | {"of_minima": minima[0]}
                    met = target.is_met(ratio["median"])
                    verdicts.append({"contender": name, "target": str(target), "ratio": ratio, "met": met})
        return {"row": self.name, "contenders": contenders, "targets": verdicts}


def spread(values: list[float]) -> dict[str, float]:
    """Median and extremes, and the quarters between which half of the rounds lie."""
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "lower_quarter": quarters[0],
        "upper_quarter": quarters[2],
    }


def print_report(report: dict[str, Any]) -> None:
    print(f"\n{report['row']}")
    print(f"  {'':22s} {'us per call':>11s} {'min':>8s} {'max':>8s}   {'x ceiling':>9s} {'min':>6s} {'max':>6s}")
    for name, figures in report["contenders"].items():
        took, ratio = figures["us_per_call"], figures["times_ceiling"]
        print(
            f"  {name:22s} {took['median']:11.2f} {took['min']:8.2f} {took['max']:8.2f}"
            f"   {ratio['median']:9.2f} {ratio['min']:6.2f} {ratio['max']:6.2f}"
        )
    for verdict in report["targets"]:
        ratio = verdict["ratio"]
        print(
            f"  {'met   ' if verdict['met'] else 'MISSED'} {verdict['contender']}: {verdict['target']}: "
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}; of the minima {ratio['of_minima']:.2f})"
        )


def in_turns(names: list[str], rounds: int) -> Iterable[str]:
    """Each name once a round; the order rotates, so that none always follows the same other."""
    for number in range(rounds):
        shift = number % len(names)
        yield from names[shift:] + names[:shift]


# --- timing -------------------------------------------------------------------------------------------------------------


def time_calls(get: Callable[[], object], calls: int) -> tuple[float, float]:
    """Microseconds per call: wall, and CPU of this process with all its threads."""
    for _ in range(WARM_UP_CALLS):
        get()
    cpu_started_s, started_s = time.process_time(), time.perf_counter()
    for _ in range(calls):
        get()
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_started_s
    return wall_s / calls * 1e6, cpu_s / calls * 1e6


def time_threads(get: Callable[[], object], threads: int, calls: int) -> float:
    """Wall microseconds per call when each of `threads` threads makes `calls` calls."""

    def work() -> None:
        for _ in range(calls):
            get()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started_s = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - started_s) / (threads * calls) * 1e6


async def time_tasks(get: Callable[[str], Awaitable[object]], tasks: int, calls: int) -> float:
    """Wall microseconds per call when `tasks` tasks share `calls` calls."""
    from ceilings import asyncio_get

    return await asyncio_get.time_tasks(get, tasks, calls)


# --- the machine --------------------------------------------------------------------------------------------------------


def pin(cores: Iterable[int]) -> None:
    """Bind this process, and what it starts from now on, to the cores; does nothing where the system cannot."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def usable_cores() -> set[int]:
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()


def describe_machine(packages: Iterable[str]) -> dict[str, Any]:
    """What a reader must know to compare: processor, system, interpreter and how it was built, versions, load."""
    import sysconfig

    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return {
        "processor": _processor(),
        "cores": len(usable_cores()),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}"
        + (", profile-guided build" if optimised else ", built without profile-guided optimisation"),
        "versions": versions,
        "load_before": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
