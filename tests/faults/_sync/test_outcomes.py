# Generated from ../_async/test_outcomes.py by tools/generate_sync.py: edit that file, not this one.

"""The outcome that a caller gets after each fault, compared with what the server executed.

NOT_SENT and REJECTED mean not executed, UNKNOWN means perhaps. An increment is applied at most once in any case.
"""

import socket
import time

import pytest
import redis
from fake_server import FakeServer, bulk, error, integer

from agent_memory._concurrency import sleep, spawn
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy

MARGIN_S = 1.0
"""What two noisy cores may add to a deadline."""

PATIENT = ResiliencePolicy(breaker=BreakerSettings(failure_threshold=1_000))
"""Retries as by default; a circuit that stays closed, so that each call shows its own fault."""


def counter_of(server):
    """The counter as the server has it, seen by redis-py."""
    with redis.Redis(**server.connection_kwargs) as observer:
        return int(observer.get("counter") or 0)


def failure_of(awaitable_function, *args):
    """The error that a call raises."""
    with pytest.raises(redis.RedisError) as caught:
        awaitable_function(*args)
    return caught.value


def test_refused(connect):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with FakeServer(lambda *_: b"+OK\r\n") as fake:
        client = connect(fake, port=port, resilience=PATIENT)
        failure = failure_of(client.incr, "counter")
        assert isinstance(failure, RedisUnavailableError)
        assert failure.outcome is Outcome.NOT_SENT
        assert f"127.0.0.1:{port}" in str(failure)


def test_stalled_and_gone_on(start_server, connect):
    server = start_server(transport="tcp")
    client = connect(server, socket_timeout=0.3, resilience=PATIENT)
    client.ping()
    server.pause()
    started_s = time.monotonic()
    failure = failure_of(client.incr, "counter")
    assert time.monotonic() - started_s < 2 * 0.3 + MARGIN_S
    assert isinstance(failure, RedisTimeoutError)
    assert failure.outcome is Outcome.UNKNOWN
    server.resume()
    # The stalled command was in the server's socket: it is executed now, and only once.
    assert client.incr("counter") == 2
    assert counter_of(server) == 2


@pytest.mark.parametrize("connected", [True, False])
def test_a_read_under_a_stall_ends_by_its_deadline(connected, start_server, connect):
    server = start_server(transport="tcp")
    client = connect(server, socket_timeout=0.4, resilience=PATIENT)
    if connected:
        client.ping()
    server.pause()
    started_s = time.monotonic()
    failure = failure_of(client.get, "key")
    assert time.monotonic() - started_s < 2 * 0.4 + MARGIN_S
    assert failure.outcome is (Outcome.UNKNOWN if connected else Outcome.NOT_SENT)


@pytest.mark.parametrize("how", ["reset", "close", "silence"])
def test_reply_dropped(how, valkey, proxy, connect):
    """The server has executed it and the client cannot know."""
    relay = proxy(valkey)
    client = connect(relay, socket_timeout=0.5, resilience=PATIENT)
    client.ping()
    drop = relay.drop_replies(1, command="INCRBY", then=how)
    failure = failure_of(client.incr, "counter")
    assert drop.wait(5)
    assert failure.outcome is Outcome.UNKNOWN
    assert counter_of(valkey) == 1
    assert client.incr("counter") == 2


def test_the_reply_of_a_read_dropped(valkey, proxy, connect):
    """A read is asked again by itself."""
    relay = proxy(valkey)
    client = connect(relay, resilience=PATIENT)
    client.set("key", "value")
    drop = relay.drop_replies(2, command="GET", then="reset")
    assert client.get("key") == b"value"
    assert drop.dropped >= 1
    assert relay.commands["GET"] >= 2


@pytest.mark.parametrize("how", ["reset", "close", "silence"])
@pytest.mark.parametrize("count_bytes", [0, 1, 20])
def test_request_torn(how, count_bytes, valkey, proxy, connect):
    """Nothing was executed. Where that cannot be proven the outcome is unknown; where it is said, it is true."""
    relay = proxy(valkey)
    client = connect(relay, socket_timeout=0.5, resilience=None)
    client.ping()
    cut = relay.cut_after_bytes(count_bytes, command="INCRBY", then=how)
    failure = failure_of(client.incr, "counter")
    assert cut.wait(5)
    assert failure.outcome in (Outcome.NOT_SENT, Outcome.UNKNOWN)
    assert counter_of(valkey) == 0
    assert client.incr("counter") == 1


def test_connection_reset_under_way(valkey, proxy, connect):
    relay = proxy(valkey)
    client = connect(relay, resilience=PATIENT)
    client.ping()
    relay.up.latency_s = 30
    call = spawn(failure_of, client.incr, "counter")
    sleep(0.2)
    relay.reset()
    failure = call.result()
    assert isinstance(failure, RedisUnavailableError)
    assert failure.outcome is Outcome.UNKNOWN
    relay.heal()
    assert client.incr("counter") == 1


def test_server_killed_under_way(start_server, connect, tmp_path):
    server = start_server(path=tmp_path, transport="tcp")
    client = connect(server, resilience=None)
    assert client.incr("counter") == 1
    server.pause()
    call = spawn(failure_of, client.incr, "counter")
    sleep(0.2)
    server.kill()
    failure = call.result()
    assert isinstance(failure, RedisUnavailableError)
    assert failure.outcome is Outcome.UNKNOWN
    server.start()
    assert counter_of(server) == 1


@pytest.mark.parametrize("size", [10, 100_000])
def test_reply_byte_by_byte(size, server, proxy, connect):
    relay = proxy(server)
    client = connect(relay, socket_timeout=10)
    value = bytes(range(256)) * (size // 256 + 1)
    client.set("key", value)
    client.rpush("list", *range(200))
    relay.down.slice_bytes = 1
    relay.up.slice_bytes = 1
    assert client.get("key") == value
    assert client.lrange("list", 0, -1) == [str(number).encode() for number in range(200)]
    assert client.incr("counter") == 1
    failure = failure_of(client.incr, "list")
    assert failure.outcome is Outcome.REJECTED


def test_a_reply_in_drips_cannot_stretch_a_call(valkey, proxy, connect):
    """Each byte comes well within the timeout; the call has its deadline all the same."""
    relay = proxy(valkey)
    client = connect(relay, socket_timeout=0.4, resilience=PATIENT)
    client.set("key", "x" * 300)
    relay.down.slice_bytes = 1
    relay.down.slice_gap_s = 0.05
    started_s = time.monotonic()
    failure = failure_of(client.get, "key")
    assert time.monotonic() - started_s < 2 * 0.4 + MARGIN_S
    assert isinstance(failure, RedisTimeoutError)
    started_s = time.monotonic()
    failure = failure_of(client.append, "key", "y" * 1_000)
    assert time.monotonic() - started_s < 2 * 0.4 + MARGIN_S


def test_a_handshake_in_drips_cannot_stretch_a_call(valkey, proxy, connect):
    relay = proxy(valkey)
    relay.down.slice_bytes = 1
    relay.down.slice_gap_s = 0.05
    client = connect(relay, socket_timeout=0.4, resilience=PATIENT)
    for command in (client.get, client.incr):
        started_s = time.monotonic()
        failure = failure_of(command, "key")
        assert time.monotonic() - started_s < 2 * 0.4 + MARGIN_S
        assert failure.outcome is Outcome.NOT_SENT


def test_a_pipeline_in_drips_cannot_stretch_a_call(valkey, proxy, connect):
    relay = proxy(valkey)
    client = connect(relay, socket_timeout=0.4, resilience=PATIENT)
    client.set("key", "x" * 300)
    relay.down.slice_bytes = 1
    relay.down.slice_gap_s = 0.05
    for transaction in (True, False):
        pipeline = client.pipeline(transaction=transaction)
        pipeline.get("key").incr("counter").get("key")
        started_s = time.monotonic()
        failure = failure_of(pipeline.execute)
        assert time.monotonic() - started_s < 2 * 0.4 + MARGIN_S
        assert isinstance(failure, RedisTimeoutError)
        assert failure.outcome is not Outcome.REJECTED


def test_a_request_that_the_server_does_not_read_ends_by_its_deadline(start_server, connect):
    server = start_server(transport="tcp")
    client = connect(server, socket_timeout=0.5, resilience=PATIENT)
    client.ping()
    server.pause()
    started_s = time.monotonic()
    failure = failure_of(client.set, "key", b"x" * 50_000_000)
    assert time.monotonic() - started_s < 2 * 0.5 + MARGIN_S
    assert isinstance(failure, RedisTimeoutError)
    assert failure.outcome in (Outcome.NOT_SENT, Outcome.UNKNOWN)
    server.resume()


def test_the_policys_deadline_bounds_the_first_attempt_too(connect):
    with FakeServer(lambda *_: None) as fake:
        policy = ResiliencePolicy(retry=RetryPolicy(deadline_s=0.3))
        client = connect(fake, socket_timeout=20, resilience=policy)
        for command in (client.get, client.incr):
            started_s = time.monotonic()
            failure = failure_of(command, "key")
            assert time.monotonic() - started_s < 0.3 + MARGIN_S
            assert isinstance(failure, RedisTimeoutError)
            assert failure.outcome is Outcome.UNKNOWN


def test_tls_cut(tls_server, proxy, connect):
    relay = proxy(tls_server)
    client = connect(relay, socket_timeout=0.5, resilience=None)
    assert client.incr("counter") == 1
    for cut in (relay.reset, relay.close_connections):
        client.ping()
        relay.up.latency_s = 30
        call = spawn(failure_of, client.incr, "counter")
        sleep(0.1)
        cut()
        failure = call.result()
        assert isinstance(failure, RedisUnavailableError)
        assert failure.outcome is Outcome.UNKNOWN
        relay.heal()
    assert client.incr("counter") == 2


def test_tls_swallowed(tls_server, proxy, connect):
    """Timeouts hold under TLS too, in the middle of a record as well."""
    relay = proxy(tls_server)
    client = connect(relay, socket_timeout=0.5, resilience=PATIENT)
    client.set("key", "x" * 5_000)
    relay.black_hole("down")
    started_s = time.monotonic()
    failure = failure_of(client.incr, "counter")
    assert time.monotonic() - started_s < 2 * 0.5 + MARGIN_S
    assert failure.outcome is Outcome.UNKNOWN
    relay.heal()
    assert client.get("key") == b"x" * 5_000
    relay.down.slice_bytes = 100
    relay.down.slice_gap_s = 0.05
    started_s = time.monotonic()
    failure_of(client.get, "key")
    assert time.monotonic() - started_s < 2 * 0.5 + MARGIN_S
    relay.heal()
    assert client.get("key") == b"x" * 5_000
    assert counter_of(tls_server) == 1


REJECTIONS = [
    # Text of the reply, whether it is tried again, whether it speaks against the server.
    ("LOADING Redis is loading the dataset in memory", True, True),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True, True),
    ("CLUSTERDOWN The cluster is down", True, True),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", True, True),
    ("TRYAGAIN Multiple keys request during rehashing of slot", True, False),
    ("READONLY You can't write against a read only replica.", True, False),
    ("NOREPLICAS Not enough good replicas to write.", True, False),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", False, False),
    ("OOM command not allowed when used memory > 'maxmemory'.", False, False),
    ("NOPERM this user has no permissions to run the 'incrby' command", False, False),
    ("NOSCRIPT No matching script. Please use EVAL.", False, False),
    ("ERR value is not an integer or out of range", False, False),
    ("ERR unknown command 'NONSENSE'", False, False),
]


@pytest.mark.parametrize(("text", "again", "against"), REJECTIONS, ids=lambda value: str(value).split(" ", 1)[0])
def test_error_replies(text, again, against, connect):
    """REJECTED each time; tried again where it may help; counted by the breaker only where the server is unavailable."""
    policy = ResiliencePolicy(
        breaker=BreakerSettings(failure_threshold=3, reset_timeout_s=60),
        retry=RetryPolicy(2, 0.001),
        probe_interval_s=None,
    )
    with FakeServer(lambda *_: error(text)) as fake:
        client = connect(fake, resilience=policy)
        failure = failure_of(client.incr, "counter")
        assert failure.outcome is Outcome.REJECTED
        assert fake.count(b"INCRBY") == (3 if again else 1)
        assert client.guard.state == ("open" if against else "closed")
        if not against:
            for _ in range(10):
                failure_of(client.incr, "counter")
            assert client.guard.state == "closed"


def test_a_rejected_write_is_applied_once_when_it_is_let_in(connect):
    answers = [error("LOADING in progress"), error("READONLY for a moment"), integer(1)]
    with FakeServer(lambda *_: answers.pop(0)) as fake:
        client = connect(fake, resilience=PATIENT)
        assert client.incr("counter") == 1
        assert fake.count(b"INCRBY") == 3


def test_a_script_that_failed_half_way_is_not_run_again(server, connect):
    """Its error carries the code of the command that failed in it; what it had done before has happened."""
    client = connect(server, resilience=PATIENT)
    client.rpush("list", "element")
    with pytest.raises(redis.ResponseError) as caught:
        client.eval("redis.call('incr', KEYS[1]); return redis.call('incr', KEYS[2])", 2, "counter", "list")
    assert caught.value.outcome in (Outcome.APPLIED, Outcome.UNKNOWN)
    assert counter_of(server) == 1


def test_a_transaction_with_a_failed_command_is_not_run_again(connect):
    def answer(command, _connection):
        if command[0] == b"EXEC":
            return b"*2\r\n" + integer(1) + error("READONLY You can't write against a read only replica.")
        return b"+OK\r\n" if command[0] == b"MULTI" else b"+QUEUED\r\n"

    with FakeServer(answer) as fake:
        client = connect(fake, resilience=PATIENT)
        pipeline = client.pipeline()
        pipeline.incr("counter").incr("other")
        failure_of(pipeline.execute)
        assert fake.count(b"EXEC") == 1


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_pipeline_whose_reply_is_lost_is_not_run_again(transaction, how, valkey, proxy, connect):
    relay = proxy(valkey)
    client = connect(relay, resilience=PATIENT)
    client.ping()
    drop = relay.drop_replies(1, command="EXEC" if transaction else "INCRBY", then=how)
    pipeline = client.pipeline(transaction=transaction)
    pipeline.incr("counter").incr("other")
    failure = failure_of(pipeline.execute)
    assert drop.wait(5)
    assert failure.outcome is Outcome.UNKNOWN
    assert counter_of(valkey) == 1


def test_a_pipeline_that_breaks_off_in_the_middle_is_not_run_again(connect):
    """The first window of a long pipeline is executed, then the server goes: part of it has happened."""

    def answer(command, connection):
        if command[-2] == b"key:1500":
            connection.close()
        return integer(1)

    with FakeServer(answer) as fake:
        client = connect(fake, resilience=PATIENT)
        pipeline = client.pipeline(transaction=False)
        for number in range(4_000):
            pipeline.incr(f"key:{number}")
        failure = failure_of(pipeline.execute)
        assert failure.outcome is Outcome.UNKNOWN
        assert sum(command[1] == b"key:3" for command in fake.received) == 1


def test_an_undecodable_reply_leaves_the_connection_in_step(valkey, connect):
    client = connect(valkey, decode_responses=True)
    writer = connect(valkey)
    writer.set("binary", b"\xff\xfe")
    for number in range(1, 4):
        with pytest.raises(UnicodeDecodeError) as caught:
            client.get("binary")
        assert caught.value.outcome is Outcome.APPLIED
        assert client.incr("counter") == number
    assert len(writer.client_list()) == 2


def test_bytes_that_are_not_the_protocol(connect):
    with FakeServer(lambda command, _: b"what?\r\n" if command[0] == b"INCRBY" else bulk(command[-1])) as fake:
        client = connect(fake, resilience=PATIENT)
        failure = failure_of(client.incr, "counter")
        assert isinstance(failure, RedisUnavailableError)
        assert failure.outcome is Outcome.UNKNOWN
        assert fake.count(b"INCRBY") == 1
        assert client.echo("again") == b"again"
        assert len(fake.connections) == 2


def test_two_replies_to_one_command(connect):
    """Out of step is out of service: the second reply must not answer the next command."""
    with FakeServer(lambda command, _: bulk(command[-1]) * 2 if command[-1] == b"twice" else bulk(command[-1])) as fake:
        client = connect(fake, resilience=None)
        for number in range(20):
            for word in ("twice", f"{number}"):
                try:
                    assert client.echo(word) == word.encode()
                except RedisUnavailableError:
                    pass
        assert len(fake.connections) > 1
