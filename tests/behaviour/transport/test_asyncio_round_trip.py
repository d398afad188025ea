"""The awaitable of a command: it is driven as a coroutine is, and does what one would, however it ends."""

from __future__ import annotations

import asyncio
import collections.abc
import contextvars
import gc
import inspect
import os
import random
import sys
import time
import warnings
import weakref
from unittest import mock

import pytest
import uvloop
from fake_server import FakeServer, bulk, error
from redis.asyncio.connection import Connection as RedisPyConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agent_memory import ResiliencePolicy
from agent_memory.errors import ClientClosedError, Outcome
from agent_memory.redis.asyncio import Redis

CALLER = contextvars.ContextVar("CALLER")
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
CANCELS = int(os.environ.get("CANCELS") or 3_000)


def echo(command, _connection):
    """Answer each command with its last argument."""
    return bulk(command[-1])


def cancellations(client):
    """The number of calls that the guard was asked to forget."""
    return client.stats()["operations"].get("GET", {}).get("cancellations", 0)


def forget_one(client):
    client.get("key")
    gc.collect()


async def connected(async_connect, server, **arguments):
    client = async_connect(server, **arguments)
    await client.set("key", "value")
    await client.get("key")  # the fast path needs a plan, and a connection
    return client


# --- as a coroutine -----------------------------------------------------------------------------------------------------


async def test_whatever_takes_a_coroutine_takes_it(valkey, async_connect):
    client = await connected(async_connect, valkey)
    assert await asyncio.create_task(client.get("key")) == b"value"
    assert await asyncio.gather(client.get("key"), client.get("key")) == [b"value"] * 2
    assert await asyncio.wait_for(client.get("key"), 5) == b"value"
    assert await asyncio.shield(client.get("key")) == b"value"
    async with asyncio.timeout(5):
        assert await client.get("key") == b"value"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(client.get("key"), name="mine")
    assert task.result() == b"value"
    done, _ = await asyncio.wait([asyncio.ensure_future(client.get("key"))])
    assert done.pop().result() == b"value"
    if sys.version_info >= (3, 12):
        eager = asyncio.eager_task_factory(asyncio.get_running_loop(), client.get("key"))
        assert await eager == b"value"


def test_a_loop_runs_it(valkey):
    async def make():
        client = Redis(**valkey.connection_kwargs)
        await client.set("key", "value")
        return client

    with asyncio.Runner() as runner:
        client = runner.run(make())
        assert runner.run(client.get("key")) == b"value"
        assert runner.get_loop().run_until_complete(client.get("key")) == b"value"
        runner.run(client.aclose())


async def test_it_looks_like_a_coroutine(valkey, async_connect):
    client = await connected(async_connect, valkey)
    call = client.get("key")
    assert asyncio.iscoroutine(call)
    assert inspect.iscoroutine(call)
    assert inspect.isawaitable(call)
    assert isinstance(call, collections.abc.Coroutine)
    assert (call.__name__, call.__qualname__) == ("execute_command", "Redis.execute_command")
    assert (call.cr_running, call.cr_suspended, call.cr_await, call.cr_frame) == (False, False, None, None)
    assert weakref.ref(call)() is call
    task = asyncio.create_task(call)
    assert "Redis.execute_command" in repr(task)
    await asyncio.sleep(0)
    assert call.cr_suspended
    assert inspect.getcoroutinestate(call) == inspect.CORO_SUSPENDED
    assert call.cr_await is not None
    assert task.get_stack() == []
    assert await task == b"value"
    assert not call.cr_suspended
    assert call.cr_await is None


async def test_it_is_awaited_once(valkey, async_connect):
    client = await connected(async_connect, valkey)
    call = client.get("key")
    assert await call == b"value"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await call
    call = client.get("key")
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="being awaited already"):
        await call
    assert await task == b"value"


async def test_driven_by_hand_it_yields_what_it_waits_for(valkey, async_connect):
    client = await connected(async_connect, valkey)
    call = client.get("key")
    with pytest.raises(TypeError, match="just-started"):
        call.send(1)
    waiter = call.send(None)
    assert asyncio.isfuture(waiter)
    assert waiter.get_loop() is asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="wasn't used with future"):
        call.send(None)
    answered = asyncio.Event()
    waiter.add_done_callback(lambda _waiter: answered.set())
    await answered.wait()
    with pytest.raises(StopIteration) as stopped:
        call.send(None)
    assert stopped.value.value == b"value"


async def test_nothing_is_sent_before_its_first_step(valkey, async_connect):
    client = await connected(async_connect, valkey)
    calls = client.stats()["operations"]["SET"]["successes"]
    call = client.set("key", "other")
    await asyncio.sleep(0.01)
    assert await client.get("key") == b"value"
    call.close()
    assert client.stats()["operations"]["SET"]["successes"] == calls
    with pytest.raises(RuntimeError, match="reuse"):
        await call


async def test_one_that_is_never_awaited_warns(valkey, async_connect):
    client = await connected(async_connect, valkey)
    with pytest.warns(RuntimeWarning, match=r"coroutine 'Redis\.execute_command' was never awaited"):
        forget_one(client)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.get("key").close()
        gc.collect()


@pytest.mark.parametrize("end", ["close", "throw", "drop"])
async def test_one_that_ends_while_it_waits_leaves_an_orphan(valkey, async_connect, end):
    client = await connected(async_connect, valkey)
    before = cancellations(client)
    call = client.get("key")
    call.send(None)
    if end == "close":
        call.close()
    elif end == "throw":
        with pytest.raises(KeyError):
            call.throw(KeyError("mine"))
    else:
        del call
        gc.collect()
    assert cancellations(client) == before + 1
    assert await client.get("key") == b"value"
    assert client.transport_here().current.in_flight == 0


async def test_a_cancellation_keeps_its_message(async_connect):
    with FakeServer(lambda command, _: None if command[0] == b"GET" else bulk(b"OK")) as server:
        client = async_connect(server)
        await client.set("key", "value")
        task = asyncio.create_task(client.get("key"))
        await asyncio.sleep(0.01)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("why",)


# --- what it does -------------------------------------------------------------------------------------------------------


async def test_errors_and_callbacks_are_as_ever(valkey, async_connect):
    client = await connected(async_connect, valkey)
    for _ in range(2):  # at first the ordinary way, then the straight one
        with pytest.raises(Exception, match="WRONGTYPE"):
            await client.lpush("key", 1)
        assert await client.set("key", "value") is True
        assert await client.zadd("zset", {"a": 1, "b": 2.5}) in (0, 2)
        assert await client.zrange("zset", 0, -1, withscores=True) in (
            [(b"a", 1.0), (b"b", 2.5)],
            [[b"a", 1.0], [b"b", 2.5]],
        )
        assert await client.config_get("maxmemory") == {"maxmemory": "0"} or await client.config_get("maxmemory")
        assert await client.execute_command("CONFIG GET", "maxmemory")


async def test_a_callback_that_raises_says_that_the_command_was_executed(valkey, async_connect):
    client = await connected(async_connect, valkey)

    def refuse(reply, **_options):
        raise ValueError(reply)

    client.set_response_callback("GET", refuse)
    with pytest.raises(ValueError, match="value") as caught:
        await client.get("key")
    assert caught.value.outcome is Outcome.APPLIED

    async def later(reply):
        await asyncio.sleep(0)
        return reply.decode()

    client.set_response_callback("GET", later)
    assert await client.get("key") == "value"


async def test_an_override_or_a_patch_is_called(valkey, async_connect, monkeypatch):
    seen = []

    class Mine(Redis):
        async def execute_command(self, *args, **options):
            seen.append(args)
            return await super().execute_command(*args, **options)

    async with Mine(**valkey.connection_kwargs) as mine:
        await mine.set("key", "value")
        assert await mine.get("key") == b"value"
    assert seen == [("SET", "key", "value"), ("GET", "key")]
    client = await connected(async_connect, valkey)
    original = Redis.execute_command
    with monkeypatch.context() as patched:

        async def traced(self, *args, **options):
            seen.append("traced")
            return await original(self, *args, **options)

        patched.setattr(Redis, "execute_command", traced)
        assert await client.get("key") == b"value"
    assert seen[2:] == ["traced"]
    assert await client.get("key") == b"value"
    assert seen[2:] == ["traced"]


@pytest.mark.parametrize("loop", LOOPS)
def test_each_task_goes_on_in_its_own_context(valkey, loop):
    async def one(client, number):
        CALLER.set(number)
        for _ in range(20):
            await client.get("key")
            assert CALLER.get() == number

    async def main():
        async with Redis(**valkey.connection_kwargs) as client:
            await asyncio.gather(*(one(client, number) for number in range(50)))
            shared = contextvars.Context()
            tasks = [asyncio.get_running_loop().create_task(client.ping(), context=shared) for _ in range(5)]
            assert await asyncio.gather(*tasks) == [True] * 5

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_an_interrupt_out_of_a_woken_task_reaches_the_loop_and_the_others_go_on(valkey, loop):
    """As an interrupt out of any callback: run() ends with it, and what had been answered is taken when the loop goes on."""
    got = []

    async def one(client, number):
        assert await client.get("key") == b"value"
        if number == 1:
            raise KeyboardInterrupt
        got.append(number)

    event_loop = LOOPS[loop]()
    try:
        client = Redis(**valkey.connection_kwargs)
        event_loop.run_until_complete(client.set("key", "value"))
        event_loop.run_until_complete(client.get("key"))
        tasks = [event_loop.create_task(one(client, number)) for number in range(4)]
        with pytest.raises(KeyboardInterrupt):
            event_loop.run_until_complete(asyncio.wait(tasks))
        event_loop.run_until_complete(asyncio.wait(tasks, timeout=5))
        assert sorted(got) == [0, 2, 3]
        assert isinstance(tasks[1].exception(), KeyboardInterrupt)
        assert event_loop.run_until_complete(client.get("key")) == b"value"
        event_loop.run_until_complete(client.aclose())
    finally:
        event_loop.close()


async def test_a_task_that_closes_the_client_as_it_wakes(valkey, async_connect):
    client = await connected(async_connect, valkey)

    async def close():
        await client.get("key")
        client.transport_here().close()

    ends = await asyncio.gather(close(), *(client.get("key") for _ in range(5)), return_exceptions=True)
    # An answered caller has its value; the others get ClientClosedError. No caller waits for ever.
    assert ends[0] is None
    assert all(end == b"value" or isinstance(end, ClientClosedError) for end in ends[1:])
    assert await client.get("key") == b"value"


async def test_the_commands_of_woken_tasks_leave_together(async_connect):
    waiting, writes = [], []

    def answer_thirty_at_once(command, connection):
        if command[-1] == b"warm":
            return bulk(b"warm")
        waiting.append(bulk(command[-1]))
        if len(waiting) == 30:
            connection.send(b"".join(waiting))
            waiting.clear()
        return None

    with FakeServer(answer_thirty_at_once) as server:
        client = async_connect(server)
        await client.get("warm")
        connection = client.transport_here().current

        async def one(number):
            for step in range(10):
                assert await client.get(f"{number}:{step}") == f"{number}:{step}".encode()

        def write(packed):
            writes.append(packed.count(b"GET"))
            connection._transport.write(packed)

        connection._write_to(write)
        await asyncio.gather(*(one(number) for number in range(30)))
        assert sum(writes) == 300
        assert len(writes) <= 20  # ten, unless the kernel gives a batch of replies in two parts


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_storm_of_cancels_gives_no_caller_a_wrong_reply(valkey, loop):
    dice = random.Random(7)
    ends = collections.Counter()

    async def storm(client):
        async def one(number):
            CALLER.set(number)
            reply = await client.get(f"k{number}")
            assert CALLER.get() == number
            return reply

        async def cancelled_soon(awaitable):
            task = asyncio.ensure_future(awaitable)
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            task.cancel("why")
            return await task

        async def killed_by_a_neighbour(number):
            victim = asyncio.ensure_future(one(number))

            async def kill():
                await client.get(f"k{number}")
                victim.cancel()

            killer = asyncio.ensure_future(kill())
            try:
                return await victim
            finally:
                await killer

        async def timed(number):
            async with asyncio.timeout(dice.random() * 0.002):
                return await one(number)

        async def both(number):
            return (await asyncio.gather(client.get(f"k{number}"), one(number)))[0]

        ways = (
            lambda number: asyncio.wait_for(client.get(f"k{number}"), dice.random() * 0.002),
            timed,
            lambda number: cancelled_soon(one(number)),
            lambda number: cancelled_soon(client.get(f"k{number}")),
            lambda number: cancelled_soon(both(number)),
            both,
            killed_by_a_neighbour,
        )

        async def work():
            while ends["cancelled"] < CANCELS:
                number = dice.randrange(1_000)
                try:
                    reply = await dice.choice(ways)(number)
                except (asyncio.CancelledError, TimeoutError):
                    ends["cancelled"] += 1
                else:
                    ends["right" if reply == f"v{number}".encode() else "wrong"] += 1

        await asyncio.gather(*(work() for _ in range(64)))

    async def main():
        async with Redis(**valkey.connection_kwargs) as client:
            await client.mset({f"k{number}": f"v{number}" for number in range(1_000)})
            await storm(client)
            ended_s = time.monotonic() + 10
            connection = client.transport_here().current
            while connection.in_flight:
                assert time.monotonic() < ended_s
                await asyncio.sleep(0.001)
            assert client.transport_here().connections_opened == 1

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    assert ends["wrong"] == 0
    assert ends["right"] > 100


async def test_an_open_circuit_and_a_clock_of_ones_own_take_the_ordinary_way(valkey, async_connect):
    client = await connected(async_connect, valkey)
    client.guard.force_open()
    with pytest.raises(Exception, match="open"):
        await client.get("key")
    client.guard.reset()
    assert await client.get("key") == b"value"
    unguarded = async_connect(valkey, resilience=None)
    assert await unguarded.get("key") == b"value"
    assert await unguarded.get("key") == b"value"
    hurried = async_connect(valkey, resilience=ResiliencePolicy())
    assert await hurried.get("key") == b"value"


async def test_nothing_is_left_behind(valkey, async_connect):
    """Waiter, task, frame and call are a cycle while they wait, and none afterwards."""
    client = await connected(async_connect, valkey)

    async def loop(count):
        for _ in range(count):
            await client.get("key")

    await asyncio.gather(*(loop(20) for _ in range(50)))
    gc.collect()
    before = len(gc.get_objects())
    await asyncio.gather(*(loop(200) for _ in range(50)))
    gc.collect()
    assert len(gc.get_objects()) - before < 50


def test_a_loop_that_is_dropped_while_tasks_wait_leaves_no_cycle_uncollected():
    async def main():
        with FakeServer(lambda command, _: None if command[0] == b"GET" else bulk(b"OK")) as server:
            client = Redis(**server.connection_kwargs)
            await client.set("key", "value")
            call = client.get("key")
            alive = weakref.ref(call)
            call.send(None)
            cycle = [call]
            cycle.append(cycle)
            del call, cycle
            gc.collect()
            assert alive() is None
            await client.aclose()

    asyncio.run(main())


def test_an_error_reply_is_raised_where_the_command_is_awaited():
    async def main():
        with FakeServer(lambda command, _: error("ERR no") if command[0] == b"GET" else bulk(b"OK")) as server:
            client = Redis(**server.connection_kwargs)
            await client.set("key", "value")
            for _ in range(2):
                with pytest.raises(Exception, match="no") as caught:
                    await client.get("key")
                assert caught.value.outcome is Outcome.REJECTED
            await client.aclose()

    asyncio.run(main())


async def test_what_a_mock_puts_on_a_client_is_used_and_taken_back():
    """`mock.patch.object` deletes what it has replaced, and sets what was there before where the attribute is missing then."""
    with FakeServer(echo) as fake:
        async with Redis(host="127.0.0.1", port=fake.port, single_connection_client=True) as pinned:
            assert await pinned.get("key") == b"key"
            own = pinned.connection
            mocked = mock.AsyncMock(spec=RedisPyConnection, retry=Retry(NoBackoff(), 0))
            mocked.read_response.return_value = b"OK"
            with mock.patch.object(pinned, "connection", mocked):
                assert await pinned.readonly() is True
                mocked.send_command.assert_awaited()
            assert pinned.connection is own
            assert await pinned.get("key") == b"key"
        async with Redis(host="127.0.0.1", port=fake.port) as shared:
            assert await shared.get("key") == b"key"
            with mock.patch.object(shared, "connection", mocked):
                assert await shared.readonly() is True
            assert shared.connection is None
            with mock.patch.object(shared, "response_callbacks", {"GET": lambda reply: reply.decode()}):
                assert await shared.get("key") == "key"
            assert await shared.get("key") == b"key"
            with mock.patch.object(shared, "execute_command", mock.AsyncMock(return_value=b"mocked")):
                assert await shared.get("key") == b"mocked"
            assert await shared.get("key") == b"key"
            del shared.connection
            with pytest.raises(AttributeError, match="connection"):
                _ = shared.connection
            shared.connection = None
            assert await shared.get("key") == b"key"
