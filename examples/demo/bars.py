"""The comparison with redis-py: a pair of bars for each way of calling."""

from __future__ import annotations

from typing import Final

from demo.comparison import OURS, LaneResult
from demo.drawing import Linear, element, rectangle, text
from demo.wording import format_duration_us

__all__ = ["draw_bars"]

_WIDTH: Final = 1120.0
_LEFT: Final = 110.0
_RIGHT: Final = 760.0
_BAR_HEIGHT: Final = 24.0
_BAR_GAP: Final = 6.0
_WAY_HEIGHT: Final = 94.0


def draw_bars(results: list[LaneResult]) -> str:
    """The bars as an SVG element, long is fast; throughput, ratio and latency stand beside them."""
    ways = list(dict.fromkeys(one.way for one in results))
    fastest = max((one.operations_per_s for one in results), default=1.0)
    across = Linear(0.0, fastest, _LEFT, _RIGHT)
    content: list[str] = []
    for row, way in enumerate(ways):
        top = row * _WAY_HEIGHT
        content.append(text(0, top + 14, way, "panel-name"))
        for index, one in enumerate(result for result in results if result.way == way):
            content += _draw_bar(one, across, top + 24 + index * (_BAR_HEIGHT + _BAR_GAP))
    return element(
        "svg",
        "\n".join(content),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH:.0f} {len(ways) * _WAY_HEIGHT:.0f}",
        role="img",
        aria_label="Throughput of redis-py and agent_memory, the same calls in the same run",
        class_="bars",
    )


def _draw_bar(one: LaneResult, across: Linear, y: float) -> list[str]:
    ours = one.library == OURS
    end = across(one.operations_per_s)
    latency = f"p50 {format_duration_us(one.p50_us)}, p99 {format_duration_us(one.p99_us)}"
    ratio = f" ({one.ratio:.1f} ×)" if ours else ""  # noqa: RUF001
    words = f"{one.operations_per_s:,.0f} op/s{ratio}"
    return [
        text(_LEFT - 10, y + 16, one.library, "tick", "end"),
        rectangle(_LEFT, y, end - _LEFT, _BAR_HEIGHT, "bar ours" if ours else "bar theirs", radius=3),
        element(
            "text",
            element("tspan", words, class_="bar-value") + element("tspan", latency, class_="legend", dx=12.0),
            x=end + 10,
            y=y + 16,
        ),
    ]
