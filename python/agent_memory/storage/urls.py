"""The arguments of a resilient client that a URL stands for."""

from __future__ import annotations

from typing import Any, Final

from redis.connection import parse_url

from agent_memory.redis.redis_py_internals.settings import flag_of_text

__all__ = ["arguments_of_url"]

_TEXT_FLAGS: Final = frozenset({"decode_responses", "double_await", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled"})
"""Switches that redis-py leaves as text."""


def arguments_of_url(url: str) -> dict[str, Any]:
    """The arguments of redis-py's client that a URL stands for."""
    for scheme, alias in (("redis://", "valkey://"), ("rediss://", "valkeys://")):
        if url.startswith(alias):
            url = scheme + url[len(alias) :]
    arguments: dict[str, Any] = dict(parse_url(url))
    arguments.pop("connection_class", None)
    for switch in _TEXT_FLAGS.intersection(arguments):
        arguments[switch] = flag_of_text(arguments[switch])
    if "client_name" in arguments:
        arguments["connection_name"] = arguments["client_name"]
    if url.startswith("rediss://"):
        arguments["ssl"] = True
    if "path" in arguments:
        arguments["unix_socket_path"] = arguments.pop("path")
    return arguments
