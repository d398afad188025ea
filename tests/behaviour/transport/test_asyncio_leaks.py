"""Nothing is kept of a call that is over: replies, errors, cancels, timeouts, pipelines, on both loops and on the sync client.

LEAK_CALLS says how many calls of each kind are counted (`make leaks`: a million).
"""

import asyncio
import gc
import os
import sys
import threading
from pathlib import Path

import pytest
import uvloop
from redis.exceptions import ResponseError

from agent_memory import AsyncResilientRedisClient
from agent_memory.redis import Redis as BlockingRedis
from agent_memory.redis.asyncio import Redis

LEAK_CALLS = int(os.environ.get("LEAK_CALLS") or 10_000)
TASKS = 50
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
BYTES_PER_CALL = 1.0
"""A reference that is kept is 8 bytes at the least, an object 16."""
SLACK_BYTES = 1_500_000
"""What the allocator may take more of between two looks."""


class Reply(bytes):
    """A result whose instances the collector does not follow, but `alive` does."""

    alive = 0

    def __init__(self, _value):
        Reply.alive += 1

    def __del__(self):
        Reply.alive -= 1


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Ledger:
    """What there is before and after: objects, references to what every call uses, memory."""

    def __init__(self, *used):
        self.used = [*used, None, True, asyncio.CancelledError, dict, tuple, bytes]
        self.before = self.look()

    def look(self):
        for _ in range(3):
            gc.collect()
        return len(gc.get_objects()), [sys.getrefcount(one) for one in self.used], resident_bytes(), Reply.alive

    def check(self, calls):
        objects, references, resident, alive = self.look()
        objects_before, references_before, resident_before, alive_before = self.before
        few = calls // 50
        assert alive - alive_before <= 2  # what the last call has returned may be held by a free list
        assert objects - objects_before < few
        for one, now, before in zip(self.used, references, references_before, strict=True):
            assert abs(now - before) < few, one
        assert resident - resident_before < SLACK_BYTES + BYTES_PER_CALL * calls


async def get(client, _number):
    assert await client.get("key") in (b"value", "value")


async def fail(client, _number):
    with pytest.raises(ResponseError):
        await client.lpush("key", 1)


async def cancel(client, number):
    task = asyncio.ensure_future(client.get("key"))
    for _ in range(number % 3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def time_out(client, number):
    try:
        async with asyncio.timeout((number % 3) * 0.0001):
            await client.get("key")
    except TimeoutError:
        pass


async def never_awaited(client, _number):
    client.get("key").close()


async def pipeline(client, number):
    if number % 5 == 0:
        pipelined = client.pipeline(transaction=number % 2 == 0)
        assert await pipelined.get("key").set("other", "value").execute() == [b"value", True]


KINDS = {one.__name__: one for one in (get, fail, cancel, time_out, never_awaited, pipeline)}
DEARER = {"fail": 4, "time_out": 4, "pipeline": 2}


async def repeat(client, act, calls):
    async def work():
        for number in range(calls // TASKS):
            await act(client, number)

    await asyncio.gather(*(work() for _ in range(TASKS)))
    await asyncio.sleep(0.01)  # timers that were cancelled end in a later turn
    while client.transport_here().current.in_flight:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.timeout(1800)
def test_an_asyncio_client_keeps_nothing(valkey, loop, kind):
    calls = LEAK_CALLS // DEARER.get(kind, 1)

    async def main():
        async with Redis(**valkey.connection_kwargs) as client:
            await client.set("key", "value")
            if kind == "get":
                client.set_response_callback("GET", Reply)
            act = KINDS[kind]
            await repeat(
                client, act, max(2_000, calls // 10)
            )  # free lists, caches and the allocator have what they take
            ledger = Ledger(
                client, client.transport_here(), client.bound_commands["GET"], "key", client.response_callbacks
            )
            await repeat(client, act, calls)
            ledger.check(calls)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@pytest.mark.timeout(1800)
async def test_a_resilient_client_keeps_nothing(valkey):
    async with AsyncResilientRedisClient("kept", **valkey.connection_kwargs) as client:
        await client.set("key", "value")

        async def get_many(calls):
            for _ in range(calls):
                assert await client.get("key") == "value"

        await get_many(2_000)
        ledger = Ledger(client)
        await get_many(LEAK_CALLS)
        ledger.check(LEAK_CALLS)


@pytest.mark.timeout(1800)
def test_a_sync_client_keeps_nothing(valkey):
    with BlockingRedis(**valkey.connection_kwargs) as client:
        client.set("key", "value")
        client.set_response_callback("GET", Reply)

        def work(calls):
            for _ in range(calls):
                client.get("key")
                with pytest.raises(ResponseError):
                    client.lpush("key", 1)

        def from_two_threads(calls):
            threads = [threading.Thread(target=work, args=(calls // 2,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        from_two_threads(2_000)
        ledger = Ledger(client, "key", client.response_callbacks)
        from_two_threads(LEAK_CALLS // 4)
        ledger.check(LEAK_CALLS // 4)
