"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["format_duration_us", "format_optional_s"]


def format_duration_us(duration_us: float) -> str:
    """A duration given in microseconds with three significant digits and the unit that suits it; "-" for 0."""
    if duration_us <= 0:
        return "-"
    for unit, size_us in (("s", 1e6), ("ms", 1e3)):
        if duration_us >= size_us:
            return f"{_three_digits(duration_us / size_us)} {unit}"
    return f"{_three_digits(duration_us)} µs"


def format_optional_s(duration_s: float | None) -> str:
    """A duration given in seconds, or a word for one that never ended. Below a millisecond it is as good as none."""
    if duration_s is None:
        return "never"
    return format_duration_us(duration_s * 1e6) if duration_s >= 0.001 else "< 1 ms"


def _three_digits(number: float) -> str:
    if number >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
