"""What remains in the terminal after a run."""

from __future__ import annotations

from typing import Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.report import describe_agent, describe_verdict, describe_witness
from demo.scenes import DemoResult
from demo.settings import PHASE_TITLES
from demo.wording import format_duration_us, format_optional_s

__all__ = ["print_summary"]

_PLAIN_WIDTH: Final = 128


def print_summary(result: DemoResult, stream: TextIO) -> None:
    """Prints the comparison, the recoveries and the verdict."""
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else _PLAIN_WIDTH)
    console.print()
    console.print(_tabulate_comparison(result))
    console.print()
    console.print(_tabulate_recoveries(result))
    console.print()
    console.print(f"redis-py in the same outages: {describe_witness(result.witness)}", style="dim", soft_wrap=True)
    console.print()
    verdict = result.verdict
    for sentence in describe_verdict(verdict):
        console.print(f"  {sentence}", soft_wrap=True)
    console.print()
    for sentence in describe_agent(result.agent):
        console.print(f"  {sentence}", soft_wrap=True)
    for problem in [*verdict.problems, *result.agent.verdict.problems]:
        console.print(Text(f"  {problem}", style="red"), soft_wrap=True)
    console.print()
    answer = "PASSED: every promise was kept" if result.passed else "FAILED: promises were broken"
    console.print(Text(answer, style="bold green" if result.passed else "bold red"))
    console.print(f"picture of the run: {result.settings.report_path}", soft_wrap=True)


def _tabulate_comparison(result: DemoResult) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", title="beside redis-py", title_justify="left")
    table.add_column("callers")
    table.add_column("library")
    for title in ("op/s", "p50", "p99", "x redis-py"):
        table.add_column(title, justify="right")
    for one in result.comparison:
        table.add_row(
            one.way,
            one.library,
            f"{one.operations_per_s:,.0f}",
            format_duration_us(one.p50_us),
            format_duration_us(one.p99_us),
            f"{one.ratio:.2f}",
        )
    return table


def _tabulate_recoveries(result: DemoResult) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", title="the outages", title_justify="left")
    table.add_column("server")
    table.add_column("client")
    for title in ("open after", "refused", "in (p50)", "longest queue", "first success", "closed", "queue empty"):
        table.add_column(title, justify="right")
    for one in result.figures.recoveries:
        table.add_row(
            PHASE_TITLES[one.phase],
            one.client,
            format_optional_s(one.opened_after_s),
            f"{one.refusals:,}",
            format_duration_us(one.refusal_p50_us),
            f"{one.longest_queue:,}",
            format_optional_s(one.first_success_after_s),
            format_optional_s(one.closed_after_s),
            format_optional_s(one.drained_after_s) if one.longest_queue else "-",
        )
    table.caption = "the last three columns count from the moment the server answered again"
    table.caption_justify = "left"
    return table
