"""Cancellation at every suspension of a call, at once and just when what it waits for has come: leases, followers, streams."""

from __future__ import annotations

import asyncio

import pytest
import servers
from interrupts import cancel

from agent_memory import AsyncMemorySystem
from agent_memory.memory._batching import AsyncBatcher, AsyncTurns
from agent_memory.redis.asyncio import Redis

WAIT_S = 10.0


async def pipeline(client):
    await client.pipeline().set("a", 1).incrbyfloat("b", 0.5).execute()


async def watch(client):
    async with client.pipeline() as pipe:
        await pipe.watch("a")
        pipe.multi()
        pipe.set("a", 2)
        await pipe.execute()


async def listen(client):
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("channel")
        await subscriber.get_message(timeout=5)


async def connect_anew(client):
    await client.connection_pool.disconnect()
    await client.get("key")


CALLS = {
    "get": lambda client: client.get("key"),
    "connect": connect_anew,
    "pipeline": pipeline,
    "blpop": lambda client: client.blpop("list", timeout=0.01),
    "watch": watch,
    "listen": listen,
}


@pytest.fixture
def server(shared_servers):
    return shared_servers.get_clean(servers.REDIS)


async def check(client, number):
    """What holds between calls: each of these leases the only connection that there may be beside the shared one."""
    async with asyncio.timeout(WAIT_S):
        assert await client.echo(f"in step {number}") == f"in step {number}".encode()
        assert await client.blpop("nothing", timeout=0.001) is None
        await watch(client)
        await listen(client)
    assert client.guard.state == "closed"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", CALLS)
async def test_a_cancelled_call_leaves_nothing_taken(server, name, late):
    client = Redis(**server.connection_kwargs, max_connections=2, socket_timeout=5)
    await client.set("key", "value")
    for at in range(1000):
        struck = await cancel(lambda: CALLS[name](client), at, late=late)
        try:
            await check(client, at)
        except BaseException as error:
            error.add_note(f"cancelled at suspension {at}")
            raise
        if not struck:
            break
    await client.aclose()


async def query(system):
    return [entry async for entry in system.query("agent")]


MEMORY_CALLS = {
    "store": lambda system, memory_id: system.store("agent", "a new one"),
    "get": lambda system, memory_id: system.get("agent", memory_id),
    "update": lambda system, memory_id: system.update("agent", memory_id, content="changed"),
    "retrieve": lambda system, memory_id: system.retrieve("agent", "first memory"),
    "query": lambda system, memory_id: query(system),
}


async def check_memory(system, memory_id):
    async with asyncio.timeout(WAIT_S):
        new = await system.store("agent", "stored afterwards")
        assert (await system.get("agent", new)).content == "stored afterwards"
        assert await system.get("agent", memory_id) is not None
        assert await system.retrieve("agent", "memory")
        await system.update("agent", memory_id, content="first memory")
        await system.delete("agent", new)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", MEMORY_CALLS)
@pytest.mark.parametrize("with_redis", [False, True])
async def test_a_cancelled_call_of_the_memory_leaves_nothing_taken(server, tmp_path, name, late, with_redis):
    redis = Redis(**server.connection_kwargs, socket_timeout=5, max_connections=4) if with_redis else None
    async with AsyncMemorySystem(tmp_path, redis=redis) as system:
        memory_id = await system.store("agent", "first memory")
        for at in range(1000):
            struck = await cancel(lambda: MEMORY_CALLS[name](system, memory_id), at, late=late)
            try:
                await check_memory(system, memory_id)
            except BaseException as error:
                error.add_note(f"cancelled at suspension {at}")
                raise
            if not struck:
                break
    if redis is not None:
        await redis.aclose()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("leader", [False, True])
async def test_a_cancelled_caller_of_a_batch_strands_no_other(late, leader):
    async def work(items):
        await asyncio.sleep(0)
        return [item.upper() for item in items]

    for make in (lambda: AsyncBatcher(work, 10), lambda: AsyncTurns(work)):
        calls = make()
        call = calls.call if isinstance(calls, AsyncTurns) else lambda item, calls=calls: calls.call("key", item)
        for at in range(100):
            others = [] if leader else [asyncio.ensure_future(call(name)) for name in "ab"]
            struck_task = asyncio.ensure_future(cancel(lambda call=call: call("main"), at, late=late))
            await asyncio.sleep(0)
            others += [asyncio.ensure_future(call(name)) for name in "cd"]
            async with asyncio.timeout(WAIT_S):
                struck = await struck_task
                assert await asyncio.gather(*others) == list("CD" if leader else "ABCD")
                assert await call("later") == "LATER"
            if not struck:
                break
