# Generated from ../_async/test_given_retry.py by tools/generate_sync.py: edit that file, not this one.

"""redis-py's `retry=` and `retry_on_error=` are used where they are given; what is safe to repeat is decided as ever."""

from __future__ import annotations

import pytest
import redis
from fake_server import FakeServer, error, integer
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import ReadOnlyError, ResponseError
from redis.retry import Retry

from agent_memory import BreakerSettings, Outcome, ResilientRedisClient, RetryPolicy
from agent_memory._concurrency import in_thread
from agent_memory.errors import RedisUnavailableError
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis import Redis

PATIENT = ResiliencePolicy(breaker=BreakerSettings(failure_threshold=1_000))
BOTH = pytest.mark.parametrize("resilience", [None, PATIENT], ids=["unguarded", "guarded"])


class Counting(Retry):
    """Counts the calls that it repeated, and its attempts at them."""

    calls = attempts = 0

    def call_with_retry(self, do, *arguments, **keywords):
        Counting.calls += 1

        def count_and_do():
            Counting.attempts += 1
            return do()

        return super().call_with_retry(count_and_do, *arguments, **keywords)


@pytest.fixture(autouse=True)
def counting():
    Counting.calls = Counting.attempts = 0


def ways_to_give(retry, where, **options):
    """The ways to give a Retry: to a client, in a URL's arguments, in a pool, beside a pool, and afterwards."""
    arguments = where.connection_kwargs | options
    url = f"redis://{arguments['host']}:{arguments['port']}"
    yield lambda **own: Redis(**arguments, retry=retry, **own)
    yield lambda **own: Redis.from_url(url, retry=retry, **own)
    yield lambda **own: Redis(connection_pool=redis.ConnectionPool(**arguments, retry=retry), **own)
    yield lambda **own: Redis(connection_pool=redis.ConnectionPool(**arguments), retry=retry, **own)

    def give_later(**own):
        client = Redis(**arguments, **own)
        client.set_retry(retry)
        return client

    yield give_later


@BOTH
@pytest.mark.parametrize("way", range(5))
def test_it_is_called_and_decides_how_often(way, resilience):
    def hang_up(_command, connection):
        connection.reset()

    with FakeServer(hang_up) as fake:
        client = list(ways_to_give(Counting(NoBackoff(), 5), fake))[way](resilience=resilience)
        with pytest.raises(RedisUnavailableError):
            client.get("key")
        assert (Counting.calls, Counting.attempts) == (1, 6)
        assert fake.count(b"GET") == 6
        with pytest.raises(RedisUnavailableError):
            client.pipeline().get("key").execute()
        assert (Counting.calls, Counting.attempts) == (2, 12)
        client.connection_pool.disconnect()


@BOTH
def test_a_write_whose_answer_was_lost_is_not_sent_again(resilience):
    def hang_up(_command, connection):
        connection.reset()

    with FakeServer(hang_up) as fake:
        client = Redis(**fake.connection_kwargs, retry=Counting(NoBackoff(), 5), resilience=resilience)
        with pytest.raises(RedisUnavailableError) as caught:
            client.incr("key")
        assert caught.value.outcome is Outcome.UNKNOWN
        assert (Counting.calls, fake.count(b"INCRBY")) == (1, 1)
        client.close()


@BOTH
def test_what_was_not_sent_is_repeated_until_the_server_is_there(start_server, proxy, resilience):
    server = start_server(transport="tcp")
    front = proxy(server)
    front.refuse()

    class Accepting(Counting):
        """Finds the server after its third attempt."""

        def call_with_retry(self, do, *arguments, **keywords):
            def do_and_accept():
                if Counting.attempts == 3:
                    in_thread(front.accept)
                return do()

            return super().call_with_retry(do_and_accept, *arguments, **keywords)

    client = Redis(**front.connection_kwargs, retry=Accepting(ConstantBackoff(0.001), 10), resilience=resilience)
    assert client.incr("key") == 1
    assert Counting.attempts == 3
    client.close()


@BOTH
def test_no_retries_are_none(resilience):
    def hang_up(_command, connection):
        connection.reset()

    with FakeServer(hang_up) as fake:
        client = Redis(**fake.connection_kwargs, retry=Counting(NoBackoff(), 0), resilience=resilience)
        with pytest.raises(RedisUnavailableError):
            client.get("key")
        assert (Counting.attempts, fake.count(b"GET")) == (1, 1)
        client.close()


@BOTH
def test_errors_that_are_named_are_repeated(resilience):
    answers = iter([error("BUSYKEY try later"), error("BUSYKEY try later"), integer(1)])

    def answer(_command, _connection):
        return next(answers)

    with FakeServer(answer) as fake:
        client = Redis(
            **fake.connection_kwargs,
            retry=Counting(NoBackoff(), 5),
            retry_on_error=[ResponseError],
            resilience=resilience,
        )
        assert client.incr("key") == 1  # the server says that it did not run it
        assert Counting.attempts == 3
        client.close()


def test_errors_that_are_not_named_are_not(valkey):
    client = Redis(**valkey.connection_kwargs, retry=Counting(NoBackoff(), 5))
    client.set("key", "word")
    with pytest.raises(ResponseError):
        client.incr("key")
    assert Counting.attempts == 1
    client.close()


def test_a_pipeline_that_has_partly_run_is_not_repeated():
    def answer(command, _connection):
        return error("BUSYKEY try later") if command[1] == b"busy" else integer(1)

    with FakeServer(answer) as fake:
        client = Redis(
            **fake.connection_kwargs, retry=Counting(NoBackoff(), 5), retry_on_error=[ResponseError], resilience=PATIENT
        )
        with pytest.raises(ResponseError):
            client.pipeline(transaction=False).incr("key").incr("busy").execute()
        assert fake.count(b"INCRBY") == 2
        client.close()


@BOTH
def test_errors_without_a_retry_get_redis_pys(resilience):
    answers = iter([error("READONLY You can't write against a read only replica.")] * 2 + [integer(1)])

    def answer(_command, _connection):
        return next(answers)

    with FakeServer(answer) as fake:
        client = Redis(**fake.connection_kwargs, retry_on_error=[ReadOnlyError], resilience=resilience)
        assert client.incr("key") == 1
        client.close()


def test_an_open_circuit_is_waited_for(start_server):
    """Attempts that the circuit rejects count as attempts, and the error is the transport's."""
    server = start_server(transport="tcp")
    in_thread(server.kill)
    policy = ResiliencePolicy(breaker=BreakerSettings(1), probe_interval_s=None)
    client = Redis(**server.connection_kwargs, retry=Counting(NoBackoff(), 5), resilience=policy)
    with pytest.raises(RedisUnavailableError) as caught:
        client.get("key")
    assert Counting.attempts == 6
    assert type(caught.value) is RedisUnavailableError
    assert caught.value.outcome is Outcome.NOT_SENT
    assert caught.value.state == "open"
    client.close()


def test_a_deadline_of_the_policy_holds():
    def hang_up(_command, connection):
        connection.reset()

    policy = ResiliencePolicy(breaker=BreakerSettings(failure_threshold=1_000_000), retry=RetryPolicy(deadline_s=0.05))
    with FakeServer(hang_up) as fake:
        client = Redis(**fake.connection_kwargs, retry=Counting(ConstantBackoff(0.001), 1_000_000), resilience=policy)
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
            client.get("key")
        assert Counting.calls == 1
        client.close()


def test_the_resilient_client_has_its_own(valkey):
    """An injected drop-in's Retry is for its own calls; retry_policy decides about those of the client around it."""

    def hang_up(_command, connection):
        connection.reset()

    with FakeServer(hang_up) as fake:
        wrapped = Redis(**fake.connection_kwargs, retry=Counting(NoBackoff(), 5))
        client = ResilientRedisClient(
            "own", client=wrapped, retry_policy=RetryPolicy(1, 0.0), circuit_threshold=100, recovery=None
        )
        for command in (client.get, client.dump):
            with pytest.raises(RedisUnavailableError):
                command("key")
        assert Counting.calls == 0
        assert (fake.count(b"GET"), fake.count(b"DUMP")) == (2, 2)
        client.close()
        wrapped.close()
