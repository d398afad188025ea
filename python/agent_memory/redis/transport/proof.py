"""What the peer's kernel has acknowledged: the proof, after an end of stream, that a command was not executed.

The peer's FIN acknowledges everything it had received before it closed, and what arrives later is never read by the process
behind it. So bytes that were never acknowledged belong to commands that were not executed. A reset proves nothing: it may
overtake an acknowledgement. Only plain TCP on Linux can tell; elsewhere the answer is None, and the outcome stays unknown.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

__all__ = ["acknowledged_bytes", "all_acknowledged"]

_TCP_INFO_BYTES: Final = 216
_BYTES_ACKED_AT: Final = 120
_BYTES_SENT_AT: Final = 200  # followed by the bytes sent again


def _read(sock: Any) -> tuple[int, int] | None:
    """(bytes acknowledged, bytes sent once) of a TCP socket; None where the kernel does not say."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except (AttributeError, OSError):
        return None
    if len(info) < _TCP_INFO_BYTES:  # a kernel before 4.19
        return None
    (acknowledged,) = struct.unpack_from("=Q", info, _BYTES_ACKED_AT)
    sent, sent_again = struct.unpack_from("=QQ", info, _BYTES_SENT_AT)
    return int(acknowledged) - 1, int(sent) - int(sent_again)  # the SYN counts as acknowledged


def acknowledged_bytes(sock: Any) -> int | None:
    """How many bytes of our stream the peer's kernel has received, so far as it has said."""
    figures = _read(sock)
    return None if figures is None else figures[0]


def all_acknowledged(sock: Any) -> bool:
    """Whether everything sent so far is acknowledged; True where the kernel does not say, because then nothing is proven."""
    figures = _read(sock)
    return figures is None or figures[0] >= figures[1]
