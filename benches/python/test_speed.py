"""What single steps cost, for pytest-benchmark: `pytest benches/python --benchmark-only`.

Comparisons with the peers are made by the scripts beside this file, which measure all contenders in turns.
"""

from __future__ import annotations

import pytest

import agent_memory.redis
from agent_memory._core import pack_command
from agent_memory.policy import BreakerSettings, CircuitBreaker, CommandCategory, RetryPolicy, make_guard
from agent_memory.testing import EmbeddedServer


def nothing() -> None:
    """What the breaker is put around."""


@pytest.fixture(scope="module")
def port():
    with EmbeddedServer(transport="tcp", protected=False) as server:
        yield server.port


def test_guarded_call_without_a_server(benchmark):
    operation = make_guard("bench").operation("GET", category=int(CommandCategory.READ))
    benchmark(lambda: operation.success(operation.admit()))


def test_breaker_around_nothing(benchmark):
    breaker = CircuitBreaker("bench")
    benchmark(breaker.execute, nothing)


def test_breaker_with_a_window_around_nothing(benchmark):
    breaker = CircuitBreaker("bench", failure_rate=0.5, window_calls=100)
    benchmark(breaker.execute, nothing)


def test_settings_are_checked(benchmark):
    benchmark(lambda: (BreakerSettings(failure_threshold=3), RetryPolicy(max_retries=3)))


def test_pack_a_get(benchmark):
    benchmark(pack_command, ("GET", "foo"))


def test_get(benchmark, port):
    with agent_memory.redis.Redis(host="127.0.0.1", port=port) as client:
        client.set("foo", "barbarbarbarbar")
        assert benchmark(client.get, "foo") == b"barbarbarbarbar"
