"""The little of SVG that the picture needs: scales, ticks, elements that are always well-formed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

__all__ = [
    "Linear",
    "Logarithmic",
    "element",
    "heading",
    "line",
    "number",
    "picture",
    "polyline_path",
    "rectangle",
    "round_ticks",
    "step_path",
    "text",
    "time_axis",
]


def number(value: float) -> str:
    """A coordinate: two digits after the point are more than a screen can show."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def element(name: str, content: str = "", **attributes: str | float | None) -> str:
    """An element with ready-made content. `_` in attribute names stands for `-`, a trailing one is dropped."""
    parts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        rendered = value if isinstance(value, str) else number(value)
        parts.append(f"{key.rstrip('_').replace('_', '-')}={quoteattr(rendered)}")
    return f"<{' '.join(parts)}>{content}</{name}>" if content else f"<{' '.join(parts)}/>"


def text(x: float, y: float, words: str, class_: str = "", anchor: str | None = None) -> str:
    """A line of text; `anchor` is "middle" or "end" if it does not begin at x."""
    return element("text", escape(words), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rectangle(
    x: float, y: float, width: float, height: float, class_: str, title: str = "", radius: float | None = None
) -> str:
    """A rectangle; `title` shows where the mouse rests."""
    content = element("title", escape(title)) if title else ""
    return element("rect", content, x=x, y=y, width=max(0.0, width), height=max(0.0, height), class_=class_, rx=radius)


@dataclass(frozen=True, slots=True)
class Linear:
    """Values from `low` to `high` on the way from `start` to `end` of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where `value` lies."""
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """Like Linear, with equal steps for equal factors. Values below `low` lie at `low`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where `value` lies."""
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.start + (self.end - self.start) * min(share, 1.0)

    def decades(self) -> list[float]:
        """The powers of ten from `low` to `high`."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**exponent for exponent in range(first, last + 1)]


def round_ticks(high: float, count: int) -> list[float]:
    """About `count` round numbers from 0 to at least `high`."""
    if high <= 0:
        return [0.0, 1.0]
    raw = high / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    return [index * step for index in range(math.ceil(high / step - 1e-9) + 1)]


def polyline_path(points: Iterable[tuple[float, float]]) -> str:
    """A path through the points; one point alone becomes a dot (with round line caps)."""
    commands = [f"{'L' if index else 'M'}{number(x)} {number(y)}" for index, (x, y) in enumerate(points)]
    return "".join([*commands, "h0"]) if len(commands) == 1 else "".join(commands)


def step_path(edges: Sequence[float], tops: Sequence[float], bottoms: Sequence[float]) -> str:
    """The outline of adjacent columns: column i spans edges[i] to edges[i + 1] from bottoms[i] to tops[i]."""
    if not tops:
        return ""
    upper = [f"{number(edges[0])} {number(tops[0])}"]
    for index, top in enumerate(tops):
        upper += [f"{number(edges[index])} {number(top)}", f"{number(edges[index + 1])} {number(top)}"]
    lower = []
    for index in range(len(bottoms) - 1, -1, -1):
        lower += [
            f"{number(edges[index + 1])} {number(bottoms[index])}",
            f"{number(edges[index])} {number(bottoms[index])}",
        ]
    return "M" + "L".join([*upper, *lower]) + "Z"


def picture(content: list[str], width: float, height: float, label: str, class_: str) -> str:
    """A whole picture as an SVG element; its colours come from the page's classes."""
    return element(
        "svg",
        "\n".join(content),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=label,
        class_=class_,
    )


def heading(x: float, y: float, words: str, legend: list[tuple[str, str, str]]) -> str:
    """A panel's title, and its legend: (glyph, class, meaning) each. One text, so that no font makes its parts overlap."""
    spans = [element("tspan", escape(words), class_="panel-name")]
    for glyph, class_, meaning in legend:
        spans.append(element("tspan", glyph, class_=f"key {class_}", dx=16.0))
        spans.append(element("tspan", escape(meaning), class_="legend", dx=5.0))
    return element("text", "".join(spans), x=x, y=y, class_="heading")


def time_axis(duration_s: float, across: Linear, left: float, right: float, y: float) -> list[str]:
    """An axis from `left` to `right` at the height `y`, with ticks in seconds up to `duration_s`."""
    drawn = [line(left, y, right, y, "axis")]
    for tick in round_ticks(duration_s, 9):
        if tick <= duration_s:
            x = across(tick)
            drawn += [line(x, y, x, y + 5, "axis"), text(x, y + 19, f"{tick:g} s", "tick", "middle")]
    return drawn
