# Generated from ../_async/test_check_health.py by tools/generate_sync.py: edit that file, not this one.

"""`check_health()` asks the server; `health()` does not."""

from agent_memory.policy import RetryPolicy
from agent_memory.storage.redis_client import ResilientRedisClient


def test_a_healthy_server(start_server):
    server = start_server(transport="tcp")
    with ResilientRedisClient("x", **server.connection_kwargs) as client:
        health = client.check_health()
        assert health
        assert 0 < health.latency_s < 5
        assert abs(health.clock_skew_s) < 1
        assert health.findings == ()
        assert client.health().latency_s is None


def test_what_the_server_says_of_itself_is_a_finding(start_server):
    server = start_server(transport="tcp")
    with ResilientRedisClient("x", **server.connection_kwargs) as client:
        client.execute_command("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
        health = client.check_health()
        assert health.healthy
        assert [finding.code for finding in health.findings] == ["evicting-policy"]


def test_a_server_that_stalls(start_server):
    server = start_server(transport="tcp")
    arguments = {**server.connection_kwargs, "socket_timeout": 0.2}
    with ResilientRedisClient("x", **arguments, circuit_threshold=1, retry_policy=RetryPolicy(0)) as client:
        server.pause()
        health = client.check_health()
        assert not health
        assert health.latency_s is None
        assert client.state == "open"
        assert not client.check_health()
        server.resume()
