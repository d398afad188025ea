"""Exactly once against real servers: whatever happens, each write is there once or its caller knows that it is not.

A counter says it best: INCR is applied as often as calls returned or failed with outcome APPLIED, and not once more.
"""

import os
import random
import threading

import pytest
import redis

from agent_memory._concurrency import async_gather, async_sleep, async_spawn
from agent_memory.errors import Outcome
from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.exactly_once import ExactlyOnce, Verdict

PATIENT = ResiliencePolicy(
    breaker=BreakerSettings(failure_threshold=1_000_000), retry=RetryPolicy(20, 0.02, max_delay=0.2, deadline_s=20.0)
)
"""A circuit that stays closed and calls that go on trying, so that each fault is seen through to its end."""
KILLS = int(os.environ.get("AGENT_MEMORY_KILLS", "8"))
"""How often the server is killed; a few hundred take some minutes."""
LEVELS = ("marker", "gate")


def observe(server):
    """redis-py, for looking at what is there."""
    return redis.Redis(**server.connection_kwargs)


def marked(command, level):
    """The command whose reply carries that of `command` at a level."""
    return {"marker": "EXEC", "gate": "EVALSHA"}.get(level, command)


async def outcome_of(call, *args):
    """The value a call returns, or the outcome of its error."""
    try:
        return await call(*args)
    except redis.RedisError as error:
        return error.outcome


class Tally:
    """The reported outcomes of the increments of one counter."""

    def __init__(self):
        self.done = 0
        self.unknown = []

    async def count(self, client, key):
        """Increment once and note what was said."""
        try:
            await client.incr(key)
        except redis.RedisError as error:
            if error.outcome is Outcome.UNKNOWN:
                self.unknown.append(error)
            else:
                self.done += error.outcome is Outcome.APPLIED
        else:
            self.done += 1

    async def settle(self, client):
        """Ask again for what was not known when its caller had to go on."""
        for error in self.unknown:
            outcome = await client.resolve(error, 30.0)
            assert outcome is not Outcome.UNKNOWN, error.ticket.verdict
            self.done += outcome is Outcome.APPLIED
        self.unknown = []


@pytest.mark.parametrize("level", LEVELS)
async def test_a_lost_reply_and_a_torn_request(server, proxy, async_connect, level):
    between = proxy(server)
    client = async_connect(between, exactly_once=ExactlyOnce(level), resilience=PATIENT, socket_timeout=0.4)
    assert await client.incr("counter") == 1
    assert client.stats()["exactly_once"]["level"] == level
    for then in ("reset", "close", "silence"):
        before = int(await client.get("counter"))
        between.drop_replies(1, command=marked("INCRBY", level), then=then)
        assert await outcome_of(client.incr, "counter") is Outcome.APPLIED
        between.heal()
        assert int(await client.get("counter")) == before + 1
        between.cut_after_bytes(30, command=marked("INCRBY", level).replace("EXEC", "INCRBY"))
        assert await client.incr("counter") == before + 2
        between.heal()
    figures = client.stats()["exactly_once"]
    assert (figures["applied"], figures["not_applied"], figures["unresolvable"]) == (3, 3, 0)


@pytest.mark.parametrize(("level", "outcome"), [("marker", Outcome.APPLIED), ("gate", Outcome.REJECTED)])
async def test_what_is_refused_while_the_reply_is_lost(server, proxy, async_connect, level, outcome):
    """A transaction goes on behind a command that is refused, so its marker is set; a script ends there."""
    between = proxy(server)
    client = async_connect(between, exactly_once=ExactlyOnce(level), resilience=PATIENT)
    await client.set("text", "x")
    between.drop_replies(1, command=marked("INCRBY", level), then="reset")
    with pytest.raises(redis.RedisError) as failed:
        await client.incr("text")
    assert failed.value.outcome is outcome
    assert await client.get("text") == b"x"


async def test_a_new_connection_ends_no_other(server, proxy, async_connect):
    between = proxy(server)
    with observe(server) as bystander, bystander.client() as pinned:
        number = pinned.client_id()
        client = async_connect(between, exactly_once=True, resilience=PATIENT)
        for _ in range(3):
            await client.incr("counter")
            between.reset()
        assert pinned.client_id() == number


@pytest.mark.parametrize("level", LEVELS)
async def test_replies_look_as_always(server, async_connect, level):
    client = async_connect(server, exactly_once=ExactlyOnce(level), decode_responses=True)
    plain = async_connect(server, decode_responses=True)
    for name, one in (("a", client), ("b", plain)):
        replies = [
            await one.set(f"{name}:s", "v", ex=100, nx=True),
            await one.set(f"{name}:s", "w", nx=True),
            await one.incrbyfloat(f"{name}:f", 1.5),
            await one.lpush(f"{name}:l", 1, 2, 3),
            await one.lpop(f"{name}:l", 2),
            await one.zadd(f"{name}:z", {"m": 1, "n": 2}),
            await one.zincrby(f"{name}:z", 2.5, "m"),
            await one.zpopmax(f"{name}:z"),
            await one.spop(f"{name}:none"),
            await one.mset({f"{name}:1": 1, f"{name}:2": 2}),
            await one.delete(f"{name}:1", f"{name}:2", f"{name}:3"),
            await one.expire(f"{name}:s", 50),
            await one.getdel(f"{name}:s"),
            await one.hincrby(f"{name}:h", "f", 3),
        ]
        if name == "a":
            expected = replies
    assert expected == replies
    await client.set("text", "x")
    with pytest.raises(redis.ResponseError) as refused:
        await client.incr("text")
    assert refused.value.outcome is Outcome.REJECTED
    assert await client.eval("return redis.call('INCR', KEYS[1])", 1, "scripted") == 1


async def test_a_transaction_is_resolved_as_one_write(valkey, proxy, async_connect):
    between = proxy(valkey)
    client = async_connect(between, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)

    async def transfer():
        pipe = client.pipeline(transaction=True)
        pipe.incrby("to", 5)
        pipe.decrby("from", 5)
        return await pipe.execute()

    assert await transfer() == [5, -5]
    between.drop_replies(1, command="EXEC", then="reset")
    assert await outcome_of(transfer) is Outcome.APPLIED
    between.heal()
    between.cut_after_bytes(60, command="MULTI")
    assert await transfer() == [15, -15]
    between.heal()
    pipe = client.pipeline(transaction=True)
    pipe.set("text", "x").incr("text")
    with pytest.raises(redis.ResponseError):
        await pipe.execute()
    assert await client.get("text") == b"x"


async def test_an_absolute_write_is_repeated_and_never_overtakes(valkey, proxy, async_connect):
    between = proxy(valkey)
    client = async_connect(between, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)
    await client.set("key", "first")
    between.drop_replies(1, command="SET", then="reset")
    assert await client.set("key", "second")
    between.heal()
    assert await client.get("key") == b"second"
    assert client.stats()["exactly_once"]["fences"] == 1


@pytest.mark.parametrize("exactly_once", [True, False])
async def test_what_is_still_on_its_way_does_not_come_later(server, proxy, async_connect, exactly_once):
    """The old connection has a write under way when it fails; a newer one is written meanwhile. Without a fence it is lost."""
    between = proxy(server)
    client = async_connect(
        between, exactly_once=exactly_once, resilience=None, socket_timeout=5.0, retry=None, protocol=2
    )
    await client.set("key", "initial")
    between.up.latency_s = 1.0
    before = between.up_bytes
    old = async_spawn(outcome_of, client.set, "key", "old" * 50_000)
    while between.up_bytes - before < 150_000:  # the proxy has all of it, the server nothing
        await async_sleep(0.01)
    between.reset(side="client")
    assert await old.result() is Outcome.UNKNOWN
    between.up.latency_s = 0.0
    assert await client.set("key", "new")
    with observe(server) as observer:
        seen = observer.get("key")
        for _ in range(300):
            if seen != b"new" or not _has_others(observer):
                break
            await async_sleep(0.01)
            seen = observer.get("key")
        assert (seen == b"new") is exactly_once


def _has_others(observer):
    # The client's new connection and the observer's own stay; a third is the one that should have been fenced.
    return len(observer.client_list()) > 2


async def test_a_server_that_was_stopped(start_server, async_connect):
    server = start_server(transport="tcp")
    client = async_connect(server, exactly_once=True, resilience=PATIENT, socket_timeout=0.3)
    tally = Tally()
    await tally.count(client, "counter")
    for pause_s in (0.1, 0.5, 1.0):
        server.pause()
        callers = [async_spawn(tally.count, client, "counter") for _ in range(5)]
        await async_sleep(pause_s)
        server.resume()
        await async_gather(*callers)
    await tally.settle(client)
    with observe(server) as observer:
        assert int(observer.get("counter")) == tally.done


async def test_a_server_that_is_busy(start_server, proxy, async_connect):
    server = start_server(transport="tcp", config={"busy-reply-threshold": "10"})
    between = proxy(server)
    client = async_connect(between, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)
    assert await client.incr("counter") == 1
    blocker = threading.Thread(target=_keep_busy, args=(server,))
    between.drop_replies(1, command="EXEC", then="silence")
    call = async_spawn(outcome_of, client.incr, "counter")
    while between.commands.get("EXEC", 0) < 2:
        await async_sleep(0.01)
    blocker.start()
    between.close_connections()
    between.heal()
    assert await call.result() is Outcome.APPLIED
    blocker.join()
    assert await client.get("counter") == b"2"


def _keep_busy(server):
    with redis.Redis(**server.connection_kwargs, socket_timeout=60) as observer:
        observer.eval("local x = 0 for i = 1, 30000000 do x = x + i end return x", 0)


async def test_a_server_that_is_killed_and_keeps_its_data(start_server, tmp_path, async_connect):
    server = start_server(path=tmp_path / "data", transport="tcp", config={"appendonly": "yes"})
    client = async_connect(server, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)
    tally = Tally()
    stop = []

    async def write():
        while not stop:
            await tally.count(client, "counter")

    writers = [async_spawn(write) for _ in range(8)]
    for _ in range(KILLS):
        await async_sleep(random.uniform(0.02, 0.1))
        server.kill()
        server.start()
    stop.append(True)
    await async_gather(*writers)
    await tally.settle(client)
    with observe(server) as observer:
        assert int(observer.get("counter")) == tally.done
    assert client.stats()["exactly_once"]["unresolvable"] == 0


@pytest.mark.parametrize("level", LEVELS)
async def test_a_counter_through_many_faults(valkey, proxy, async_connect, level):
    between = proxy(valkey, seed=7)
    client = async_connect(between, exactly_once=ExactlyOnce(level), resilience=PATIENT, socket_timeout=0.5)
    tally = Tally()
    stop = []

    async def write():
        while not stop:
            await tally.count(client, "counter")
            await outcome_of(client.set, "last", tally.done)

    writers = [async_spawn(write) for _ in range(6)]
    dice = random.Random(7)
    for _ in range(40):
        fault = dice.randrange(5)
        if fault == 0:
            between.reset()
        elif fault == 1:
            between.reset(side="client")
        elif fault == 2:
            between.drop_replies(1, command=marked("INCRBY", level), then=dice.choice(["reset", "close", "silence"]))
        elif fault == 3:
            between.cut_after_bytes(dice.randrange(1, 200), command=["MULTI", "EVALSHA"])
        else:
            between.close_connections()
        await async_sleep(dice.uniform(0.005, 0.05))
    between.heal()
    stop.append(True)
    await async_gather(*writers)
    await tally.settle(client)
    with observe(valkey) as observer:
        assert int(observer.get("counter")) == tally.done
    figures = client.stats()["exactly_once"]
    assert figures["applied"] + figures["not_applied"] > 0
    assert figures["unresolvable"] == 0


async def test_without_permission_to_kill(start_server, proxy, async_connect):
    server = start_server(transport="tcp", users={"writer": "~* &* +@all -client|kill"})
    between = proxy(server)
    where = {**server.connection_kwargs_for("writer"), "port": between.port}
    client = async_connect(between, **where, exactly_once=True, resilience=PATIENT, socket_timeout=0.5)
    assert await client.incr("counter") == 1
    assert client.stats()["exactly_once"]["level"] == "gate"
    between.drop_replies(1, command="EVALSHA", then="reset")
    assert await outcome_of(client.incr, "counter") is Outcome.APPLIED
    between.heal()
    assert await client.set("key", "absolute")
    assert await client.get("counter") == b"2"
    # The server forgets the script: the next call brings it along.
    with observe(server) as observer:
        observer.script_flush()
    assert await client.incr("counter") == 3


async def test_without_any_permission(start_server, async_connect, caplog):
    server = start_server(transport="tcp", users={"reader": "~mine* &* +@all -client|kill"})
    client = async_connect(server, **server.connection_kwargs_for("reader"), exactly_once=True)
    assert await client.incr("mine") == 1
    assert client.stats()["exactly_once"]["level"] == "nothing"
    assert "only the level 'nothing'" in caplog.text


async def test_a_server_that_evicts_is_warned_of(start_server, async_connect, caplog):
    server = start_server(transport="tcp", config={"maxmemory-policy": "allkeys-lru"})
    client = async_connect(server, exactly_once=True)
    await client.incr("counter")
    await client.incr("counter")
    assert client.stats()["exactly_once"]["maxmemory_policy"] == "allkeys-lru"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "noeviction" in caplog.text


async def test_a_marker_that_is_gone_tells_nothing(valkey, proxy, async_connect):
    between = proxy(valkey)
    client = async_connect(between, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)
    await client.incr("counter")
    between.drop_replies(1, command="EXEC", then="silence")
    call = async_spawn(_ticket_of_failure, client)
    while between.commands.get("EXEC", 0) < 2:
        await async_sleep(0.01)
    with observe(valkey) as observer:
        while observer.get("counter") != b"2":
            await async_sleep(0.01)
        observer.flushall()
    between.close_connections()
    between.heal()
    error = await call.result()
    assert error.outcome is Outcome.UNKNOWN
    assert error.ticket.verdict is Verdict.UNRESOLVABLE


async def _ticket_of_failure(client):
    with pytest.raises(redis.ConnectionError) as failure:
        await client.incr("counter")
    return failure.value


async def test_the_offset_resolves_what_the_server_still_has(valkey, proxy, async_connect):
    between = proxy(valkey)
    client = async_connect(between, exactly_once=ExactlyOnce("offset"), resilience=PATIENT, socket_timeout=0.5)
    for _ in range(20):
        await client.incr("counter")
    assert client.stats()["exactly_once"]["level"] == "offset"
    with observe(valkey) as observer:
        assert not observer.keys("agent_memory:once:*")
    between.drop_replies(1, command="INCRBY", then="silence")
    assert await outcome_of(client.incr, "counter") is Outcome.APPLIED
    between.heal()
    assert await client.get("counter") == b"21"
    # Here the write is lost on its way.
    between.black_hole("up")
    call = async_spawn(client.incr, "counter")
    await async_sleep(0.2)
    between.heal()
    assert await call.result() == 22
    # Here the connection is gone, and what it had executed with it.
    between.drop_replies(1, command="INCRBY", then="reset")
    assert await outcome_of(client.incr, "counter") is Outcome.UNKNOWN
    between.heal()
    assert await client.get("counter") == b"23"


async def test_the_offset_is_not_believed_of_a_paused_server(valkey, proxy, async_connect):
    """Commands that the server has read ahead count as bytes processed though they have not been executed."""
    between = proxy(valkey)
    client = async_connect(between, exactly_once=ExactlyOnce("offset"), resilience=PATIENT, socket_timeout=0.5)
    await client.incr("counter")
    with observe(valkey) as observer:
        observer.client_pause(60_000, all=False)
        call = async_spawn(outcome_of, client.incr, "counter")
        assert await call.result() is Outcome.UNKNOWN
        observer.client_unpause()
        assert observer.get("counter") == b"1"


async def test_markers_are_changed_in_time_and_deleted(valkey, async_connect, monkeypatch):
    monkeypatch.setattr("agent_memory.redis.exactly_once.tickets.MARKER_BITS", 5)
    client = async_connect(valkey, exactly_once=True)
    for expected in range(1, 30):
        assert await client.incr("counter") == expected
    with observe(valkey) as observer:
        markers = observer.keys("agent_memory:once:*")
        assert 1 <= len(markers) <= 2
        assert all(0 < observer.ttl(key) <= 86_400 for key in markers)
    await client.aclose()
    with observe(valkey) as observer:
        for _ in range(500):
            if len(observer.keys("agent_memory:once:*")) <= 1:
                break
            await async_sleep(0.01)
        assert len(observer.keys("agent_memory:once:*")) <= 1


async def test_over_tls(tls_server, async_connect):
    client = async_connect(tls_server, exactly_once=True, resilience=PATIENT)
    tally = Tally()
    await tally.count(client, "counter")
    with observe(tls_server) as observer:
        for _ in range(5):
            callers = [async_spawn(tally.count, client, "counter") for _ in range(5)]
            observer.client_kill_filter(_type="normal", skipme=True)
            await async_gather(*callers)
        await tally.settle(client)
        assert int(observer.get("counter")) == tally.done


async def test_over_a_unix_socket(server_kind, start_server, async_connect):
    server = start_server(server_kind, transport="unix")
    client = async_connect(server, exactly_once=True, resilience=PATIENT)
    tally = Tally()
    await tally.count(client, "counter")
    with observe(server) as observer:
        for _ in range(5):
            callers = [async_spawn(tally.count, client, "counter") for _ in range(5)]
            observer.client_kill_filter(_type="normal", skipme=True)
            await async_gather(*callers)
        await tally.settle(client)
        assert int(observer.get("counter")) == tally.done


async def test_the_writes_of_a_process_that_has_ended(valkey, proxy, async_connect):
    between = proxy(valkey)
    client = async_connect(between, exactly_once=True, resilience=None, socket_timeout=0.3)
    await client.incr("counter")
    between.drop_replies(1, command="EXEC", then="silence")
    between.refuse()  # it gives up before anything is known, as a process would that is killed now
    with pytest.raises(redis.RedisError) as failure:
        await client.incr("counter")
    assert failure.value.outcome is Outcome.UNKNOWN
    record = failure.value.ticket.record()
    successor = async_connect(valkey, exactly_once=True)
    # The write after it never left.
    later = {**record, "bit": record["bit"] + 1}
    outcomes = await successor.resolve_records([record, later], 10.0)
    assert outcomes == [Outcome.APPLIED, Outcome.NOT_SENT]
    # The markers were deleted with that: asked again, nothing tells.
    assert await successor.resolve_records([record], 10.0) == [Outcome.UNKNOWN]


async def test_all_clients_of_a_pool_agree(valkey, async_connect):
    client = async_connect(valkey, exactly_once=True)
    view = client.unguarded()
    assert await view.incr("counter") == 1
    with pytest.raises(ValueError, match="exactly_once must be the same for all clients of a pool"):
        type(client)(connection_pool=client.connection_pool, exactly_once=ExactlyOnce("gate"))
    plain = async_connect(valkey)
    with pytest.raises(ValueError, match="exactly_once must be asked for by the first client"):
        type(client)(connection_pool=plain.connection_pool, exactly_once=True)
    with pytest.raises(ValueError, match="exactly_once must be off"):
        async_connect(valkey, single_connection_client=True, exactly_once=True)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="level must be one of best, marker, offset, gate, got 'all'"):
        ExactlyOnce(level="all")
    with pytest.raises(ValueError, match="marker_ttl_s must be an int >= 60, got 5"):
        ExactlyOnce(marker_ttl_s=5)
    with pytest.raises(ValueError, match="marker_prefix must be a non-empty str, got ''"):
        ExactlyOnce(marker_prefix="")


async def test_a_blocking_pop_whose_reply_is_lost_says_so(server, proxy, async_connect):
    between = proxy(server)
    client = async_connect(between, exactly_once=True, resilience=PATIENT)
    await client.rpush("tasks", "one")
    between.drop_replies(1, command="BLPOP", then="reset")
    with pytest.raises(redis.ConnectionError) as lost:
        await client.blpop(["tasks"], timeout=5)
    assert lost.value.outcome is Outcome.UNKNOWN
    assert await client.llen("tasks") == 0, "the element is gone with the reply"


async def test_an_abandoned_blocking_pop_takes_nothing(server, proxy, async_connect):
    between = proxy(server)
    client = async_connect(between, exactly_once=True, resilience=PATIENT)
    await client.ping()
    with observe(server) as observer:
        waiting = async_spawn(outcome_of, client.blpop, ["tasks"], 5)
        while not any(line["cmd"] == "blpop" for line in observer.client_list()):
            await async_sleep(0.01)
        between.reset(side="client")  # the server does not see it
        assert await waiting.result() is Outcome.UNKNOWN
        await client.rpush("tasks", "one")
        assert observer.lrange("tasks", 0, -1) == [b"one"]
