# Generated from ../_async/test_failover.py by tools/generate_sync.py: edit that file, not this one.

"""A primary is killed: a failover costs time, no errors but those of writes in flight, and doubles nothing."""

from __future__ import annotations

import time

import redis

from agent_memory._concurrency import Event, gather, in_thread, spawn
from agent_memory.errors import Outcome

TASKS = 12


def test_kill_of_a_primary(cluster, connect_cluster):
    client = connect_cluster(cluster, socket_timeout=1.0)
    victim = in_thread(cluster.owner_of, 0)
    lost = [f"{{{tag}}}" for tag in range(400) if cluster.owner_of(cluster.slot_of(str(tag))) is victim][:TASKS]
    kept = [f"{{{tag}}}" for tag in range(100) if cluster.owner_of(cluster.slot_of(str(tag))) is not victim][:TASKS]
    over = Event()
    errors, longest_kept_s, longest_lost_s = [], [0.0], [0.0]

    def count(name, longest_s):
        acknowledged = unknown = 0
        while not over.is_set():
            began_s = time.monotonic()
            try:
                client.incr(name)
                acknowledged += 1
            except redis.RedisError as error:
                unknown += 1
                errors.append(error)
            longest_s[0] = max(longest_s[0], time.monotonic() - began_s)
        return name, acknowledged, unknown

    counting = [spawn(count, name, longest_lost_s) for name in lost]
    counting += [spawn(count, name, longest_kept_s) for name in kept]
    for name in (*lost, *kept):
        while not int(client.get(name) or 0):
            pass
    client.wait(1, 5000, target_nodes=client.get_node_from_key(lost[0]))
    opened = client.stats()["cluster"]["questions"]
    began_s = time.monotonic()
    victim.kill()
    in_thread(cluster.wait_ok)
    failover_s = time.monotonic() - began_s
    for name in (*lost, *kept):
        client.incr(f"{name}after")
    over.set()
    ledgers = gather(*counting)

    assert {getattr(error, "outcome", None) for error in errors} <= {Outcome.UNKNOWN}
    assert len(errors) <= TASKS  # those in flight when it died
    assert longest_lost_s[0] <= failover_s + 1.0
    assert longest_kept_s[0] <= failover_s + 1.0  # servers answer CLUSTERDOWN on all shards for a part of it
    for name, acknowledged, unknown in ledgers:
        held = int(client.get(name))
        assert held <= acknowledged + unknown  # none is doubled
        if name in kept:
            assert held == acknowledged
    questions = client.stats()["cluster"]["questions"] - opened
    assert questions <= 4 * (failover_s + 2.0)


def test_one_connection_for_each_node(cluster, connect_cluster):
    def connections():
        """Clients of each node that are no links of the cluster itself."""
        return [
            sum(" cmd=" in line and "flags=S" not in line and "flags=M" not in line for line in listed.splitlines())
            for listed in (node.ask("CLIENT", "LIST", "TYPE", "normal") for node in cluster.primaries())
        ]

    before = connections()
    client = connect_cluster(cluster)

    def work(worker):
        for number in range(50):
            client.set(f"{worker}:{number}", number)

    workers = 16
    bound = workers  # threads that use a node at once
    gather(*(spawn(work, worker) for worker in range(workers)))
    opened = [after - held for held, after in zip(before, connections(), strict=True)]
    assert all(1 <= count <= bound for count in opened), opened


def test_all_nodes_down_and_back(cluster, connect_cluster):
    client = connect_cluster(cluster, socket_timeout=1.0)
    client.set("key", "value")
    for node in cluster.nodes:
        node.kill()
    waiting = spawn(client.set, "key", "again")
    in_thread(cluster.start)
    assert waiting.result()
    assert client.get("key") == b"again"


def test_an_ordered_failover_costs_no_error(cluster, connect_cluster):
    client = connect_cluster(cluster)
    slot = cluster.slot_of("counter")
    over = Event()

    def count():
        acknowledged = 0
        while not over.is_set():
            acknowledged += 1
            assert client.incr("counter") == acknowledged
        return acknowledged

    counting = spawn(count)
    primary = in_thread(cluster.owner_of, slot)
    (replica,) = in_thread(cluster.replicas_of, primary)
    in_thread(cluster.failover, replica)
    over.set()
    assert int(client.get("counter")) == counting.result()
