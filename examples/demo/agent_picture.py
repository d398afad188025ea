"""The agent's picture: where the memories live, what is stored at which level, what is asked, above one time axis."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from typing import Final

from demo.agent import AgentResult, AgentSample
from demo.comparison import percentile
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
from demo.wording import format_duration_us

__all__ = ["TIER_NAMES", "draw_agent"]

TIER_NAMES: Final = {"STM": "short-term", "IM": "intermediate", "LTM": "long-term"}

_WIDTH: Final = 1120.0
_LEFT: Final = 78.0
_RIGHT: Final = 1100.0
_TOP: Final = 8.0
_HOMES_Y: Final = 44.0
_HOMES_HEIGHT: Final = 220.0
_REDIS_Y: Final = 306.0
_REDIS_HEIGHT: Final = 80.0
_STORES_Y: Final = 428.0
_STORES_HEIGHT: Final = 80.0
_ASKED_Y: Final = 550.0
_ASKED_HEIGHT: Final = 150.0
_BOTTOM: Final = _ASKED_Y + _ASKED_HEIGHT
_HEIGHT: Final = _BOTTOM + 40.0

_SLICES: Final = 60
_LOWEST_US: Final = 100.0
_HIGHEST_US: Final = 1e6
_BOX: Final = "■"
_DOT: Final = "●"

# From the bottom up: what has been longest on its way lies lowest.
_BANDS: Final = (
    ("long_term", "ltm", "long-term (SQL)"),
    ("intermediate", "im", "intermediate"),
    ("short_term", "stm", "short-term"),
    ("only_in_redis", "dirty", "accepted by Redis alone, on its way to SQL"),
)


def draw_agent(result: AgentResult) -> str:
    """The picture as an SVG element; its colours come from the page's classes."""
    across = Linear(0.0, max(result.duration_s, 1e-9), _LEFT, _RIGHT)
    content = [
        *_draw_outages(result, across),
        *_draw_homes(result, across),
        *_draw_redis(result, across),
        *_draw_stores(result, across),
        *_draw_questions(result, across),
        *time_axis(result.duration_s, across, _LEFT, _RIGHT, _BOTTOM),
        *_draw_columns(result, across),
    ]
    return picture(
        content, _WIDTH, _HEIGHT, "Where the agent's memories live, and what is stored and asked, over time", "agent"
    )


def _draw_outages(result: AgentResult, across: Linear) -> list[str]:
    drawn = []
    words = {"Redis": "Redis is killed", "SQL": "the database refuses writes"}
    for name, (began_s, ended_s) in result.away.items():
        left, right = across(began_s), across(ended_s)
        drawn += [
            rectangle(left, _TOP, right - left, _BOTTOM - _TOP, "outage"),
            text((left + right) / 2, _TOP + 12, words[name], "mark-name", "middle"),
        ]
    return drawn


def _draw_grid(ticks: list[float], up: Linear) -> list[str]:
    drawn = []
    for tick in ticks:
        drawn += [
            line(_LEFT, up(tick), _RIGHT, up(tick), "grid"),
            text(_LEFT - 8, up(tick) + 4, f"{tick:,.0f}", "tick", "end"),
        ]
    return drawn


def _draw_homes(result: AgentResult, across: Linear) -> list[str]:
    drawn = [
        heading(_LEFT, _HOMES_Y - 10, "Memories, by where they live", [(_BOX, key, words) for _, key, words in _BANDS])
    ]
    samples = result.samples
    totals = [sum(_count(sample, name) for name, _, _ in _BANDS) for sample in samples]
    ticks = round_ticks(max(totals, default=1), 5)
    up = Linear(0.0, ticks[-1], _HOMES_Y + _HOMES_HEIGHT, _HOMES_Y)
    drawn += _draw_grid(ticks, up)
    if not samples:
        return drawn
    edges = [across(sample.at_s) for sample in samples] + [across(result.duration_s)]
    below = [0.0] * len(samples)
    for name, class_, _ in _BANDS:
        above = [low + _count(sample, name) for low, sample in zip(below, samples, strict=True)]
        path = step_path(edges, [up(value) for value in above], [up(value) for value in below])
        drawn.append(element("path", d=path, class_=class_))
        below = above
    return drawn


def _count(sample: AgentSample, name: str) -> int:
    """What only the server has is unknown while it is away; it comes back with it."""
    return getattr(sample, name) or 0


def _draw_redis(result: AgentResult, across: Linear) -> list[str]:
    drawn = [
        heading(_LEFT, _REDIS_Y - 10, "Copies in Redis, of all tiers", [("━", "copies", "as its sets count them")])
    ]
    known = [sample.in_redis for sample in result.samples if sample.in_redis is not None]
    ticks = round_ticks(max(known, default=1), 3)
    up = Linear(0.0, ticks[-1], _REDIS_Y + _REDIS_HEIGHT, _REDIS_Y)
    drawn += _draw_grid(ticks, up)
    stretches: list[list[tuple[float, float]]] = [[]]
    for sample in result.samples:
        if sample.in_redis is not None:
            stretches[-1].append((across(sample.at_s), up(sample.in_redis)))
        elif stretches[-1]:
            stretches.append([])
    path = "".join(polyline_path(stretch) for stretch in stretches if stretch)
    if path:
        drawn.append(element("path", d=path, class_="copies line"))
    return drawn


def _draw_stores(result: AgentResult, across: Linear) -> list[str]:
    legend = [(_BOX, "sql", "committed by SQL"), (_BOX, "dirty", "accepted by Redis")]
    drawn = [heading(_LEFT, _STORES_Y - 10, "New memories per second, by what was promised", legend)]
    width_s = max(result.duration_s, 1e-9) / _SLICES
    slices: list[Counter[str]] = [Counter() for _ in range(_SLICES)]
    for at_s, level in result.stores:
        slices[min(int(at_s / width_s), _SLICES - 1)][level] += 1
    # What is loaded at the beginning is one call, and would leave nothing to be seen of the rest.
    rates = [{level: one[level] / width_s for level in ("sql", "redis")} for one in slices]
    highest = sorted(sum(rate.values()) for rate in rates)[-3]
    ticks = round_ticks(max(highest, 1.0) * 1.1, 3)
    up = Linear(0.0, ticks[-1], _STORES_Y + _STORES_HEIGHT, _STORES_Y)
    drawn += _draw_grid(ticks, up)
    edges = [across(number * width_s) for number in range(_SLICES + 1)]
    below = [0.0] * _SLICES
    for level, class_ in (("sql", "sql"), ("redis", "dirty")):
        above = [min(low + rate[level], ticks[-1]) for low, rate in zip(below, rates, strict=True)]
        path = step_path(edges, [up(value) for value in above], [up(value) for value in below])
        drawn.append(element("path", d=path, class_=class_))
        below = above
    return drawn


def _draw_questions(result: AgentResult, across: Linear) -> list[str]:
    legend = [(_DOT, tier.lower(), words) for tier, words in TIER_NAMES.items()]
    legend.append((_DOT, "failed", "no answer"))
    drawn = [heading(_LEFT, _ASKED_Y - 10, "Questions: how long the answer took, and where it came from", legend)]
    up = Logarithmic(_LOWEST_US, _HIGHEST_US, _ASKED_Y + _ASKED_HEIGHT, _ASKED_Y)
    for decade in up.decades():
        words = f"{decade:.0f} µs" if decade < 1e3 else f"{decade / 1e3:,.0f} ms"
        drawn += [
            line(_LEFT, up(decade), _RIGHT, up(decade), "grid"),
            text(_LEFT - 8, up(decade) + 4, words, "tick", "end"),
        ]
    for question in result.questions:
        class_ = f"answer {question.tier.lower() or 'failed'}"
        drawn.append(element("circle", cx=across(question.at_s), cy=up(question.latency_us), r=2.4, class_=class_))
    return drawn


def _draw_columns(result: AgentResult, across: Linear) -> list[str]:
    """Transparent columns over everything, which say the figures of their moment to a mouse that rests there."""
    drawn = []
    for sample, next_one in zip_longest(result.samples, result.samples[1:]):
        end_s = next_one.at_s if next_one is not None else result.duration_s
        asked = sorted(one.latency_us for one in result.questions if sample.at_s <= one.at_s < end_s)
        lines = [
            f"{sample.at_s:.1f} s",
            f"{sample.short_term:,} short-term, {sample.intermediate:,} intermediate, {sample.long_term:,} long-term",
            "Redis is away"
            if sample.in_redis is None
            else f"{sample.in_redis:,} copies in Redis, {sample.only_in_redis:,} of them in nothing else",
            f"{len(asked)} questions, p50 {format_duration_us(percentile(asked, 0.5))}",
        ]
        left, right = across(sample.at_s), across(end_s)
        drawn.append(rectangle(left, _TOP, right - left, _BOTTOM - _TOP, "column", title="\n".join(lines)))
    return drawn
