# Generated from ../_async/test_memory_cluster.py by tools/generate_sync.py: edit that file, not this one.

"""The memory system on a cluster of three nodes: every script works on one slot."""

from __future__ import annotations

import contextlib

import pytest
import redis
import servers
from redis.cluster import RedisCluster

from agent_memory._concurrency import sleep
from agent_memory.memory import MemorySystem
from agent_memory.memory._sync.redis_tier import bucket_of
from agent_memory.testing import EmbeddedServer

SLOTS = ((0, 5_460), (5_461, 10_922), (10_923, 16_383))


@pytest.fixture
def cluster(tmp_path):
    """The address of one of three nodes that know each other and share the slots."""
    binary = servers.require_server(servers.REDIS)
    with contextlib.ExitStack() as started:
        config = {"cluster-enabled": True, "cluster-node-timeout": 5_000}
        nodes = [
            started.enter_context(EmbeddedServer(binary=binary, transport="tcp", protected=False, config=config))
            for _ in SLOTS
        ]
        clients = [started.enter_context(redis.Redis(**node.connection_kwargs)) for node in nodes]
        for client, (first, last) in zip(clients, SLOTS, strict=True):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].connection_kwargs["port"])
        while not all(client.cluster("info")["cluster_state"] == "ok" for client in clients):
            sleep(0.05)
        while not all(len(client.cluster("nodes")) == len(SLOTS) for client in clients):
            sleep(0.05)
        yield nodes[0].connection_kwargs


def test_agents_of_every_node_are_stored_found_synchronised_and_erased(cluster, tmp_path):
    agents = [f"agent {number}" for number in range(12)]
    client = RedisCluster(host=cluster["host"], port=cluster["port"])
    with MemorySystem(tmp_path, redis=client) as memory:
        clean = {agent: memory.store(agent, f"clean {agent}", embedding=[1.0, 0.0]) for agent in agents}
        dirty = {agent: memory.store(agent, "dirty", durability="redis") for agent in agents}
        memory._lifecycle.parts.clean.flush()

        report = memory.maintain()

        assert len({bucket_of(agent) for agent in agents}) > 3
        assert {stored.durability for stored in dirty.values()} == {"redis"}
        assert (report.sync.synced, report.sync.beaten, report.sync.remaining) == (len(agents), 0, False)
        for agent in agents:
            assert memory.get(agent, clean[agent]).content == f"clean {agent}"
            assert [entry.id for entry in memory.retrieve(agent, "dirty")] == [dirty[agent]]
        assert memory.stats()["loader"]["loaded"] == 0
        assert memory.delete(agents[0], clean[agents[0]])
        assert memory.get(agents[0], clean[agents[0]]) is None
        assert memory.delete_agent(agents[1]) == 2
        assert memory.check_health()
    client.close()
