"""Each rule about a server finds what is planted, by its name, and a healthy server gives none."""

import dataclasses

import pytest

from agent_memory.redis.server_checks import ServerFacts, check_server

HEALTHY = ServerFacts(
    info={
        "redis_version": "7.2.5", "role": "master", "connected_slaves": 1, "connected_clients": 12, "maxclients": 10_000,
        "rejected_connections": 0, "evicted_keys": 0, "maxmemory": 2**30, "used_memory": 2**27,
        "maxmemory_policy": "noeviction",
        "mem_fragmentation_ratio": 1.1, "rdb_last_bgsave_status": "ok", "aof_last_write_status": "ok",
        "aof_last_bgrewrite_status": "ok", "latest_fork_usec": 900, "loading": 0,
    },
    config={
        "save": "3600 1", "appendonly": "yes", "appendfsync": "everysec", "timeout": "0", "tcp-keepalive": "300",
        "proto-max-bulk-len": "536870912", "min-replicas-to-write": "0", "enable-debug-command": "no",
        "stop-writes-on-bgsave-error": "yes",
    },
    protocol=3, host="10.0.0.7", tls=True, needs_password=True, latencies_s=(0.001,) * 100, clock_skew_s=0.01,
    socket_timeout_s=2.0, max_connections=100,
)  # fmt: skip
CLUSTER = {
    "cluster_state": "ok",
    "cluster_slots_assigned": "16384",
    "cluster_slots_fail": "0",
    "cluster_slots_pfail": "0",
}

PLANTED = [
    ("old-version", {"redis_version": "5.0.14"}),
    ("evicting-policy", {"maxmemory_policy": "allkeys-lru"}),
    ("evicting-volatile", {"maxmemory_policy": "volatile-ttl"}),
    ("nearly-full", {"used_memory": 2**30 - 1}),
    ("keys-evicted", {"evicted_keys": 7}),
    ("fragmented", {"mem_fragmentation_ratio": 3.5}),
    ("clients-near-limit", {"connected_clients": 9_000}),
    ("maxclients-below-pool", {"maxclients": 64}),
    ("connections-rejected", {"rejected_connections": 3}),
    ("bgsave-failed", {"rdb_last_bgsave_status": "err"}),
    ("aof-write-failed", {"aof_last_write_status": "err"}),
    ("aof-rewrite-failed", {"aof_last_bgrewrite_status": "err"}),
    ("slow-fork", {"latest_fork_usec": 900_000}),
    ("loading", {"loading": 1}),
    ("replica", {"role": "slave", "master_link_status": "up"}),
    ("replica-cut-off", {"role": "slave", "master_link_status": "down"}),
    ("idle-timeout", {"timeout": "30"}),
    ("no-keepalive", {"tcp-keepalive": "0"}),
    ("small-bulk", {"proto-max-bulk-len": "65536"}),
    ("no-persistence", {"save": "", "appendonly": "no"}),
    ("no-fsync", {"appendfsync": "no"}),
    ("too-few-replicas", {"min-replicas-to-write": "2"}),
    ("debug-commands", {"enable-debug-command": "yes"}),
    ("resp2", {"protocol": 2}),
    ("no-tls", {"tls": False}),
    ("no-password", {"needs_password": False}),
    ("missing-right", {"refused_commands": ("EVAL",)}),
    ("timeout-near-latency", {"latencies_s": (0.001,) * 98 + (0.9, 1.0)}),
    ("clock-skew", {"clock_skew_s": -4.0}),
    ("cluster-mode", {"cluster": CLUSTER}),
    ("cluster-down", {"cluster": {**CLUSTER, "cluster_state": "fail"}}),
    ("slots-missing", {"cluster": {**CLUSTER, "cluster_slots_assigned": "16000"}}),
    ("slots-failing", {"cluster": {**CLUSTER, "cluster_slots_fail": "5461"}}),
]


def with_(changes):
    fields = {field.name for field in dataclasses.fields(ServerFacts)}
    made = dataclasses.replace(HEALTHY, **{name: value for name, value in changes.items() if name in fields})
    for name, value in changes.items():
        if name not in fields:
            part = "info" if name in HEALTHY.info or name == "master_link_status" else "config"
            made = dataclasses.replace(made, **{part: {**getattr(made, part), name: value}})
    return made


def test_a_healthy_server_gives_none():
    assert check_server(HEALTHY) == []
    assert check_server(dataclasses.replace(HEALTHY, cluster=CLUSTER, is_cluster_client=True)) == []


def test_what_a_server_does_not_say_is_no_finding():
    assert check_server(ServerFacts()) == []


@pytest.mark.parametrize(("code", "changes"), PLANTED, ids=[code for code, _ in PLANTED])
def test_what_is_planted_is_named(code, changes):
    found = check_server(with_(changes))
    assert code in [finding.code for finding in found]
    assert len(found) <= 2  # what follows from it at the most
    assert [finding.severity for finding in found] == sorted(finding.severity for finding in found)


def test_a_server_at_loopback_needs_no_tls():
    assert check_server(dataclasses.replace(HEALTHY, host="127.0.0.1", tls=False)) == []
