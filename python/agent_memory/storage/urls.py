"""The arguments of a resilient client that a URL stands for."""

from __future__ import annotations

from typing import Any, Final

from redis.connection import parse_url

from agent_memory.redis.redis_py_internals.settings import flag_of_text

__all__ = ["arguments_of_url"]

_SCHEMES: Final = ("redis", "rediss", "unix")
_TEXT_FLAGS: Final = frozenset({"decode_responses", "double_await", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled"})
"""Switches that redis-py leaves as text."""


def arguments_of_url(url: str) -> dict[str, Any]:
    """The arguments of redis-py's client that a URL stands for. Raises ValueError for a URL of another scheme."""
    for scheme, alias in (("redis://", "valkey://"), ("rediss://", "valkeys://")):
        if url.startswith(alias):
            url = scheme + url[len(alias) :]
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        # By its scheme alone: the rest may hold a password.
        given = repr(scheme) if separator else "no scheme"
        raise ValueError(f"url must begin with redis://, rediss://, unix:// or embedded://, got {given}")
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
