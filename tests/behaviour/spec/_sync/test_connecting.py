# Generated from ../_async/test_connecting.py by tools/generate_sync.py: edit that file, not this one.

"""Coming and going: init, close, context managers, URLs, embedded servers, configuration that is refused."""

import logging
import math

import pytest
import redis

from agent_memory import RetryPolicy
from agent_memory.errors import RedisUnavailableError
from agent_memory.storage.redis_client import RecoverySettings, ResilientRedisClient
from agent_memory.testing import EmbeddedServer

ONCE = RetryPolicy(max_retries=0)


def test_first_command_connects_by_itself(address):
    client = ResilientRedisClient("late", **address)
    assert client.set("key", "value") is True
    client.close()


def test_init_and_close_may_be_called_again(address):
    client = ResilientRedisClient("again", **address)
    assert client.init() is True
    assert client.init() is True
    client.close()
    client.close()
    assert client.init() is True
    assert client.ping() is True
    client.close()


def test_init_without_a_server_says_so_and_goes_on(mortal_server, caplog):
    mortal_server.kill()
    client = ResilientRedisClient("early", **mortal_server.connection_kwargs, retry_policy=ONCE)
    assert client.init() is False
    assert "early" in caplog.text
    with pytest.raises(RedisUnavailableError):
        client.get("key")
    client.close()


def test_init_raises_what_the_server_answers(mortal_server):
    arguments = {**mortal_server.connection_kwargs, "password": "not the password"}
    client = ResilientRedisClient("wrong", **arguments)
    with pytest.raises(redis.AuthenticationError):
        client.init()
    client.close()


def test_context_manager(address):
    with ResilientRedisClient("context", **address) as client:
        client.set("key", "value")
        assert client.health()
        assert client.health().state == client.state == "closed"


def test_closing_leaves_an_injected_client_open(address):
    with redis.Redis(**address) as injected:
        with ResilientRedisClient("guest", client=injected) as client:
            client.set("key", "value")
        assert injected.get("key") == b"value"


def test_from_url(address):
    url = f"redis://{address['host']}:{address['port']}/3?socket_timeout=7.5"
    with ResilientRedisClient.from_url(url, client_name="url", circuit_threshold=9) as client:
        client.set("key", "value")
        assert client.client_info()["db"] == 3
        assert client.client_name == "url"
    with ResilientRedisClient.from_url(url.replace("redis://", "valkey://")) as client:
        assert client.get("key") == "value"


def test_from_url_with_a_unix_socket():
    with EmbeddedServer(transport="unix") as server:
        client = ResilientRedisClient.from_url(server.url)
        assert client.ping() is True
        assert str(server.socket_path) in repr(client)
        client.close()


def test_embedded_server_belongs_to_its_client():
    client = ResilientRedisClient.from_url("embedded://", "mine")
    assert client.init() is True
    client.set("key", "value")
    with ResilientRedisClient.from_url("embedded://?decode_responses=false", "other") as other:
        assert other.get("key") is None
        other.set("key", "b")
        assert other.get("key") == b"b"
    server = client._server
    client.close()
    assert not server.alive


def test_embedded_server_with_a_path_keeps_its_data(tmp_path):
    url = f"embedded://{tmp_path / 'data'}"
    for expected in (None, "1", "2"):
        with ResilientRedisClient.from_url(url) as client:
            assert client.get("count") == expected
            client.set("count", int(expected or 0) + 1)


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "embedded://host/path", ""])
def test_from_url_refuses_other_urls(url):
    with pytest.raises(ValueError):  # noqa: PT011 - the words are redis-py's
        ResilientRedisClient.from_url(url)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"client_name": ""}, "client_name must be a non-empty str, got ''"),
        ({"port": 70_000}, "port must be <= 65535, got 70000"),
        ({"port": "6379"}, "port must be a whole number, got '6379'"),
        ({"db": -1}, "db must be >= 0, got -1"),
        ({"socket_timeout": 0}, "socket_timeout must be > 0, got 0"),
        ({"socket_connect_timeout": -1.0}, r"socket_connect_timeout must be > 0, got -1\.0"),
        ({"circuit_threshold": 0}, "circuit_threshold must be >= 1, got 0"),
        ({"circuit_reset_timeout": 0}, "circuit_reset_timeout must be > 0, got 0"),
        ({"critical_retry_attempts": -1}, "critical_retry_attempts must be >= 0, got -1"),
        ({"retry_base_delay": -0.5}, r"retry_base_delay must be >= 0, got -0\.5"),
        ({"retry_max_delay": math.nan}, "retry_max_delay must be >= 0, got nan"),
        ({"max_connections": 0}, "max_connections must be >= 1, got 0"),
        ({"health_check_interval": -1}, "health_check_interval must be >= 0, got -1"),
        ({"probe_interval_s": 0}, "probe_interval_s must be > 0, got 0"),
    ],
)
def test_refused_configuration_names_parameter_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ResilientRedisClient(**{"client_name": "x", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_entries": 0}, "max_entries must be >= 1, got 0"),
        ({"max_bytes": 0}, "max_bytes must be >= 1, got 0"),
        ({"max_age_s": 0}, "max_age_s must be > 0, got 0"),
        ({"max_attempts": 0}, "max_attempts must be >= 1, got 0"),
        ({"base_delay": 0}, "base_delay must be > 0, got 0"),
        ({"max_delay": 0}, "max_delay must be > 0, got 0"),
        ({"max_dead_letters": -1}, "max_dead_letters must be >= 0, got -1"),
        ({"close_timeout_s": -1}, "close_timeout_s must be >= 0, got -1"),
    ],
)
def test_refused_recovery_settings(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        RecoverySettings(**arguments)


def test_neither_password_nor_values_are_shown(mortal_server, caplog):
    caplog.set_level(logging.DEBUG)
    secret, value = "pass-word-7", "stored-value-7"
    shown = []
    arguments = {**mortal_server.connection_kwargs, "retry_policy": ONCE, "retry_base_delay": 0.0}
    password = arguments["password"]
    wrong = ResilientRedisClient("wrong", **{**arguments, "password": secret})
    with pytest.raises(redis.AuthenticationError) as refused:
        wrong.init()
    shown += [repr(wrong), str(refused.value), repr(wrong.stats())]
    wrong.close()
    client = ResilientRedisClient("right", **arguments)
    client.set("text", value)
    with pytest.raises(redis.ResponseError) as wrong_type:
        client.hset("text", "field", value)
    shown += [str(wrong_type.value)]
    mortal_server.kill()
    with pytest.raises(RedisUnavailableError) as unavailable:
        client.set("key", value)
    shown += [str(unavailable.value), repr(unavailable.value)]

    def store(agent_id, state):
        client.set(agent_id, state["value"])
        return True

    result = client.store_with_retry("agent", {"value": value}, store)
    shown += [repr(result), repr(client), repr(client.stats()), repr(client.recovery.pending()), repr(client.health())]
    client.close()
    shown += [repr(client.recovery.dead_letters()), caplog.text]
    assert caplog.text
    assert not [text for text in shown if secret in text or value in text or password in text]
