"""A silent connection: a stall costs no reconnect, a black hole is found and replaced."""

import asyncio
import time

import pytest

from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError


def transport_of(client):
    return client._transports[asyncio.get_running_loop()]


async def test_a_stall_of_seconds_costs_no_reconnect(start_server, async_connect):
    server = start_server(transport="tcp")
    client = async_connect(server, socket_timeout=0.3, resilience=None)
    await client.ping()
    first = transport_of(client).current
    for _ in range(3):
        server.pause()
        replies = await asyncio.gather(*(client.incr("counter") for _ in range(100)), return_exceptions=True)
        assert {(type(reply), reply.outcome) for reply in replies} == {(RedisTimeoutError, Outcome.UNKNOWN)}
        with pytest.raises((RedisTimeoutError, RedisUnavailableError)) as caught:
            await client.incr("never sent")
        assert caught.value.outcome is Outcome.NOT_SENT
        server.resume()
        deadline_s = time.monotonic() + 5
        while transport_of(client).current is not first:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.001)
            if transport_of(client).current is not None:
                break
        assert await client.get("never sent") is None
    assert int(await client.get("counter")) == 300
    assert transport_of(client).connections_opened <= 4


async def test_bytes_that_arrive_first_return_the_suspect_to_service(valkey, proxy, async_connect):
    """The replacement's handshake is held up, the suspect's replies are not."""
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=0.4, resilience=None)
    await client.ping()
    first = transport_of(client).current
    relay.down.latency_s = 0.7
    with pytest.raises(RedisTimeoutError):
        await client.incr("counter")
    assert first.suspect
    assert transport_of(client).current is None
    relay.down.latency_s = 0.35
    deadline_s = time.monotonic() + 5
    while first.suspect:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.001)
    relay.heal()
    assert transport_of(client).current is first
    assert await client.incr("counter") == 2
    assert transport_of(client).connections_opened == 1


async def test_a_black_hole_is_found_and_replaced(valkey, proxy, async_connect):
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=0.5, resilience=None)
    await client.ping()
    first = transport_of(client).current
    relay.black_hole("down")
    call = asyncio.create_task(client.incr("counter"))
    await asyncio.sleep(0.1)
    relay.heal()  # new connections work; what was swallowed stays swallowed
    started_s = time.monotonic()
    with pytest.raises(RedisTimeoutError) as caught:
        await call
    assert caught.value.outcome is Outcome.UNKNOWN
    assert await client.incr("counter") == 2
    assert time.monotonic() - started_s < 0.5 + 1.5
    assert first.closed
    assert transport_of(client).connections_opened == 2
