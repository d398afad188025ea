"""A primary, a replica and three sentinels that watch them: real processes on free ports of loopback."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import time
from pathlib import Path
from typing import Any, Self

import redis
import servers
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent_memory.embedded import lifeline
from agent_memory.testing import EmbeddedServer

__all__ = ["SERVICE", "SentinelGroup"]

SERVICE = "service"
READY_WITHIN_S = 60.0
DOWN_AFTER_MS = 1000
FAILOVER_TIMEOUT_MS = 1500  # twice as long no other failover begins
# The rhythm of the sentinels in milliseconds, faster than usual: a healthy old primary is made a replica of the new one
# after four publishing periods. A replica is only promoted if its INFO, asked for each second then, is younger than five pings.
PERIODS_MS = {
    "publish-period": 200,
    "info-period": 500,
    "ping-period": 400,
    "ask-period": 200,
    "election-timeout": 2000,
}


class SentinelGroup:
    """Runs from `with` to its end. The servers have no passwords: after a failover one has to serve in the other's place."""

    def __init__(self, folder: Path, *, sentinels: int = 3) -> None:
        self._folder = folder
        self._count = sentinels
        self._stack = contextlib.ExitStack()
        self.sentinel_addresses: list[tuple[str, int]] = []
        self.servers: dict[int, EmbeddedServer] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            primary = self._start_server(stack)
            replica = self._start_server(stack, {"replicaof": f"127.0.0.1 {primary.port}"})
            self.servers = {server.port or 0: server for server in (primary, replica)}
            self._wait(lambda: self._info(replica, "replication")["master_link_status"] == "up", "the replica's link")
            for number in range(self._count):
                self._start_sentinel(stack, number, primary.port or 0)
            self._wait(self._is_watched, "the sentinels")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # What it looks like now

    @property
    def master_port(self) -> int:
        """The port of the primary, as the sentinels see it now."""
        with self._client(self.sentinel_addresses[0][1]) as sentinel:
            return int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    @property
    def master(self) -> EmbeddedServer:
        """The primary."""
        return self.servers[self.master_port]

    @property
    def replica(self) -> EmbeddedServer:
        """The other one."""
        port = self.master_port
        return next(server for server in self.servers.values() if server.port != port)

    # What happens to it

    def fail_over(self) -> None:
        """Ask the sentinels to promote the replica, both servers being well; returns when they agree."""
        before = self.master_port

        def ask() -> bool:
            with self._client(self.sentinel_addresses[0][1]) as sentinel:
                try:
                    sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
                except redis.ResponseError:
                    return self.master_port != before  # one is under way, or the replica is not known well enough yet
            return True

        self._wait(ask, "the failover's beginning")
        self._wait(lambda: self._all_say() - {before} != set() and before not in self._all_say(), "the failover's end")

    def wait_for_replica(self) -> None:
        """Returns when the sentinels know of a replica that they could promote."""
        self._wait(self._is_watched, "a replica that could be promoted")

    # How it does it

    def _all_say(self) -> set[int]:
        ports = set()
        for _, port in self.sentinel_addresses:
            with self._client(port) as sentinel:
                ports.add(int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1]))
        return ports

    @staticmethod
    def _start_server(stack: contextlib.ExitStack, config: dict[str, Any] | None = None) -> EmbeddedServer:
        # An answer within a second says that the link is alive, and a new replica need not wait for others to come.
        settings = {"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1, "repl-timeout": 20}
        return stack.enter_context(
            EmbeddedServer(
                binary=servers.require_server(servers.REDIS),
                transport="tcp",
                protected=False,
                config=settings | (config or {}),
            )
        )

    def _start_sentinel(self, stack: contextlib.ExitStack, number: int, primary_port: int) -> None:
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port = chosen.getsockname()[1]
        folder = self._folder / f"sentinel{number}"
        folder.mkdir()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}\n"
        )
        binary = str(servers.require_server(servers.REDIS))
        child = lifeline.spawn([binary, str(config), "--sentinel"], folder / "log")

        def end() -> None:
            child.send_signal(signal.SIGKILL)
            child.wait(30)

        stack.callback(end)
        self.sentinel_addresses.append(("127.0.0.1", port))
        self._wait(lambda: self._hasten(port), "a sentinel to answer")

    def _hasten(self, port: int) -> bool:
        with self._client(port) as sentinel:
            try:
                sentinel.execute_command("SENTINEL", "DEBUG", *itertools.chain.from_iterable(PERIODS_MS.items()))
            except redis.ConnectionError:
                return False
        return True

    def _is_watched(self) -> bool:
        for _, port in self.sentinel_addresses:
            with self._client(port) as sentinel:
                try:
                    state = sentinel.sentinel_masters()[SERVICE]
                    replicas = sentinel.sentinel_slaves(SERVICE)
                except (redis.ConnectionError, KeyError):
                    return False
            if state["num-other-sentinels"] != self._count - 1 or state["is_sdown"] or len(replicas) != 1:
                return False
            # A sentinel without the replica's INFO would find no replica to promote.
            if replicas[0]["master-link-status"] != "ok":
                return False
        return True

    @staticmethod
    def _client(port: int) -> redis.Redis:
        return redis.Redis(port=port, retry=Retry(NoBackoff(), 0), decode_responses=True)

    def _info(self, server: EmbeddedServer, section: str) -> dict[str, Any]:
        with redis.Redis(**server.connection_kwargs) as client:
            return client.info(section)

    @staticmethod
    def _wait(condition: Any, what: str) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not condition():
            assert time.monotonic() < deadline_s, f"waited {READY_WITHIN_S} s for {what}"
            time.sleep(0.05)
