"""The least a blocking GET can cost from CPython with hiredis: the denominator of the speed targets.

A blocking socket with kernel timeouts, hiredis to pack and to parse, a list of idle sockets. No breaker, no deadline, no
typed errors, no response callbacks, no repair of anything: whatever a real client costs beyond this is its own.

    python benches/ceilings/sync_get.py PORT        # measures it beside redis-py, against your own server

For figures that repeat, keep server and client on one core (`taskset -c 0 redis-server …`, `taskset -c 0 python …`):
between two cores a round trip costs what the other core's sleep costs.
"""

from __future__ import annotations

import socket
import statistics
import struct
import sys
import time

import hiredis

TIMEOUT_S = 2
RECEIVE_BUFFER_BYTES = 65_536


class Connection:
    """One blocking socket; the kernel bounds each send and receive, so that no poll() precedes them."""

    def __init__(self, host: str, port: int) -> None:
        self.sock = socket.create_connection((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(None)
        timeval = struct.pack("ll", TIMEOUT_S, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.sock.setsockopt(socket.SOL_SOCKET, option, timeval)
        self.reader = hiredis.Reader()
        self.buffer = bytearray(RECEIVE_BUFFER_BYTES)

    def call(self, *args):
        """Send one command, return its reply."""
        self.sock.sendall(hiredis.pack_command(args))
        while True:
            count = self.sock.recv_into(self.buffer)
            if not count:
                raise ConnectionError("closed by the server")
            self.reader.feed(self.buffer, 0, count)
            reply = self.reader.gets()
            if reply is not False:
                return reply


class Pool:
    """Idle connections in a list: its pop and append are atomic, so threads need no lock."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.idle: list[Connection] = []

    def call(self, *args):
        """Send one command over an idle connection, or over a new one."""
        connection = self.idle.pop() if self.idle else Connection(self.host, self.port)
        reply = connection.call(*args)
        self.idle.append(connection)
        return reply

    def close(self) -> None:
        """Close what is idle."""
        while self.idle:
            self.idle.pop().sock.close()


def main() -> None:
    """Measure the ceiling and redis-py in turns."""
    import redis

    port = int(sys.argv[1])
    pool, peer = Pool("127.0.0.1", port), redis.Redis(host="127.0.0.1", port=port)
    peer.set("foo", "barbarbarbarbar")
    cases = {"ceiling": lambda: pool.call("GET", "foo"), "redis-py": lambda: peer.get("foo")}
    wall_us: dict[str, list[float]] = {name: [] for name in cases}
    cpu_us: dict[str, list[float]] = {name: [] for name in cases}
    calls = 400
    for _ in range(40):
        for name, get in cases.items():
            get()
            cpu_started_s, started_s = time.process_time(), time.perf_counter()
            for _ in range(calls):
                get()
            wall_us[name].append((time.perf_counter() - started_s) / calls * 1e6)
            cpu_us[name].append((time.process_time() - cpu_started_s) / calls * 1e6)
    for name in cases:
        wall, cpu = wall_us[name], cpu_us[name]
        print(
            f"{name:10s} wall us median {statistics.median(wall):6.1f} min {min(wall):6.1f}"
            f"   cpu us median {statistics.median(cpu):6.1f} min {min(cpu):6.1f}"
        )


if __name__ == "__main__":
    main()
