"""Several event loops in one process: each has its own connection to the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading

import pytest
import redis
import uvloop

from agent_memory import BreakerSettings, CircuitOpenError, ResiliencePolicy
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


def patient(server):
    """A client whose own breaker would stay open for an hour: only a probe brings it back."""
    breaker = BreakerSettings(1, reset_timeout_s=3600)
    return Redis(**server.connection_kwargs, resilience=ResiliencePolicy(breaker=breaker, probe_interval_s=0.1))


async def fail(client):
    with contextlib.suppress(redis.ConnectionError):
        await client.get("key")
    assert client.guard.state == "open"


async def come_back(client):
    """Calls until one gets through: the first is rejected, which has to start what closes the circuit."""
    with pytest.raises(CircuitOpenError):
        await client.get("key")
    async with asyncio.timeout(30):
        while client.guard.state != "closed":  # noqa: ASYNC110 - another task changes it, without an event
            await asyncio.sleep(0.01)
    assert await client.set("key", "value")
    await client.aclose()


def test_a_circuit_that_opened_in_a_loop_that_has_ended_closes_in_another(start_server):
    server = start_server()
    client = patient(server)
    server.kill()
    asyncio.run(fail(client))
    server.start()
    asyncio.run(come_back(client))


def test_a_circuit_that_was_open_at_a_fork_closes_in_the_child(start_server):
    server = start_server()
    client = patient(server)
    server.kill()
    asyncio.run(fail(client))
    server.start()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(come_back(client))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
