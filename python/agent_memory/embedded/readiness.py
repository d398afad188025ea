"""Ask a server whether it is ready, over a socket of our own: no client is needed to start a server."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

__all__ = ["Address", "ask_ping"]

Address = Path | tuple[str, int]

_REPLY_BYTES_MAX = 65536


def ask_ping(address: Address, password: str | None, context: ssl.SSLContext | None, timeout_s: float) -> str:
    """
    Send AUTH (if there is a password) and PING; return the last reply's line, "+PONG" when the server is ready.

    Raises OSError: the connection was refused, or nothing came in `timeout_s`.
    """
    family = socket.AF_UNIX
    if isinstance(address, tuple):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    target = address if isinstance(address, tuple) else os.fspath(address)
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(target)
        if context is not None:
            connection = context.wrap_socket(connection, server_hostname=str(target[0]))
        requests = [["PING"]] if password is None else [["AUTH", password], ["PING"]]
        connection.sendall(b"".join(_encode(request) for request in requests))
        received = b""
        while received.count(b"\r\n") < len(requests) and len(received) < _REPLY_BYTES_MAX:
            chunk = connection.recv(4096)
            if not chunk:
                raise ConnectionResetError("the server closed the connection")
            received += chunk
        return received.split(b"\r\n")[len(requests) - 1].decode(errors="replace")
    finally:
        connection.close()


def _encode(arguments: list[str]) -> bytes:
    encoded = [argument.encode() for argument in arguments]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(item), item) for item in encoded)
