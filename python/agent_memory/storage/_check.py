"""Refusals of invalid arguments of the resilient clients, and the checks they are made of."""

from __future__ import annotations

from agent_memory._check import above, at_least, text, whole

__all__ = ["above", "at_least", "client_arguments", "text", "whole"]


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
