"""What only asyncio has: cancelled calls, and one client in several event loops."""

import asyncio
import threading

import pytest

from agent_memory import AsyncResilientRedisClient, CircuitOpenError, Priority, RetryPolicy

WAIT_S = 30.0


async def test_cancelled_calls_count_as_nothing(mortal_server):
    async with AsyncResilientRedisClient("cancel", **mortal_server.connection_kwargs, circuit_threshold=1) as client:
        await client.set("key", "value")
        mortal_server.pause()
        calls = [asyncio.create_task(client.get("key")) for _ in range(100)]
        calls += [asyncio.create_task(client._execute_with_circuit_breaker("mine", lambda: client.client.get("key")))]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        mortal_server.resume()
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert client.state == "closed"
        assert await client.get("key") == "value"


async def test_a_cancelled_probe_makes_room_for_the_next(mortal_server):
    policy = RetryPolicy(max_retries=0)
    arguments = {
        **mortal_server.connection_kwargs,
        "retry_policy": policy,
        "probe_interval_s": None,
        "circuit_threshold": 1,
    }
    async with AsyncResilientRedisClient("cancel", **arguments) as client:
        mortal_server.kill()
        while client.state == "closed":
            await asyncio.gather(client.get("key"), return_exceptions=True)
        await asyncio.to_thread(mortal_server.restart)
        client.guard.server_answered()
        waiting = asyncio.Event()

        async def for_ever():
            waiting.set()
            await asyncio.Event().wait()

        probe = asyncio.create_task(client._execute_with_circuit_breaker("probe", for_ever))
        await waiting.wait()
        (rejected,) = await asyncio.gather(client.get("key"), return_exceptions=True)
        assert isinstance(rejected, CircuitOpenError)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert await client.get("key") is None
        assert client.state == "closed"


async def test_a_cancelled_store_is_neither_stored_nor_queued(mortal_server):
    async with AsyncResilientRedisClient("cancel", **mortal_server.connection_kwargs) as client:
        entered = asyncio.Event()

        async def for_ever(agent_id, state):
            entered.set()
            await asyncio.Event().wait()

        storing = asyncio.create_task(client.store_with_retry("agent", {}, for_ever, Priority.CRITICAL))
        await entered.wait()
        storing.cancel()
        (result,) = await asyncio.gather(storing, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError)
        assert client.recovery.pending() == []
        # Its turn has been given back.
        assert await client.store_with_retry("agent", {}, lambda *_: client.set("agent", "x"))


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, function, *args):
        return asyncio.run_coroutine_threadsafe(function(*args), self.loop).result(WAIT_S)

    def end(self):
        """As asyncio.run ends a loop: what is still at work there is cancelled."""

        async def cancel_all():
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(cancel_all)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WAIT_S)
        self.loop.close()


@pytest.fixture
def loops():
    made = [Loop(), Loop()]
    yield made
    for loop in made:
        if not loop.loop.is_closed():
            loop.end()


def start_outage(client, server, loops):
    """Both loops use the client, then the server is killed; gives the queued results, five of each loop."""

    async def store(agent_id, state):
        return await client.set(agent_id, state)

    async def store_all(name):
        return [await client.store_with_retry(f"{name}:{n}", n, store, Priority.HIGH) for n in range(5)]

    for loop in loops:
        assert loop.run(client.init)
    server.kill()
    results = [result for name, loop in enumerate(loops) for result in loop.run(store_all, name)]
    assert {result.status for result in results} == {"queued"}
    return results


def values_of(client, loop):
    return loop.run(lambda: client.mget([f"{name}:{n}" for name in range(2) for n in range(5)]))


async def wait_for_all(results):
    return [await result.wait(WAIT_S) for result in results]


QUICK = {"retry_policy": RetryPolicy(max_retries=0), "probe_interval_s": 0.1}


def test_one_client_in_two_loops_through_an_outage(mortal_server, loops):
    client = AsyncResilientRedisClient("loops", **mortal_server.connection_kwargs, **QUICK)
    results = start_outage(client, mortal_server, loops)
    mortal_server.restart()
    for loop in loops:
        assert loop.run(wait_for_all, results) == [True] * 10
        assert values_of(client, loop) == ["0", "1", "2", "3", "4"] * 2
    loops[1].run(client.close)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a loop ends with a connection open
def test_the_queue_moves_on_when_its_loop_ends(mortal_server, loops):
    client = AsyncResilientRedisClient("loops", **mortal_server.connection_kwargs, **QUICK)
    results = start_outage(client, mortal_server, loops)
    loops[0].end()  # where the worker was: the first to queue started it
    mortal_server.restart()
    assert loops[1].run(wait_for_all, results) == [True] * 10
    assert values_of(client, loops[1]) == ["0", "1", "2", "3", "4"] * 2
    loops[1].run(client.close)
