"""The circuit breaker around every call: opening, failing fast, coming back, user's own operations."""

import inspect

import pytest
import pytest_asyncio
import redis
import redis.asyncio

from agent_memory import CircuitOpenError, Outcome, RedisTimeoutError, RedisUnavailableError, RetryPolicy
from agent_memory._concurrency import ASYNC, AsyncEvent, async_gather, async_in_thread, async_spawn
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient, resilient_operation

WAIT_S = 30.0
QUICK = {"retry_policy": RetryPolicy(max_retries=0), "probe_interval_s": 0.1}


@pytest_asyncio.fixture
async def client(mortal_server):
    async with AsyncResilientRedisClient("guarded", **mortal_server.connection_kwargs, **QUICK) as client:
        yield client


def changes_of(client):
    """The states the circuit passes through from now on, and an event for each of them."""
    seen = []
    events = {state: AsyncEvent() for state in ("closed", "open", "half_open")}

    def note(name, old, new):
        seen.append(new)
        events[new].set()

    client.guard.add_listener(note)
    return seen, events


async def fail_until_open(client):
    for _ in range(3):
        with pytest.raises(RedisUnavailableError):
            await client.get("key")
    assert client.state == "open"


async def make_half_open(client, server):
    server.kill()
    await fail_until_open(client)
    await async_in_thread(server.restart)
    client.guard.server_answered()
    assert client.state == "half_open"


async def test_opens_fails_fast_and_comes_back_by_itself(client, mortal_server):
    seen, events = changes_of(client)
    await client.set("key", "value")
    mortal_server.kill()
    await fail_until_open(client)
    with pytest.raises(CircuitOpenError) as rejected:
        await client.set("key", "other")
    assert isinstance(rejected.value, RedisUnavailableError)
    assert isinstance(rejected.value, redis.ConnectionError)
    assert rejected.value.outcome is Outcome.NOT_SENT
    assert "guarded" in str(rejected.value)
    with pytest.raises(CircuitOpenError):
        await client.lpush("list", 1)
    await async_in_thread(mortal_server.restart)
    assert await events["closed"].wait(WAIT_S)
    assert seen == ["open", "half_open", "closed"]
    assert await client.get("key") == "value"


async def test_without_a_probe_the_timer_alone_counts(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "probe_interval_s": None, "circuit_reset_timeout": 0.2}
    async with AsyncResilientRedisClient("timer", **arguments) as client:
        _, events = changes_of(client)
        mortal_server.kill()
        await fail_until_open(client)
        await async_in_thread(mortal_server.restart)
        while client.state == "open":
            await events["half_open"].wait(client.guard.retry_after_s)
        assert await client.get("key") is None
        assert client.state == "closed"


async def test_timeouts_open_the_circuit_and_are_named(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "socket_timeout": 0.2}
    async with AsyncResilientRedisClient("slow", **arguments) as client:
        _, events = changes_of(client)
        mortal_server.pause()
        try:
            for _ in range(3):
                with pytest.raises(RedisTimeoutError) as late:
                    await client.set("key", "value")
                assert isinstance(late.value, redis.TimeoutError)
            assert client.state == "open"
        finally:
            mortal_server.resume()
        assert await events["closed"].wait(WAIT_S)


@pytest.mark.parametrize("probe", [0.1, None])
async def test_injected_clients_are_guarded_here(mortal_server, probe):
    injected = redis.asyncio.Redis(**mortal_server.connection_kwargs, retry=None)
    client = AsyncResilientRedisClient("guest", client=injected, **{**QUICK, "probe_interval_s": probe})
    mortal_server.kill()
    for call in (client.get, client.llen, client.ttl):
        with pytest.raises(RedisUnavailableError):
            await call("key")
    with pytest.raises(CircuitOpenError):
        await client.llen("key")
    with pytest.raises(CircuitOpenError):
        await client.pipeline().get("key").execute()
    await client.close()
    await injected.aclose()


async def test_a_shared_guard_is_one_circuit(mortal_server):
    async with AsyncResilientRedisClient("first", **mortal_server.connection_kwargs, **QUICK) as first:
        second = AsyncResilientRedisClient("second", **mortal_server.connection_kwargs, guard=first.guard)
        mortal_server.kill()
        await fail_until_open(first)
        with pytest.raises(CircuitOpenError):
            await second.get("key")
        await second.close()


class Mine(AsyncResilientRedisClient):
    """A user's subclass: operations of one's own, as coroutine functions, plain functions and nested ones."""

    @resilient_operation("get_upper")
    async def get_upper(self, key):
        """Upper."""
        return (await self.client.get(key)).upper()

    @resilient_operation("plain")
    def plain(self, key):
        return self.client.get(key)

    @resilient_operation("nested")
    async def nested(self, key):
        await self.set(key, "nested")
        return await self.get(key)

    @resilient_operation("plain_nested")
    def plain_nested(self, key):
        return self.nested(key)

    @resilient_operation("broken")
    async def broken(self):
        raise KeyError("a bug")


async def test_operations_of_ones_own(mortal_server, caplog):
    async with Mine("mine", **mortal_server.connection_kwargs, **QUICK) as client:
        await client.set("key", "value")
        assert await client.get_upper("key") == "VALUE"
        assert await client.plain("key") == "value"
        assert await client.nested("key") == "nested"
        assert await client.plain_nested("key") == "nested"
        assert await client._execute_with_circuit_breaker("direct", lambda: client.client.get("key")) == "nested"
        for _ in range(5):
            with pytest.raises(KeyError):
                await client.broken()
        assert "broken failed: KeyError" in caplog.text
        assert "a bug" not in caplog.text
        assert client.state == "closed"
        operations = client.stats()["operations"]
        calls = {name: operations[name]["calls"] for name in ("get_upper", "plain", "nested", "plain_nested", "direct")}
        # A nested operation joins the call it is part of.
        assert calls == {"get_upper": 1, "plain": 1, "nested": 1, "plain_nested": 1, "direct": 1}
    assert Mine.get_upper.__doc__ == "Upper."
    if ASYNC:
        assert inspect.iscoroutinefunction(Mine.get_upper)


async def test_a_nested_operation_is_one_probe(mortal_server):
    """Half-open admits one call: an operation made of several commands must fit into it."""
    arguments = {**mortal_server.connection_kwargs, **QUICK, "probe_interval_s": None}
    async with Mine("probe", **arguments) as client:
        await make_half_open(client, mortal_server)
        assert await client.nested("key") == "nested"
        assert client.state == "closed"


async def test_half_open_lets_one_of_many_through(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "probe_interval_s": None}
    async with Mine("herd", **arguments) as client:
        await make_half_open(client, mortal_server)
        entered, leave = AsyncEvent(), AsyncEvent()

        async def slow():
            entered.set()
            await leave.wait(WAIT_S)
            return True

        async def attempt():
            try:
                return await client.get("key")
            except CircuitOpenError:
                return "rejected"

        probe = async_spawn(client._execute_with_circuit_breaker, "slow", slow)
        assert await entered.wait(WAIT_S)
        assert await async_gather(*[async_spawn(attempt) for _ in range(50)]) == ["rejected"] * 50
        leave.set()
        assert await probe.result() is True
        assert client.state == "closed"


@pytest.mark.parametrize("name", ["", None, 3])
def test_an_operation_has_a_name(name):
    with pytest.raises(ValueError, match="operation_name must be a non-empty str"):
        resilient_operation(name)


async def test_reads_are_retried_and_writes_of_unknown_outcome_are_not(mortal_server):
    arguments = {**mortal_server.connection_kwargs, "retry_policy": RetryPolicy(max_retries=2, base_delay=0.01)}
    async with Mine("retries", **arguments, circuit_threshold=100) as client:
        calls = []

        def failing(name, outcome):
            async def operation():
                calls.append(name)
                raise RedisUnavailableError("broken", outcome=outcome)

            return operation

        for name, outcome, expected in (
            ("get", Outcome.UNKNOWN, 3),
            ("incr", Outcome.UNKNOWN, 1),
            ("two", Outcome.NOT_SENT, 1),
        ):
            with pytest.raises(RedisUnavailableError):
                await client._execute_with_circuit_breaker(name, failing(name, outcome))
            assert calls.count(name) == expected


async def test_retry_logic_of_ones_own_for_an_operation(mortal_server):
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
    async with AsyncResilientRedisClient("custom", **arguments) as client:
        mortal_server.kill()
        with pytest.raises(RedisUnavailableError):
            await client.get("key")
        assert [attempt for attempt, _ in asked] == [0, 1, 2]
        with pytest.raises(RedisUnavailableError):
            await client.hget("key", "field")
        assert len(asked) == 3
