"""Large values on a slow link, blocking sockets: as long as bytes move it is no outage, and the deadline holds all the same."""

import threading
import time

import pytest
from slow_link import LARGE_VALUE, MARGIN_S, MIB, FakeAddress, calls_of, slow_reader, touchy

from agent_memory.errors import Outcome, RedisTimeoutError


def test_a_large_reply_takes_its_time_and_is_asked_for_once(start_server, proxy, connect):
    server = start_server(transport="tcp")
    relay = proxy(server)
    client = connect(relay, socket_timeout=0.5, resilience=touchy(deadline=10))
    client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    started_s = time.monotonic()
    assert client.get("large") == LARGE_VALUE
    assert time.monotonic() - started_s > 2 * 0.5
    assert calls_of(server, "get") == 1
    assert client.guard.state == "closed"
    relay.heal()
    assert client.get("large") == LARGE_VALUE, "the connection is of use again"
    assert len(client.transport_here()._open) == 1


def test_past_its_deadline_it_fails_without_a_word_against_the_server(start_server, proxy, connect):
    server = start_server(transport="tcp")
    relay = proxy(server)
    client = connect(relay, socket_timeout=0.4, resilience=touchy())
    client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 2 * MIB
    started_s = time.monotonic()
    with pytest.raises(RedisTimeoutError) as caught:
        client.get("large")
    assert 2 * 0.4 <= time.monotonic() - started_s < 2 * 0.4 + MARGIN_S
    assert caught.value.moving
    assert client.guard.state == "closed"
    relay.heal()
    assert client.get("small") is None
    assert calls_of(server, "get") == 2


def test_silence_in_the_middle_of_a_reply_is_a_failure(valkey, proxy, connect):
    relay = proxy(valkey)
    client = connect(relay, socket_timeout=0.4, resilience=touchy(deadline=5))
    client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    stall = threading.Timer(0.3, relay.pause)
    stall.start()
    started_s = time.monotonic()
    with pytest.raises(RedisTimeoutError) as caught:
        client.get("large")
    took_s = time.monotonic() - started_s
    stall.join()
    relay.resume()
    assert not caught.value.moving
    assert 0.3 + 0.3 < took_s < 0.3 + 0.4 + MARGIN_S
    assert client.guard.state == "open"


def test_a_large_command_that_leaves_slowly_is_sent_once(connect):
    """Most of it is in the kernel's hands at once, and leaves from there for longer than the timeout."""
    with slow_reader(bytes_per_s=2 * MIB) as port:
        client = connect(FakeAddress(port), socket_timeout=1.0, resilience=touchy(deadline=30))
        started_s = time.monotonic()
        assert client.set("k", LARGE_VALUE) is True
        assert time.monotonic() - started_s > 2 * 1.0
        assert client.guard.state == "closed"


def test_a_large_command_that_does_not_leave_is_a_failure(connect):
    with slow_reader(bytes_per_s=20) as port:
        client = connect(FakeAddress(port), socket_timeout=0.4, resilience=touchy(deadline=5))
        started_s = time.monotonic()
        with pytest.raises(RedisTimeoutError) as caught:
            client.set("k", LARGE_VALUE)
        assert time.monotonic() - started_s < 3 * 0.4 + MARGIN_S
        assert not caught.value.moving
        assert client.guard.state == "open"


@pytest.mark.parametrize("transaction", [False, True])
def test_a_pipeline_with_a_large_reply_takes_its_time(valkey, proxy, connect, transaction):
    relay = proxy(valkey)
    client = connect(relay, socket_timeout=0.5, resilience=touchy(deadline=10))
    client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    pipeline = client.pipeline(transaction=transaction).incr("counter").get("large").incr("counter")
    assert pipeline.execute() == [1, LARGE_VALUE, 2]
    assert client.guard.state == "closed"


def test_a_popped_element_that_is_large_takes_its_time(valkey, proxy, connect):
    relay = proxy(valkey)
    client = connect(relay, socket_timeout=0.5, resilience=touchy(deadline=10))
    client.rpush("list", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    assert client.blpop("list", 0.1) == (b"list", LARGE_VALUE)
    assert client.guard.state == "closed"


def test_exactly_once_resolves_nothing_while_bytes_move(valkey, proxy, connect):
    relay = proxy(valkey)
    client = connect(relay, socket_timeout=0.5, resilience=touchy(deadline=10), exactly_once=True)
    client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    assert client.getdel("large") == LARGE_VALUE
    assert client.stats()["exactly_once"]["fences"] == 0
    assert client.guard.state == "closed"


def test_silence_before_the_first_byte_counts_in_a_call_that_is_in_a_hurry(valkey, proxy, connect):
    relay = proxy(valkey)
    client = connect(relay, socket_timeout=5, resilience=touchy(deadline=0.3))
    client.ping()
    relay.black_hole("down")
    pipeline = client.pipeline(transaction=False).get("key").get("key")
    with pytest.raises(RedisTimeoutError) as caught:
        pipeline.execute()
    assert not caught.value.moving
    assert caught.value.outcome is Outcome.UNKNOWN
    assert client.guard.state == "open"
