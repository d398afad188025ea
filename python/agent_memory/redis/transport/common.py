"""What both transports share: limits, the reply reader, the name of an endpoint, the options of a socket."""

from __future__ import annotations

import socket
from typing import Any, Final

import hiredis
from redis import exceptions as redis_py

from agent_memory.redis.error_outcomes import reply_error
from agent_memory.redis.redis_py_internals.pools import service_of

__all__ = [
    "DEFAULT_MAX_CONNECTIONS",
    "DEMOTION_PAUSE_NS",
    "FULL_PAUSE_S",
    "INCOMPLETE",
    "PING",
    "RECEIVE_BUFFER_BYTES",
    "USER_TIMEOUT_MS",
    "Incomplete",
    "endpoint_of",
    "new_reader",
    "set_user_timeout",
]

DEFAULT_MAX_CONNECTIONS: Final = 100
"""Bound of open connections where the pool names none (redis-py's default)."""
DEMOTION_PAUSE_NS: Final = 100_000_000
"""A READONLY within this time after one that retired the connections does not retire their successors."""
FULL_PAUSE_S: Final = 0.25
"""Where the server has no room for more clients: how long to wait for a connection we hold before one is asked for again."""
RECEIVE_BUFFER_BYTES: Final = 65_536
"""Bytes asked of the kernel in one read; larger replies take several."""
USER_TIMEOUT_MS: Final = 45_000
"""TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged; as long as the keepalive needs to find a dead peer."""

PING: Final = hiredis.pack_command(("PING",))
"""A packed PING."""


class Incomplete:
    """What the reader gives while a reply is not complete."""

    __slots__ = ()


INCOMPLETE: Final = Incomplete()
"""What `gets()` gives then."""


def new_reader(encoder: Any) -> Any:
    """A reply reader for a connection with this encoder of redis-py's."""
    decoding = {"encoding": encoder.encoding, "errors": encoder.encoding_errors} if encoder.decode_responses else {}
    return hiredis.Reader(
        protocolError=redis_py.InvalidResponse, replyError=reply_error, notEnoughData=INCOMPLETE, **decoding
    )


def endpoint_of(arguments: dict[str, Any]) -> str:
    """host:port or socket path of a pool's connections, or the service that sentinels watch, for messages and metrics."""
    path = arguments.get("path")
    service = service_of(arguments)
    if service is not None:
        return f"service {service}"
    return str(path) if path else f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"


def set_user_timeout(sock: Any) -> None:
    """Bound how long the kernel keeps a TCP connection whose peer acknowledges nothing; other sockets are left alone."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if sock is not None and option is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, USER_TIMEOUT_MS)
        except OSError:
            pass  # a transport that is not TCP in the end, such as a tunnel's socket
