"""Several event loops in one process: each has its own connection to the server."""

from __future__ import annotations

import asyncio
import threading

import redis
import uvloop

from agent_memory.redis.asyncio import Redis


async def work(client, name, barrier=None):
    async def one(number):
        key = f"{name}:{number}"
        await client.set(key, key)
        assert await client.get(key) == key.encode()
        assert await client.pipeline().get(key).execute() == [key.encode()]

    for _ in range(10):
        await asyncio.gather(*(one(number) for number in range(50)))
        assert await client.blpop("nothing", 0.01) is None
    if barrier is not None:
        await asyncio.to_thread(barrier.wait, 30)
    client.transport_here().close()
    await asyncio.sleep(0)


def test_one_client_in_three_loops_in_three_threads(valkey):
    client = Redis(**valkey.connection_kwargs)
    factories = (asyncio.new_event_loop, uvloop.new_event_loop, asyncio.new_event_loop)
    barrier = threading.Barrier(len(factories))
    failures = []

    def run(name, loop_factory):
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(work(client, name, barrier))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [
        threading.Thread(target=run, args=(name, factory), daemon=True) for name, factory in enumerate(factories)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []


def test_one_client_in_loops_one_after_the_other(valkey):
    client = Redis(**valkey.connection_kwargs)
    for name in range(3):
        asyncio.run(work(client, name))
    with redis.Redis(**valkey.connection_kwargs) as observer:
        assert len(observer.client_list()) == 1  # the observer itself
