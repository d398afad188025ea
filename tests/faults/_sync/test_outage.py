# Generated from ../_async/test_outage.py by tools/generate_sync.py: edit that file, not this one.

"""Outages and their end: how soon a client is back, what has been counted by then, what an outage costs."""

import gc
import socket
import time
import tracemalloc

import pytest
import redis
from fake_server import FakeServer, error

from agent_memory._concurrency import gather, sleep, spawn
from agent_memory.errors import CircuitOpenError, Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy

BACK_WITHIN_S = 1.5
MARGIN_S = 1.0
CALLERS = 50


def count_for(client, until, tally):
    """Increment without a pause, and record the outcome of each call."""
    while not until["reached"]:
        try:
            client.incr("counter")
        except (RedisUnavailableError, RedisTimeoutError) as failure:
            tally[failure.outcome] += 1
            sleep(0.005)
        else:
            tally["accepted"] += 1
            tally["last"] = time.monotonic()


def wait_for_success(tally, since_s):
    """Seconds from `since_s` to the first call that succeeds afterwards."""
    while tally["last"] < since_s:
        assert time.monotonic() - since_s < 20, f"not back, {tally}"
        sleep(0.01)
    return tally["last"] - since_s


def new_tally():
    return {"accepted": 0, "last": 0.0} | dict.fromkeys(Outcome, 0)


@pytest.mark.parametrize(
    ("outage", "timeout_s"),
    [
        ("killed", 5),
        ("killed before the first call", 5),
        ("stalled", 0.3),
        ("stalled", 5),
        ("refused", 5),
        ("swallowed", 1),
    ],
)
def test_back_in_time_and_every_increment_counted(outage, timeout_s, start_server, proxy, connect, tmp_path):
    """The circuit opens with SPEC's 300 s, and yet the client is back as soon as the server."""
    server = start_server(path=tmp_path, transport="tcp")
    relay = proxy(server)
    client = connect(relay if outage in ("refused", "swallowed") else server, socket_timeout=timeout_s)
    tally, until = new_tally(), {"reached": False}
    if outage == "killed before the first call":
        server.kill()
    callers = [spawn(count_for, client, until, tally) for _ in range(5)]
    sleep(0.3)
    if outage.startswith("killed"):
        server.kill()
        sleep(1.5)
        server.start()
    elif outage == "stalled":
        server.pause()
        sleep(1.5)
        server.resume()
    elif outage == "refused":
        relay.refuse()
        relay.reset()
        sleep(1.5)
        relay.accept()
    else:
        relay.black_hole()
        sleep(1.5)
        relay.heal()
    back_s = wait_for_success(tally, time.monotonic())
    until["reached"] = True
    gather(*callers)
    # A connection in a black hole is given up when a deadline has passed on it, the server back or not.
    assert back_s < (timeout_s if outage == "swallowed" else 0) + BACK_WITHIN_S
    with redis.Redis(**server.connection_kwargs) as observer:
        counter = int(observer.get("counter"))
    assert tally["accepted"] <= counter <= tally["accepted"] + tally[Outcome.UNKNOWN], tally
    assert tally[Outcome.REJECTED] == 0


def test_an_idle_client_is_back_in_time(start_server, connect):
    """Without a call the probe alone closes the circuit, and the first caller afterwards is served."""
    server = start_server(transport="tcp")
    client = connect(server, socket_timeout=0.3)
    client.ping()
    server.kill()
    for _ in range(10):
        with pytest.raises(RedisUnavailableError):
            client.incr("counter")
    assert client.guard.state == "open"
    sleep(0.5)
    server.start()
    started_s = time.monotonic()
    while client.guard.state != "closed":
        assert time.monotonic() - started_s < BACK_WITHIN_S
        sleep(0.01)
    assert client.incr("counter") == 1


def test_many_restarts_under_load(start_server, connect, tmp_path):
    server = start_server(path=tmp_path, transport="tcp")
    client = connect(server)
    tally, until = new_tally(), {"reached": False}
    callers = [spawn(count_for, client, until, tally) for _ in range(8)]
    for _ in range(5):
        sleep(0.2)
        server.kill()
        server.start()
        assert wait_for_success(tally, time.monotonic()) < BACK_WITHIN_S
    until["reached"] = True
    gather(*callers)
    with redis.Redis(**server.connection_kwargs) as observer:
        counter = int(observer.get("counter"))
    assert tally["accepted"] <= counter <= tally["accepted"] + tally[Outcome.UNKNOWN], tally


def try_once(client, told):
    """One call; notes how it ended."""
    try:
        told.append(client.get("key"))
    except (RedisUnavailableError, RedisTimeoutError) as failure:
        told.append(type(failure))


def test_one_of_fifty_callers_reaches_the_server_at_half_open(connect):
    """The others are rejected at once, as they were while the circuit was open."""
    half_open = {"now": False}

    def answer(_command, _connection):
        if not half_open["now"]:
            return error("LOADING not yet")
        time.sleep(0.4)
        return b"$2\r\nup\r\n"

    policy = ResiliencePolicy(
        breaker=BreakerSettings(failure_threshold=3, reset_timeout_s=0.3), retry=RetryPolicy(0), probe_interval_s=None
    )
    with FakeServer(answer) as fake:
        client = connect(fake, resilience=policy)
        for _ in range(3):
            with pytest.raises(redis.RedisError):
                client.get("key")
        assert client.guard.state == "open"
        with pytest.raises(CircuitOpenError) as caught:
            client.get("key")
        assert caught.value.outcome is Outcome.NOT_SENT
        assert 0 < caught.value.retry_after_s <= 0.3
        sleep(0.4)
        half_open["now"] = True
        fake.received.clear()
        told = []
        gather(*[spawn(try_once, client, told) for _ in range(CALLERS)])
        assert len(told) == CALLERS
        assert told.count(b"up") == 1
        assert told.count(CircuitOpenError) == CALLERS - 1
        assert fake.count(b"GET") == 1
        assert client.guard.state == "closed"


def test_wrongtype_never_opens_the_circuit(server, connect):
    client = connect(server)
    client.rpush("list", "element")
    for _ in range(200):
        with pytest.raises(redis.ResponseError, match="wrong kind of value"):
            client.get("list")
    assert client.guard.state == "closed"
    assert client.stats()["state"] == "closed"


@pytest.mark.parametrize("guarded", [True, False])
def test_a_long_outage_costs_no_memory(guarded, connect):
    """Tens of thousands of failing calls, refused by the peer or rejected by the circuit, leave nothing behind."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    options = {} if guarded else {"resilience": None}
    with FakeServer(lambda *_: b"+OK\r\n") as fake:
        client = connect(fake, port=port, **options)
        calls = 20_000 if guarded else 1_000
        told = []

        def fail(count):
            for _ in range(count // 200):
                if guarded:
                    for _ in range(200):
                        try_once(client, told)
                else:
                    # Together, because unguarded each waits for the next attempt to connect.
                    gather(*[spawn(try_once, client, told) for _ in range(200)])
                assert len(told) == 200
                assert b"up" not in told
                told.clear()

        fail(calls // 5)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            fail(calls)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 200_000


def test_a_long_stall_costs_no_memory(start_server, connect):
    """Calls that time out one after the other, while connections are distrusted and replacements wait for an answer."""
    server = start_server(transport="tcp")
    client = connect(server, socket_timeout=0.02, resilience=None)
    server.pause()

    def fail(count):
        for _ in range(count):
            with pytest.raises((RedisUnavailableError, RedisTimeoutError)):
                client.incr("counter")

    fail(30)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        fail(100)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 300_000
    server.resume()
