"""What the tests of slow links share: large values, a policy that minds every failure, a server that reads at a pace."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import redis
from fake_server import HANDSHAKE, FakeConnection, answer_handshake, bulk

from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy

MIB = 1 << 20
MARGIN_S = 1.0


def touchy(deadline: float | None = None) -> ResiliencePolicy:
    """A policy whose circuit opens at the first failure; whatever may be tried again is."""
    return ResiliencePolicy(
        breaker=BreakerSettings(failure_threshold=1),
        retry=RetryPolicy(3, 0.01, deadline_s=deadline),
        probe_interval_s=None,
    )


def calls_of(server: Any, command: str) -> int:
    """How often a server has executed a command."""
    with redis.Redis(**server.connection_kwargs) as observer:
        return observer.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)


@contextlib.contextmanager
def slow_reader(bytes_per_s: int) -> Iterator[int]:
    """A server with a small receive buffer that takes a large SET in at a pace; it answers every command OK."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while not ended.is_set():
                peer, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(peer,)))
                threads[-1].start()

    def serve(peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            peer.settimeout(10)
            connection = FakeConnection(peer, 0)
            connection._reader = peer.makefile("rb", buffering=0)  # nothing is read ahead of the large one
            while not ended.is_set():
                start = peer.recv(64, socket.MSG_PEEK)
                if not start:
                    return
                if start.startswith(b"*3") and b"SET\r\n$1\r\n" in start:
                    pace(peer)
                    peer.sendall(b"+OK\r\n")
                    continue
                words = connection.read_command()
                answer = answer_handshake(words, connection) if words and words[0] in HANDSHAKE else None
                peer.sendall(answer or b"+OK\r\n")

    def pace(peer: socket.socket) -> None:
        left = LARGE_SET_BYTES
        while left > 0 and not ended.wait(0.05):
            piece = peer.recv(min(left, int(bytes_per_s * 0.05)), socket.MSG_WAITALL)
            if not piece:
                return
            left -= len(piece)

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


LARGE_VALUE = b"x" * (6 * MIB)
LARGE_SET_BYTES = len(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n") + len(bulk(LARGE_VALUE))


class FakeAddress:
    """What `connect` needs of a server."""

    def __init__(self, port: int) -> None:
        self.connection_kwargs = {"host": "127.0.0.1", "port": port}
