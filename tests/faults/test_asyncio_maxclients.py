"""A server at its maxclients: the shared connection goes on, and whatever needs another one opens no circuit."""

import asyncio

import pytest
import redis

from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.exactly_once import ExactlyOnce

TOUCHY = ResiliencePolicy(breaker=BreakerSettings(failure_threshold=1), retry=RetryPolicy(0), probe_interval_s=None)


def transport_of(client):
    return client._transports[asyncio.get_running_loop()]


async def test_blocking_commands_that_find_no_room_leave_the_others_alone(full, async_connect):
    server, fill = full
    client = async_connect(server, socket_timeout=0.5, resilience=TOUCHY)
    await client.ping()
    fill()
    refused = await asyncio.gather(*(client.blpop(f"list:{n}", 0.1) for n in range(5)), return_exceptions=True)
    assert {(type(error), error.outcome) for error in refused} == {(RedisUnavailableError, Outcome.NOT_SENT)}
    assert client.guard.state == "closed"
    assert await client.incr("counter") == 1


async def test_blocking_commands_take_turns_on_the_connections_that_are_held(full, async_connect):
    server, fill = full
    client = async_connect(server, socket_timeout=5, resilience=TOUCHY)
    assert await client.blpop("list", 0.01) is None  # has opened one to lease
    await client.ping()
    fill()
    assert await asyncio.gather(*(client.blpop(f"list:{n}", 0.01) for n in range(3))) == [None] * 3
    assert client.guard.state == "closed"


async def test_a_place_that_another_client_leaves_is_taken(full, async_connect):
    server, fill = full
    client = async_connect(server, socket_timeout=5, resilience=TOUCHY)
    await client.ping()
    others = fill()
    asyncio.get_running_loop().call_later(0.1, others[0].close)
    assert await client.blpop("list", 0.01) is None


async def test_a_transaction_or_a_subscriber_that_finds_no_room_opens_no_circuit(full, async_connect):
    server, fill = full
    client = async_connect(server, socket_timeout=0.5, resilience=TOUCHY)
    await client.ping()
    fill()
    with pytest.raises(RedisUnavailableError, match="max number of clients"):
        async with client.pipeline() as pipeline:
            await pipeline.watch("key")
    with pytest.raises(RedisUnavailableError, match="max number of clients"):
        async with client.pubsub() as subscriber:
            await subscriber.subscribe("channel")
    assert client.guard.state == "closed"
    assert await client.incr("counter") == 1


async def test_a_probe_goes_over_a_connection_that_is_held(full, async_connect):
    server, fill = full
    client = async_connect(server, socket_timeout=5, resilience=TOUCHY)
    await client.ping()
    first = transport_of(client).current
    fill()
    answered = first.answered
    await client.ping_afresh()
    assert first.answered == answered + 1


async def test_a_client_without_a_connection_learns_of_it(full, async_connect):
    server, fill = full
    fill()
    client = async_connect(server, socket_timeout=0.5, resilience=TOUCHY)
    with pytest.raises(RedisUnavailableError, match="max number of clients"):
        await client.ping_afresh()
    with pytest.raises(RedisUnavailableError, match="max number of clients"):
        await client.incr("counter")
    assert client.guard.state == "open"


@pytest.mark.parametrize("once", [False, ExactlyOnce("marker"), ExactlyOnce("offset")])
async def test_a_lost_connection_is_replaced_by_one_that_was_leased(full, async_connect, proxy, once):
    """The old one keeps its place until it is found dead; with exactly once it is fenced from the one that is held."""
    server, fill = full
    relay = proxy(server)
    client = async_connect(relay, socket_timeout=0.5, exactly_once=once)
    assert await client.blpop("list", 0.01) is None
    assert await client.incr("counter") == 1
    (lease,) = transport_of(client)._leases.idle
    others = fill()
    lost = relay.drop_replies(1)
    with pytest.raises(redis.TimeoutError) as caught:
        await client.incr("counter")
    assert caught.value.outcome is (Outcome.APPLIED if once else Outcome.UNKNOWN)
    assert lost.dropped == 1
    assert await client.incr("counter") == 3
    assert transport_of(client).current is lease
    assert int(others[0].get("counter")) == 3
    assert client.guard.state == "closed"
