"""redis-py's `retry=` and `retry_on_error=` are used where they are given; what is safe to repeat is decided as ever."""

from __future__ import annotations

import pytest
import redis.asyncio
from fake_server import FakeServer, error, integer
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import ReadOnlyError, ResponseError

from agent_memory import AsyncResilientRedisClient, BreakerSettings, Outcome, RetryPolicy
from agent_memory._concurrency import async_in_thread
from agent_memory.errors import RedisUnavailableError
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.asyncio import Redis as AsyncRedis

PATIENT = ResiliencePolicy(breaker=BreakerSettings(failure_threshold=1_000))
BOTH = pytest.mark.parametrize("resilience", [None, PATIENT], ids=["unguarded", "guarded"])


class Counting(Retry):
    """Counts the calls that it repeated, and its attempts at them."""

    calls = attempts = 0

    async def call_with_retry(self, do, *arguments, **keywords):
        Counting.calls += 1

        async def count_and_do():
            Counting.attempts += 1
            return await do()

        return await super().call_with_retry(count_and_do, *arguments, **keywords)


@pytest.fixture(autouse=True)
def counting():
    Counting.calls = Counting.attempts = 0


def ways_to_give(retry, where, **options):
    """The ways to give a Retry: to a client, in a URL's arguments, in a pool, beside a pool, and afterwards."""
    arguments = where.connection_kwargs | options
    url = f"redis://{arguments['host']}:{arguments['port']}"
    yield lambda **own: AsyncRedis(**arguments, retry=retry, **own)
    yield lambda **own: AsyncRedis.from_url(url, retry=retry, **own)
    yield lambda **own: AsyncRedis(connection_pool=redis.asyncio.ConnectionPool(**arguments, retry=retry), **own)
    yield lambda **own: AsyncRedis(connection_pool=redis.asyncio.ConnectionPool(**arguments), retry=retry, **own)

    def give_later(**own):
        client = AsyncRedis(**arguments, **own)
        client.set_retry(retry)
        return client

    yield give_later


@BOTH
@pytest.mark.parametrize("way", range(5))
async def test_it_is_called_and_decides_how_often(way, resilience):
    def hang_up(_command, connection):
        connection.reset()

    with FakeServer(hang_up) as fake:
        client = list(ways_to_give(Counting(NoBackoff(), 5), fake))[way](resilience=resilience)
        with pytest.raises(RedisUnavailableError):
            await client.get("key")
        assert (Counting.calls, Counting.attempts) == (1, 6)
        assert fake.count(b"GET") == 6
        with pytest.raises(RedisUnavailableError):
            await client.pipeline().get("key").execute()
        assert (Counting.calls, Counting.attempts) == (2, 12)
        await client.connection_pool.disconnect()


@BOTH
async def test_a_write_whose_answer_was_lost_is_not_sent_again(resilience):
    def hang_up(_command, connection):
        connection.reset()

    with FakeServer(hang_up) as fake:
        client = AsyncRedis(**fake.connection_kwargs, retry=Counting(NoBackoff(), 5), resilience=resilience)
        with pytest.raises(RedisUnavailableError) as caught:
            await client.incr("key")
        assert caught.value.outcome is Outcome.UNKNOWN
        assert (Counting.calls, fake.count(b"INCRBY")) == (1, 1)
        await client.aclose()


@BOTH
async def test_what_was_not_sent_is_repeated_until_the_server_is_there(start_server, proxy, resilience):
    server = start_server(transport="tcp")
    front = proxy(server)
    front.refuse()

    class Accepting(Counting):
        """Finds the server after its third attempt."""

        async def call_with_retry(self, do, *arguments, **keywords):
            async def do_and_accept():
                if Counting.attempts == 3:
                    await async_in_thread(front.accept)
                return await do()

            return await super().call_with_retry(do_and_accept, *arguments, **keywords)

    client = AsyncRedis(**front.connection_kwargs, retry=Accepting(ConstantBackoff(0.001), 10), resilience=resilience)
    assert await client.incr("key") == 1
    assert Counting.attempts == 3
    await client.aclose()


@BOTH
async def test_no_retries_are_none(resilience):
    def hang_up(_command, connection):
        connection.reset()

    with FakeServer(hang_up) as fake:
        client = AsyncRedis(**fake.connection_kwargs, retry=Counting(NoBackoff(), 0), resilience=resilience)
        with pytest.raises(RedisUnavailableError):
            await client.get("key")
        assert (Counting.attempts, fake.count(b"GET")) == (1, 1)
        await client.aclose()


@BOTH
async def test_errors_that_are_named_are_repeated(resilience):
    answers = iter([error("BUSYKEY try later"), error("BUSYKEY try later"), integer(1)])

    def answer(_command, _connection):
        return next(answers)

    with FakeServer(answer) as fake:
        client = AsyncRedis(
            **fake.connection_kwargs,
            retry=Counting(NoBackoff(), 5),
            retry_on_error=[ResponseError],
            resilience=resilience,
        )
        assert await client.incr("key") == 1  # the server says that it did not run it
        assert Counting.attempts == 3
        await client.aclose()


async def test_errors_that_are_not_named_are_not(valkey):
    client = AsyncRedis(**valkey.connection_kwargs, retry=Counting(NoBackoff(), 5))
    await client.set("key", "word")
    with pytest.raises(ResponseError):
        await client.incr("key")
    assert Counting.attempts == 1
    await client.aclose()


async def test_a_pipeline_that_has_partly_run_is_not_repeated():
    def answer(command, _connection):
        return error("BUSYKEY try later") if command[1] == b"busy" else integer(1)

    with FakeServer(answer) as fake:
        client = AsyncRedis(
            **fake.connection_kwargs, retry=Counting(NoBackoff(), 5), retry_on_error=[ResponseError], resilience=PATIENT
        )
        with pytest.raises(ResponseError):
            await client.pipeline(transaction=False).incr("key").incr("busy").execute()
        assert fake.count(b"INCRBY") == 2
        await client.aclose()


@BOTH
async def test_errors_without_a_retry_get_redis_pys(resilience):
    answers = iter([error("READONLY You can't write against a read only replica.")] * 2 + [integer(1)])

    def answer(_command, _connection):
        return next(answers)

    with FakeServer(answer) as fake:
        client = AsyncRedis(**fake.connection_kwargs, retry_on_error=[ReadOnlyError], resilience=resilience)
        assert await client.incr("key") == 1
        await client.aclose()


async def test_an_open_circuit_is_waited_for(start_server):
    """Attempts that the circuit rejects count as attempts, and the error is the transport's."""
    server = start_server(transport="tcp")
    await async_in_thread(server.kill)
    policy = ResiliencePolicy(breaker=BreakerSettings(1), probe_interval_s=None)
    client = AsyncRedis(**server.connection_kwargs, retry=Counting(NoBackoff(), 5), resilience=policy)
    with pytest.raises(RedisUnavailableError) as caught:
        await client.get("key")
    assert Counting.attempts == 6
    assert type(caught.value) is RedisUnavailableError
    assert caught.value.outcome is Outcome.NOT_SENT
    assert caught.value.state == "open"
    await client.aclose()


async def test_a_deadline_of_the_policy_holds():
    def hang_up(_command, connection):
        connection.reset()

    policy = ResiliencePolicy(breaker=BreakerSettings(failure_threshold=1_000_000), retry=RetryPolicy(deadline_s=0.05))
    with FakeServer(hang_up) as fake:
        client = AsyncRedis(
            **fake.connection_kwargs, retry=Counting(ConstantBackoff(0.001), 1_000_000), resilience=policy
        )
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
            await client.get("key")
        assert Counting.calls == 1
        await client.aclose()


async def test_the_resilient_client_has_its_own(valkey):
    """An injected drop-in's Retry is for its own calls; retry_policy decides about those of the client around it."""

    def hang_up(_command, connection):
        connection.reset()

    with FakeServer(hang_up) as fake:
        wrapped = AsyncRedis(**fake.connection_kwargs, retry=Counting(NoBackoff(), 5))
        client = AsyncResilientRedisClient(
            "own", client=wrapped, retry_policy=RetryPolicy(1, 0.0), circuit_threshold=100, recovery=None
        )
        for command in (client.get, client.dump):
            with pytest.raises(RedisUnavailableError):
                await command("key")
        assert Counting.calls == 0
        assert (fake.count(b"GET"), fake.count(b"DUMP")) == (2, 2)
        await client.close()
        await wrapped.aclose()
