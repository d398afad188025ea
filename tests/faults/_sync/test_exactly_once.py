# Generated from ../_async/test_exactly_once.py by tools/generate_sync.py: edit that file, not this one.

"""Exactly once against real servers: whatever happens, each write is there once or its caller knows that it is not.

A counter says it best: INCR is applied as often as calls returned or failed with outcome APPLIED, and not once more.
"""

import os
import random
import threading

import pytest
import redis

from agent_memory._concurrency import gather, sleep, spawn
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


def outcome_of(call, *args):
    """The value a call returns, or the outcome of its error."""
    try:
        return call(*args)
    except redis.RedisError as error:
        return error.outcome


class Tally:
    """The reported outcomes of the increments of one counter."""

    def __init__(self):
        self.done = 0
        self.unknown = []

    def count(self, client, key):
        """Increment once and note what was said."""
        try:
            client.incr(key)
        except redis.RedisError as error:
            if error.outcome is Outcome.UNKNOWN:
                self.unknown.append(error)
            else:
                self.done += error.outcome is Outcome.APPLIED
        else:
            self.done += 1

    def settle(self, client):
        """Ask again for what was not known when its caller had to go on."""
        for error in self.unknown:
            outcome = client.resolve(error, 30.0)
            assert outcome is not Outcome.UNKNOWN, error.ticket.verdict
            self.done += outcome is Outcome.APPLIED
        self.unknown = []


@pytest.mark.parametrize("level", LEVELS)
def test_a_lost_reply_and_a_torn_request(server, proxy, connect, level):
    between = proxy(server)
    client = connect(between, exactly_once=ExactlyOnce(level), resilience=PATIENT, socket_timeout=0.4)
    assert client.incr("counter") == 1
    assert client.stats()["exactly_once"]["level"] == level
    for then in ("reset", "close", "silence"):
        before = int(client.get("counter"))
        between.drop_replies(1, command=marked("INCRBY", level), then=then)
        assert outcome_of(client.incr, "counter") is Outcome.APPLIED
        between.heal()
        assert int(client.get("counter")) == before + 1
        between.cut_after_bytes(30, command=marked("INCRBY", level).replace("EXEC", "INCRBY"))
        assert client.incr("counter") == before + 2
        between.heal()
    figures = client.stats()["exactly_once"]
    assert (figures["applied"], figures["not_applied"], figures["unresolvable"]) == (3, 3, 0)


@pytest.mark.parametrize(("level", "outcome"), [("marker", Outcome.APPLIED), ("gate", Outcome.REJECTED)])
def test_what_is_refused_while_the_reply_is_lost(server, proxy, connect, level, outcome):
    """A transaction goes on behind a command that is refused, so its marker is set; a script ends there."""
    between = proxy(server)
    client = connect(between, exactly_once=ExactlyOnce(level), resilience=PATIENT)
    client.set("text", "x")
    between.drop_replies(1, command=marked("INCRBY", level), then="reset")
    with pytest.raises(redis.RedisError) as failed:
        client.incr("text")
    assert failed.value.outcome is outcome
    assert client.get("text") == b"x"


def test_a_new_connection_ends_no_other(server, proxy, connect):
    between = proxy(server)
    with observe(server) as bystander, bystander.client() as pinned:
        number = pinned.client_id()
        client = connect(between, exactly_once=True, resilience=PATIENT)
        for _ in range(3):
            client.incr("counter")
            between.reset()
        assert pinned.client_id() == number


@pytest.mark.parametrize("level", LEVELS)
def test_replies_look_as_always(server, connect, level):
    client = connect(server, exactly_once=ExactlyOnce(level), decode_responses=True)
    plain = connect(server, decode_responses=True)
    for name, one in (("a", client), ("b", plain)):
        replies = [
            one.set(f"{name}:s", "v", ex=100, nx=True),
            one.set(f"{name}:s", "w", nx=True),
            one.incrbyfloat(f"{name}:f", 1.5),
            one.lpush(f"{name}:l", 1, 2, 3),
            one.lpop(f"{name}:l", 2),
            one.zadd(f"{name}:z", {"m": 1, "n": 2}),
            one.zincrby(f"{name}:z", 2.5, "m"),
            one.zpopmax(f"{name}:z"),
            one.spop(f"{name}:none"),
            one.mset({f"{name}:1": 1, f"{name}:2": 2}),
            one.delete(f"{name}:1", f"{name}:2", f"{name}:3"),
            one.expire(f"{name}:s", 50),
            one.getdel(f"{name}:s"),
            one.hincrby(f"{name}:h", "f", 3),
        ]
        if name == "a":
            expected = replies
    assert expected == replies
    client.set("text", "x")
    with pytest.raises(redis.ResponseError) as refused:
        client.incr("text")
    assert refused.value.outcome is Outcome.REJECTED
    assert client.eval("return redis.call('INCR', KEYS[1])", 1, "scripted") == 1


def test_a_transaction_is_resolved_as_one_write(valkey, proxy, connect):
    between = proxy(valkey)
    client = connect(between, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)

    def transfer():
        pipe = client.pipeline(transaction=True)
        pipe.incrby("to", 5)
        pipe.decrby("from", 5)
        return pipe.execute()

    assert transfer() == [5, -5]
    between.drop_replies(1, command="EXEC", then="reset")
    assert outcome_of(transfer) is Outcome.APPLIED
    between.heal()
    between.cut_after_bytes(60, command="MULTI")
    assert transfer() == [15, -15]
    between.heal()
    pipe = client.pipeline(transaction=True)
    pipe.set("text", "x").incr("text")
    with pytest.raises(redis.ResponseError):
        pipe.execute()
    assert client.get("text") == b"x"


def test_an_absolute_write_is_repeated_and_never_overtakes(valkey, proxy, connect):
    between = proxy(valkey)
    client = connect(between, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)
    client.set("key", "first")
    between.drop_replies(1, command="SET", then="reset")
    assert client.set("key", "second")
    between.heal()
    assert client.get("key") == b"second"
    assert client.stats()["exactly_once"]["fences"] == 1


@pytest.mark.parametrize("exactly_once", [True, False])
def test_what_is_still_on_its_way_does_not_come_later(server, proxy, connect, exactly_once):
    """The old connection has a write under way when it fails; a newer one is written meanwhile. Without a fence it is lost."""
    between = proxy(server)
    client = connect(between, exactly_once=exactly_once, resilience=None, socket_timeout=5.0, retry=None, protocol=2)
    client.set("key", "initial")
    between.up.latency_s = 1.0
    before = between.up_bytes
    old = spawn(outcome_of, client.set, "key", "old" * 50_000)
    while between.up_bytes - before < 150_000:  # the proxy has all of it, the server nothing
        sleep(0.01)
    between.reset(side="client")
    assert old.result() is Outcome.UNKNOWN
    between.up.latency_s = 0.0
    assert client.set("key", "new")
    with observe(server) as observer:
        seen = observer.get("key")
        for _ in range(300):
            if seen != b"new" or not _has_others(observer):
                break
            sleep(0.01)
            seen = observer.get("key")
        assert (seen == b"new") is exactly_once


def _has_others(observer):
    # The client's new connection and the observer's own stay; a third is the one that should have been fenced.
    return len(observer.client_list()) > 2


def test_a_server_that_was_stopped(start_server, connect):
    server = start_server(transport="tcp")
    client = connect(server, exactly_once=True, resilience=PATIENT, socket_timeout=0.3)
    tally = Tally()
    tally.count(client, "counter")
    for pause_s in (0.1, 0.5, 1.0):
        server.pause()
        callers = [spawn(tally.count, client, "counter") for _ in range(5)]
        sleep(pause_s)
        server.resume()
        gather(*callers)
    tally.settle(client)
    with observe(server) as observer:
        assert int(observer.get("counter")) == tally.done


def test_a_server_that_is_busy(start_server, proxy, connect):
    server = start_server(transport="tcp", config={"busy-reply-threshold": "10"})
    between = proxy(server)
    client = connect(between, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)
    assert client.incr("counter") == 1
    blocker = threading.Thread(target=_keep_busy, args=(server,))
    between.drop_replies(1, command="EXEC", then="silence")
    call = spawn(outcome_of, client.incr, "counter")
    while between.commands.get("EXEC", 0) < 2:
        sleep(0.01)
    blocker.start()
    between.close_connections()
    between.heal()
    assert call.result() is Outcome.APPLIED
    blocker.join()
    assert client.get("counter") == b"2"


def _keep_busy(server):
    with redis.Redis(**server.connection_kwargs, socket_timeout=60) as observer:
        observer.eval("local x = 0 for i = 1, 30000000 do x = x + i end return x", 0)


def test_a_server_that_is_killed_and_keeps_its_data(start_server, tmp_path, connect):
    server = start_server(path=tmp_path / "data", transport="tcp", config={"appendonly": "yes"})
    client = connect(server, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)
    tally = Tally()
    stop = []

    def write():
        while not stop:
            tally.count(client, "counter")

    writers = [spawn(write) for _ in range(8)]
    for _ in range(KILLS):
        sleep(random.uniform(0.02, 0.1))
        server.kill()
        server.start()
    stop.append(True)
    gather(*writers)
    tally.settle(client)
    with observe(server) as observer:
        assert int(observer.get("counter")) == tally.done
    assert client.stats()["exactly_once"]["unresolvable"] == 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_counter_through_many_faults(valkey, proxy, connect, level):
    between = proxy(valkey, seed=7)
    client = connect(between, exactly_once=ExactlyOnce(level), resilience=PATIENT, socket_timeout=0.5)
    tally = Tally()
    stop = []

    def write():
        while not stop:
            tally.count(client, "counter")
            outcome_of(client.set, "last", tally.done)

    writers = [spawn(write) for _ in range(6)]
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
        sleep(dice.uniform(0.005, 0.05))
    between.heal()
    stop.append(True)
    gather(*writers)
    tally.settle(client)
    with observe(valkey) as observer:
        assert int(observer.get("counter")) == tally.done
    figures = client.stats()["exactly_once"]
    assert figures["applied"] + figures["not_applied"] > 0
    assert figures["unresolvable"] == 0


def test_without_permission_to_kill(start_server, proxy, connect):
    server = start_server(transport="tcp", users={"writer": "~* &* +@all -client|kill"})
    between = proxy(server)
    where = {**server.connection_kwargs_for("writer"), "port": between.port}
    client = connect(between, **where, exactly_once=True, resilience=PATIENT, socket_timeout=0.5)
    assert client.incr("counter") == 1
    assert client.stats()["exactly_once"]["level"] == "gate"
    between.drop_replies(1, command="EVALSHA", then="reset")
    assert outcome_of(client.incr, "counter") is Outcome.APPLIED
    between.heal()
    assert client.set("key", "absolute")
    assert client.get("counter") == b"2"
    # The server forgets the script: the next call brings it along.
    with observe(server) as observer:
        observer.script_flush()
    assert client.incr("counter") == 3


def test_without_any_permission(start_server, connect, caplog):
    server = start_server(transport="tcp", users={"reader": "~mine* &* +@all -client|kill"})
    client = connect(server, **server.connection_kwargs_for("reader"), exactly_once=True)
    assert client.incr("mine") == 1
    assert client.stats()["exactly_once"]["level"] == "nothing"
    assert "only the level 'nothing'" in caplog.text


def test_a_server_that_evicts_is_warned_of(start_server, connect, caplog):
    server = start_server(transport="tcp", config={"maxmemory-policy": "allkeys-lru"})
    client = connect(server, exactly_once=True)
    client.incr("counter")
    client.incr("counter")
    assert client.stats()["exactly_once"]["maxmemory_policy"] == "allkeys-lru"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "noeviction" in caplog.text


def test_a_marker_that_is_gone_tells_nothing(valkey, proxy, connect):
    between = proxy(valkey)
    client = connect(between, exactly_once=True, resilience=PATIENT, socket_timeout=2.0)
    client.incr("counter")
    between.drop_replies(1, command="EXEC", then="silence")
    call = spawn(_ticket_of_failure, client)
    while between.commands.get("EXEC", 0) < 2:
        sleep(0.01)
    with observe(valkey) as observer:
        while observer.get("counter") != b"2":
            sleep(0.01)
        observer.flushall()
    between.close_connections()
    between.heal()
    error = call.result()
    assert error.outcome is Outcome.UNKNOWN
    assert error.ticket.verdict is Verdict.UNRESOLVABLE


def _ticket_of_failure(client):
    with pytest.raises(redis.ConnectionError) as failure:
        client.incr("counter")
    return failure.value


def test_the_offset_resolves_what_the_server_still_has(valkey, proxy, connect):
    between = proxy(valkey)
    client = connect(between, exactly_once=ExactlyOnce("offset"), resilience=PATIENT, socket_timeout=0.5)
    for _ in range(20):
        client.incr("counter")
    assert client.stats()["exactly_once"]["level"] == "offset"
    with observe(valkey) as observer:
        assert not observer.keys("agent_memory:once:*")
    between.drop_replies(1, command="INCRBY", then="silence")
    assert outcome_of(client.incr, "counter") is Outcome.APPLIED
    between.heal()
    assert client.get("counter") == b"21"
    # Here the write is lost on its way.
    between.black_hole("up")
    call = spawn(client.incr, "counter")
    sleep(0.2)
    between.heal()
    assert call.result() == 22
    # Here the connection is gone, and what it had executed with it.
    between.drop_replies(1, command="INCRBY", then="reset")
    assert outcome_of(client.incr, "counter") is Outcome.UNKNOWN
    between.heal()
    assert client.get("counter") == b"23"


def test_the_offset_is_not_believed_of_a_paused_server(valkey, proxy, connect):
    """Commands that the server has read ahead count as bytes processed though they have not been executed."""
    between = proxy(valkey)
    client = connect(between, exactly_once=ExactlyOnce("offset"), resilience=PATIENT, socket_timeout=0.5)
    client.incr("counter")
    with observe(valkey) as observer:
        observer.client_pause(60_000, all=False)
        call = spawn(outcome_of, client.incr, "counter")
        assert call.result() is Outcome.UNKNOWN
        observer.client_unpause()
        assert observer.get("counter") == b"1"


def test_markers_are_changed_in_time_and_deleted(valkey, connect, monkeypatch):
    monkeypatch.setattr("agent_memory.redis.exactly_once.tickets.MARKER_BITS", 5)
    client = connect(valkey, exactly_once=True)
    for expected in range(1, 30):
        assert client.incr("counter") == expected
    with observe(valkey) as observer:
        markers = observer.keys("agent_memory:once:*")
        assert 1 <= len(markers) <= 2
        assert all(0 < observer.ttl(key) <= 86_400 for key in markers)
    client.close()
    with observe(valkey) as observer:
        for _ in range(500):
            if len(observer.keys("agent_memory:once:*")) <= 1:
                break
            sleep(0.01)
        assert len(observer.keys("agent_memory:once:*")) <= 1


def test_over_tls(tls_server, connect):
    client = connect(tls_server, exactly_once=True, resilience=PATIENT)
    tally = Tally()
    tally.count(client, "counter")
    with observe(tls_server) as observer:
        for _ in range(5):
            callers = [spawn(tally.count, client, "counter") for _ in range(5)]
            observer.client_kill_filter(_type="normal", skipme=True)
            gather(*callers)
        tally.settle(client)
        assert int(observer.get("counter")) == tally.done


def test_over_a_unix_socket(server_kind, start_server, connect):
    server = start_server(server_kind, transport="unix")
    client = connect(server, exactly_once=True, resilience=PATIENT)
    tally = Tally()
    tally.count(client, "counter")
    with observe(server) as observer:
        for _ in range(5):
            callers = [spawn(tally.count, client, "counter") for _ in range(5)]
            observer.client_kill_filter(_type="normal", skipme=True)
            gather(*callers)
        tally.settle(client)
        assert int(observer.get("counter")) == tally.done


def test_the_writes_of_a_process_that_has_ended(valkey, proxy, connect):
    between = proxy(valkey)
    client = connect(between, exactly_once=True, resilience=None, socket_timeout=0.3)
    client.incr("counter")
    between.drop_replies(1, command="EXEC", then="silence")
    between.refuse()  # it gives up before anything is known, as a process would that is killed now
    with pytest.raises(redis.RedisError) as failure:
        client.incr("counter")
    assert failure.value.outcome is Outcome.UNKNOWN
    record = failure.value.ticket.record()
    successor = connect(valkey, exactly_once=True)
    # The write after it never left.
    later = {**record, "bit": record["bit"] + 1}
    outcomes = successor.resolve_records([record, later], 10.0)
    assert outcomes == [Outcome.APPLIED, Outcome.NOT_SENT]
    # The markers were deleted with that: asked again, nothing tells.
    assert successor.resolve_records([record], 10.0) == [Outcome.UNKNOWN]


def test_all_clients_of_a_pool_agree(valkey, connect):
    client = connect(valkey, exactly_once=True)
    view = client.unguarded()
    assert view.incr("counter") == 1
    with pytest.raises(ValueError, match="exactly_once must be the same for all clients of a pool"):
        type(client)(connection_pool=client.connection_pool, exactly_once=ExactlyOnce("gate"))
    plain = connect(valkey)
    with pytest.raises(ValueError, match="exactly_once must be asked for by the first client"):
        type(client)(connection_pool=plain.connection_pool, exactly_once=True)
    with pytest.raises(ValueError, match="exactly_once must be off"):
        connect(valkey, single_connection_client=True, exactly_once=True)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="level must be one of best, marker, offset, gate, got 'all'"):
        ExactlyOnce(level="all")
    with pytest.raises(ValueError, match="marker_ttl_s must be an int >= 60, got 5"):
        ExactlyOnce(marker_ttl_s=5)
    with pytest.raises(ValueError, match="marker_prefix must be a non-empty str, got ''"):
        ExactlyOnce(marker_prefix="")


def test_a_blocking_pop_whose_reply_is_lost_says_so(server, proxy, connect):
    between = proxy(server)
    client = connect(between, exactly_once=True, resilience=PATIENT)
    client.rpush("threads", "one")
    between.drop_replies(1, command="BLPOP", then="reset")
    with pytest.raises(redis.ConnectionError) as lost:
        client.blpop(["threads"], timeout=5)
    assert lost.value.outcome is Outcome.UNKNOWN
    assert client.llen("threads") == 0, "the element is gone with the reply"


def test_an_abandoned_blocking_pop_takes_nothing(server, proxy, connect):
    between = proxy(server)
    client = connect(between, exactly_once=True, resilience=PATIENT)
    client.ping()
    with observe(server) as observer:
        waiting = spawn(outcome_of, client.blpop, ["threads"], 5)
        while not any(line["cmd"] == "blpop" for line in observer.client_list()):
            sleep(0.01)
        between.reset(side="client")  # the server does not see it
        assert waiting.result() is Outcome.UNKNOWN
        client.rpush("threads", "one")
        assert observer.lrange("threads", 0, -1) == [b"one"]
