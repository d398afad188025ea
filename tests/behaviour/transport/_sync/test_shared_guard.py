# Generated from ../_async/test_shared_guard.py by tools/generate_sync.py: edit that file, not this one.

"""One guard for the clients of one pool that are configured alike; a client with a pool of its own has its own."""

import gc
import time
import weakref

import pytest
import redis

from agent_memory._concurrency import settle, sleep
from agent_memory.errors import CircuitOpenError
from agent_memory.policy import BreakerSettings
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis import Redis
from agent_memory.redis.pool_state import MAX_GUARDS

WITHIN_S = 20.0
EAGER = ResiliencePolicy(breaker=BreakerSettings(2), probe_interval_s=0.05)


def pool_of(server, **options):
    return redis.ConnectionPool(**server.connection_kwargs, **options)


def close_pool(pool):
    settle(pool.disconnect())


def open_circuit(pool, policy=EAGER):
    """Open it with a client per call; returns how many calls failed before one was rejected."""
    for failures in range(10):
        try:
            Redis(connection_pool=pool, resilience=policy).get("key")
        except CircuitOpenError:
            return failures
        except redis.RedisError:
            pass
    raise AssertionError("never opened")


def test_a_client_per_call_opens_the_circuit_of_its_pool(start_server):
    server = start_server(transport="tcp")
    pool = pool_of(server, socket_timeout=0.2, socket_connect_timeout=0.2)
    Redis(connection_pool=pool).set("key", 1)
    server.pause()
    # A call is two attempts, each of which counts.
    assert open_circuit(pool, ResiliencePolicy()) <= 3
    started_s = time.monotonic()
    with pytest.raises(CircuitOpenError):
        Redis(connection_pool=pool).get("key")
    assert time.monotonic() - started_s < 0.1
    server.resume()
    close_pool(pool)


def test_the_probe_outlives_the_client_that_started_it(start_server):
    server = start_server(transport="tcp")
    pool = pool_of(server, socket_timeout=0.2, socket_connect_timeout=0.2)
    server.kill()
    open_circuit(pool)
    client = Redis(connection_pool=pool, resilience=EAGER)
    client.close()  # the pool is not its own, and neither is the probe
    guard = client.guard
    del client
    gc.collect()
    server.start()
    deadline_s = time.monotonic() + WITHIN_S
    while guard.state != "closed":
        assert time.monotonic() < deadline_s, "no probe closed it"
        sleep(0.01)
    assert Redis(connection_pool=pool, resilience=EAGER).get("key") is None
    close_pool(pool)


def test_what_is_configured_alike_shares(valkey):
    pool = pool_of(valkey)

    def guard(given=pool, **options):
        return Redis(connection_pool=given, **options).guard

    assert guard() is guard()
    assert guard(resilience=ResiliencePolicy(probe_interval_s=1.0)) is guard(
        resilience=ResiliencePolicy(probe_interval_s=1)
    )
    others = [
        guard(),
        guard(client_name="another"),
        guard(resilience=ResiliencePolicy(probe_interval_s=2.0)),
        guard(resilience=ResiliencePolicy(probe_interval_s=None)),
        guard(given=pool_of(valkey)),
        Redis(**valkey.connection_kwargs).guard,
        Redis(**valkey.connection_kwargs).guard,
    ]
    assert len({id(one) for one in others}) == len(others)
    assert guard(resilience=None) is None
    assert guard(guard=others[1]) is others[1]


def test_the_guards_of_a_pool_are_bounded(valkey):
    pool = pool_of(valkey)
    first = Redis(connection_pool=pool)
    for number in range(MAX_GUARDS):
        Redis(connection_pool=pool, client_name=f"client {number}")
    assert len(pool._agent_memory_shared._guards) == MAX_GUARDS
    assert first.ping()  # it keeps what it has
    assert Redis(connection_pool=pool).guard is not first.guard
    close_pool(pool)


def test_guard_and_probe_end_with_their_pool(start_server):
    server = start_server(transport="tcp")
    pool = pool_of(server, socket_timeout=0.2, socket_connect_timeout=0.2)
    server.kill()
    open_circuit(pool)
    client = Redis(connection_pool=pool, resilience=EAGER)
    prober = weakref.ref(client._prober)
    del pool, client
    deadline_s = time.monotonic() + WITHIN_S
    while prober() is not None:
        gc.collect()
        assert time.monotonic() < deadline_s, "the probe is still there"
        sleep(0.01)


def test_a_closed_client_that_is_used_again_is_probed_again(start_server, connect):
    server = start_server(transport="tcp")
    client = connect(server, socket_timeout=0.2, socket_connect_timeout=0.2, resilience=EAGER)
    client.ping()
    settle(client.close())
    server.kill()
    with pytest.raises(CircuitOpenError):
        for _ in range(10):
            try:
                client.get("key")
            except CircuitOpenError:
                raise
            except redis.RedisError:
                pass
    server.start()
    deadline_s = time.monotonic() + WITHIN_S
    while client.guard.state != "closed":
        assert time.monotonic() < deadline_s, "no probe closed it"
        sleep(0.01)
