"""A server at its maxclients: a client continues on the connections it holds, and its circuit stays closed."""

import threading
import time

import pytest
import redis

from agent_memory.errors import ConnectionLimitError, Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.exactly_once import ExactlyOnce

TOUCHY = ResiliencePolicy(breaker=BreakerSettings(failure_threshold=1), retry=RetryPolicy(0), probe_interval_s=None)


def held(client):
    return len(client.transport_here()._open)


def hold_two(client, server):
    """Two idle connections."""
    waiting = threading.Thread(target=client.blpop, args=("list", 10))
    waiting.start()
    with redis.Redis(**server.connection_kwargs) as observer:
        while not observer.info("clients")["blocked_clients"]:
            time.sleep(0.001)
        client.ping()
        observer.rpush("list", "element")
    waiting.join(10)
    assert held(client) == 2


def test_calls_wait_for_a_connection_that_is_held(full, connect):
    server, fill = full
    client = connect(server, socket_timeout=5, resilience=TOUCHY)
    client.ping()
    fill()
    errors = []

    def work():
        try:
            for _ in range(20):
                client.incr("counter")
        except redis.RedisError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert int(client.get("counter")) == 160
    assert held(client) == 1
    assert client.guard.state == "closed"


def test_that_all_held_connections_are_busy_is_no_failure_of_the_server(full, connect):
    server, fill = full
    client = connect(server, socket_timeout=0.4, resilience=TOUCHY)
    client.ping()
    others = fill()
    waiting = threading.Thread(target=client.blpop, args=("list", 10))
    waiting.start()
    while not others[0].info("clients")["blocked_clients"]:
        time.sleep(0.001)
    started_s = time.monotonic()
    with pytest.raises(ConnectionLimitError, match="the server takes no more clients") as caught:
        client.incr("counter")
    assert 0.3 < time.monotonic() - started_s < 0.4 + 1.0
    assert caught.value.outcome is Outcome.NOT_SENT
    assert client.guard.state == "closed"
    others[0].rpush("list", "element")
    waiting.join(10)
    assert client.incr("counter") == 1


def test_a_client_without_a_connection_learns_of_it(full, connect):
    server, fill = full
    fill()
    client = connect(server, socket_timeout=0.4, resilience=TOUCHY)
    with pytest.raises(RedisUnavailableError, match="max number of clients") as caught:
        client.incr("counter")
    assert caught.value.outcome is Outcome.NOT_SENT
    assert client.guard.state == "open"


def test_a_place_that_another_client_leaves_is_taken(full, connect):
    server, fill = full
    client = connect(server, socket_timeout=5, resilience=TOUCHY)
    client.ping()
    others = fill()
    waiting = threading.Thread(target=client.blpop, args=("list", 10))
    waiting.start()
    while not others[0].info("clients")["blocked_clients"]:
        time.sleep(0.001)
    leaving = threading.Timer(0.2, others[1].close)
    leaving.start()
    assert client.incr("counter") == 1
    leaving.join()
    assert held(client) == 2
    others[0].rpush("list", "element")
    waiting.join(10)


def test_a_probe_goes_over_a_connection_that_is_held(full, connect):
    server, fill = full
    client = connect(server, socket_timeout=5, resilience=TOUCHY)
    client.ping()
    others = fill()
    client.ping_afresh()
    assert held(client) == 1
    others[0].client_kill_filter(laddr=others[0].client_info()["laddr"], skipme=True)
    fill()
    with pytest.raises(RedisUnavailableError, match="max number of clients"):
        client.ping_afresh()
    assert held(client) == 0


@pytest.mark.parametrize("level", ["marker", "offset"])
def test_exactly_once_fences_over_a_connection_that_is_held(full, connect, proxy, level):
    server, fill = full
    relay = proxy(server)
    client = connect(relay, socket_timeout=0.5, exactly_once=ExactlyOnce(level))
    hold_two(client, server)
    others = fill()
    lost = relay.drop_replies(1)  # the connection stays, and with it its place
    with pytest.raises(RedisTimeoutError) as caught:
        client.incr("counter")
    assert lost.dropped == 1
    assert caught.value.outcome is Outcome.APPLIED
    assert client.stats()["exactly_once"]["fences"] == 1
    assert client.stats()["exactly_once"]["applied"] == 1
    assert client.incr("counter") == 2
    assert int(others[0].get("counter")) == 2


def test_a_transaction_or_a_subscriber_that_finds_no_room_opens_no_circuit(full, connect):
    """They need a connection of their own, and there is none; all other calls have one."""
    server, fill = full
    client = connect(server, socket_timeout=0.5, resilience=TOUCHY)
    client.ping()
    fill()
    with pytest.raises(RedisUnavailableError, match="max number of clients"), client.pipeline() as pipeline:
        pipeline.watch("key")
    with pytest.raises(RedisUnavailableError, match="max number of clients"), client.pubsub() as subscriber:
        subscriber.subscribe("channel")
    assert client.guard.state == "closed"
    assert client.incr("counter") == 1
