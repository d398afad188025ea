"""Closing across event loops, and on the loop that most services use."""

import asyncio
import threading
import time

import pytest
import redis

from agent_memory.errors import ClientClosedError, Outcome
from agent_memory.redis.asyncio import Redis

AT_ONCE_S = 2.0


async def wait_until(condition):
    deadline_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline_s, "never came true"
        await asyncio.sleep(0.01)


def blocked(admin):
    return [entry for entry in admin.client_list() if entry["cmd"] == "blpop"]


async def test_a_client_is_closed_from_another_loop(start_server):
    server = start_server(transport="tcp")
    client = Redis(**server.connection_kwargs, socket_timeout=30)
    failures = []

    async def use():
        await client.ping()
        calls = (client.blpop("list", 0) for _ in range(2))
        failures.extend(await asyncio.gather(*calls, return_exceptions=True))
        await asyncio.sleep(0)  # the turn in which the sockets are closed

    other = threading.Thread(target=asyncio.run, args=[use()])
    other.start()
    with redis.Redis(**server.connection_kwargs) as admin:
        await wait_until(lambda: len(blocked(admin)) == 2)
        await client.ping()  # in this loop it has a connection, too
        await client.aclose()
        await asyncio.to_thread(other.join, AT_ONCE_S)
        assert not other.is_alive()
        assert [(type(failure), failure.outcome) for failure in failures] == [(ClientClosedError, Outcome.UNKNOWN)] * 2
        await wait_until(lambda: len(admin.client_list()) == 1)


async def test_closing_while_calls_come_leaves_nothing(start_server):
    """Calls that begin while the client is being closed either fail or connect anew: none hangs, none leaks a connection."""
    server = start_server(transport="tcp")
    client = Redis(**server.connection_kwargs, socket_timeout=30, max_connections=8)

    async def call(number):
        for step in range(20):
            try:
                await (client.blpop("list", 0.01) if number % 2 else client.incr("counter"))
            except ClientClosedError:
                pass
            if step == number:
                await client.aclose()

    async with asyncio.timeout(30):
        await asyncio.gather(*(call(number) for number in range(16)))
    await client.aclose()
    with redis.Redis(**server.connection_kwargs) as admin:
        await wait_until(lambda: len(admin.client_list()) == 1)


def test_uvloop(start_server):
    uvloop = pytest.importorskip("uvloop")
    server = start_server(transport="tcp")

    async def use():
        client = Redis(**server.connection_kwargs, socket_timeout=30)
        call = asyncio.create_task(client.blpop("list", 0))
        with redis.Redis(**server.connection_kwargs) as admin:
            await wait_until(lambda: blocked(admin))
            await client.aclose()
            with pytest.raises(ClientClosedError):
                await asyncio.wait_for(call, AT_ONCE_S)
            await wait_until(lambda: len(admin.client_list()) == 1)

    uvloop.run(use())
