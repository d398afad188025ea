"""Refusals of invalid configuration: they name the parameter, the rule and the value."""

from __future__ import annotations

import math


def at_least(parameter: str, value: float, low: float) -> None:
    """Raises ValueError unless `value` is a finite number and not below `low`."""
    if not _is_number(value) or not value >= low:
        raise ValueError(f"{parameter} must be >= {low}, got {value!r}")


def above(parameter: str, value: float, low: float) -> None:
    """Raises ValueError unless `value` is a finite number above `low`."""
    if not _is_number(value) or not value > low:
        raise ValueError(f"{parameter} must be > {low}, got {value!r}")


def whole(parameter: str, value: int, low: int, high: int | None = None) -> None:
    """Raises ValueError unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{parameter} must be a whole number, got {value!r}")
    if value < low:
        raise ValueError(f"{parameter} must be >= {low}, got {value!r}")
    if high is not None and value > high:
        raise ValueError(f"{parameter} must be <= {high}, got {value!r}")


def text(parameter: str, value: str) -> None:
    """Raises ValueError unless `value` is a non-empty str."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{parameter} must be a non-empty str, got {value!r}")


def function(parameter: str, value: object) -> None:
    """Raises ValueError unless `value` can be called."""
    if not callable(value):
        raise ValueError(f"{parameter} must be a function, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
