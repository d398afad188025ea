"""EmbeddedCluster: a whole cluster, changed in every way that tests of clients need."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
import redis
import redis.asyncio
import servers

from agent_memory.testing import EmbeddedCluster, ServerError, ServerNotFoundError


@pytest.fixture(scope="module", params=[servers.VALKEY, servers.REDIS])
def cluster(request):
    """A cluster of each kind, whole again before each test that takes it."""
    with EmbeddedCluster(binary=servers.require_server(request.param), node_timeout_s=1.0) as running:
        yield running


@pytest.fixture
def whole(cluster):
    for node in cluster.nodes:
        if node.paused:
            node.resume()
    return cluster.start()


def test_three_primaries_share_all_slots_and_each_has_a_replica(whole):
    primaries = whole.primaries()
    assert len(primaries) == 3
    assert sorted(len(whole.replicas_of(primary)) for primary in primaries) == [1, 1, 1]
    assert {whole.owner_of(slot).index for slot in range(0, 16384, 512)} == {node.index for node in primaries}


def test_redis_py_finds_it_by_kwargs_and_by_url(whole):
    with redis.RedisCluster(**whole.connection_kwargs) as client:
        for number in range(50):
            assert client.set(f"key:{number}", number)
    with redis.RedisCluster.from_url(whole.url) as client:
        assert client.get("key:7") == b"7"
        assert client.keyslot("key:7") == whole.slot_of("key:7")
        assert client.keyslot("a{b}c{d}") == whole.slot_of(b"a{b}c{d}")
        assert client.keyslot("a{}b") == whole.slot_of("a{}b")


def test_a_password_is_asked_for(whole):
    host, port = whole.nodes[0].address
    with redis.Redis(host=host, port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert whole.nodes[0].connection_kwargs["password"] not in repr(whole) + repr(whole.nodes[0])


def test_a_failover_makes_the_replica_the_primary(whole):
    before = whole.owner_of(0)
    replica = whole.replicas_of(before)[0]
    whole.failover(replica)
    assert whole.owner_of(0) is replica
    assert whole.replicas_of(replica) == [before]
    with pytest.raises(ValueError, match="replica must be a replica"):
        whole.failover(replica)


def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(whole):
    primary = whole.owner_of(0)
    replica = whole.replicas_of(primary)[0]
    node_id = primary.id
    primary.kill()
    whole.wait_ok()
    assert whole.owner_of(0) is replica
    primary.start()
    whole.wait_ok()
    assert primary.id == node_id
    assert whole.replicas_of(replica) == [primary]


def test_an_open_slot_answers_ask_until_it_is_closed(whole):
    slot = whole.slot_of("{move}")
    source = whole.owner_of(slot)
    target = next(node for node in whole.primaries() if node is not source)
    source.ask("MSET", "{move}1", "a", "{move}2", "b")
    assert whole.begin_move(slot, target) is source
    assert whole.move_keys(slot, target, count=1) == 1
    answers = []
    for key in ("{move}1", "{move}2"):
        try:
            answers.append(source.ask("GET", key))
        except redis.exceptions.AskError as error:
            answers.append(error.port)
    assert sorted(answers, key=str) in (sorted(["a", target.port], key=str), sorted(["b", target.port], key=str))
    assert whole.move_keys(slot, target) == 1
    whole.end_move(slot, target)
    whole.wait_ok()
    assert whole.owner_of(slot) is target
    assert (target.ask("GET", "{move}1"), target.ask("GET", "{move}2")) == ("a", "b")


@pytest.mark.parametrize("atomic", [False, True])
def test_slots_move_with_their_keys(whole, atomic):
    slots = [whole.slot_of(f"{{{number}}}") for number in range(5)]
    target = whole.primaries()[-1]
    if atomic and whole.nodes[0].product != "valkey":
        with pytest.raises(redis.ResponseError):
            whole.move_slots(slots, target, atomic=True)
        return
    for number in range(5):
        whole.owner_of_key(f"{{{number}}}").ask("SET", f"{{{number}}}", number)
    whole.move_slots(slots, target, atomic=atomic)
    whole.wait_ok()
    assert [target.ask("GET", f"{{{number}}}") for number in range(5)] == ["0", "1", "2", "3", "4"]
    first = whole.primaries()[0]
    whole.move_slots(slots, first)
    whole.wait_ok()
    assert {whole.owner_of(slot).index for slot in slots} == {first.index}


def test_a_paused_node_is_not_waited_for(whole):
    replica = whole.replicas_of(whole.owner_of(0))[0]
    replica.pause()
    whole.wait_ok()
    assert replica.paused
    replica.resume()
    whole.wait_ok()
    assert replica.ask("PING") == "PONG"


async def test_asyncio_starts_and_stops_it():
    async with EmbeddedCluster(masters=1, replicas=0, protected=False) as cluster:
        ports = [node.port for node in cluster.nodes]
        pids = [node.pid for node in cluster.nodes]
        async with redis.asyncio.RedisCluster(**cluster.connection_kwargs) as client:
            assert await client.set("key", "value")
        node = await asyncio.to_thread(cluster.owner_of_key, "key")
        assert node.index == 0
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_tls_for_clients_and_between_nodes():
    with EmbeddedCluster(2, 1, tls=True, binary=servers.require_server(servers.REDIS)) as cluster:
        with redis.RedisCluster(**cluster.connection_kwargs) as client:
            assert client.set("key", "value")
            assert client.get("key") == b"value"
        assert len(cluster.replicas_of(cluster.owner_of_key("key"))) == 1


def test_given_ports_are_taken_in_order():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with EmbeddedCluster(1, 0, first_port=port) as cluster:
        assert cluster.nodes[0].address == ("127.0.0.1", port)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masters": 0}, "masters must be from 1 to 64, got 0"),
        ({"replicas": -1}, "replicas must be from 0 to 20, got -1"),
        ({"masters": 40, "replicas": 1}, "replicas must be from 0 to 0, got 1"),
        ({"node_timeout_s": 0}, "node_timeout_s"),
        ({"config": {"cluster-port": 1}}, "config must not set what the cluster sets itself, got 'cluster-port'"),
        ({"config": {"port": 1}}, "use transport='tcp' and port="),
        ({"first_port": 65536}, "port must be"),
    ],
)
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EmbeddedCluster(**arguments)


def test_without_a_binary_nothing_is_held():
    with pytest.raises(ServerNotFoundError):
        EmbeddedCluster(binary="no-such-server")


def test_before_start_there_is_no_address():
    cluster = EmbeddedCluster(1, 0)
    with pytest.raises(ServerError):
        _ = cluster.nodes[0].address
    cluster.close()
