# Generated from ../_async/test_guarding.py by tools/generate_sync.py: edit that file, not this one.

"""The circuit breaker around every call: opening, failing fast, coming back, user's own operations."""

import pytest
import redis

from agent_memory import CircuitOpenError, Outcome, RedisTimeoutError, RedisUnavailableError, RetryPolicy
from agent_memory._concurrency import Event, gather, in_thread, spawn
from agent_memory.storage.redis_client import ResilientRedisClient, resilient_operation

WAIT_S = 30.0
QUICK = {"retry_policy": RetryPolicy(max_retries=0), "probe_interval_s": 0.1}


@pytest.fixture
def client(mortal_server):
    with ResilientRedisClient("guarded", **mortal_server.connection_kwargs, **QUICK) as client:
        yield client


def changes_of(client):
    """The states the circuit passes through from now on, and an event for each of them."""
    seen = []
    events = {state: Event() for state in ("closed", "open", "half_open")}

    def note(name, old, new):
        seen.append(new)
        events[new].set()

    client.guard.add_listener(note)
    return seen, events


def fail_until_open(client):
    for _ in range(3):
        with pytest.raises(RedisUnavailableError):
            client.get("key")
    assert client.state == "open"


def make_half_open(client, server):
    server.kill()
    fail_until_open(client)
    in_thread(server.restart)
    client.guard.server_answered()
    assert client.state == "half_open"


def test_opens_fails_fast_and_comes_back_by_itself(client, mortal_server):
    seen, events = changes_of(client)
    client.set("key", "value")
    mortal_server.kill()
    fail_until_open(client)
    with pytest.raises(CircuitOpenError) as rejected:
        client.set("key", "other")
    assert isinstance(rejected.value, RedisUnavailableError)
    assert isinstance(rejected.value, redis.ConnectionError)
    assert rejected.value.outcome is Outcome.NOT_SENT
    assert "guarded" in str(rejected.value)
    with pytest.raises(CircuitOpenError):
        client.lpush("list", 1)
    in_thread(mortal_server.restart)
    assert events["closed"].wait(WAIT_S)
    assert seen == ["open", "half_open", "closed"]
    assert client.get("key") == "value"


def test_without_a_probe_the_timer_alone_counts(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "probe_interval_s": None, "circuit_reset_timeout": 0.2}
    with ResilientRedisClient("timer", **arguments) as client:
        _, events = changes_of(client)
        mortal_server.kill()
        fail_until_open(client)
        in_thread(mortal_server.restart)
        while client.state == "open":
            events["half_open"].wait(client.guard.retry_after_s)
        assert client.get("key") is None
        assert client.state == "closed"


def test_timeouts_open_the_circuit_and_are_named(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "socket_timeout": 0.2}
    with ResilientRedisClient("slow", **arguments) as client:
        _, events = changes_of(client)
        mortal_server.pause()
        try:
            for _ in range(3):
                with pytest.raises(RedisTimeoutError) as late:
                    client.set("key", "value")
                assert isinstance(late.value, redis.TimeoutError)
            assert client.state == "open"
        finally:
            mortal_server.resume()
        assert events["closed"].wait(WAIT_S)


@pytest.mark.parametrize("probe", [0.1, None])
def test_injected_clients_are_guarded_here(mortal_server, probe):
    injected = redis.Redis(**mortal_server.connection_kwargs, retry=None)
    client = ResilientRedisClient("guest", client=injected, **{**QUICK, "probe_interval_s": probe})
    mortal_server.kill()
    for call in (client.get, client.llen, client.ttl):
        with pytest.raises(RedisUnavailableError):
            call("key")
    with pytest.raises(CircuitOpenError):
        client.llen("key")
    with pytest.raises(CircuitOpenError):
        client.pipeline().get("key").execute()
    client.close()
    injected.close()


def test_a_shared_guard_is_one_circuit(mortal_server):
    with ResilientRedisClient("first", **mortal_server.connection_kwargs, **QUICK) as first:
        second = ResilientRedisClient("second", **mortal_server.connection_kwargs, guard=first.guard)
        mortal_server.kill()
        fail_until_open(first)
        with pytest.raises(CircuitOpenError):
            second.get("key")
        second.close()


class Mine(ResilientRedisClient):
    """A user's subclass: operations of one's own, as functions, plain functions and nested ones."""

    @resilient_operation("get_upper")
    def get_upper(self, key):
        """Upper."""
        return self.client.get(key).upper()

    @resilient_operation("plain")
    def plain(self, key):
        return self.client.get(key)

    @resilient_operation("nested")
    def nested(self, key):
        self.set(key, "nested")
        return self.get(key)

    @resilient_operation("plain_nested")
    def plain_nested(self, key):
        return self.nested(key)

    @resilient_operation("broken")
    def broken(self):
        raise KeyError("a bug")


def test_operations_of_ones_own(mortal_server, caplog):
    with Mine("mine", **mortal_server.connection_kwargs, **QUICK) as client:
        client.set("key", "value")
        assert client.get_upper("key") == "VALUE"
        assert client.plain("key") == "value"
        assert client.nested("key") == "nested"
        assert client.plain_nested("key") == "nested"
        assert client._execute_with_circuit_breaker("direct", lambda: client.client.get("key")) == "nested"
        for _ in range(5):
            with pytest.raises(KeyError):
                client.broken()
        assert "broken failed: KeyError" in caplog.text
        assert "a bug" not in caplog.text
        assert client.state == "closed"
        operations = client.stats()["operations"]
        calls = {name: operations[name]["calls"] for name in ("get_upper", "plain", "nested", "plain_nested", "direct")}
        # A nested operation joins the call it is part of.
        assert calls == {"get_upper": 1, "plain": 1, "nested": 1, "plain_nested": 1, "direct": 1}
    assert Mine.get_upper.__doc__ == "Upper."


def test_a_nested_operation_is_one_probe(mortal_server):
    """Half-open admits one call: an operation made of several commands must fit into it."""
    arguments = {**mortal_server.connection_kwargs, **QUICK, "probe_interval_s": None}
    with Mine("probe", **arguments) as client:
        make_half_open(client, mortal_server)
        assert client.nested("key") == "nested"
        assert client.state == "closed"


def test_half_open_lets_one_of_many_through(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "probe_interval_s": None}
    with Mine("herd", **arguments) as client:
        make_half_open(client, mortal_server)
        entered, leave = Event(), Event()

        def slow():
            entered.set()
            leave.wait(WAIT_S)
            return True

        def attempt():
            try:
                return client.get("key")
            except CircuitOpenError:
                return "rejected"

        probe = spawn(client._execute_with_circuit_breaker, "slow", slow)
        assert entered.wait(WAIT_S)
        assert gather(*[spawn(attempt) for _ in range(50)]) == ["rejected"] * 50
        leave.set()
        assert probe.result() is True
        assert client.state == "closed"


@pytest.mark.parametrize("name", ["", None, 3])
def test_an_operation_has_a_name(name):
    with pytest.raises(ValueError, match="operation_name must be a non-empty str"):
        resilient_operation(name)


def test_reads_are_retried_and_writes_of_unknown_outcome_are_not(mortal_server):
    arguments = {**mortal_server.connection_kwargs, "retry_policy": RetryPolicy(max_retries=2, base_delay=0.01)}
    with Mine("retries", **arguments, circuit_threshold=100) as client:
        calls = []

        def failing(name, outcome):
            def operation():
                calls.append(name)
                raise RedisUnavailableError("broken", outcome=outcome)

            return operation

        for name, outcome, expected in (
            ("get", Outcome.UNKNOWN, 3),
            ("incr", Outcome.UNKNOWN, 1),
            ("two", Outcome.NOT_SENT, 1),
        ):
            with pytest.raises(RedisUnavailableError):
                client._execute_with_circuit_breaker(name, failing(name, outcome))
            assert calls.count(name) == expected


def test_retry_logic_of_ones_own_for_an_operation(mortal_server):
    asked = []

    def twice(attempt, kind, outcome):
        asked.append((attempt, Outcome(outcome)))
        return 0.0 if attempt < 2 else None

    policy = RetryPolicy(max_retries=0, overrides={"get": twice, "mine": RetryPolicy(max_retries=0)})
    arguments = {
        **mortal_server.connection_kwargs,
        "retry_policy": policy,
        "circuit_threshold": 100,
        "probe_interval_s": None,
    }
    with ResilientRedisClient("custom", **arguments) as client:
        mortal_server.kill()
        with pytest.raises(RedisUnavailableError):
            client.get("key")
        assert [attempt for attempt, _ in asked] == [0, 1, 2]
        with pytest.raises(RedisUnavailableError):
            client.hget("key", "field")
        assert len(asked) == 3
