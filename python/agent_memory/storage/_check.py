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


def client_arguments(
    *,
    client_name: str,
    port: int,
    db: int,
    socket_timeout: float | None,
    socket_connect_timeout: float | None,
    circuit_threshold: int,
    circuit_reset_timeout: float,
    critical_retry_attempts: int,
    retry_base_delay: float,
    retry_max_delay: float,
    max_connections: int,
    health_check_interval: float,
    probe: float | None,
) -> None:
    """Raises ValueError for the first argument of a resilient client that is outside its rule."""
    text("client_name", client_name)
    whole("port", port, 0, 65_535)
    whole("db", db, 0)
    whole("circuit_threshold", circuit_threshold, 1)
    above("circuit_reset_timeout", circuit_reset_timeout, 0)
    whole("critical_retry_attempts", critical_retry_attempts, 0)
    at_least("retry_base_delay", retry_base_delay, 0)
    at_least("retry_max_delay", retry_max_delay, 0)
    whole("max_connections", max_connections, 1)
    at_least("health_check_interval", health_check_interval, 0)
    optional = {"socket_timeout": socket_timeout, "socket_connect_timeout": socket_connect_timeout, "probe": probe}
    for parameter, seconds in optional.items():
        if seconds is not None:
            above(parameter, seconds, 0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
