# Generated from ../_async/test_priorities.py by tools/generate_sync.py: edit that file, not this one.

"""`with_priority`: what each write command gives, what waits and in which order, what takes whose place."""

import pytest
from redis.exceptions import DataError, ResponseError

from agent_memory import Outcome, Priority, RecoveryConfig, ResilientRedisClient, RetryPolicy
from agent_memory._concurrency import gather, in_thread, sleep, spawn
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


@pytest.fixture
def client(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": CONFIG}
    with ResilientRedisClient("priorities", **arguments) as client:
        yield client
        client.recovery.resume()
        if not mortal_server.alive:
            in_thread(mortal_server.restart)


def open_circuit(client):
    client.recovery.pause()
    client.guard.force_open()


def close_circuit(client):
    client.guard.reset()
    client.recovery.resume()


def test_stored_at_once(client):
    high = client.with_priority(Priority.HIGH)
    stored = high.set("key", "value", ex=100)
    assert stored
    assert (stored.status, stored.value, stored.error, stored.durable) == ("stored", True, None, False)
    assert high.incr("number").value == 1
    assert high.hset_dict("hash", {"field": 1}).value == 1
    assert high.hset("hash", mapping={"other": 2}).value == 1
    assert high.execute_command("XGROUP CREATE", "stream", "group", "$", "MKSTREAM").value is True
    assert client.get("key") == "value"
    assert "HIGH" in repr(high)


def test_a_pipeline_is_one_write(client):
    with client.with_priority(Priority.NORMAL).pipeline() as pipeline:
        pipeline.set("key", "value").incr("number")
        assert len(pipeline) == 2
        result = pipeline.execute()
    assert (result.status, result.value, len(pipeline)) == ("stored", [True, 1], 0)
    assert pipeline.execute().value == []
    open_circuit(client)
    queued = client.with_priority(Priority.NORMAL).pipeline(transaction=False).incr("number").incr("n").execute()
    assert queued.status == "queued"
    close_circuit(client)
    assert queued.wait(WAIT_S)
    assert queued.value == [2, 1]


@pytest.mark.parametrize(
    "command",
    [("GET", "key"), ("BLPOP", "key", 0), ("FLUSHALL",), ("CONFIG SET", "a", "b"), ("SELECT", 1), ("SWAPDB", 0, 1)],
)
def test_what_is_no_write_of_keys_is_refused(client, command):
    with pytest.raises(ValueError, match=rf"with_priority\(\) must be given a write of keys, got {command[0]}"):
        client.with_priority(Priority.HIGH).execute_command(*command)
    with pytest.raises(ValueError, match="must be given a write of keys"):
        client.with_priority(Priority.HIGH).pipeline().execute_command(*command)


def test_what_the_server_answers_is_raised(client):
    client.set("text", "x")
    with pytest.raises(ResponseError, match="wrong kind of value"):
        client.with_priority(Priority.HIGH).lpush("text", 1)
    assert client.recovery.pending() == []


def test_each_priority_while_the_server_is_away(client, mortal_server):
    mortal_server.kill()
    results = {p: client.with_priority(p).set(f"key:{p.name}", p.name) for p in Priority}
    assert {p.name: result.status for p, result in results.items()} == {
        "CRITICAL": "queued",
        "HIGH": "queued",
        "NORMAL": "queued",
        "LOW": "dropped",
    }
    assert isinstance(results[Priority.CRITICAL].error, RedisUnavailableError)
    assert {write.operation for write in client.recovery.pending()} == {"SET"}
    assert sorted(write.agent_id for write in client.recovery.pending()) == ["key:CRITICAL", "key:HIGH", "key:NORMAL"]
    in_thread(mortal_server.restart)
    for priority in (Priority.CRITICAL, Priority.HIGH, Priority.NORMAL):
        assert results[priority].wait(WAIT_S)
        assert results[priority].value is True
        assert client.get(f"key:{priority.name}") == priority.name
    assert client.exists("key:LOW") == 0


def test_between_keys_the_more_urgent_goes_first(client):
    open_circuit(client)
    for priority in (Priority.NORMAL, Priority.HIGH, Priority.CRITICAL):
        for number in range(3):
            client.with_priority(priority).rpush(f"log:{priority.name}:{number}", 1)
            script = "return redis.call('RPUSH', KEYS[2], ARGV[1])"
            client.with_priority(priority).eval(
                script, 2, f"own:{priority.name}:{number}", f"shared:{number}", priority.name
            )
    close_circuit(client)
    assert client.recovery.flush(WAIT_S)
    # One shared key each, so they stand behind each other in the order they came, whatever their priority.
    assert client.lrange("shared:0", 0, -1) == ["NORMAL", "HIGH", "CRITICAL"]


def test_absolute_writes_take_each_others_place_and_relative_ones_never(client):
    open_circuit(client)
    high = client.with_priority(Priority.HIGH)
    sets = [high.set("key", value) for value in range(5)]
    assert len(client.recovery.pending()) == 1
    assert all(result is sets[0] for result in sets)
    for options in ({"nx": True}, {"xx": True}, {"get": True}, {"keepttl": True}):
        high.set("conditional", "x", **options)
    for _ in range(3):
        high.incr("number")
        high.set("mixed", 1)
        high.append("mixed", "x")
    assert len(client.recovery.pending()) == 1 + 4 + 3 + 6
    close_circuit(client)
    assert client.recovery.flush(WAIT_S)
    assert client.mget("key", "number", "mixed", "conditional") == ["4", "3", "1x", "x"]
    assert client.recovery.stats()["superseded"] == 4
    assert all(sets)


def test_writes_of_one_key_keep_their_order(client):
    """Many callers, some before, some during and some after an outage; each list must be what one caller wrote, in order."""
    high = client.with_priority(Priority.HIGH)

    def write(key):
        for number in range(60):
            assert high.rpush(key, number).status in ("stored", "queued")
            if key == "list:0" and number == 20:
                open_circuit(client)
            if key == "list:0" and number == 40:
                close_circuit(client)

    gather(*[spawn(write, f"list:{number}") for number in range(4)])
    close_circuit(client)
    assert client.recovery.flush(WAIT_S)
    for number in range(4):
        assert client.lrange(f"list:{number}", 0, -1) == [str(value) for value in range(60)]


def test_a_duration_counts_from_the_call(client):
    open_circuit(client)
    high = client.with_priority(Priority.HIGH)
    client.with_priority(Priority.HIGH).set("short", "x", px=1)
    high.set("long", "x", ex=1000)
    high.execute_command("SETEX", "also", 1000, "x")
    high.expire("long", 500)
    sleep(0.01)
    close_circuit(client)
    assert client.recovery.flush(WAIT_S)
    assert client.get("short") is None
    assert 0 < client.ttl("long") <= 500
    assert 500 < client.ttl("also") <= 1000


def test_a_plain_write_stays_behind_queued_ones(mortal_server):
    arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": CONFIG, "socket_timeout": 0.5}
    with ResilientRedisClient("plain", **arguments) as client:
        open_circuit(client)
        client.with_priority(Priority.HIGH).rpush("key", "queued")
        client.guard.reset()  # the drain is paused still
        assert client.rpush("other", "goes on") == 1
        for write in (client.rpush, client.set):
            with pytest.raises(RedisUnavailableError, match="wait in the recovery queue") as refused:
                write("key", "too early")
            assert refused.value.outcome is Outcome.NOT_SENT
        with pytest.raises(RedisUnavailableError):
            client.pipeline().rpush("key", "too early").execute()
        assert client.lrange("key", 0, -1) == []  # reads do not wait
        client.recovery.resume()
        assert client.recovery.flush(WAIT_S)
        assert client.rpush("key", "plain") == 2
        assert client.lrange("key", 0, -1) == ["queued", "plain"]


def test_a_plain_write_waits_for_the_drain(client):
    open_circuit(client)
    for number in range(500):
        client.with_priority(Priority.HIGH).rpush("key", number)
    client.guard.reset()
    client.recovery.resume()
    client.rpush("key", "plain")
    assert client.lrange("key", 0, -1) == [*map(str, range(500)), "plain"]


def test_a_plain_absolute_write_takes_the_place_of_a_queued_one(client):
    open_circuit(client)
    queued = client.with_priority(Priority.HIGH).set("key", "older")
    client.guard.reset()
    assert client.set("key", "newer")
    assert queued.status == "stored"
    assert client.recovery.pending() == []
    client.recovery.resume()
    assert client.get("key") == "newer"


def test_poison_is_set_aside_and_blocks_no_other_write(client):
    client.set("text", "x")
    open_circuit(client)
    high = client.with_priority(Priority.HIGH)
    poison = high.lpush("text", 1)
    partly = high.pipeline(transaction=False).incr("counter").lpush("text", 2).execute()
    after = high.append("text", "y")
    other = high.set("other", 1)
    close_circuit(client)
    assert after.wait(WAIT_S)
    assert other.wait(WAIT_S)
    assert (poison.status, partly.status) == ("failed", "failed")
    assert isinstance(poison.error, ResponseError)
    letters = client.recovery.dead_letters()
    assert [(letter.reason, letter.operation, letter.agent_id) for letter in letters] == [
        ("rejected", "LPUSH", "text"),
        ("rejected", "LPUSH", "counter"),
    ]
    assert client.get("counter") == "1"
    client.delete("text")
    again = [client.recovery.retry(letter) for letter in letters]
    assert [result.wait(WAIT_S) for result in again] == [True, True]
    # Of the pipeline only what had failed is repeated.
    assert client.get("counter") == "1"
    assert client.lrange("text", 0, -1) == ["2", "1"]


def test_out_of_memory_passes(client):
    client.execute_command("CONFIG SET", "maxmemory", 1)
    open_circuit(client)
    queued = client.with_priority(Priority.HIGH).set("key", "value")
    deleted = client.with_priority(Priority.HIGH).delete("other")
    close_circuit(client)
    assert deleted.wait(WAIT_S)
    assert queued.status == "queued"
    client.execute_command("CONFIG SET", "maxmemory", 0)
    assert queued.wait(WAIT_S)


def test_a_lost_answer(mortal_server):
    """An absolute write is sent again. The outcome of a relative one stays unknown, so it is a dead letter at once."""
    with FaultProxy(mortal_server) as proxy:
        arguments = {**proxy.connection_kwargs, **QUICK, "recovery": CONFIG, "socket_timeout": 1.0}
        with ResilientRedisClient("lost", **arguments) as client:
            proxy.drop_replies(command="INCRBY", then="reset")
            relative = client.with_priority(Priority.HIGH).incr("number")
            assert relative.status == "failed"
            assert relative.error.outcome is Outcome.UNKNOWN
            assert [letter.reason for letter in client.recovery.dead_letters()] == ["unknown"]
            proxy.heal()
            proxy.drop_replies(command="SET", then="reset")
            client.recovery.pause()
            absolute = client.with_priority(Priority.HIGH).set("key", "value")
            assert absolute.status == "queued"
            proxy.heal()
            client.recovery.resume()
            assert absolute.wait(WAIT_S)
            assert client.mget("key", "number") == ["value", "1"]


def test_a_connection_that_breaks_under_a_drain(mortal_server):
    """The outcome of what was answered is known; what was not is a dead letter, since it may have been executed."""
    with FaultProxy(mortal_server) as proxy:
        arguments = {**proxy.connection_kwargs, **QUICK, "recovery": CONFIG, "socket_timeout": 2.0}
        with ResilientRedisClient("breaks", **arguments) as client:
            client.ping()
            open_circuit(client)
            results = [client.with_priority(Priority.HIGH).incr(f"number:{n}") for n in range(200)]
            proxy.cut_after_bytes(2_000, command="INCRBY", then="close")
            close_circuit(client)
            client.recovery.flush(WAIT_S)
            letters = client.recovery.dead_letters()
            assert {letter.reason for letter in letters} <= {"unknown"}
            stored = sum(map(bool, results))
            assert stored + len(letters) == 200
            assert stored > 0
            values = client.mget(f"number:{n}" for n in range(200))
            assert set(values) <= {"1", None}  # none twice
            assert all(value == "1" for value, result in zip(values, results, strict=True) if result)


@pytest.mark.parametrize("priority", Priority)
@pytest.mark.parametrize("word", [object(), None, True, {"a": 1}, [1]])
def test_what_cannot_be_a_word_is_refused_whether_the_server_is_up_or_away(client, priority, word):
    commands = client.with_priority(priority)
    for prepare in (close_circuit, open_circuit):
        prepare(client)
        for call in (
            lambda: commands.set("key", word),
            lambda: commands.rpush("list", word),
            lambda: commands.pipeline().set("key", word).execute(),
        ):
            with pytest.raises(DataError):
                call()
    assert client.recovery.pending() == []


def test_a_worker_that_starts_leaves_the_write_alone_that_a_plain_one_replaces(client, mortal_server):
    """While the newer value is on its way, workers start and stop; the older value never follows it."""
    with FaultProxy(mortal_server) as proxy:
        where = {"port": proxy.port, "socket_timeout": WAIT_S}
        arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": CONFIG, **where}
        with ResilientRedisClient("replaced", **arguments) as behind:
            behind.ping()
            open_circuit(behind)
            old = behind.with_priority(Priority.HIGH).set("key", "old")
            behind.guard.reset()
            proxy.pause()
            newer = spawn(behind.set, "key", "new")
            while behind._engine.queue.core.stats()["leased"] == 0:
                sleep(0.001)
            behind.recovery.resume()
            worker = behind._engine.worker
            for _ in range(3):
                task = worker.task
                worker.stop()
                assert task.join(WAIT_S)
                worker.start()
                while worker.task is task:
                    sleep(0.001)
            assert behind._engine.queue.core.stats()["leased"] == 1
            proxy.resume()
            newer.join()
            assert behind.recovery.flush(WAIT_S)
            assert behind.get("key") == "new"
            assert (old.status, old.wait(0)) == ("stored", True)


def test_a_write_that_takes_the_place_of_an_older_one_starts_with_its_own_attempts(client, mortal_server):
    open_circuit(client)
    high = client.with_priority(Priority.HIGH)
    high.set("key", "old")
    (leased,) = client._engine.queue.core.pop_due_many(1)
    client._engine.queue.core.retry(leased.id, 30.0, lease=leased.lease)
    assert [write.attempts for write in client.recovery.pending()] == [1]
    high.set("key", "new")
    assert [write.attempts for write in client.recovery.pending()] == [0]


@pytest.mark.parametrize("how", ["lost reply", "refused"])
def test_a_plain_write_that_may_be_executed_is_not_followed_by_the_older_one(client, mortal_server, how):
    """The older value follows only a write that was not executed."""
    with FaultProxy(mortal_server) as proxy:
        where = {"port": proxy.port, "socket_timeout": 0.3}
        arguments = {**mortal_server.connection_kwargs, **QUICK, "recovery": CONFIG, **where}
        with ResilientRedisClient("replaced", **arguments) as behind:
            behind.set("key", "first")
            open_circuit(behind)
            old = behind.with_priority(Priority.HIGH).set("key", "old")
            behind.guard.reset()
            if how == "refused":
                with pytest.raises(ResponseError):
                    behind.client.execute_command("SET", "key", "new", "PX", "wrong")
            else:
                proxy.drop_replies(1, command="SET")
                with pytest.raises(RedisTimeoutError) as lost:
                    behind.set("key", "new", px=86_400_000)
                assert lost.value.outcome is Outcome.UNKNOWN
            behind.recovery.resume()
            assert old.wait(WAIT_S)
            seen = [behind.get("key"), behind.client.pttl("key") > 0]
    assert seen == (["old", False] if how == "refused" else ["new", True])
