"""Subscribers whose connection ends: they come back, subscribe again and say what they may have missed."""

import logging
import time

import pytest
import redis

from agent_memory._concurrency import async_sleep, async_spawn
from agent_memory.errors import CircuitOpenError
from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.asyncio import PubSub

WITHIN_S = 20.0


async def next_message(subscriber, within_s=WITHIN_S, **options):
    """The next message; None never counts, a timeout fails."""
    deadline_s = time.monotonic() + within_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        message = await subscriber.get_message(timeout=left_s, **options)
        if message is not None:
            return message
    raise AssertionError(f"no message within {within_s} s")


KINDS = [kind for kind in ("subscribe", "psubscribe", "ssubscribe") if hasattr(PubSub, kind)]
"""Redis-py's asyncio subscribers have no sharded channels before 8.0."""


async def wait_until(condition):
    deadline_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, "never came true"
        await async_sleep(0.01)


async def subscribed(client, **options):
    """A subscriber to one of each kind that has read its confirmations."""
    subscriber = client.pubsub(**options)
    await subscriber.subscribe("plain")
    await subscriber.psubscribe("p*ttern")
    if "ssubscribe" in KINDS:
        await subscriber.ssubscribe("sharded")
    for kind in KINDS:
        assert (await next_message(subscriber))["type"] == kind
    return subscriber


def cut(proxy):
    proxy.close_connections()


def reset(proxy):
    proxy.reset()


@pytest.mark.parametrize("end", [cut, reset])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_comes_back_and_tells_of_the_gap(end, protocol, valkey, proxy, async_connect, caplog):
    caplog.set_level(logging.WARNING, "agent_memory.redis")
    relay = proxy(valkey)
    gaps = []
    subscriber = await subscribed(async_connect(relay, protocol=protocol), on_gap=gaps.append)
    publisher = async_connect(valkey)
    await publisher.publish("plain", "before")
    assert (await next_message(subscriber))["data"] == b"before"
    end(relay)
    # Also the reader finds out by itself, and the confirmations come again, as with redis-py.
    again = [await next_message(subscriber) for _ in KINDS]
    assert [message["type"] for message in again] == KINDS
    assert len(gaps) == 1
    gap = gaps[0]
    assert gap.heard_ns <= gap.noticed_ns <= gap.restored_ns
    assert gap.duration_s >= gap.outage_s >= 0
    assert gap.attempts >= 1
    assert gap.reason
    for channel, kind in (("plain", "message"), ("pattern", "pmessage")):
        assert await publisher.publish(channel, "after") == 1
        message = await next_message(subscriber)
        assert (message["type"], message["channel"], message["data"]) == (kind, channel.encode(), b"after")
    if "ssubscribe" in KINDS:
        await publisher.spublish("sharded", "after")
        message = await subscriber.get_sharded_message(timeout=WITHIN_S)
        assert (message["type"], message["data"]) == ("smessage", b"after")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "plain" not in caplog.text
    await subscriber.aclose()


async def test_the_gap_is_a_message_if_asked_for_and_comes_before_all_others(valkey, proxy, async_connect):
    relay = proxy(valkey)
    client = async_connect(relay)
    subscriber = client.pubsub(gap_messages=True, ignore_subscribe_messages=True)
    await subscriber.subscribe("plain")
    heard = []

    async def publish():
        publisher = async_connect(valkey)
        while len(heard) < 3:
            await publisher.publish("plain", "tick")
            await async_sleep(0.01)

    task = async_spawn(publish)
    cuts = 0
    async for message in subscriber.listen():
        heard.append(message)
        if message["type"] == "message" and not cuts:
            cuts += 1
            heard.clear()
            relay.close_connections()
        elif cuts and len(heard) >= 3:
            break
    await task.result()
    kinds = [message["type"] for message in heard]
    assert kinds.count("gap") == 1
    first = kinds.index("gap")
    assert set(kinds[first + 1 :]) == {"message"}
    assert heard[first]["data"].attempts >= 1
    await subscriber.aclose()


async def test_an_outage_is_waited_out_with_the_reader_unharmed(start_server, async_connect):
    server = start_server(transport="tcp")
    client = async_connect(server)
    gaps = []
    subscriber = client.pubsub(on_gap=gaps.append, ignore_subscribe_messages=True)
    await subscriber.subscribe("plain")
    assert await subscriber.get_message(timeout=0.05) is None
    server.kill()
    started_s = time.monotonic()
    while time.monotonic() - started_s < 0.5:
        assert await subscriber.get_message(timeout=0.05) is None  # nothing to hear, and no error
    server.start()
    while not gaps:
        assert await subscriber.get_message(timeout=0.05) is None
    assert gaps[0].outage_s >= 0.4
    assert gaps[0].attempts >= 2
    await async_connect(server).publish("plain", "after")
    assert (await next_message(subscriber))["data"] == b"after"
    await subscriber.aclose()


async def test_reconnecting_ends_at_its_limit_and_resumes_at_the_next_call(start_server, async_connect):
    server = start_server(transport="tcp")
    client = async_connect(server)
    subscriber = client.pubsub(reconnect_timeout_s=0.3, ignore_subscribe_messages=True)
    await subscriber.subscribe("plain")
    assert await subscriber.get_message(timeout=0.05) is None
    server.kill()
    started_s = time.monotonic()
    with pytest.raises(redis.ConnectionError):
        await subscriber.get_message(timeout=None)
    assert time.monotonic() - started_s >= 0.3
    with pytest.raises(redis.ConnectionError):
        await subscriber.get_message(timeout=None)
    server.start()
    await wait_until(lambda: server.alive)
    assert await subscriber.get_message(timeout=1) is None
    await async_connect(server).publish("plain", "after")
    assert (await next_message(subscriber))["data"] == b"after"
    await subscriber.aclose()


async def test_a_black_hole_is_found_by_asking(valkey, proxy, async_connect):
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=0.5)
    gaps = []
    subscriber = client.pubsub(on_gap=gaps.append, ping_interval_s=0.1, ignore_subscribe_messages=True)
    await subscriber.subscribe("plain")
    # Pings go unnoticed, and keep a living connection.
    assert await subscriber.get_message(timeout=0.5) is None
    assert not gaps
    before = relay.connections_accepted
    relay.black_hole()

    async def lift():
        await wait_until(lambda: relay.connections_accepted > before)
        relay.heal()

    task = async_spawn(lift)
    deadline_s = time.monotonic() + WITHIN_S
    while not gaps:
        assert time.monotonic() < deadline_s
        assert await subscriber.get_message(timeout=0.1) is None
    await task.result()
    assert "PING" in gaps[0].reason
    assert gaps[0].duration_s >= 0.5
    await subscriber.aclose()


async def test_unread_messages_are_no_silence(valkey, async_connect):
    client = async_connect(valkey, socket_timeout=0.1)
    gaps = []
    subscriber = client.pubsub(on_gap=gaps.append, ping_interval_s=0.05, ignore_subscribe_messages=True)
    await subscriber.subscribe("plain")
    publisher = async_connect(valkey)
    assert await subscriber.get_message(timeout=0.3) is None
    for number in range(100):
        await publisher.publish("plain", str(number))
    await async_sleep(0.5)  # longer than interval and timeout together, with a PING perhaps under way
    numbers = [int((await next_message(subscriber))["data"]) for _ in range(100)]
    assert numbers == list(range(100))
    assert not gaps
    await subscriber.aclose()


async def test_subscribing_is_a_guarded_call_and_listening_is_not(start_server, async_connect):
    server = start_server(transport="tcp")
    policy = ResiliencePolicy(breaker=BreakerSettings(2, 60.0), retry=RetryPolicy(max_retries=0), probe_interval_s=None)
    client = async_connect(server, resilience=policy)
    subscriber = client.pubsub(ignore_subscribe_messages=True)
    await subscriber.subscribe("plain")
    assert await subscriber.get_message(timeout=0.05) is None
    server.kill()
    for _ in range(10):
        assert await subscriber.get_message(timeout=0.1) is None
    assert client.guard.state == "closed"
    for _ in range(2):
        with pytest.raises(redis.ConnectionError) as caught:
            await subscriber.subscribe("another")
        assert not isinstance(caught.value, CircuitOpenError)
        assert caught.value.outcome.name == "NOT_SENT"
    with pytest.raises(CircuitOpenError):
        await subscriber.subscribe("another")
    server.start()
    # The listener comes back although the circuit is open.
    publisher = async_connect(server)
    deadline_s = time.monotonic() + WITHIN_S
    while not await publisher.publish("plain", "after"):
        assert time.monotonic() < deadline_s
        await subscriber.get_message(timeout=0.05)
    assert (await next_message(subscriber))["data"] == b"after"
    assert client.guard.state == "open"
    await subscriber.aclose()


async def test_a_subscription_is_retried_like_any_call_that_did_not_arrive(start_server, async_connect):
    server = start_server(transport="tcp")
    client = async_connect(server)
    subscriber = client.pubsub()
    await subscriber.subscribe("one")
    assert (await next_message(subscriber))["type"] == "subscribe"
    server.restart()
    # The connection is lost unnoticed: the call detects it, and both channels are subscribed afterwards.
    await subscriber.subscribe("two")
    publisher = async_connect(server)
    names = set()
    while names != {b"one", b"two"}:
        names.add((await next_message(subscriber))["channel"])
    assert await publisher.publish("one", "1") == 1
    assert await publisher.publish("two", "2") == 1
    await subscriber.aclose()


async def test_closed_while_it_waits_to_reconnect(start_server, async_connect):
    server = start_server(transport="tcp")
    client = async_connect(server)
    subscriber = client.pubsub()
    await subscriber.subscribe("plain")
    assert (await next_message(subscriber))["type"] == "subscribe"
    server.kill()

    async def listen():
        return [message async for message in subscriber.listen()]

    task = async_spawn(listen)
    await wait_until(lambda: subscriber._loss is not None)
    await subscriber.aclose()
    assert await task.join(WITHIN_S)
    assert await task.result() == []
