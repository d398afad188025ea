"""Exactly once and the queue: lost writes with a priority are resolved, and drained ones as well."""

from __future__ import annotations

import random

import pytest

from agent_memory import AsyncResilientRedisClient, Outcome, Priority, RecoveryConfig, RetryPolicy
from agent_memory._concurrency import async_sleep, async_spawn
from agent_memory.errors import RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.asyncio import Redis as AsyncRedis
from agent_memory.redis.exactly_once import ExactlyOnce

WAIT_S = 60.0
CONFIG = RecoveryConfig(base_delay=0.01, max_delay=0.05)
QUICK = {"retry_policy": RetryPolicy(max_retries=0), "socket_timeout": 1.0, "probe_interval_s": 0.1}


def client_of(where, **options):
    options = {**where.connection_kwargs, **QUICK, "exactly_once": True, "recovery": CONFIG, **options}
    return AsyncResilientRedisClient("resolved", **options)


async def test_the_setting_of_the_client_switches_it_on(server):
    async with client_of(server) as client:
        await client.incr("counter")
        assert client.stats()["exactly_once"]["level"] == "marker"
    async with client_of(server, exactly_once=False) as client:
        await client.incr("counter")
        assert "exactly_once" not in client.stats()


async def test_an_injected_drop_in_says_it_for_the_queue_too(server, proxy):
    between = proxy(server)
    async with AsyncRedis(
        **between.connection_kwargs, exactly_once=True, resilience=None, socket_timeout=1.0
    ) as drop_in:
        options = {"client": drop_in, "recovery": CONFIG, "retry_policy": RetryPolicy(max_retries=0)}
        async with AsyncResilientRedisClient("resolved", **options) as client:
            high = client.with_priority(Priority.HIGH)
            await high.incr("counter")
            between.drop_replies(1, command="EXEC", then="reset")
            assert await (await high.incr("counter")).wait(WAIT_S)
            assert int(await client.get("counter")) == 2
            assert client.recovery.dead_letters() == []


async def test_a_plain_write_and_a_queued_one_go_by_one_setting(server, proxy):
    between = proxy(server)
    policy = ExactlyOnce("marker", marker_prefix="here:")
    async with client_of(between, exactly_once=policy) as client, AsyncRedis(**server.connection_kwargs) as observer:
        high = client.with_priority(Priority.HIGH)
        await client.incr("counter")
        client.recovery.pause()
        client.guard.force_open()
        queued = await high.incr("counter")
        between.drop_replies(1, command="EXEC", then="reset")  # the drain's, whose reply is lost
        client.guard.reset()
        client.recovery.resume()
        assert await queued.wait(WAIT_S)
        between.drop_replies(1, command="EXEC", then="reset")
        with pytest.raises(RedisUnavailableError) as error:
            await client.incr("counter")
        assert error.value.outcome is Outcome.APPLIED
        assert await client.incr("counter") == 4
        assert client.recovery.dead_letters() == []
        assert [key async for key in observer.scan_iter("here:*")]


async def test_without_it_a_queued_write_whose_reply_was_lost_is_a_dead_letter(server, proxy):
    between = proxy(server)
    async with client_of(between, exactly_once=False) as client, AsyncRedis(**server.connection_kwargs) as observer:
        client.recovery.pause()
        client.guard.force_open()
        queued = await client.with_priority(Priority.HIGH).incr("counter")
        between.drop_replies(1, command="INCRBY", then="reset")
        client.guard.reset()
        client.recovery.resume()
        assert not await queued.wait(WAIT_S)
        assert [letter.reason for letter in client.recovery.dead_letters()] == ["unknown"]
        assert int(await observer.get("counter")) == 1


@pytest.mark.parametrize("wrong", [1, "yes", RecoveryConfig()], ids=repr)
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^exactly_once must be a bool or an ExactlyOnce, got "):
        AsyncResilientRedisClient("resolved", exactly_once=wrong)


def test_it_is_the_injected_clients_to_say():
    with pytest.raises(ValueError, match=r"^exactly_once must be left out with client="):
        AsyncResilientRedisClient("resolved", client=AsyncRedis(), exactly_once=True)
    with pytest.raises(TypeError, match="exactly_once"):
        RecoveryConfig(exactly_once=True)


async def test_a_write_that_was_applied_counts_as_stored(server, proxy):
    between = proxy(server)
    async with client_of(between) as client:
        high = client.with_priority(Priority.HIGH)
        assert (await high.incr("counter")).value == 1
        between.drop_replies(1, command="EXEC", then="reset")
        result = await high.incr("counter")
        assert await result.wait(WAIT_S)
        assert result.status == "stored"
        assert await client.get("counter") == "2"
        assert client.recovery.dead_letters() == []


async def test_a_write_that_is_lost_is_resolved_before_those_behind_it(server, proxy):
    between = proxy(server)
    async with client_of(between) as client, AsyncRedis(**server.connection_kwargs) as observer:
        high = client.with_priority(Priority.HIGH)
        await high.incr("counter")
        between.drop_replies(1, command="EXEC", then="silence")
        lost = await high.incr("counter")
        for _ in range(3):
            await high.incr("counter")
        between.heal()
        assert await lost.wait(WAIT_S)
        assert await client.recovery.flush(WAIT_S)
        assert int(await observer.get("counter")) == 5
        assert client.recovery.dead_letters() == []


@pytest.mark.parametrize("seed", range(4))
async def test_drains_through_faults_apply_each_write_once(valkey, proxy, seed):
    dice = random.Random(f"drains through faults {seed}")
    between = proxy(valkey)
    config = RecoveryConfig(base_delay=0.01, max_delay=0.05, drain_batch=8)
    async with client_of(between, recovery=config) as client, AsyncRedis(**valkey.connection_kwargs) as observer:
        await client.ping()
        client.recovery.pause()
        client.guard.force_open()
        results = []
        for number in range(120):
            high = client.with_priority(dice.choice([Priority.HIGH, Priority.NORMAL]))
            results.append(await high.incrby(f"counter:{number % 12}", 1))
            if number % 10 == 0:
                results.append(await high.set(f"text:{number}", number))
        client.guard.reset()
        client.recovery.resume()
        for _ in range(12):
            between.drop_replies(1, command=dice.choice(["EXEC", "EXEC", "SET"]), then=dice.choice(["reset", "close"]))
            await async_sleep(dice.uniform(0.02, 0.2))
            between.heal()
        assert await client.recovery.flush(WAIT_S), f"seed {seed}"
        for result in results:
            assert await result.wait(WAIT_S), f"seed {seed}"
        assert [int(await observer.get(f"counter:{number}")) for number in range(12)] == [10] * 12, f"seed {seed}"
        assert client.recovery.dead_letters() == []


async def test_what_the_server_refuses_becomes_a_dead_letter_and_keeps_nothing_back(server):
    async with client_of(server) as client:
        await client.set("text", "x")
        client.recovery.pause()
        client.guard.force_open()
        high = client.with_priority(Priority.HIGH)
        poison, behind = await high.lpush("text", "poison"), await high.incr("counter")
        client.guard.reset()
        client.recovery.resume()
        assert await behind.wait(WAIT_S)
        assert not await poison.wait(WAIT_S)
        assert [letter.reason for letter in client.recovery.dead_letters()] == ["rejected"]


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
async def test_a_successor_resolves_what_its_predecessor_lost(server, proxy, journal, executed):
    between = proxy(server)
    config = RecoveryConfig(path=journal, close_timeout_s=0.1, base_delay=0.01, max_delay=0.05)
    predecessor = client_of(between, recovery=config)
    await predecessor.incr("counter")
    between.refuse()
    if executed:
        between.drop_replies(1, command="EXEC", then="reset")
    else:
        between.cut_after_bytes(60, command="INCRBY")
    lost = await predecessor.with_priority(Priority.HIGH).incr("counter")
    assert (lost.status, lost.durable) == ("queued", True)
    await predecessor.close()
    between.heal()
    between.accept()
    # In the same process, with the predecessor's tickets alive: no other process will resolve them.
    async with client_of(between, recovery=config) as successor:
        assert await successor.recovery.flush(WAIT_S)
        assert successor.recovery.dead_letters() == []
        assert await successor.get("counter") == "2"
    assert list(journal.iterdir()) == []


async def test_what_nothing_can_tell_is_a_dead_letter(valkey, proxy):
    between = proxy(valkey)
    async with client_of(between, socket_timeout=20.0) as client, AsyncRedis(**valkey.connection_kwargs) as observer:
        high = client.with_priority(Priority.HIGH)
        await high.incr("counter")
        between.drop_replies(1, command="EXEC", then="silence")
        call = async_spawn(high.incr, "counter")
        while int(await observer.get("counter")) < 2:
            await async_sleep(0.01)
        await observer.flushall()  # removes the marker too, before it is read
        between.close_connections()
        between.heal()
        lost = await call.result()
        assert not await lost.wait(WAIT_S)
        assert [letter.reason for letter in client.recovery.dead_letters()] == ["unknown"]
        with pytest.raises((RedisTimeoutError, RedisUnavailableError)) as error:
            raise lost.error
        assert error.value.outcome is Outcome.UNKNOWN


async def test_a_drain_through_the_gate_applies_each_write_once(start_server, proxy, journal):
    guarded = start_server(transport="tcp", users={"writer": "~* &* +@all -client|kill"})
    between = proxy(guarded)
    arguments = {**guarded.connection_kwargs_for("writer"), "host": between.host, "port": between.port}
    config = RecoveryConfig(path=journal, base_delay=0.01, max_delay=0.05)
    async with (
        AsyncResilientRedisClient("gated", **{**arguments, **QUICK}, exactly_once=True, recovery=config) as client,
        AsyncRedis(**guarded.connection_kwargs) as observer,
    ):
        await client.ping()
        assert client.stats()["exactly_once"]["level"] == "gate"
        client.recovery.pause()
        client.guard.force_open()
        high = client.with_priority(Priority.HIGH)
        results = [await high.incr(f"counter:{number % 4}") for number in range(20)]
        results += [await high.set(f"text:{number}", number) for number in range(4)]
        client.guard.reset()
        client.recovery.resume()
        for _ in range(5):
            between.drop_replies(1, command="EVALSHA", then="reset")
            await async_sleep(0.1)
        between.heal()
        assert await client.recovery.flush(WAIT_S)
        assert client.recovery.dead_letters() == []
        for result in results:
            assert await result.wait(WAIT_S)
        assert [int(await observer.get(f"counter:{number}")) for number in range(4)] == [5] * 4
        assert [int(await observer.get(f"text:{number}")) for number in range(4)] == [0, 1, 2, 3]
