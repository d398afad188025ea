"""What is wrong or risky about a server, by what it says of itself: pure rules over facts that a caller has asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

__all__ = ["Finding", "ServerFacts", "check_server"]

OLDEST_VERSION: Final = (6, 2)
"""The oldest version that the clients are tested with."""
CLOCK_SKEW_S: Final = 1.0
"""Seconds between the clocks from which on expiry times by the wall clock are off."""
FULL_SHARE: Final = 0.9
"""The share of `maxmemory` from which on a server is nearly full."""
CLIENTS_SHARE: Final = 0.8
"""The share of `maxclients` from which on connections run short."""
TIMEOUT_IN_LATENCIES: Final = 4.0
"""How many times the latency of the 99th percentile a timeout should be."""
SHORT_IDLE_S: Final = 60
"""Connections that idle for less than this should not be closed by the server."""
SLOW_FORK_US: Final = 500_000
SMALL_BULK_BYTES: Final = 8 * 1024 * 1024
FRAGMENTED: Final = 2.0
FRAGMENTED_BYTES: Final = 64 * 1024 * 1024
LOOPBACK: Final = ("127.", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or risky."""

    code: str
    """Its name, for programs: "evicting-policy"."""
    text: str
    """What it is and what it leads to. Holds no passwords."""
    severity: Literal["error", "warning"] = "warning"
    """"error": calls fail or data is being lost now."""


@dataclass(slots=True)
class ServerFacts:
    """What was asked of a server; what it refused to say is left empty, and no rule speaks of it."""

    info: Mapping[str, Any] = field(default_factory=dict)
    """INFO, all sections."""
    config: Mapping[str, str] = field(default_factory=dict)
    """CONFIG GET *."""
    cluster: Mapping[str, str] = field(default_factory=dict)
    """CLUSTER INFO of a server in cluster mode."""
    protocol: int = 3
    """The protocol that was negotiated."""
    host: str | None = None
    """The address that was connected to; None for a unix socket."""
    tls: bool = False
    needs_password: bool | None = None
    """Whether a connection without a password is refused."""
    refused_commands: tuple[str, ...] = ()
    """Commands that the user has no right to, of those that the clients need."""
    latencies_s: tuple[float, ...] = ()
    """Round trips of PING, ascending."""
    clock_skew_s: float | None = None
    """The server's clock ahead of this machine's."""
    socket_timeout_s: float | None = None
    """The timeout that the client has."""
    max_connections: int | None = None
    """The most connections that the client opens."""
    is_cluster_client: bool = False


def check_server(facts: ServerFacts) -> list[Finding]:
    """Everything that is wrong or risky, errors first; empty where nothing is."""
    found = [finding for rule in _RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: finding.severity != "error")


def _version(facts: ServerFacts) -> Iterator[Finding]:
    said = facts.info.get("valkey_version") or facts.info.get("redis_version")
    parts = str(said or "").split(".")
    if (
        len(parts) >= 2
        and parts[0].isdigit()
        and parts[1].isdigit()
        and (int(parts[0]), int(parts[1])) < OLDEST_VERSION
    ):
        yield Finding(
            "old-version", f"version {said} is older than 6.2, the oldest that this package is tested with", "error"
        )
    if facts.protocol < 3:
        yield Finding(
            "resp2",
            "the server speaks RESP2 only: replies of some commands have other shapes, client-side caching is off",
        )


def _memory(facts: ServerFacts) -> Iterator[Finding]:
    limit, used = _number(facts.info, "maxmemory"), _number(facts.info, "used_memory")
    policy = str(facts.info.get("maxmemory_policy", ""))
    if limit and policy.startswith("allkeys-"):
        yield Finding(
            "evicting-policy",
            f"maxmemory-policy is {policy}: under pressure any key is removed, memories and fences included",
        )
    if limit and policy.startswith("volatile-"):
        yield Finding(
            "evicting-volatile",
            f"maxmemory-policy is {policy}: under pressure keys with an expiry are removed before their time",
        )
    if limit and used >= FULL_SHARE * limit:
        yield Finding(
            "nearly-full", f"{used / limit:.0%} of maxmemory is used: writes are refused or keys evicted soon", "error"
        )
    evicted = _number(facts.info, "evicted_keys")
    if evicted:
        yield Finding("keys-evicted", f"{evicted:.0f} keys have been evicted since the server started")
    ratio = float(facts.info.get("mem_fragmentation_ratio") or 0)
    if ratio > FRAGMENTED and used > FRAGMENTED_BYTES:
        yield Finding("fragmented", f"the process takes {ratio:.1f} times the memory of its data")


def _connections(facts: ServerFacts) -> Iterator[Finding]:
    limit = _number(facts.info, "maxclients") or _number(facts.config, "maxclients")
    now = _number(facts.info, "connected_clients")
    if limit and now >= CLIENTS_SHARE * limit:
        yield Finding("clients-near-limit", f"{now:.0f} of {limit:.0f} connections are in use")
    if limit and facts.max_connections is not None and facts.max_connections > limit:
        yield Finding(
            "maxclients-below-pool",
            f"maxclients is {limit:.0f}, and this client alone may open {facts.max_connections}",
        )
    rejected = _number(facts.info, "rejected_connections")
    if rejected:
        yield Finding(
            "connections-rejected",
            f"{rejected:.0f} connections have been rejected since the server started",
        )
    idle_s = _number(facts.config, "timeout")
    if 0 < idle_s < SHORT_IDLE_S:
        yield Finding(
            "idle-timeout", f"timeout is {idle_s:.0f} s: idle connections are closed, and calls find them dead"
        )
    if facts.config.get("tcp-keepalive") == "0":
        yield Finding("no-keepalive", "tcp-keepalive is 0: connections of clients that are gone keep their places")
    largest = _number(facts.config, "proto-max-bulk-len")
    if 0 < largest < SMALL_BULK_BYTES:
        yield Finding(
            "small-bulk",
            f"proto-max-bulk-len is {largest:.0f} bytes: larger values are refused and the connection is closed",
        )


def _persistence(facts: ServerFacts) -> Iterator[Finding]:
    info, config = facts.info, facts.config
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        stops = config.get("stop-writes-on-bgsave-error") != "no"
        yield Finding("bgsave-failed", "the last snapshot failed" + (": writes are refused" if stops else ""), "error")
    if info.get("aof_last_write_status", "ok") != "ok":
        yield Finding(
            "aof-write-failed",
            "the last write to the append-only file failed: writes are refused",
            "error",
        )
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield Finding("aof-rewrite-failed", "the last rewrite of the append-only file failed: it grows without bound")
    if "save" in config and not config["save"] and config.get("appendonly") == "no":
        yield Finding("no-persistence", "neither snapshots nor an append-only file: a restart loses all data")
    elif config.get("appendonly") == "yes" and config.get("appendfsync") == "no":
        yield Finding(
            "no-fsync",
            "appendfsync is no: a loss of power loses what the operating system had not written",
        )
    if _number(info, "latest_fork_usec") > SLOW_FORK_US:
        yield Finding(
            "slow-fork",
            f"the last fork for a snapshot stopped the server for {_number(info, 'latest_fork_usec') / 1e6:.1f} s",
        )
    if _is_set(info.get("loading")):
        yield Finding("loading", "the server is loading its data: commands are refused until it is done", "error")


def _replication(facts: ServerFacts) -> Iterator[Finding]:
    info, config = facts.info, facts.config
    if info.get("role") in ("slave", "replica"):
        yield Finding("replica", "the server is a replica: writes are refused", "error")
        if info.get("master_link_status") == "down":
            yield Finding("replica-cut-off", "its link to the primary is down: what is read is old", "error")
    wanted = _number(config, "min-replicas-to-write") or _number(config, "min-slaves-to-write")
    if wanted and _number(info, "connected_slaves") < wanted and info.get("role") == "master":
        yield Finding(
            "too-few-replicas",
            f"min-replicas-to-write is {wanted:.0f}, connected are {_number(info, 'connected_slaves'):.0f}: writes are refused",
            "error",
        )


def _security(facts: ServerFacts) -> Iterator[Finding]:
    remote = facts.host is not None and not facts.host.startswith(LOOPBACK)
    if remote and not facts.tls:
        yield Finding(
            "no-tls", "the connection leaves this machine without TLS: passwords and values can be read on the way"
        )
    if facts.needs_password is False:
        yield Finding("no-password", "whatever reaches the port may do everything: the default user needs no password")
    if facts.config.get("enable-debug-command") == "yes":
        yield Finding("debug-commands", "enable-debug-command is yes: a client can stop or crash the server")
    for command in facts.refused_commands:
        yield Finding(
            "missing-right", f"the user has no right to {command}: {_NEEDED_FOR.get(command, 'the client needs it')}"
        )


def _time(facts: ServerFacts) -> Iterator[Finding]:
    if facts.latencies_s and facts.socket_timeout_s is not None:
        p99_s = facts.latencies_s[min(len(facts.latencies_s) - 1, int(0.99 * len(facts.latencies_s)))]
        if p99_s * TIMEOUT_IN_LATENCIES > facts.socket_timeout_s:
            text = f"socket_timeout is {facts.socket_timeout_s:g} s, and 1 % of PINGs take {p99_s * 1e3:.1f} ms or more"
            yield Finding("timeout-near-latency", f"{text}: ordinary calls time out")
    if facts.clock_skew_s is not None and abs(facts.clock_skew_s) > CLOCK_SKEW_S:
        word = "ahead of" if facts.clock_skew_s > 0 else "behind"
        yield Finding(
            "clock-skew",
            f"the server's clock is {abs(facts.clock_skew_s):.1f} s {word} this machine's: EXPIREAT and EXAT are off by that",
        )


def _cluster(facts: ServerFacts) -> Iterator[Finding]:
    cluster = facts.cluster
    if not cluster:
        return
    if not facts.is_cluster_client:
        yield Finding(
            "cluster-mode",
            "the server is a node of a cluster, and the client is none of a cluster: keys of other nodes are refused",
            "error",
        )
    if cluster.get("cluster_state") not in (None, "ok"):
        yield Finding("cluster-down", f"cluster_state is {cluster['cluster_state']}: commands are refused", "error")
    missing = 16_384 - _number(cluster, "cluster_slots_assigned")
    if "cluster_slots_assigned" in cluster and missing > 0:
        yield Finding("slots-missing", f"{missing:.0f} slots have no owner: their keys are refused", "error")
    if _number(cluster, "cluster_slots_fail") or _number(cluster, "cluster_slots_pfail"):
        yield Finding("slots-failing", "the owners of some slots do not answer", "error")


_NEEDED_FOR: Final = {
    "EVAL": "agent memory and exactly-once writes run scripts",
    "CLIENT|ID": "exactly-once writes fence connections by their ids",
    "CLIENT|TRACKING": "client-side caching learns of changes by it",
    "CLIENT|SETINFO": "CLIENT LIST does not show which library connects",
    "WAIT": "a write cannot wait for replicas",
    "INFO": "health checks read it",
}
_RULES: Final[tuple[Callable[[ServerFacts], Iterator[Finding]], ...]] = (
    _version, _memory, _connections, _persistence, _replication, _security, _time, _cluster,
)  # fmt: skip


def _number(facts: Mapping[str, Any], name: str) -> float:
    try:
        return float(facts.get(name) or 0)
    except (TypeError, ValueError):
        return 0.0


def _is_set(value: Any) -> bool:
    return str(value) == "1"
