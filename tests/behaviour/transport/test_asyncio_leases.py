"""Connections of their own for commands that block or change their connection."""

import asyncio
import time

import pytest
import redis

from agent_memory.errors import ConnectionLimitError, Outcome, RedisTimeoutError

MARGIN_S = 1.0


async def test_a_blocked_command_delays_no_other(server, async_connect):
    client = async_connect(server, socket_timeout=1)
    started_s = time.monotonic()
    blocked = [asyncio.create_task(client.blpop(f"list:{number}", 2)) for number in range(20)]
    served = 0
    while not all(call.done() for call in blocked):
        assert await client.incr("counter") == served + 1
        served += 1
        await asyncio.sleep(0)
    # Each has waited for its own two seconds, longer than an ordinary command may take.
    assert await asyncio.gather(*blocked) == [None] * 20
    assert 1.9 < time.monotonic() - started_s < 2 + MARGIN_S
    assert served > 1_000


async def test_a_blocked_command_has_a_deadline_of_its_own(start_server, async_connect):
    server = start_server(transport="tcp")
    client = async_connect(server, socket_timeout=0.5)
    await client.ping()
    blocked = asyncio.create_task(client.blpop("list", 1))
    await asyncio.sleep(0.2)
    server.pause()
    started_s = time.monotonic()
    with pytest.raises(RedisTimeoutError) as caught:
        await blocked
    assert caught.value.outcome is Outcome.UNKNOWN
    assert time.monotonic() - started_s < 1 + 0.5 + MARGIN_S
    server.resume()


async def test_state_changes_do_not_leak(server, async_connect):
    """What changes a connection happens on one that is thrown away."""
    client = async_connect(server)
    await client.set("key", "in database 0")
    shared = await client.client_id()

    async def disturb():
        with pytest.warns(RuntimeWarning, match="SELECT"):
            await client.select(3)
        await client.execute_command("HELLO", 2)
        await client.execute_command("RESET")

    async def work():
        for _ in range(100):
            assert await client.get("key") == b"in database 0"

    await asyncio.gather(*(disturb() for _ in range(5)), *(work() for _ in range(20)))
    assert await client.client_id() == shared
    assert await client.hgetall("nothing") == {}
    with redis.Redis(**server.connection_kwargs) as observer:
        assert {entry["db"] for entry in observer.client_list()} == {"0"}


async def test_leases_are_bounded_and_so_is_the_wait_for_one(valkey, async_connect):
    client = async_connect(valkey, max_connections=4, socket_timeout=0.5)
    blocked = [asyncio.create_task(client.blpop(f"list:{number}", 2)) for number in range(3)]
    await asyncio.sleep(0.1)
    started_s = time.monotonic()
    with pytest.raises(ConnectionLimitError) as caught:
        await client.blpop("another", 1)
    assert time.monotonic() - started_s < 0.5 + MARGIN_S
    assert caught.value.outcome is Outcome.NOT_SENT
    assert await client.incr("counter") == 1  # ordinary commands go on
    assert len(await client.client_list()) == 4
    await asyncio.gather(*blocked)
    assert await client.blpop("another", 0.1) is None
    assert client.guard.state == "closed"


async def test_cancelled_leases_are_given_back(valkey, async_connect):
    """A cancellation may come at any point: while connecting, in the handshake, while the server blocks."""
    client = async_connect(valkey, max_connections=3, socket_timeout=1)
    for number in range(100):
        calls = [asyncio.create_task(client.blpop("list", 0)) for _ in range(5)]
        await asyncio.sleep(0.001 * (number % 7))
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert await client.blpop("list", 0.1) is None
    assert len(await client.client_list()) <= 3
