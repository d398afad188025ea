"""Constructors refuse a wrong argument at once, by parameter, rule and value."""

from __future__ import annotations

import re

import pytest

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory import (
    AsyncResilientRedisClient,
    BreakerSettings,
    CircuitBreaker,
    ResilientRedisClient,
    RetryPolicy,
)

RESILIENT = [ResilientRedisClient, AsyncResilientRedisClient]
DROP_IN = [agent_memory.redis.Redis, agent_memory.redis.asyncio.Redis]


@pytest.mark.parametrize("client", RESILIENT)
@pytest.mark.parametrize(
    ("positional", "named", "message"),
    [
        (("orders",), {"retry_policy": 3}, "retry_policy must be a RetryPolicy or None, got 3"),
        (("orders",), {"guard": 3}, "guard must be a Guard or None, got 3"),
        (("orders",), {"recovery": 3}, "recovery must be a RecoveryConfig or None, got 3"),
        (("orders",), {"client": 3}, "client must be a redis-py-compatible object or None, got int"),
        (
            ("localhost", 6379),
            {},
            "host must be a non-empty str, got 6379: the first parameter is client_name, so write host= and port= by name",
        ),
        (("orders", "localhost", "6379"), {}, "port must be a whole number, got '6379'"),
        ((3,), {}, "client_name must be a non-empty str, got 3"),
    ],
)
def test_a_resilient_client_says_what_is_wrong(client, positional, named, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        client(*positional, **named)


@pytest.mark.parametrize("client", RESILIENT)
def test_a_url_in_the_wrong_place_is_named_and_not_repeated(client):
    url = "redis://:secret@localhost:6379"
    with pytest.raises(ValueError, match=r"client_name must be a name, got a URL: from_url\(\)") as as_name:
        client(url)
    with pytest.raises(ValueError, match="client must be a redis-py-compatible object or None, got str") as as_client:
        client("orders", client=url)
    assert "secret" not in f"{as_name.value} {as_client.value}"


@pytest.mark.parametrize("client", [*RESILIENT, *DROP_IN])
def test_from_url_wants_a_text(client):
    with pytest.raises(ValueError, match=r"^url must be a non-empty str, got a int$"):
        client.from_url(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CircuitBreaker("x", 1.5), "failure_threshold must be a whole number, got 1.5"),
        (lambda: BreakerSettings(window_calls=2.5), "window_calls must be a whole number, got 2.5"),
        (lambda: BreakerSettings(half_open_max_calls=2.5), "half_open_max_calls must be a whole number, got 2.5"),
        (lambda: RetryPolicy(1.5), "max_retries must be a whole number, got 1.5"),
    ],
)
def test_a_count_is_a_whole_number(make, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        make()
