"""`with_priority`: what each write command gives, what waits and in which order, what takes whose place."""

import pytest
import pytest_asyncio
from redis.exceptions import DataError, ResponseError

from agent_memory import AsyncResilientRedisClient, Outcome, Priority, RecoveryConfig, RetryPolicy
from agent_memory._concurrency import async_gather, async_in_thread, async_sleep, async_spawn
from agent_memory.errors import RedisTimeoutError, RedisUnavailableError
from agent_memory.testing import FaultProxy

WAIT_S = 60.0
QUICK = {
    "retry_policy": RetryPolicy(max_retries=0),
    "retry_base_delay": 0.01,
    "retry_max_delay": 0.01,
    "probe_interval_s": 0.1,
}
CONFIG = RecoveryConfig(base_delay=0.01, max_delay=0.05)


@pytest_asyncio.fixture
async def client(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": CONFIG}
    async with AsyncResilientRedisClient("priorities", **arguments) as client:
        yield client
        client.recovery.resume()
        if not mortal_server.alive:
            await async_in_thread(mortal_server.restart)


async def open_circuit(client):
    client.recovery.pause()
    client.guard.force_open()


async def close_circuit(client):
    client.guard.reset()
    client.recovery.resume()


async def test_stored_at_once(client):
    high = client.with_priority(Priority.HIGH)
    stored = await high.set("key", "value", ex=100)
    assert stored
    assert (stored.status, stored.value, stored.error, stored.durable) == ("stored", True, None, False)
    assert (await high.incr("number")).value == 1
    assert (await high.hset_dict("hash", {"field": 1})).value == 1
    assert (await high.hset("hash", mapping={"other": 2})).value == 1
    assert (await high.execute_command("XGROUP CREATE", "stream", "group", "$", "MKSTREAM")).value is True
    assert await client.get("key") == "value"
    assert "HIGH" in repr(high)


async def test_a_pipeline_is_one_write(client):
    async with client.with_priority(Priority.NORMAL).pipeline() as pipeline:
        pipeline.set("key", "value").incr("number")
        assert len(pipeline) == 2
        result = await pipeline.execute()
    assert (result.status, result.value, len(pipeline)) == ("stored", [True, 1], 0)
    assert (await pipeline.execute()).value == []
    await open_circuit(client)
    queued = await client.with_priority(Priority.NORMAL).pipeline(transaction=False).incr("number").incr("n").execute()
    assert queued.status == "queued"
    await close_circuit(client)
    assert await queued.wait(WAIT_S)
    assert queued.value == [2, 1]


@pytest.mark.parametrize(
    "command",
    [("GET", "key"), ("BLPOP", "key", 0), ("FLUSHALL",), ("CONFIG SET", "a", "b"), ("SELECT", 1), ("SWAPDB", 0, 1)],
)
async def test_what_is_no_write_of_keys_is_refused(client, command):
    with pytest.raises(ValueError, match=rf"with_priority\(\) must be given a write of keys, got {command[0]}"):
        await client.with_priority(Priority.HIGH).execute_command(*command)
    with pytest.raises(ValueError, match="must be given a write of keys"):
        client.with_priority(Priority.HIGH).pipeline().execute_command(*command)


async def test_what_the_server_answers_is_raised(client):
    await client.set("text", "x")
    with pytest.raises(ResponseError, match="wrong kind of value"):
        await client.with_priority(Priority.HIGH).lpush("text", 1)
    assert client.recovery.pending() == []


async def test_each_priority_while_the_server_is_away(client, mortal_server):
    mortal_server.kill()
    results = {p: await client.with_priority(p).set(f"key:{p.name}", p.name) for p in Priority}
    assert {p.name: result.status for p, result in results.items()} == {
        "CRITICAL": "queued",
        "HIGH": "queued",
        "NORMAL": "queued",
        "LOW": "dropped",
    }
    assert isinstance(results[Priority.CRITICAL].error, RedisUnavailableError)
    assert {write.operation for write in client.recovery.pending()} == {"SET"}
    assert sorted(write.agent_id for write in client.recovery.pending()) == ["key:CRITICAL", "key:HIGH", "key:NORMAL"]
    await async_in_thread(mortal_server.restart)
    for priority in (Priority.CRITICAL, Priority.HIGH, Priority.NORMAL):
        assert await results[priority].wait(WAIT_S)
        assert results[priority].value is True
        assert await client.get(f"key:{priority.name}") == priority.name
    assert await client.exists("key:LOW") == 0


async def test_between_keys_the_more_urgent_goes_first(client):
    await open_circuit(client)
    for priority in (Priority.NORMAL, Priority.HIGH, Priority.CRITICAL):
        for number in range(3):
            await client.with_priority(priority).rpush(f"log:{priority.name}:{number}", 1)
            script = "return redis.call('RPUSH', KEYS[2], ARGV[1])"
            await client.with_priority(priority).eval(
                script, 2, f"own:{priority.name}:{number}", f"shared:{number}", priority.name
            )
    await close_circuit(client)
    assert await client.recovery.flush(WAIT_S)
    # One shared key each, so they stand behind each other in the order they came, whatever their priority.
    assert await client.lrange("shared:0", 0, -1) == ["NORMAL", "HIGH", "CRITICAL"]


async def test_absolute_writes_take_each_others_place_and_relative_ones_never(client):
    await open_circuit(client)
    high = client.with_priority(Priority.HIGH)
    sets = [await high.set("key", value) for value in range(5)]
    assert len(client.recovery.pending()) == 1
    assert all(result is sets[0] for result in sets)
    for options in ({"nx": True}, {"xx": True}, {"get": True}, {"keepttl": True}):
        await high.set("conditional", "x", **options)
    for _ in range(3):
        await high.incr("number")
        await high.set("mixed", 1)
        await high.append("mixed", "x")
    assert len(client.recovery.pending()) == 1 + 4 + 3 + 6
    await close_circuit(client)
    assert await client.recovery.flush(WAIT_S)
    assert await client.mget("key", "number", "mixed", "conditional") == ["4", "3", "1x", "x"]
    assert client.recovery.stats()["superseded"] == 4
    assert all(sets)


async def test_writes_of_one_key_keep_their_order(client):
    """Many callers, some before, some during and some after an outage; each list must be what one caller wrote, in order."""
    high = client.with_priority(Priority.HIGH)

    async def write(key):
        for number in range(60):
            assert (await high.rpush(key, number)).status in ("stored", "queued")
            if key == "list:0" and number == 20:
                await open_circuit(client)
            if key == "list:0" and number == 40:
                await close_circuit(client)

    await async_gather(*[async_spawn(write, f"list:{number}") for number in range(4)])
    await close_circuit(client)
    assert await client.recovery.flush(WAIT_S)
    for number in range(4):
        assert await client.lrange(f"list:{number}", 0, -1) == [str(value) for value in range(60)]


async def test_a_duration_counts_from_the_call(client):
    await open_circuit(client)
    high = client.with_priority(Priority.HIGH)
    await client.with_priority(Priority.HIGH).set("short", "x", px=1)
    await high.set("long", "x", ex=1000)
    await high.execute_command("SETEX", "also", 1000, "x")
    await high.expire("long", 500)
    await async_sleep(0.01)
    await close_circuit(client)
    assert await client.recovery.flush(WAIT_S)
    assert await client.get("short") is None
    assert 0 < await client.ttl("long") <= 500
    assert 500 < await client.ttl("also") <= 1000


async def test_a_plain_write_stays_behind_queued_ones(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": CONFIG, "socket_timeout": 0.5}
    async with AsyncResilientRedisClient("plain", **arguments) as client:
        await open_circuit(client)
        await client.with_priority(Priority.HIGH).rpush("key", "queued")
        client.guard.reset()  # the drain is paused still
        assert await client.rpush("other", "goes on") == 1
        for write in (client.rpush, client.set):
            with pytest.raises(RedisUnavailableError, match="wait in the recovery queue") as refused:
                await write("key", "too early")
            assert refused.value.outcome is Outcome.NOT_SENT
        with pytest.raises(RedisUnavailableError):
            await client.pipeline().rpush("key", "too early").execute()
        assert await client.lrange("key", 0, -1) == []  # reads do not wait
        client.recovery.resume()
        assert await client.recovery.flush(WAIT_S)
        assert await client.rpush("key", "plain") == 2
        assert await client.lrange("key", 0, -1) == ["queued", "plain"]


async def test_a_plain_write_waits_for_the_drain(client):
    await open_circuit(client)
    for number in range(500):
        await client.with_priority(Priority.HIGH).rpush("key", number)
    client.guard.reset()
    client.recovery.resume()
    await client.rpush("key", "plain")
    assert await client.lrange("key", 0, -1) == [*map(str, range(500)), "plain"]


async def test_a_plain_absolute_write_takes_the_place_of_a_queued_one(client):
    await open_circuit(client)
    queued = await client.with_priority(Priority.HIGH).set("key", "older")
    client.guard.reset()
    assert await client.set("key", "newer")
    assert queued.status == "stored"
    assert client.recovery.pending() == []
    client.recovery.resume()
    assert await client.get("key") == "newer"


async def test_poison_is_set_aside_and_blocks_no_other_write(client):
    await client.set("text", "x")
    await open_circuit(client)
    high = client.with_priority(Priority.HIGH)
    poison = await high.lpush("text", 1)
    partly = await high.pipeline(transaction=False).incr("counter").lpush("text", 2).execute()
    after = await high.append("text", "y")
    other = await high.set("other", 1)
    await close_circuit(client)
    assert await after.wait(WAIT_S)
    assert await other.wait(WAIT_S)
    assert (poison.status, partly.status) == ("failed", "failed")
    assert isinstance(poison.error, ResponseError)
    letters = client.recovery.dead_letters()
    assert [(letter.reason, letter.operation, letter.agent_id) for letter in letters] == [
        ("rejected", "LPUSH", "text"),
        ("rejected", "LPUSH", "counter"),
    ]
    assert await client.get("counter") == "1"
    await client.delete("text")
    again = [client.recovery.retry(letter) for letter in letters]
    assert [await result.wait(WAIT_S) for result in again] == [True, True]
    # Of the pipeline only what had failed is repeated.
    assert await client.get("counter") == "1"
    assert await client.lrange("text", 0, -1) == ["2", "1"]


async def test_out_of_memory_passes(client):
    await client.execute_command("CONFIG SET", "maxmemory", 1)
    await open_circuit(client)
    queued = await client.with_priority(Priority.HIGH).set("key", "value")
    deleted = await client.with_priority(Priority.HIGH).delete("other")
    await close_circuit(client)
    assert await deleted.wait(WAIT_S)
    assert queued.status == "queued"
    await client.execute_command("CONFIG SET", "maxmemory", 0)
    assert await queued.wait(WAIT_S)


async def test_a_lost_answer(mortal_server):
    """An absolute write is sent again. The outcome of a relative one stays unknown, so it is a dead letter at once."""
    with FaultProxy(mortal_server) as proxy:
        arguments = {**proxy.connection_kwargs, **QUICK, "recovery": CONFIG, "socket_timeout": 1.0}
        async with AsyncResilientRedisClient("lost", **arguments) as client:
            proxy.drop_replies(command="INCRBY", then="reset")
            relative = await client.with_priority(Priority.HIGH).incr("number")
            assert relative.status == "failed"
            assert relative.error.outcome is Outcome.UNKNOWN
            assert [letter.reason for letter in client.recovery.dead_letters()] == ["unknown"]
            proxy.heal()
            proxy.drop_replies(command="SET", then="reset")
            client.recovery.pause()
            absolute = await client.with_priority(Priority.HIGH).set("key", "value")
            assert absolute.status == "queued"
            proxy.heal()
            client.recovery.resume()
            assert await absolute.wait(WAIT_S)
            assert await client.mget("key", "number") == ["value", "1"]


async def test_a_connection_that_breaks_under_a_drain(mortal_server):
    """The outcome of what was answered is known; what was not is a dead letter, since it may have been executed."""
    with FaultProxy(mortal_server) as proxy:
        arguments = {**proxy.connection_kwargs, **QUICK, "recovery": CONFIG, "socket_timeout": 2.0}
        async with AsyncResilientRedisClient("breaks", **arguments) as client:
            await client.ping()
            await open_circuit(client)
            results = [await client.with_priority(Priority.HIGH).incr(f"number:{n}") for n in range(200)]
            proxy.cut_after_bytes(2_000, command="INCRBY", then="close")
            await close_circuit(client)
            await client.recovery.flush(WAIT_S)
            letters = client.recovery.dead_letters()
            assert {letter.reason for letter in letters} <= {"unknown"}
            stored = sum(map(bool, results))
            assert stored + len(letters) == 200
            assert stored > 0
            values = await client.mget(f"number:{n}" for n in range(200))
            assert set(values) <= {"1", None}  # none twice
            assert all(value == "1" for value, result in zip(values, results, strict=True) if result)


@pytest.mark.parametrize("priority", Priority)
@pytest.mark.parametrize("word", [object(), None, True, {"a": 1}, [1]])
async def test_what_cannot_be_a_word_is_refused_whether_the_server_is_up_or_away(client, priority, word):
    commands = client.with_priority(priority)
    for prepare in (close_circuit, open_circuit):
        await prepare(client)
        for call in (
            lambda: commands.set("key", word),
            lambda: commands.rpush("list", word),
            lambda: commands.pipeline().set("key", word).execute(),
        ):
            with pytest.raises(DataError):
                await call()
    assert client.recovery.pending() == []


async def test_a_worker_that_starts_leaves_the_write_alone_that_a_plain_one_replaces(client, mortal_server):
    """While the newer value is on its way, workers start and stop; the older value never follows it."""
    with FaultProxy(mortal_server) as proxy:
        where = {"port": proxy.port, "socket_timeout": WAIT_S}
        arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": CONFIG, **where}
        async with AsyncResilientRedisClient("replaced", **arguments) as behind:
            await behind.ping()
            await open_circuit(behind)
            old = await behind.with_priority(Priority.HIGH).set("key", "old")
            behind.guard.reset()
            proxy.pause()
            newer = async_spawn(behind.set, "key", "new")
            while behind._engine.queue.core.stats()["leased"] == 0:
                await async_sleep(0.001)
            behind.recovery.resume()
            worker = behind._engine.worker
            for _ in range(3):
                task = worker.task
                worker.stop()
                assert await task.join(WAIT_S)
                worker.start()
                while worker.task is task:
                    await async_sleep(0.001)
            assert behind._engine.queue.core.stats()["leased"] == 1
            proxy.resume()
            await newer.join()
            assert await behind.recovery.flush(WAIT_S)
            assert await behind.get("key") == "new"
            assert (old.status, await old.wait(0)) == ("stored", True)


async def test_a_write_that_takes_the_place_of_an_older_one_starts_with_its_own_attempts(client, mortal_server):
    await open_circuit(client)
    high = client.with_priority(Priority.HIGH)
    await high.set("key", "old")
    (leased,) = client._engine.queue.core.pop_due_many(1)
    client._engine.queue.core.retry(leased.id, 30.0, lease=leased.lease)
    assert [write.attempts for write in client.recovery.pending()] == [1]
    await high.set("key", "new")
    assert [write.attempts for write in client.recovery.pending()] == [0]


@pytest.mark.parametrize("how", ["lost reply", "refused"])
async def test_a_plain_write_that_may_be_executed_is_not_followed_by_the_older_one(client, mortal_server, how):
    """The older value follows only a write that was not executed."""
    with FaultProxy(mortal_server) as proxy:
        where = {"port": proxy.port, "socket_timeout": 0.3}
        arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": CONFIG, **where}
        async with AsyncResilientRedisClient("replaced", **arguments) as behind:
            await behind.set("key", "first")
            await open_circuit(behind)
            old = await behind.with_priority(Priority.HIGH).set("key", "old")
            behind.guard.reset()
            if how == "refused":
                with pytest.raises(ResponseError):
                    await behind.client.execute_command("SET", "key", "new", "PX", "wrong")
            else:
                proxy.drop_replies(1, command="SET")
                with pytest.raises(RedisTimeoutError) as lost:
                    await behind.set("key", "new", px=86_400_000)
                assert lost.value.outcome is Outcome.UNKNOWN
            behind.recovery.resume()
            assert await old.wait(WAIT_S)
            seen = [await behind.get("key"), await behind.client.pttl("key") > 0]
    assert seen == (["old", False] if how == "refused" else ["new", True])
