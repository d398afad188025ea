# Generated from ../_async/test_endpoint_circuit.py by tools/generate_sync.py: edit that file, not this one.

"""A client and a pool for each call share the circuit of their server, and one probe closes it for all of them."""

import time

import pytest
import redis

import agent_memory.redis
from agent_memory._concurrency import sleep
from agent_memory.errors import CircuitOpenError
from agent_memory.policy import BreakerSettings
from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis import Redis

WITHIN_S = 20.0
TIMEOUT_S = 0.2
SHARED = ResiliencePolicy(circuit_scope="endpoint")


def options(resilience):
    given = {} if resilience is None else {"resilience": resilience}
    return given | {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}


def call_once(make, url, resilience):
    """One call by a client that is made for it and closed behind it; returns its reply."""
    client = make(url, **options(resilience))
    try:
        return client.get("key")
    finally:
        client.close()


def failures_until_open(make, url, resilience=None):
    """How many calls, each by a client of its own, fail before one is rejected; None where none of ten is."""
    for failures in range(10):
        try:
            call_once(make, url, resilience)
        except CircuitOpenError:
            return failures
        except redis.RedisError:
            pass
    return None


def wait_until_served(make, url, resilience=None):
    deadline_s = time.monotonic() + WITHIN_S
    while True:
        assert time.monotonic() < deadline_s, "the circuit stays open"
        try:
            return call_once(make, url, resilience)
        except redis.ConnectionError:
            sleep(0.01)


@pytest.mark.parametrize("fault", ["stall", "kill"])
def test_fresh_clients_open_one_circuit_and_the_probe_closes_it(start_server, fault):
    server = start_server(transport="tcp")
    call_once(Redis.from_url, server.url, SHARED)
    if fault == "stall":
        server.pause()
    else:
        server.kill()
    assert failures_until_open(Redis.from_url, server.url, SHARED) <= 3
    started_s = time.monotonic()
    with pytest.raises(CircuitOpenError):
        call_once(Redis.from_url, server.url, SHARED)
    assert time.monotonic() - started_s < TIMEOUT_S
    if fault == "stall":
        server.resume()
    else:
        server.start()
    # The breaker's own wait is 300 s: only the probe can have closed it.
    wait_until_served(Redis.from_url, server.url, SHARED)


def test_without_the_scope_each_pool_has_a_circuit_of_its_own(start_server):
    server = start_server(transport="tcp")
    server.kill()
    policy = ResiliencePolicy(breaker=BreakerSettings(20))
    assert failures_until_open(Redis.from_url, server.url, policy) is None


def test_installed_clients_share_it(start_server, installed):
    server = start_server(transport="tcp")
    call_once(redis.from_url, server.url, None)
    server.kill()
    assert failures_until_open(redis.from_url, server.url) <= 3
    server.start()
    wait_until_served(redis.from_url, server.url)


def test_pools_made_anew_share_it(start_server, installed):
    server = start_server(transport="tcp")
    server.kill()

    def make(url, **given):
        pool = redis.BlockingConnectionPool.from_url(url, timeout=1, **given)
        return redis.Redis.from_pool(pool)

    assert failures_until_open(make, server.url) <= 3
    server.start()
    wait_until_served(make, server.url)


def test_both_worlds_share_it(start_server, installed):
    server = start_server(transport="tcp")
    blocking = redis.Redis.from_url(server.url)
    here = redis.from_url(server.url)
    assert blocking.guard is here.guard
    blocking.close()
    here.close()


def test_which_clients_share_a_circuit(start_server, proxy):
    server = start_server(transport="tcp")
    other = proxy(server)
    clients = []

    def guard(url=server.url, resilience=SHARED, **given):
        clients.append(Redis.from_url(url, resilience=resilience, **given))
        return clients[-1].guard

    assert guard() is guard(db=1) is guard(socket_timeout=1)
    assert guard() is not guard(other.url)
    named = Redis(**server.connection_kwargs, client_name="another", resilience=SHARED)
    clients.append(named)
    assert guard() is not named.guard
    assert guard() is not guard(resilience=ResiliencePolicy(circuit_scope="endpoint", probe_interval_s=None))
    assert guard(resilience=DEFAULT_RESILIENCE) is not guard(resilience=DEFAULT_RESILIENCE)
    for client in clients:
        client.close()


def test_connections_of_another_class_share_by_address(start_server):
    server = start_server(transport="tcp")

    class Watched(redis.Connection):
        def __init__(self, *args, watched_by=None, **kwargs):
            super().__init__(*args, **kwargs)

    def make(url, resilience, **given):
        pool = redis.ConnectionPool.from_url(url, connection_class=Watched, watched_by="us", **given)
        client = Redis(connection_pool=pool, resilience=resilience)
        client.auto_close_connection_pool = True
        return client

    server.kill()
    # redis-py connects here, ten times a call unless told otherwise.
    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)

    def without_retries(url, resilience, **given):
        return make(url, resilience, retry=retry, **given)

    assert failures_until_open(without_retries, server.url, SHARED) <= 3
    server.start()
    wait_until_served(without_retries, server.url, SHARED)


def test_the_scope_is_checked():
    with pytest.raises(ValueError, match="circuit_scope must be 'pool' or 'endpoint', got 'server'"):
        ResiliencePolicy(circuit_scope="server")
    with pytest.raises(ValueError, match="resilience must be a ResiliencePolicy or None"):
        agent_memory.redis.install(resilience="none")
    assert not agent_memory.redis.is_installed()
