# Generated from ../_async/test_arguments.py by tools/generate_sync.py: edit that file, not this one.

"""Arguments that make no sense are refused by parameter, rule and value, before anything is made of them."""

from __future__ import annotations

import importlib
import inspect
import re
import socket
import threading

import pytest
import redis
from redis.backoff import NoBackoff

from agent_memory import ResilientRedisClient, RetryPolicy
from agent_memory.policy import (
    BreakerSettings,
    CircuitBreaker,
    CommandCategory,
    RecoveryConfig,
    RetryBudget,
    make_guard,
)
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis import Redis

ASYNC_PART = ".".join(("redis", "asyncio"))
"""The name of redis-py's asyncio half, which stays in the twin of this file."""
ASYNC_HALF, SYNC_HALF = importlib.import_module(ASYNC_PART), importlib.import_module("redis")
RETRIES = [importlib.import_module(f"{half}.retry").Retry(NoBackoff(), 1) for half in (ASYNC_PART, "redis")]
RIGHT_RETRY, WRONG_RETRY = reversed(RETRIES)
WRONG_POOL = ASYNC_HALF.ConnectionPool()

CONNECTION = [
    ("host", 6379, "non-empty str"),
    ("host", "", "non-empty str"),
    ("host", None, "non-empty str"),
    ("port", "redis", "whole number"),
    ("port", 1.5, "whole number"),
    ("port", True, "whole number"),
    ("port", 65_536, "<= 65535"),
    ("db", "zero", "whole number"),
    ("db", -1, ">= 0"),
    ("socket_timeout", "5", "> 0"),
    ("socket_timeout", 0, "> 0"),
    ("socket_timeout", float("nan"), "> 0"),
    ("socket_connect_timeout", -1, "> 0"),
    ("health_check_interval", "x", ">= 0"),
    ("decode_responses", "yes", "True or False"),
    ("decode_responses", 1, "True or False"),
    ("max_connections", 0, ">= 1"),
    ("max_connections", "10", "whole number"),
]
"""Parameter, value, and the rule in the message."""
REDIS_PYS = [
    ("password", 1.5, "str or bytes"),
    ("password", 3, "str or bytes"),
    ("username", ["me"], "str or bytes"),
    ("ssl", "yes", "True or False"),
    ("encoding", 8, "non-empty str"),
    ("encoding_errors", None, "non-empty str"),
    ("socket_keepalive", "x", "True or False"),
    ("socket_read_size", 0, ">= 1"),
    ("retry_on_timeout", 1, "True or False"),
    ("legacy_responses", "x", "True or False"),
    ("redis_connect_func", 3, "function"),
    ("credential_provider", "secret", "CredentialProvider"),
    ("unix_socket_path", 3, "non-empty str"),
]
SINCE_8 = {"legacy_responses", "socket_read_size"}
if SINCE_8.isdisjoint(inspect.signature(redis.Redis.__init__).parameters):
    REDIS_PYS = [row for row in REDIS_PYS if row[0] not in SINCE_8]
DROP_IN = [
    ("retry", 3, "Retry or None"),
    ("retry", WRONG_RETRY, "Retry or None"),
    ("retry_on_error", "error", "list of exception classes"),
    ("retry_on_error", [3], "list of exception classes"),
    ("retry_on_error", KeyError, "list of exception classes"),
    ("client_name", 3, "non-empty str"),
    ("single_connection_client", 1, "True or False"),
    ("resilience", 3, "ResiliencePolicy or None"),
    ("resilience", RetryPolicy(), "ResiliencePolicy or None"),
    ("guard", 3, "Guard or None"),
    ("exactly_once", 1, "bool or an ExactlyOnce"),
    ("connection_pool", WRONG_POOL, "connection_pool must be a pool"),
    ("connection_pool", "redis://", "connection_pool must be a pool"),
]
RESILIENT = [
    ("client_name", 3, "non-empty str"),
    ("retry_policy", 3, "RetryPolicy or None"),
    ("recovery", {}, "RecoveryConfig or None"),
    ("guard", 3, "Guard or None"),
    ("double_await", "no", "True or False"),
    ("circuit_threshold", 1.5, "whole number"),
    ("circuit_reset_timeout", "x", "> 0"),
    ("probe_interval_s", "x", "> 0"),
    ("critical_retry_attempts", "x", "whole number"),
    ("connection_name", 3, "non-empty str"),
    ("retry", RIGHT_RETRY, "retry_policy="),
    ("retry_on_error", [KeyError], "retry_policy="),
    ("connection_pool", WRONG_POOL, "client=Redis"),
]


def check_refusal(make, name, value, rule):
    """Making it names the parameter, the rule and the value, and opens no connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        threads = threading.active_count()
        with pytest.raises((ValueError, TypeError)) as refused:
            make(listener.getsockname()[1])
        assert threading.active_count() == threads
        with pytest.raises(BlockingIOError):
            listener.accept()
    message = str(refused.value)
    assert name in message
    assert rule in message
    assert repr(value) in message or type(value).__name__ in message


@pytest.mark.parametrize(("name", "value", "rule"), [*CONNECTION, *REDIS_PYS, *DROP_IN])
def test_the_drop_in_refuses(name, value, rule):
    check_refusal(lambda port: Redis(**{"port": port, name: value}), name, value, rule)


@pytest.mark.parametrize(
    ("name", "value", "rule"), [*CONNECTION, *REDIS_PYS, *DROP_IN[:-2]], ids=lambda value: repr(value)[:30]
)
def test_from_url_refuses(name, value, rule):
    if name not in ("ssl", "unix_socket_path"):
        check_refusal(lambda port: Redis.from_url(f"redis://127.0.0.1:{port}", **{name: value}), name, value, rule)


@pytest.mark.parametrize(("name", "value", "rule"), [*CONNECTION, *REDIS_PYS])
def test_a_given_pool_is_looked_at(name, value, rule):
    if name in ("ssl", "max_connections"):
        return  # the pool itself refuses it, or has no such setting
    name = "path" if name == "unix_socket_path" else name
    kind = redis.UnixDomainSocketConnection if name == "path" else redis.Connection
    pool = redis.ConnectionPool(connection_class=kind, **{name: value})
    check_refusal(lambda _port: Redis(connection_pool=pool), name, value, rule)


@pytest.mark.parametrize(("name", "value", "rule"), [*CONNECTION, *REDIS_PYS, *RESILIENT])
def test_the_resilient_client_refuses(name, value, rule):
    check_refusal(
        lambda port: ResilientRedisClient(**{"client_name": "x", "port": port, name: value}), name, value, rule
    )


def test_positional_arguments_have_names_too():
    with pytest.raises(ValueError, match="host must be a non-empty str, got 6379"):
        ResilientRedisClient("localhost", 6379)
    # redis takes no positional arguments
    with pytest.raises(ValueError, match="host must be a non-empty str, got 6379"):
        Redis(6379)
    with pytest.raises(ValueError, match="port must be a whole number, got 'localhost'"):
        Redis("localhost", "localhost")


def test_text_that_redis_py_can_use_is_used():
    client = Redis(host="127.0.0.1", port="6390", db="2", password=b"5", username=b"me")
    assert client.endpoint == "127.0.0.1:6390"
    assert client.connection_pool.connection_kwargs["db"] == "2"
    assert Redis(db=None, socket_timeout=None).connection_pool is not None


@pytest.mark.parametrize("name", ["tiemout", "hots"])
def test_unknown_names_are_refused(name):
    pool = redis.ConnectionPool(**{name: 1})
    for make in (
        lambda: Redis(**{name: 1}),
        lambda: Redis.from_url("redis://127.0.0.1", **{name: 1}),
        lambda: Redis.from_url(f"redis://127.0.0.1?{name}=1"),
        lambda: Redis(connection_pool=pool),
        lambda: ResilientRedisClient("x", **{name: 1}),
        lambda: ResilientRedisClient.from_url("redis://127.0.0.1", **{name: 1}),
        lambda: ResilientRedisClient.from_url(f"redis://127.0.0.1?{name}=1"),
    ):
        with pytest.raises(TypeError, match=re.escape(f"unexpected keyword argument {name!r}")):
            make()


def test_a_pool_of_a_class_of_ones_own_takes_what_it_likes():
    class Own(redis.Connection):
        def __init__(self, *, flavour, **kwargs):
            super().__init__(**kwargs)

    pool = redis.ConnectionPool(connection_class=Own, flavour=3)
    assert Redis(connection_pool=pool).connection_pool is pool


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "elsewhere"),
        ("port", 6390),
        ("db", 3),
        ("decode_responses", True),
        ("socket_timeout", 0.5),
        ("password", "hunter2"),
        ("max_connections", 3),
        ("unix_socket_path", "/tmp/redis"),
        ("ssl", True),
    ],
)
def test_what_a_given_pool_would_win_over_is_refused(name, value):
    pool = redis.ConnectionPool(host="127.0.0.1", port=6391)
    with pytest.raises(ValueError, match=f"{name} must be left out with connection_pool=") as refused:
        Redis(connection_pool=pool, **{name: value})
    assert "hunter2" not in str(refused.value)
    if name not in ("ssl", "unix_socket_path"):
        same = redis.ConnectionPool(**{name: value})
        assert Redis(connection_pool=same, **{name: value}).connection_pool is same


@pytest.mark.parametrize(("name", "value"), [("ssl", True), ("lib_name", "app")])
def test_an_injected_client_has_its_own_connection(name, value):
    with pytest.raises(ValueError, match=f"{name} must be left out with client="):
        ResilientRedisClient("x", client=Redis(), **{name: value})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ResiliencePolicy(breaker=3), "breaker must be a BreakerSettings, got 3"),
        (lambda: ResiliencePolicy(retry=3), "retry must be a RetryPolicy, got 3"),
        (lambda: ResiliencePolicy(budget=3), "budget must be a RetryBudget, got 3"),
        (lambda: ResiliencePolicy(probe_interval_s="x"), "probe_interval_s must be > 0, got 'x'"),
        (lambda: ResiliencePolicy(categories=3), "categories must be a Mapping, got 3"),
        (lambda: ResiliencePolicy(categories={3: CommandCategory.READ}), "upper-case command names, got 3"),
        (lambda: BreakerSettings("3"), "failure_threshold must be a number, got '3'"),
        (lambda: BreakerSettings(True), "failure_threshold must be a number, got True"),
        (lambda: BreakerSettings(3, "x"), "reset_timeout_s must be a number, got 'x'"),
        (lambda: RetryPolicy("3"), "max_retries must be a number, got '3'"),
        (lambda: RetryPolicy(True), "max_retries must be a number, got True"),
        (lambda: RetryPolicy(deadline_s="x"), "deadline_s must be a number, got 'x'"),
        (lambda: RetryPolicy(jitter=3), "jitter must be one of none, full, equal, decorrelated, got 3"),
        (lambda: RetryPolicy(overrides=3), "overrides must be a Mapping, got 3"),
        (lambda: RetryBudget("x"), "capacity must be a number, got 'x'"),
        (lambda: RecoveryConfig(max_entries="x"), "max_entries must be a whole number, got 'x'"),
        (lambda: make_guard(3), "name must be a str, got 3"),
        (lambda: make_guard("x", breaker=3), "breaker must be a BreakerSettings, got 3"),
        (lambda: make_guard("x", retry=3), "retry must be a RetryPolicy, got 3"),
        (lambda: make_guard("x", budget=3), "budget must be a RetryBudget, got 3"),
        (lambda: make_guard("x", clock=3), "clock must be a callable, got 3"),
        (lambda: CircuitBreaker(3), "name must be a str, got 3"),
        (lambda: CircuitBreaker("x", "y"), "failure_threshold must be a number, got 'y'"),
        (lambda: CircuitBreaker("x", clock=3), "clock must be a callable, got 3"),
    ],
)
def test_policies_refuse(make, said):
    with pytest.raises((ValueError, TypeError), match=re.escape(said)):
        make()
