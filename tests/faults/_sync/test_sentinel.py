# Generated from ../_async/test_sentinel.py by tools/generate_sync.py: edit that file, not this one.

"""Clients that follow a service from server to server, with real sentinels; and what they do when a name is out of date."""

import time

import pytest
import redis
import redis.sentinel
import servers
from sentinels import SERVICE, SentinelGroup

from agent_memory._concurrency import sleep, spawn
from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.policy import RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.client import Redis
from agent_memory.redis.sentinel import Sentinel, SentinelConnectionPool

WITHIN_S = 30.0
PATIENT = ResiliencePolicy(retry=RetryPolicy(max_retries=10, base_delay=0.05, deadline_s=20.0))


@pytest.fixture
def group(tmp_path):
    servers.require_server(servers.REDIS)
    with SentinelGroup(tmp_path) as running:
        yield running


class Names:
    """Answers in place of a Sentinel, with the given addresses."""

    def __init__(self, *addresses):
        self.addresses = list(addresses)
        self.asked = 0

    def discover_master(self, service_name):
        """The next address; the last one for ever."""
        assert service_name == SERVICE
        self.asked += 1
        return self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]

    def discover_slaves(self, service_name):
        """None: the master has to serve."""
        assert service_name == SERVICE
        return []


def port_of(client):
    return client.config_get("port")["port"]


def carried_by_ours(client):
    """Whether our transport has carried commands of this client."""
    transport = client.transport_here()
    return len(transport.idle) > 0


def increment_for(client, until, tally):
    """Increment, and record the outcome of each call."""
    while not until["reached"]:
        sleep(0.005)  # sentinels that are kept from the processor call a healthy server down
        try:
            client.incr("counter")
            tally["accepted"] += 1
            tally["port"] = port_of(client)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            tally[error.outcome] = tally.get(error.outcome, 0) + 1


def wait_for_port(tally, port):
    deadline_s = time.monotonic() + WITHIN_S
    while tally.get("port") != str(port):
        assert time.monotonic() < deadline_s, f"never arrived at {port}: {tally}"
        sleep(0.02)


def test_through_a_failover_and_a_kill_on_our_transport(group):
    sentinel = Sentinel(group.sentinel_addresses, socket_timeout=2.0)
    master = sentinel.master_for(SERVICE, resilience=PATIENT)
    replica = sentinel.slave_for(SERVICE, decode_responses=True)
    assert isinstance(master, Redis)
    master.set("key", "value")
    master.wait(1, 10_000)
    assert replica.get("key") == "value"
    assert replica.role()[0] == "slave"
    assert carried_by_ours(master)
    assert carried_by_ours(replica)
    first = group.master_port
    assert port_of(master) == str(first)

    until, tally = {"reached": False}, {"accepted": 0}
    task = spawn(increment_for, master, until, tally)
    wait_for_port(tally, first)
    group.fail_over()
    second = group.master_port
    assert second != first
    wait_for_port(tally, second)
    # The former master is a replica now; without it the next failover would have no replica to promote.
    group.wait_for_replica()
    group.master.kill()
    wait_for_port(tally, first)
    until["reached"] = True
    assert task.join(WITHIN_S)
    task.result()
    # REJECTED would mean that a call gave up at a READONLY, instead of going where the master is.
    assert Outcome.REJECTED not in tally, tally
    assert carried_by_ours(master)
    for client in (master, replica, *sentinel.sentinels):
        client.close()


def test_a_subscriber_follows_the_master(group):
    sentinel = Sentinel(group.sentinel_addresses, socket_timeout=2.0)
    master = sentinel.master_for(SERVICE, resilience=PATIENT)
    gaps = []
    subscriber = master.pubsub(on_gap=gaps.append, ignore_subscribe_messages=True)
    subscriber.subscribe("channel")
    assert subscriber.get_message(timeout=0.1) is None
    group.fail_over()
    deadline_s = time.monotonic() + WITHIN_S
    while not gaps:
        assert time.monotonic() < deadline_s
        subscriber.get_message(timeout=0.1)
    while not master.publish("channel", "after"):
        assert time.monotonic() < deadline_s
        subscriber.get_message(timeout=0.1)
    while (message := subscriber.get_message(timeout=1.0)) is None:
        assert time.monotonic() < deadline_s
    assert message["data"] == b"after"
    subscriber.close()
    for client in (master, *sentinel.sentinels):
        client.close()


@pytest.fixture
def pair(start_server):
    """Two servers without a password; either can be made a replica of the other."""
    return [start_server(servers.REDIS, transport="tcp", protected=False) for _ in range(2)]


def address(server):
    return ("127.0.0.1", server.port)


def follow(server, leader):
    """Make `server` a replica of `leader`; connections to it stay open."""
    with redis.Redis(**server.connection_kwargs) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", leader.port)


@pytest.mark.parametrize("pool_class", ["ours", "redis-py's"])
def test_readonly_leads_to_the_new_master(pool_class, pair):
    old, new = pair
    names = Names(address(old))
    pool = (SentinelConnectionPool if pool_class == "ours" else redis_py_pool())(SERVICE, names)
    client = Redis(connection_pool=pool, resilience=PATIENT)
    assert client.incr("counter") == 1
    assert carried_by_ours(client)
    follow(old, new)
    names.addresses = [address(new)]
    # The connection stays open, like those of concurrent callers; the write is answered READONLY and moves.
    assert client.set("key", "value")
    assert port_of(client) == str(new.port)
    follow(new, old)
    names.addresses = [address(old)]
    with redis.Redis(**old.connection_kwargs) as direct:
        direct.execute_command("REPLICAOF", "NO", "ONE")
    pipeline = client.pipeline(transaction=False)
    pipeline.set("one", 1)
    pipeline.set("two", 2)
    assert pipeline.execute() == [True, True]
    assert port_of(client) == str(old.port)
    client.close()
    pool.disconnect()


def redis_py_pool():
    return redis.sentinel.SentinelConnectionPool


def test_a_master_that_is_none_is_refused_and_asked_for_again(pair):
    demoted, master = pair
    follow(demoted, master)
    names = Names(address(demoted), address(demoted), address(master))
    client = Redis(connection_pool=SentinelConnectionPool(SERVICE, names), resilience=PATIENT)
    assert client.set("key", "value")
    assert names.asked == 3
    names.addresses = [address(demoted)]
    hasty = Redis(connection_pool=SentinelConnectionPool(SERVICE, names), resilience=None)
    with pytest.raises(RedisUnavailableError, match="no master") as caught:
        hasty.set("key", "value")
    assert caught.value.outcome is Outcome.NOT_SENT
    for one in (client, hasty):
        one.close()
        one.connection_pool.disconnect()


def test_the_master_serves_where_there_is_no_replica(pair):
    names = Names(address(pair[0]))
    client = Redis(connection_pool=SentinelConnectionPool(SERVICE, names, is_master=False))
    assert port_of(client) == str(pair[0].port)
    assert carried_by_ours(client)
    client.close()
    client.connection_pool.disconnect()


def test_no_sentinel_answers():
    sentinel = Sentinel([("127.0.0.1", 1)], socket_timeout=0.5)
    client = sentinel.master_for(SERVICE, resilience=None)
    with pytest.raises(RedisUnavailableError, match="No master found") as caught:
        client.get("key")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert caught.value.endpoint == f"service {SERVICE}"
    client.close()
