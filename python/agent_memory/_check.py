"""Refusals of invalid configuration: they name the parameter, the rule and the value."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Final

_LARGEST: Final = sys.float_info.max
"""The largest finite float: a larger int cannot become one, and nan is never below it."""


def at_least(parameter: str, value: float, low: float) -> None:
    """Raises ValueError unless `value` is a finite number and not below `low`."""
    if not _is_number(value) or not value >= low:
        raise ValueError(f"{parameter} must be >= {low}, got {value!r}")


def above(parameter: str, value: float, low: float) -> None:
    """Raises ValueError unless `value` is a finite number above `low`."""
    if not _is_number(value) or not value > low:
        raise ValueError(f"{parameter} must be > {low}, got {value!r}")


def number(parameter: str, value: float) -> None:
    """Raises ValueError unless `value` is a finite number."""
    if not _is_number(value):
        raise ValueError(f"{parameter} must be a finite number, got {value!r}")


def whole(parameter: str, value: int, low: int, high: int | None = None) -> None:
    """Raises ValueError unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{parameter} must be a whole number, got {value!r}")
    if value < low:
        raise ValueError(f"{parameter} must be >= {low}, got {value!r}")
    if high is not None and value > high:
        raise ValueError(f"{parameter} must be <= {high}, got {value!r}")


def whole_or_none(parameter: str, value: object) -> None:
    """Raises TypeError unless `value` is None or a whole number; its bounds are checked elsewhere."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{parameter} must be a whole number, got {value!r}")


def text(parameter: str, value: str) -> None:
    """Raises ValueError unless `value` is a non-empty str."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{parameter} must be a non-empty str, got {value!r}")


def url(value: object) -> None:
    """Raises ValueError unless `value` is a non-empty str; it may hold a password, so the message has its type alone."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"url must be a non-empty str, got a {type(value).__name__}")


def instance(parameter: str, value: object, kind: type) -> None:
    """Raises TypeError unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{parameter} must be a {kind.__name__}, got {value!r}")


def numbers(values: Mapping[str, object], *, required: Collection[str] = ()) -> None:
    """Raises TypeError for the first value that is no number; None is one unless `required` names it.

    The rules of the numbers are checked elsewhere.
    """
    for parameter, value in values.items():
        if value is None and parameter not in required:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{parameter} must be a number, got {value!r}")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"{parameter} must be a number within the range of float, got {value!r}")


def any_number(parameter: str, value: object) -> None:
    """Raises TypeError unless `value` is a number; its rule is checked elsewhere."""
    numbers({parameter: value}, required=(parameter,))


def one_of(parameter: str, value: object, choices: Collection[object]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{parameter} must be one of {', '.join(map(str, choices))}, got {value!r}")


def path(parameter: str, value: object) -> None:
    """Raises TypeError unless `value` is a path: a str or an os.PathLike."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{parameter} must be a path, got {value!r}")


def iterable(parameter: str, value: object, what: str) -> None:
    """Raises TypeError unless `value` can be iterated over and is no text; `what` says what it holds."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{parameter} must be a collection of {what}, got a {type(value).__name__}")


def flag(parameter: str, value: bool) -> None:
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{parameter} must be True or False, got {value!r}")


def function(parameter: str, value: object) -> None:
    """Raises ValueError unless `value` can be called."""
    if not callable(value):
        raise ValueError(f"{parameter} must be a function, got {value!r}")


def missing_extra(feature: str, package: str, extra: str) -> ModuleNotFoundError:
    """The error for a feature whose optional dependency is not installed."""
    return ModuleNotFoundError(f"{feature} needs {package}: pip install 'agent-memory-redis[{extra}]'", name=package)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
