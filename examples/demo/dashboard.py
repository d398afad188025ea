"""What the terminal shows: a live picture with rich, or plain lines where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.comparison import OURS, LaneResult, percentile
from demo.figures import Group as EndingGroup
from demo.figures import group_of
from demo.recorder import Ending, Recorder
from demo.settings import PHASE_TITLES
from demo.wording import format_duration_us

__all__ = ["Dashboard", "LiveDashboard", "PlainDashboard", "make_dashboard"]

_WINDOW_S: Final = 1.0
_LIVE_INTERVAL_S: Final = 0.2
_PLAIN_INTERVAL_S: Final = 1.0
_LINES_KEPT: Final = 9
_SPARKS: Final = " ▁▂▃▄▅▆▇█"
_SPARK_COLUMNS: Final = 48

_STATE_STYLES: Final = {"closed": "green", "open": "bold red", "half_open": "yellow"}
_GROUP_STYLES: Final = {
    EndingGroup.DONE: "green",
    EndingGroup.QUEUED: "magenta",
    EndingGroup.REFUSED: "yellow",
    EndingGroup.FAILED: "red",
}
_SHOWN_ENDINGS: Final = (
    Ending.CIRCUIT_OPEN,
    Ending.NOT_SENT,
    Ending.REJECTED,
    Ending.UNKNOWN,
    Ending.QUEUED,
    Ending.DROPPED,
    Ending.FAILED,
    Ending.UNEXPECTED,
)


@dataclass(slots=True)
class _ClientView:
    """One client in the last second, and since the beginning."""

    name: str
    state: str
    queued: int
    operations_per_s: float
    p50_us: float
    p99_us: float
    groups: Counter[str]


@dataclass(slots=True)
class _View:
    """What both dashboards show."""

    clients: list[_ClientView] = field(default_factory=list)
    endings: Counter[Ending] = field(default_factory=Counter)
    """Of all clients, since the beginning."""


class _Viewer:
    """Reads views off a recorder; counts every sample once."""

    def __init__(self) -> None:
        self._endings: Counter[Ending] = Counter()
        self._counted = 0

    def look(self, recorder: Recorder) -> _View:
        samples = recorder.samples
        self._endings.update(sample.ending for sample in samples[self._counted :])
        self._counted = len(samples)
        recent = recorder.recent(_WINDOW_S)
        view = _View(endings=self._endings)
        for client in recorder.clients:
            mine = [sample for sample in recent if sample.client == client]
            latencies_ns = sorted(sample.latency_ns for sample in mine if sample.is_command)
            view.clients.append(
                _ClientView(
                    client,
                    next(change.state for change in reversed(recorder.states) if change.client == client),
                    next((point.length for point in reversed(recorder.queues) if point.client == client), 0),
                    len(mine) / _WINDOW_S,
                    percentile(latencies_ns, 0.50) / 1e3,
                    percentile(latencies_ns, 0.99) / 1e3,
                    Counter(group_of(sample.ending) for sample in mine),
                )
            )
        return view


class Dashboard(Protocol):
    """Where progress is shown. Used by the conducting thread; `refresh` by the sampler's."""

    def __enter__(self) -> Self:
        """Begins to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the terminal as it was."""

    def say(self, text: str) -> None:
        """Something has happened."""

    def begin_phase(self, phase: str, duration_s: float | None) -> None:
        """A phase begins; None where its length is unknown."""

    def show_slice(self, what: str, operations_per_s: float) -> None:
        """A slice of the comparison is over."""

    def show_comparison(self, results: list[LaneResult]) -> None:
        """The comparison is over."""

    def show_status(self, text: str) -> None:
        """How it stands at this moment, if it is time to say so."""

    def refresh(self, recorder: Recorder) -> None:
        """Shows the present, if it is time to."""


class _Pace:
    """Says when to show something again."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_s = 0.0

    def is_due(self) -> bool:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._interval_s
        return True


class PlainDashboard:
    """A line for each second and each event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start_s = time.monotonic()
        self._pace = _Pace(_PLAIN_INTERVAL_S)
        self._viewer = _Viewer()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """See Dashboard."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """See Dashboard."""

    def _print(self, text: str) -> None:
        with self._lock:
            print(f"{time.monotonic() - self._start_s:6.1f} s  {text}", file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """See Dashboard."""
        self._print(text)

    def begin_phase(self, phase: str, duration_s: float | None) -> None:
        """See Dashboard."""
        self._print(f"--- {PHASE_TITLES[phase]}" + (f" ({duration_s:.1f} s)" if duration_s is not None else ""))

    def show_slice(self, what: str, operations_per_s: float) -> None:
        """See Dashboard."""

    def show_comparison(self, results: list[LaneResult]) -> None:
        """See Dashboard."""
        for one in results:
            self._print(
                f"    {one.way:16} {one.library:12} {one.operations_per_s:>8,.0f} op/s  "
                f"p50 {format_duration_us(one.p50_us):>7}  p99 {format_duration_us(one.p99_us):>7}  x {one.ratio:.2f}"
            )

    def show_status(self, text: str) -> None:
        """See Dashboard."""
        if self._pace.is_due():
            self._print(text)

    def refresh(self, recorder: Recorder) -> None:
        """See Dashboard."""
        if not self._pace.is_due():
            return
        for client in self._viewer.look(recorder).clients:
            groups = ", ".join(f"{client.groups[group]} {group}" for group in EndingGroup.ALL if client.groups[group])
            self._print(
                f"{client.name:5} circuit {client.state:9} queue {client.queued:5d}  "
                f"p50 {format_duration_us(client.p50_us):>7}  p99 {format_duration_us(client.p99_us):>7}  "
                f"{client.operations_per_s:5.0f} op/s: {groups or 'no call has ended'}"
            )


class LiveDashboard:
    """One screenful that is kept up to date."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._pace = _Pace(_LIVE_INTERVAL_S)
        self._viewer = _Viewer()
        self._lock = threading.Lock()
        self._start_s = time.monotonic()
        self._lines: deque[Text] = deque(maxlen=_LINES_KEPT)
        self._phase = ""
        self._phase_start_s = self._start_s
        self._phase_s: float | None = None
        self._slice = ""
        self._view = _View()
        self._rates: dict[str, deque[float]] = {}
        self._queues: dict[str, deque[float]] = {}

    def __enter__(self) -> Self:
        """See Dashboard."""
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """See Dashboard."""
        self._live.__exit__(kind, error, traceback)

    def say(self, text: str) -> None:
        """See Dashboard."""
        with self._lock:
            self._add_line(text)
            self._draw()

    def begin_phase(self, phase: str, duration_s: float | None) -> None:
        """See Dashboard."""
        with self._lock:
            self._phase = PHASE_TITLES[phase]
            self._phase_start_s = time.monotonic()
            self._phase_s = duration_s
            self._slice = ""
            self._draw()

    def show_slice(self, what: str, operations_per_s: float) -> None:
        """See Dashboard."""
        with self._lock:
            self._slice = f"{what}: {operations_per_s:,.0f} op/s"
            self._draw()

    def show_comparison(self, results: list[LaneResult]) -> None:
        """See Dashboard."""
        with self._lock:
            for one in results:
                if one.library == OURS:
                    self._add_line(
                        f"{one.way}: {one.operations_per_s:,.0f} op/s, {one.ratio:.1f} x redis-py; "
                        f"p50 {format_duration_us(one.p50_us)}, p99 {format_duration_us(one.p99_us)}"
                    )
            self._draw()

    def show_status(self, text: str) -> None:
        """See Dashboard."""
        if not self._pace.is_due():
            return
        with self._lock:
            self._view = _View()
            self._slice = text
            self._draw()

    def refresh(self, recorder: Recorder) -> None:
        """See Dashboard."""
        if not self._pace.is_due():
            return
        with self._lock:
            self._view = self._viewer.look(recorder)
            for client in self._view.clients:
                self._rates.setdefault(client.name, deque(maxlen=_SPARK_COLUMNS)).append(client.operations_per_s)
                self._queues.setdefault(client.name, deque(maxlen=_SPARK_COLUMNS)).append(client.queued)
            self._draw()

    def _add_line(self, text: str) -> None:
        self._lines.append(Text.assemble((f"{time.monotonic() - self._start_s:5.1f} s  ", "dim"), text))

    def _draw(self) -> None:
        parts: list[RenderableType] = [self._draw_phase()]
        if self._view.clients:
            parts += ["", self._draw_clients(), "", self._draw_endings(), "", self._draw_history()]
        parts += ["", *self._lines]
        self._live.update(
            Panel(Group(*parts), title="agent_memory", title_align="left", border_style="dim", padding=(1, 2)),
            refresh=True,
        )

    def _draw_phase(self) -> RenderableType:
        elapsed_s = time.monotonic() - self._phase_start_s
        bar = ProgressBar(
            total=self._phase_s or 1.0,
            completed=min(elapsed_s, self._phase_s or 0.0),
            width=36,
            pulse=self._phase_s is None and bool(self._phase),
        )
        away = self._phase in (PHASE_TITLES["stalled"], PHASE_TITLES["killed"])
        row = Table.grid(padding=(0, 2))
        row.add_row(Text(self._phase or "starting", style="bold red" if away else "bold"), bar, Text(self._slice))
        return row

    def _draw_clients(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("client")
        table.add_column("circuit", min_width=9)
        for title in ("op/s", "p50", "p99", "queue"):
            table.add_column(title, justify="right", min_width=7)
        table.add_column("in the last second")
        for client in self._view.clients:
            shares = Text()
            for group in EndingGroup.ALL:
                if client.groups[group]:
                    shares.append(f"{client.groups[group]:,} {group}  ", style=_GROUP_STYLES[group])
            table.add_row(
                client.name,
                Text(client.state.replace("_", "-"), style=_STATE_STYLES[client.state]),
                f"{client.operations_per_s:,.0f}",
                format_duration_us(client.p50_us),
                format_duration_us(client.p99_us),
                f"{client.queued:,}",
                shares,
            )
        return table

    def _draw_endings(self) -> RenderableType:
        text = Text.assemble(("since the start   ", "dim"))
        done = sum(count for ending, count in self._view.endings.items() if ending.good)
        text.append(f"done {done:,}", style="green")
        for ending in _SHOWN_ENDINGS:
            if self._view.endings[ending]:
                style = _GROUP_STYLES[group_of(ending)]
                text.append(f"   {ending} {self._view.endings[ending]:,}", style=style)
        return text

    def _draw_history(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for title, histories, style in (("op/s", self._rates, "cyan"), ("queue", self._queues, "magenta")):
            for client, values in histories.items():
                table.add_row(Text(f"{client} {title}", style="dim"), Text(_sparkline(values), style=style))
        return table


def _sparkline(values: deque[float]) -> str:
    highest = max(values, default=0.0)
    if highest <= 0:
        return _SPARKS[1] * len(values)
    steps = len(_SPARKS) - 1
    return "".join(_SPARKS[max(1, round(value / highest * steps))] for value in values)


def make_dashboard(plain: bool, stream: TextIO) -> Dashboard:
    """The live dashboard if `stream` is a terminal and `plain` is false; else lines."""
    if plain or not stream.isatty():
        return PlainDashboard(stream)
    return LiveDashboard(Console(file=stream))
