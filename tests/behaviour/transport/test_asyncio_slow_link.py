"""Large values on a slow link, asyncio: as long as bytes move it is no outage, and the deadline holds all the same."""

import asyncio
import time

import pytest
from slow_link import LARGE_VALUE, MARGIN_S, MIB, FakeAddress, calls_of, slow_reader, touchy

from agent_memory.errors import RedisTimeoutError


def transport_of(client):
    return client._transports[asyncio.get_running_loop()]


async def test_a_large_reply_takes_its_time_and_is_asked_for_once(start_server, proxy, async_connect):
    server = start_server(transport="tcp")
    relay = proxy(server)
    client = async_connect(relay, socket_timeout=0.5, resilience=touchy(deadline=10))
    await client.set("large", LARGE_VALUE)
    first = transport_of(client).current
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    started_s = time.monotonic()
    assert await client.get("large") == LARGE_VALUE
    assert time.monotonic() - started_s > 2 * 0.5
    assert calls_of(server, "get") == 1
    assert client.guard.state == "closed"
    assert transport_of(client).current is first
    assert not first.suspect


async def test_past_its_deadline_it_fails_without_a_word_against_the_server(start_server, proxy, async_connect):
    server = start_server(transport="tcp")
    relay = proxy(server)
    client = async_connect(relay, socket_timeout=0.4, resilience=touchy())
    await client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 2 * MIB
    started_s = time.monotonic()
    with pytest.raises(RedisTimeoutError) as caught:
        await client.get("large")
    assert 2 * 0.4 <= time.monotonic() - started_s < 2 * 0.4 + MARGIN_S
    assert caught.value.moving
    assert client.guard.state == "closed"
    relay.heal()
    assert await client.get("small") is None
    assert calls_of(server, "get") == 2


async def test_silence_in_the_middle_of_a_reply_is_a_failure(valkey, proxy, async_connect):
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=0.4, resilience=touchy(deadline=5))
    await client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    asyncio.get_running_loop().call_later(0.3, relay.pause)
    started_s = time.monotonic()
    with pytest.raises(RedisTimeoutError) as caught:
        await client.get("large")
    relay.resume()
    assert not caught.value.moving
    assert 0.3 + 0.3 < time.monotonic() - started_s < 0.3 + 0.4 + MARGIN_S
    assert client.guard.state == "open"


async def test_a_large_command_that_leaves_slowly_is_sent_once(async_connect):
    """Most of it is in the kernel's hands at once, and leaves from there for longer than the timeout."""
    with slow_reader(bytes_per_s=2 * MIB) as port:
        client = async_connect(FakeAddress(port), socket_timeout=1.0, resilience=touchy(deadline=30))
        started_s = time.monotonic()
        assert await client.set("k", LARGE_VALUE) is True
        assert time.monotonic() - started_s > 2 * 1.0
        assert client.guard.state == "closed"


async def test_a_large_command_that_does_not_leave_is_a_failure(async_connect):
    with slow_reader(bytes_per_s=20) as port:
        client = async_connect(FakeAddress(port), socket_timeout=0.4, resilience=touchy(deadline=5))
        started_s = time.monotonic()
        with pytest.raises(RedisTimeoutError) as caught:
            await client.set("k", LARGE_VALUE)
        assert time.monotonic() - started_s < 3 * 0.4 + MARGIN_S
        assert not caught.value.moving
        assert client.guard.state == "open"


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_pipeline_with_a_large_reply_takes_its_time(valkey, proxy, async_connect, transaction):
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=0.5, resilience=touchy(deadline=10))
    await client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    pipeline = client.pipeline(transaction=transaction).incr("counter").get("large").incr("counter")
    assert await pipeline.execute() == [1, LARGE_VALUE, 2]
    assert client.guard.state == "closed"


async def test_a_popped_element_that_is_large_takes_its_time(valkey, proxy, async_connect):
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=0.5, resilience=touchy(deadline=10))
    await client.rpush("list", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    assert await client.blpop("list", 0.1) == (b"list", LARGE_VALUE)
    assert client.guard.state == "closed"


async def test_exactly_once_resolves_nothing_while_bytes_move(valkey, proxy, async_connect):
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=0.5, resilience=touchy(deadline=10), exactly_once=True)
    await client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    assert await client.getdel("large") == LARGE_VALUE
    assert client.stats()["exactly_once"]["fences"] == 0
    assert client.guard.state == "closed"
