"""The main picture: one time axis; circuit states, latency, throughput and queue above each other."""

from __future__ import annotations

from typing import Final

from demo.drawing import (
    Linear,
    Logarithmic,
    element,
    heading,
    line,
    picture,
    polyline_path,
    rectangle,
    round_ticks,
    step_path,
    text,
    time_axis,
)
from demo.figures import OUTAGE_ENDS, Bin, Group, RunFigures
from demo.settings import PHASE_TITLES
from demo.wording import format_duration_us, format_optional_s

__all__ = ["draw_timeline"]

_WIDTH: Final = 1120.0
_LEFT: Final = 78.0
_RIGHT: Final = 1100.0

_MARKS_Y: Final = 14.0
_PHASES_Y: Final = 24.0
_PHASES_HEIGHT: Final = 24.0
_CIRCUIT_Y: Final = 84.0
_ROW_HEIGHT: Final = 18.0
_ROW_GAP: Final = 5.0
_LATENCY_Y: Final = 168.0
_LATENCY_HEIGHT: Final = 230.0
_RATE_Y: Final = 440.0
_RATE_HEIGHT: Final = 150.0
_QUEUE_Y: Final = 632.0
_QUEUE_HEIGHT: Final = 110.0
_BOTTOM: Final = _QUEUE_Y + _QUEUE_HEIGHT
_HEIGHT: Final = _BOTTOM + 40.0

_LOWEST_US: Final = 1.0
_HIGHEST_US: Final = 2e6

_BOX: Final = "■"
_STROKES: Final = {"p50": "━", "p99": "─"}

_GROUP_CLASSES: Final = {
    Group.DONE: "done",
    Group.QUEUED: "queued",
    Group.REFUSED: "refused",
    Group.FAILED: "failed",
}


def draw_timeline(figures: RunFigures, clients: list[str]) -> str:
    """The picture as an SVG element; its colours come from the page's classes."""
    across = Linear(0.0, figures.duration_s, _LEFT, _RIGHT)
    content = [
        *_draw_phases(figures, across),
        *_draw_marks(figures, across),
        *_draw_circuits(figures, clients, across),
        *_draw_latencies(figures, clients, across),
        *_draw_rates(figures, across),
        *_draw_queues(figures, clients, across),
        *time_axis(figures.duration_s, across, _LEFT, _RIGHT, _BOTTOM),
        *_draw_columns(figures, clients, across),
    ]
    return picture(content, _WIDTH, _HEIGHT, "Circuit, latency, throughput and queue over time", "timeline")


def _draw_phases(figures: RunFigures, across: Linear) -> list[str]:
    drawn = []
    for phase in figures.phases:
        left, right = across(phase.start_s), across(phase.end_s)
        away = phase.name in OUTAGE_ENDS
        if away:
            drawn.append(rectangle(left, _PHASES_Y, right - left, _BOTTOM - _PHASES_Y, "outage"))
        drawn.append(
            rectangle(
                left + 1, _PHASES_Y, right - left - 2, _PHASES_HEIGHT, "phase away" if away else "phase", radius=3
            )
        )
        if right - left > 7 * len(PHASE_TITLES[phase.name]):
            words = PHASE_TITLES[phase.name]
            drawn.append(text((left + right) / 2, _PHASES_Y + 16, words, "phase-name", "middle"))
    return drawn


def _draw_marks(figures: RunFigures, across: Linear) -> list[str]:
    drawn = []
    for at_s, name in figures.marks:
        x = across(at_s)
        drawn += [line(x, _PHASES_Y - 6, x, _BOTTOM, "mark"), text(x + 3, _MARKS_Y, name, "mark-name")]
    return drawn


def _draw_circuits(figures: RunFigures, clients: list[str], across: Linear) -> list[str]:
    legend = [(_BOX, f"state-{state}", state.replace("_", "-")) for state in ("closed", "open", "half_open")]
    drawn = [heading(_LEFT, _CIRCUIT_Y - 10, "Circuit", legend)]
    for row, client in enumerate(clients):
        y = _CIRCUIT_Y + row * (_ROW_HEIGHT + _ROW_GAP)
        drawn.append(text(_LEFT - 8, y + 13, client, "tick", "end"))
        for band in figures.states:
            if band.client == client:
                left, right = across(band.start_s), across(band.end_s)
                # A half-open circuit lasts a millisecond: it gets a pixel all the same.
                width = max(right - left, 1.6) if band.state == "half_open" else right - left
                drawn.append(rectangle(left, y, width, _ROW_HEIGHT, f"state-{band.state}"))
    return drawn


def _draw_latencies(figures: RunFigures, clients: list[str], across: Linear) -> list[str]:
    legend = [(_STROKES[kind], client, f"{client} {kind}") for client in clients for kind in ("p50", "p99")]
    drawn = [heading(_LEFT, _LATENCY_Y - 10, "Latency of commands, however they end", legend)]
    up = Logarithmic(_LOWEST_US, _HIGHEST_US, _LATENCY_Y + _LATENCY_HEIGHT, _LATENCY_Y)
    for decade in up.decades():
        drawn += [
            line(_LEFT, up(decade), _RIGHT, up(decade), "grid"),
            text(_LEFT - 8, up(decade) + 4, _name_decade(decade), "tick", "end"),
        ]
    for client in clients:
        for kind in ("p99", "p50"):
            path = "".join(polyline_path(points) for points in _stretches(figures.bins, client, kind, across, up))
            drawn.append(element("path", d=path, class_=f"{kind} {client}"))
    return drawn + _draw_remarks(figures, across, up)


def _name_decade(duration_us: float) -> str:
    for unit, size_us in (("s", 1e6), ("ms", 1e3)):
        if duration_us >= size_us:
            return f"{duration_us / size_us:.0f} {unit}"
    return f"{duration_us:.0f} µs"


def _stretches(
    bins: list[Bin], client: str, kind: str, across: Linear, up: Logarithmic
) -> list[list[tuple[float, float]]]:
    """The points of a line, broken where no command ended."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for one in bins:
        value_us = (one.p50_us if kind == "p50" else one.p99_us).get(client)
        if value_us is not None:
            stretches[-1].append((across((one.start_s + one.end_s) / 2), up(value_us)))
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def _draw_remarks(figures: RunFigures, across: Linear, up: Logarithmic) -> list[str]:
    """What to see in the latencies, written where it is to be seen."""
    drawn = []
    spans = {phase.name: phase for phase in figures.phases}
    for outage, following in OUTAGE_ENDS.items():
        recoveries = [one for one in figures.recoveries if one.phase == outage]
        if not recoveries or outage not in spans:
            continue
        refusals_us = [one.refusal_p50_us for one in recoveries if one.refusals]
        if refusals_us:
            middle = (across(spans[outage].start_s) + across(spans[outage].end_s)) / 2
            words = f"refused in {format_duration_us(max(refusals_us))}"
            drawn.append(text(middle, up(min(refusals_us)) + 26, words, "remark", "middle"))
        if following in spans:
            waits_s = [one.first_success_after_s for one in recoveries]
            slowest_s = None if None in waits_s else max(wait_s for wait_s in waits_s if wait_s is not None)
            words = f"first success after {format_optional_s(slowest_s)}"
            drawn.append(text(across(spans[following].start_s) + 6, _LATENCY_Y + 16, words, "remark"))
    return drawn


def _draw_grid(ticks: list[float], up: Linear) -> list[str]:
    drawn = []
    for tick in ticks:
        drawn += [
            line(_LEFT, up(tick), _RIGHT, up(tick), "grid"),
            text(_LEFT - 8, up(tick) + 4, f"{tick:,.0f}", "tick", "end"),
        ]
    return drawn


def _edges(bins: list[Bin], across: Linear) -> list[float]:
    return [*(across(one.start_s) for one in bins), across(bins[-1].end_s)]


def _draw_rates(figures: RunFigures, across: Linear) -> list[str]:
    legend = [(_BOX, _GROUP_CLASSES[group], group) for group in Group.ALL]
    drawn = [heading(_LEFT, _RATE_Y - 10, "Operations per second, by their end", legend)]
    bins = [one for one in figures.bins if one.end_s > one.start_s]
    rates = [{group: one.counts[group] / (one.end_s - one.start_s) for group in Group.ALL} for one in bins]
    ticks = round_ticks(max((sum(rate.values()) for rate in rates), default=1.0), 4)
    up = Linear(0.0, ticks[-1], _RATE_Y + _RATE_HEIGHT, _RATE_Y)
    drawn += _draw_grid(ticks, up)
    edges = _edges(bins, across)
    below = [0.0] * len(bins)
    for group in Group.ALL:
        above = [low + rate[group] for low, rate in zip(below, rates, strict=True)]
        path = step_path(edges, [up(value) for value in above], [up(value) for value in below])
        drawn.append(element("path", d=path, class_=_GROUP_CLASSES[group]))
        below = above
    return drawn


def _draw_queues(figures: RunFigures, clients: list[str], across: Linear) -> list[str]:
    legend = [(_BOX, client, client) for client in clients]
    drawn = [heading(_LEFT, _QUEUE_Y - 10, "Writes in the recovery queue", legend)]
    bins = [one for one in figures.bins if one.end_s > one.start_s]
    ticks = round_ticks(max(figures.longest_queue, 4), 3)
    up = Linear(0.0, ticks[-1], _QUEUE_Y + _QUEUE_HEIGHT, _QUEUE_Y)
    drawn += _draw_grid(ticks, up)
    edges = _edges(bins, across)
    below = [0.0] * len(bins)
    for client in clients:
        above = [low + one.queued.get(client, 0) for low, one in zip(below, bins, strict=True)]
        path = step_path(edges, [up(value) for value in above], [up(value) for value in below])
        drawn.append(element("path", d=path, class_=f"area {client}"))
        below = above
    return drawn


def _draw_columns(figures: RunFigures, clients: list[str], across: Linear) -> list[str]:
    """Transparent columns over everything, which say the figures of their moment to a mouse that rests there."""
    states = {client: [band for band in figures.states if band.client == client] for client in clients}
    drawn = []
    for one in figures.bins:
        lines = [f"{one.start_s:.1f} to {one.end_s:.1f} s"]
        width_s = one.end_s - one.start_s
        if width_s <= 0:
            continue
        for client in clients:
            state = next((band.state for band in states[client] if band.start_s <= one.end_s <= band.end_s), "closed")
            p50 = format_duration_us(one.p50_us.get(client, 0.0))
            p99 = format_duration_us(one.p99_us.get(client, 0.0))
            queued = one.queued.get(client, 0)
            lines.append(f"{client}: circuit {state.replace('_', '-')}, p50 {p50}, p99 {p99}, {queued} queued")
        lines.append(
            ", ".join(f"{one.counts[group] / width_s:,.0f} {group}/s" for group in Group.ALL if one.counts[group])
        )
        left, right = across(one.start_s), across(one.end_s)
        drawn.append(rectangle(left, _PHASES_Y, right - left, _BOTTOM - _PHASES_Y, "column", title="\n".join(lines)))
    return drawn
