# Generated from ../_async/test_announced_probe.py by tools/generate_sync.py: edit that file, not this one.

"""The `retry_after_s` of rejected callers while a background probe looks for the server."""

from __future__ import annotations

import pytest

from agent_memory import ResilientRedisClient
from agent_memory._concurrency import sleep
from agent_memory._core import monotonic_ns
from agent_memory.errors import CircuitOpenError, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis import Redis


def policy(probe_interval_s: float | None) -> ResiliencePolicy:
    return ResiliencePolicy(
        breaker=BreakerSettings(1, 300.0), retry=RetryPolicy(max_retries=0), probe_interval_s=probe_interval_s
    )


@pytest.mark.parametrize(("probe_interval_s", "at_most_s"), [(0.75, 0.75), (None, 300.0)])
def test_every_error_of_an_open_circuit_names_the_next_probe(start_server, probe_interval_s, at_most_s):
    server = start_server()
    client = Redis(**server.connection_kwargs, resilience=policy(probe_interval_s))
    client.set("key", "value")
    server.kill()
    with pytest.raises(RedisUnavailableError) as first:
        client.get("key")
    with pytest.raises(CircuitOpenError) as rejected:
        client.get("key")
    for error in (first.value, rejected.value):
        assert error.state == "open"
        assert 0 < error.retry_after_s <= at_most_s
        if probe_interval_s is None:
            assert error.retry_after_s > 290.0
    client.close()


def test_a_resilient_client_names_it_too_until_it_is_closed(start_server):
    server = start_server()
    client = ResilientRedisClient("named", **server.connection_kwargs, circuit_threshold=1, recovery=None)
    client.set("key", "value")
    server.kill()
    with pytest.raises(RedisUnavailableError) as first:
        client.incr("key")
    health = client.health()
    assert health.state == "open"
    for seconds in (first.value.retry_after_s, health.retry_after_s, client.stats()["retry_after_s"]):
        assert 0 < seconds <= 0.75
    client.close()
    client.guard.reset()
    with pytest.raises(RedisUnavailableError) as closed:
        client.incr("key")
    assert closed.value.retry_after_s > 290.0  # nothing probes any more
    client.close()


def test_a_probe_that_is_under_way_is_no_wait_of_zero(start_server):
    """The server is stopped: the probe is sent and stays pending for longer than the interval."""
    server = start_server()
    client = ResilientRedisClient(
        "pending",
        **server.connection_kwargs,
        circuit_threshold=1,
        socket_timeout=0.5,
        probe_interval_s=0.01,
        recovery=None,
    )
    client.init()
    server.pause()
    with pytest.raises(RedisTimeoutError):
        client.incr("key")
    pending_s = 0.1
    end_ns = monotonic_ns() + int(pending_s * 1e9)
    while monotonic_ns() < end_ns:
        health = client.health()
        if health.state == "open":
            assert 0 < health.retry_after_s <= 0.01
        sleep(0.001)
    server.resume()
    client.close()
