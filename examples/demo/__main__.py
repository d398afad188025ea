"""`python -m demo`: runs the demo, shows it, writes the report; 1 if a promise was broken."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from demo.scenes import DemoResult

__all__ = ["main"]

_INTERRUPTED: Final = 130
_FAILED: Final = 1
_UNUSABLE: Final = 2


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    from demo.settings import DEFAULT_SECONDS

    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="A real server stalls, dies and comes back under load; see what the clients make of it.",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_SECONDS,
        help="about how long it takes (default %(default)g, at least 8)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("demo-report.html"),
        metavar="PATH",
        help="where the picture is written (default %(default)s)",
    )
    parser.add_argument(
        "--plain", action="store_true", help="lines instead of a live dashboard (as without a terminal)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what the callers choose to do (default %(default)s)")
    return parser.parse_args(arguments)


class _Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, and remembers that one came.

    The exception alone does not tell: cleaning up may fail on its way out and take its place (a caller that hangs, on a busy
    machine), and one that strikes in a finalizer or a callback is dropped.
    """

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as for a background job of a shell
                signal.signal(number, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt


def _say_nothing(complaint: object) -> None:
    """Takes the place of `sys.unraisablehook` after an interrupt, which may have fallen into the making of an object: the
    finalizer of the half of it then fails, which tells the user nothing about the demo.
    """


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo with command line `arguments` (default: this process's); returns the exit code."""
    options = _parse(arguments)
    try:
        from demo.dashboard import make_dashboard
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        print("missing: rich, which the extra `demo` brings: pip install 'agent-memory-redis[demo]'", file=sys.stderr)
        return _UNUSABLE
    from agent_memory.testing import ServerError
    from demo.report import write_report
    from demo.scenes import run_demo
    from demo.settings import DemoSettings
    from demo.traffic import HungError

    try:
        settings = DemoSettings(
            seconds=options.seconds, report_path=options.report, plain=options.plain, seed=options.seed
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return _UNUSABLE
    # The clients log what happens in the outages, line by line; here the picture says it.
    logging.getLogger("agent_memory").addHandler(logging.NullHandler())
    interrupts = _Interrupts()
    try:
        with make_dashboard(settings.plain, sys.stdout) as dashboard:
            result = run_demo(settings, dashboard)
        if not interrupts.came:
            write_report(result, settings.report_path)
    except (KeyboardInterrupt, Exception) as error:
        if interrupts.came:
            return _say_interrupted()
        if not isinstance(error, HungError | ServerError | OSError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return _FAILED
    if interrupts.came:
        return _say_interrupted()
    _print_verdict(result)
    return 0 if result.passed else _FAILED


def _say_interrupted() -> int:
    sys.unraisablehook = _say_nothing
    # Nor does it if the interrupt fell into a task, whose exception no caller will retrieve any more.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    print("interrupted: the server was stopped, its data removed; no verdict", file=sys.stderr)
    return _INTERRUPTED


def _print_verdict(result: DemoResult) -> None:
    from demo.summary import print_summary

    print_summary(result, sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
