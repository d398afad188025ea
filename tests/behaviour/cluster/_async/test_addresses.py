"""How nodes are reached: TLS, ACL users, host names, IPv6, addresses that are mapped."""

from __future__ import annotations

import contextlib
import socket

import pytest
import redis
import servers

from agent_memory._concurrency import async_in_thread
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient
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


async def use(client):
    """Every node answers: keys of all slots, a pipeline, and a slot that has moved."""
    for key in KEYS:
        assert await client.set(key, key)
    pipeline = client.pipeline()
    for key in KEYS:
        pipeline.get(key)
    values = await pipeline.execute()
    assert [value if isinstance(value, str) else value.decode() for value in values] == KEYS


async def use_and_move(running, client):
    await use(client)
    slot = running.slot_of(KEYS[0])
    target = next(node for node in running.primaries() if node is not running.owner_of(slot))
    await async_in_thread(running.move_slots, [slot], target)
    await use(client)
    assert client.stats()["cluster"]["moved"] >= 1


async def test_tls(async_connect_cluster):
    """Redis alone: the Valkey of the tests is built without TLS."""
    with EmbeddedCluster(replicas=0, tls=True, binary=servers.require_server(servers.REDIS)) as running:
        await use_and_move(running, async_connect_cluster(running))
        arguments = {**running.connection_kwargs, "recovery": None}
        address = (arguments.pop("host"), arguments.pop("port"))
        async with AsyncResilientRedisClient("tls", cluster=[address], **arguments) as client:
            await use(client)
        url = running.url.replace("rediss://", "rediss+cluster://")
        async with AsyncResilientRedisClient.from_url(url, recovery=None) as client:
            await use(client)
        # A client that does not trust the authority gets an error, not a connection.
        del arguments["ssl_ca_certs"]
        stranger = AsyncResilientRedisClient("stranger", cluster=[address], **arguments)
        assert await stranger.init() is False
        await stranger.close()


@pytest.mark.parametrize("kind", ONE_OF_EACH)
async def test_acl_user_and_host_names(kind, async_connect_cluster):
    config = {"cluster-announce-hostname": "localhost", "cluster-preferred-endpoint-type": "hostname"}
    binary = servers.require_server(kind)
    with EmbeddedCluster(replicas=0, users={USER: RULES}, config=config, binary=binary) as running:
        mine = running.connection_kwargs_for(USER)
        client = async_connect_cluster(running, **mine)
        await use_and_move(running, client)
        assert {row[1] for row in client._core.nodes() if row[-1]} == {"localhost"}
        assert await client.execute_command("ACL", "WHOAMI", target_nodes=client.get_primaries()[0]) in (
            USER,
            USER.encode(),
        )
        wrong = async_connect_cluster_of(mine)
        with pytest.raises(redis.AuthenticationError):
            await wrong.init()
        await wrong.close()


def async_connect_cluster_of(arguments):
    given = {**arguments, "password": "wrong", "recovery": None}
    return AsyncResilientRedisClient("wrong", cluster=[(given.pop("host"), given.pop("port"))], **given)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
async def test_ipv6(kind, async_connect_cluster):
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with EmbeddedCluster(replicas=0, host="::1", binary=servers.require_server(kind)) as running:
        client = async_connect_cluster(running)
        await use_and_move(running, client)
        assert {node.host for node in client.get_primaries()} == {"::1"}
        url = running.url.replace("redis://", "redis+cluster://")
        assert "[::1]" in url
        async with AsyncResilientRedisClient.from_url(url, recovery=None) as resilient:
            await use(resilient)


async def test_address_remap(cluster, async_connect_cluster):
    """A client that can reach the nodes only by other addresses, as behind NAT: also those that redirects name."""
    with contextlib.ExitStack() as opened:
        proxies = {node.address: opened.enter_context(FaultProxy(node)) for node in cluster.nodes}

        def remap(address):
            proxy = proxies.get(tuple(address))
            return address if proxy is None else (proxy.host, proxy.port)

        seed = remap(cluster.nodes[0].address)
        client = async_connect_cluster(cluster, host=seed[0], port=seed[1], address_remap=remap)
        await use_and_move(cluster, client)
        direct = {address[1] for address in proxies}
        assert not direct & {node.port for node in client.get_nodes()}, "no address of a server itself is used"
