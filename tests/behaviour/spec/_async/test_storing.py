"""`store_with_retry`: what each priority does, what counts as a failure, and what the recovery queue makes of it."""

import pytest
import pytest_asyncio
import redis

from agent_memory import RetryPolicy
from agent_memory._concurrency import AsyncEvent, async_gather, async_in_thread, async_spawn
from agent_memory.errors import RecoveryQueueFullError, RedisUnavailableError
from agent_memory.recovery.results import StoreStatus
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient, Priority, RecoverySettings

WAIT_S = 30.0
QUICK = {
    "retry_policy": RetryPolicy(max_retries=0),
    "retry_base_delay": 0.01,
    "retry_max_delay": 0.01,
    "probe_interval_s": 0.1,
}


@pytest_asyncio.fixture
async def client(mortal_server):
    async with AsyncResilientRedisClient("storing", **mortal_server.connection_kwargs, **QUICK) as client:
        yield client
        if not mortal_server.alive:
            await async_in_thread(mortal_server.restart)


def setting(client):
    async def store(agent_id, state):
        return await client.set(agent_id, state["value"])

    return store


class Failing:
    """Fails a number of times with `failure` (an exception, or a value to return), then stores."""

    def __init__(self, client, times, failure=False):
        self.client, self.left, self.failure, self.calls = client, times, failure, 0

    async def __call__(self, agent_id, state):
        self.calls += 1
        if self.left:
            self.left -= 1
            if isinstance(self.failure, Exception):
                raise self.failure
            return self.failure
        return await self.client.set(agent_id, state["value"])


async def test_stored(client):
    result = await client.store_with_retry("agent", {"value": 1}, setting(client))
    assert result
    assert (result.status, result.value, result.error) == ("stored", True, None)
    assert await result.wait() is True
    assert await client.get("agent") == "1"


async def test_a_plain_function_will_do(client):
    result = await client.store_with_retry("agent", {"value": 1}, lambda agent_id, state: client.set(agent_id, "x"))
    assert result.status is StoreStatus.STORED
    assert await client.get("agent") == "x"


@pytest.mark.parametrize(
    "failure", [False, None, 0, RedisUnavailableError("gone"), redis.TimeoutError("late"), OSError()]
)
async def test_critical_is_retried_at_once(client, failure):
    store = Failing(client, 2, failure)
    result = await client.store_with_retry("agent", {"value": 1}, store, Priority.CRITICAL, retry_attempts=2)
    assert result.status == "stored"
    assert store.calls == 3


async def test_critical_is_queued_when_its_retries_fail(client):
    client.recovery.pause()
    store = Failing(client, 3)
    result = await client.store_with_retry("agent", {"value": 1}, store, Priority.CRITICAL, 2, 0.0, 0.0)
    assert (result.status, store.calls) == ("queued", 3)
    assert not result
    client.recovery.resume()
    assert await result.wait(WAIT_S)
    assert (bool(result), result.status, store.calls) == (True, "stored", 4)


@pytest.mark.parametrize("priority", [Priority.HIGH, Priority.NORMAL])
async def test_high_and_normal_are_queued(client, priority):
    client.recovery.pause()
    store = Failing(client, 1, OSError("gone"))
    result = await client.store_with_retry("agent", {"value": 1}, store, priority)
    assert (result.status, store.calls) == ("queued", 1)
    assert isinstance(result.error, OSError)
    (waiting,) = client.recovery.pending()
    assert (waiting.agent_id, waiting.priority, waiting.attempts) == ("agent", priority, 1)
    client.recovery.resume()
    assert await result.wait(WAIT_S)
    assert client.recovery.pending() == []
    assert client.recovery.stats()["stored"] == 1


async def test_low_is_logged_and_dropped(client, caplog):
    store = Failing(client, 1)
    result = await client.store_with_retry("agent", {"value": 1}, store, Priority.LOW)
    assert (result.status, store.calls) == ("dropped", 1)
    assert not result
    assert "a LOW write dropped" in caplog.text
    assert await result.wait() is False


@pytest.mark.parametrize("priority", list(Priority))
async def test_other_errors_are_logged_and_raised(client, priority, caplog):
    store = Failing(client, 1, KeyError("a stored value"))
    with pytest.raises(KeyError):
        await client.store_with_retry("agent", {"value": 1}, store, priority)
    assert store.calls == 1
    assert "KeyError" in caplog.text
    assert "a stored value" not in caplog.text
    assert client.recovery.pending() == []


async def test_refused_parameters(client):
    for arguments, message in (
        ({"retry_attempts": -1}, "retry_attempts must be >= 0, got -1"),
        ({"base_delay": -1}, "base_delay must be >= 0, got -1"),
        ({"max_delay": float("inf")}, "max_delay must be >= 0, got inf"),
        ({"priority": 9}, "priority must be a Priority, got 9"),
    ):
        with pytest.raises(ValueError, match=message):
            await client.store_with_retry("agent", {}, setting(client), **arguments)


async def test_writes_of_one_agent_keep_their_order(client):
    client.recovery.pause()
    order = []

    def noting(failures):
        store = Failing(client, failures)

        async def note(agent_id, state):
            stored = await store(agent_id, state)
            if stored:
                order.append(state["value"])
            return stored

        return note

    results = [await client.store_with_retry("agent", {"value": 1}, noting(2), Priority.NORMAL)]
    results += [await client.store_with_retry("other", {"value": 2}, noting(1), Priority.NORMAL)]
    # Neither would fail now, but both would overtake the first.
    joining = [
        async_spawn(client.store_with_retry, "agent", {"value": v}, noting(0), p) for v, p in ((3, Priority.HIGH),)
    ]
    client.recovery.resume()
    results += await async_gather(*joining)
    for result in results:
        assert await result.wait(WAIT_S)
    assert [value for value in order if value != 2] == [1, 3]
    assert await client.get("agent") == "3"


async def test_a_low_write_does_not_overtake_either(client):
    client.recovery.pause()
    await client.store_with_retry("agent", {"value": 1}, Failing(client, 1), Priority.NORMAL)
    result = await client.store_with_retry("agent", {"value": 2}, setting(client), Priority.LOW)
    assert result.status == "dropped"
    client.recovery.resume()
    assert await client.recovery.flush(WAIT_S)
    assert await client.get("agent") == "1"


async def test_calls_for_one_agent_take_turns(client):
    entered, leave = AsyncEvent(), AsyncEvent()
    running = []

    async def slow(agent_id, state):
        running.append(state["value"])
        entered.set()
        await leave.wait(WAIT_S)
        return await client.set(agent_id, state["value"])

    first = async_spawn(client.store_with_retry, "agent", {"value": 1}, slow)
    assert await entered.wait(WAIT_S)
    second = async_spawn(client.store_with_retry, "agent", {"value": 2}, slow)
    # Another agent's write is not held up.
    assert await client.store_with_retry("other", {"value": 0}, setting(client))
    assert running == [1]
    leave.set()
    assert all(await async_gather(first, second))
    assert running == [1, 2]
    assert await client.get("agent") == "2"


async def test_what_is_queued_is_a_copy(client):
    client.recovery.pause()
    state = {"value": "first"}
    result = await client.store_with_retry("agent", state, Failing(client, 1))
    state["value"] = "changed"
    client.recovery.resume()
    assert await result.wait(WAIT_S)
    assert await client.get("agent") == "first"


async def test_a_full_queue_refuses(mortal_server):
    settings = RecoverySettings(max_entries=2, close_timeout_s=0)
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": settings}
    async with AsyncResilientRedisClient("full", **arguments) as client:
        client.recovery.pause()
        results = [await client.store_with_retry(f"a{n}", {"value": n}, Failing(client, 99)) for n in range(3)]
        assert [result.status for result in results] == ["queued", "queued", "failed"]
        assert isinstance(results[2].error, RecoveryQueueFullError)
    assert [result.status for result in results] == ["failed"] * 3


async def test_without_a_queue(mortal_server):
    async with AsyncResilientRedisClient("none", **mortal_server.connection_kwargs, **QUICK, recovery=None) as client:
        result = await client.store_with_retry("agent", {"value": 1}, Failing(client, 1))
        assert result.status == "failed"
        assert await client.recovery.flush(0) is True


async def test_dead_letters(mortal_server, caplog):
    settings = RecoverySettings(max_attempts=2, base_delay=0.01, max_delay=0.01)
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": settings}
    async with AsyncResilientRedisClient("dead", **arguments) as client:
        client.recovery.pause()
        hopeless, broken = Failing(client, 4), Failing(client, 1)
        first = await client.store_with_retry("hopeless", {"value": "secret"}, hopeless)
        second = await client.store_with_retry("broken", {"value": 2}, broken)
        broken.left, broken.failure = 1, TypeError("bug")
        client.recovery.resume()
        assert await first.wait(WAIT_S) is False
        assert await second.wait(WAIT_S) is False
        assert (first.status, second.status) == ("failed", "failed")
        letters = {letter.agent_id: letter for letter in client.recovery.dead_letters()}
        assert (letters["hopeless"].reason, letters["hopeless"].attempts) == ("attempts", 3)
        assert (letters["broken"].reason, letters["broken"].error) == ("rejected", "TypeError")
        assert "secret" not in repr(letters) + caplog.text
        hopeless.left = 0
        again = client.recovery.retry(letters["hopeless"])
        assert await again.wait(WAIT_S)
        assert [letter.agent_id for letter in client.recovery.dead_letters()] == ["broken"]
        with pytest.raises(ValueError, match="not kept"):
            client.recovery.retry(letters["hopeless"])
        assert client.recovery.stats()["given_up"] == 2


async def test_too_old_writes_are_given_up(mortal_server):
    settings = RecoverySettings(max_age_s=0.01)
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": settings}
    async with AsyncResilientRedisClient("old", **arguments) as client:
        store = Failing(client, 1000)
        result = await client.store_with_retry("agent", {"value": 1}, store)
        assert await result.wait(WAIT_S) is False
        assert [letter.reason for letter in client.recovery.dead_letters()] == ["expired"]


async def test_an_outage_loses_nothing(client, mortal_server):
    """The server is killed: writes are queued, the circuit opens; it comes back: all is stored, without any call of ours."""
    store = setting(client)
    mortal_server.kill()
    results = {}
    for priority in (Priority.NORMAL, Priority.HIGH, Priority.CRITICAL):
        for number in range(5):
            agent_id = f"{priority.name}:{number}"
            results[agent_id] = await client.store_with_retry(agent_id, {"value": agent_id}, store, priority, 1)
    assert client.state == "open"
    assert {result.status for result in results.values()} == {"queued"}
    health = client.health()
    assert (bool(health), health.state, health.queued) == (False, "open", 15)
    assert health.retry_after_s > 0
    await async_in_thread(mortal_server.restart)
    for agent_id, result in results.items():
        assert await result.wait(WAIT_S), result
        assert await client.get(agent_id) == agent_id
    assert client.state == "closed"
    assert client.recovery.dead_letters() == []


async def test_closing_gives_up_what_it_cannot_store(mortal_server, caplog):
    settings = RecoverySettings(close_timeout_s=0.05)
    client = AsyncResilientRedisClient("closing", **mortal_server.connection_kwargs, **QUICK, recovery=settings)
    mortal_server.kill()
    result = await client.store_with_retry("agent", {"value": 1}, setting(client))
    await client.close()
    assert await result.wait(WAIT_S) is False
    assert [letter.reason for letter in client.recovery.dead_letters()] == ["closed"]
    assert "closed with 1 queued writes" in caplog.text


async def test_closing_drains(client):
    client.recovery.pause()
    result = await client.store_with_retry("agent", {"value": 1}, Failing(client, 1))
    client.recovery.resume()
    await client.close()
    assert result.status == "stored"


async def test_nested_stores_of_one_agent_do_not_wait_for_themselves(client):
    async def outer(agent_id, state):
        return bool(await client.store_with_retry(agent_id, state, setting(client)))

    assert await client.store_with_retry("agent", {"value": 1}, outer)
    assert await client.get("agent") == "1"


async def test_an_agent_id_is_text_or_a_whole_number(client, mortal_server):
    """The same answer while the server is up and while it is away; what is refused is neither stored nor queued."""
    seen = []

    async def store(agent_id, state):
        seen.append(agent_id)
        return await client.set(f"agent:{agent_id}", state)

    assert (await client.store_with_retry(7, "number", store)).status == "stored"
    assert (await client.store_with_retry("7", "text", store)).status == "stored"
    await async_in_thread(mortal_server.kill)
    queued = await client.store_with_retry(7, "later", store)
    assert [write.agent_id for write in client.recovery.pending()] == ["7"]
    for agent_id in (None, True, 7.0, b"7", ["7"]):
        with pytest.raises(ValueError, match="agent_id must be str or int, got"):
            await client.store_with_retry(agent_id, "refused", store)
    for store_func in (None, 42, {}):
        with pytest.raises(ValueError, match="store_func must be a function, got"):
            await client.store_with_retry("7", "refused", store_func)
    assert len(client.recovery.pending()) == 1
    await async_in_thread(mortal_server.restart)
    assert await queued.wait(WAIT_S)
    assert await client.get("agent:7") == "later"
    assert set(seen) == {"7"}


async def test_waiting_refuses_what_is_no_time(client):
    result = await client.store_with_retry("agent", {"value": 1}, setting(client))
    for timeout in ("5", -1, float("nan"), True):
        for wait in (client.recovery.flush, result.wait):
            with pytest.raises(ValueError, match=r"timeout(_s)? must be >= 0, got"):
                await wait(timeout)
    for dead in (None, 7, "letter"):
        with pytest.raises(ValueError, match=r"dead must be one of dead_letters\(\), got"):
            client.recovery.retry(dead)
    assert await result.wait(0)
    assert await client.recovery.flush(0)
