# Generated from ../_async/test_addresses.py by tools/generate_sync.py: edit that file, not this one.

"""How nodes are reached: TLS, ACL users, host names, IPv6, addresses that are mapped."""

from __future__ import annotations

import contextlib
import socket

import pytest
import redis
import servers

from agent_memory._concurrency import in_thread
from agent_memory.storage.redis_client import ResilientRedisClient
from agent_memory.testing import EmbeddedCluster
from agent_memory.testing.proxy import FaultProxy

KEYS = [f"key:{number}" for number in range(40)]
ONE_OF_EACH = [servers.VALKEY, servers.REDIS]
USER = "agent"
RULES = "~* &* +@all -@dangerous +cluster +info"


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def use(client):
    """Every node answers: keys of all slots, a pipeline, and a slot that has moved."""
    for key in KEYS:
        assert client.set(key, key)
    pipeline = client.pipeline()
    for key in KEYS:
        pipeline.get(key)
    values = pipeline.execute()
    assert [value if isinstance(value, str) else value.decode() for value in values] == KEYS


def use_and_move(running, client):
    use(client)
    slot = running.slot_of(KEYS[0])
    target = next(node for node in running.primaries() if node is not running.owner_of(slot))
    in_thread(running.move_slots, [slot], target)
    use(client)
    assert client.stats()["cluster"]["moved"] >= 1


def test_tls(connect_cluster):
    """Redis alone: the Valkey of the tests is built without TLS."""
    with EmbeddedCluster(replicas=0, tls=True, binary=servers.require_server(servers.REDIS)) as running:
        use_and_move(running, connect_cluster(running))
        arguments = {**running.connection_kwargs, "recovery": None}
        address = (arguments.pop("host"), arguments.pop("port"))
        with ResilientRedisClient("tls", cluster=[address], **arguments) as client:
            use(client)
        url = running.url.replace("rediss://", "rediss+cluster://")
        with ResilientRedisClient.from_url(url, recovery=None) as client:
            use(client)
        # A client that does not trust the authority gets an error, not a connection.
        del arguments["ssl_ca_certs"]
        stranger = ResilientRedisClient("stranger", cluster=[address], **arguments)
        assert stranger.init() is False
        stranger.close()


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_acl_user_and_host_names(kind, connect_cluster):
    config = {"cluster-announce-hostname": "localhost", "cluster-preferred-endpoint-type": "hostname"}
    binary = servers.require_server(kind)
    with EmbeddedCluster(replicas=0, users={USER: RULES}, config=config, binary=binary) as running:
        mine = running.connection_kwargs_for(USER)
        client = connect_cluster(running, **mine)
        use_and_move(running, client)
        assert {row[1] for row in client._core.nodes() if row[-1]} == {"localhost"}
        assert client.execute_command("ACL", "WHOAMI", target_nodes=client.get_primaries()[0]) in (
            USER,
            USER.encode(),
        )
        wrong = connect_cluster_of(mine)
        with pytest.raises(redis.AuthenticationError):
            wrong.init()
        wrong.close()


def connect_cluster_of(arguments):
    given = {**arguments, "password": "wrong", "recovery": None}
    return ResilientRedisClient("wrong", cluster=[(given.pop("host"), given.pop("port"))], **given)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_ipv6(kind, connect_cluster):
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with EmbeddedCluster(replicas=0, host="::1", binary=servers.require_server(kind)) as running:
        client = connect_cluster(running)
        use_and_move(running, client)
        assert {node.host for node in client.get_primaries()} == {"::1"}
        url = running.url.replace("redis://", "redis+cluster://")
        assert "[::1]" in url
        with ResilientRedisClient.from_url(url, recovery=None) as resilient:
            use(resilient)


def test_address_remap(cluster, connect_cluster):
    """A client that can reach the nodes only by other addresses, as behind NAT: also those that redirects name."""
    with contextlib.ExitStack() as opened:
        proxies = {node.address: opened.enter_context(FaultProxy(node)) for node in cluster.nodes}

        def remap(address):
            proxy = proxies.get(tuple(address))
            return address if proxy is None else (proxy.host, proxy.port)

        seed = remap(cluster.nodes[0].address)
        client = connect_cluster(cluster, host=seed[0], port=seed[1], address_remap=remap)
        use_and_move(cluster, client)
        direct = {address[1] for address in proxies}
        assert not direct & {node.port for node in client.get_nodes()}, "no address of a server itself is used"
