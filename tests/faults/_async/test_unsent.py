"""What a call says for which no connection could be opened: nothing was sent, whatever pool it is."""

from __future__ import annotations

import socket

import pytest
import redis.asyncio
from fake_server import FakeServer
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agent_memory import AsyncResilientRedisClient, Outcome, RetryPolicy
from agent_memory._concurrency import async_in_thread
from agent_memory.errors import RedisUnavailableError
from agent_memory.policy import FailureKind
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.asyncio import Redis as AsyncRedis
from agent_memory.redis.error_outcomes import classify

ONCE = ResiliencePolicy(retry=RetryPolicy(max_retries=0))


@pytest.fixture
def unused_port():
    """A port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return unused.getsockname()[1]


class OwnConnection(redis.asyncio.Connection):
    """A connection class of the user's own, as kombu has one."""


class OwnPool(redis.asyncio.ConnectionPool):
    """A pool class of the user's own."""


def pool_of(kind, connection_class, port):
    return kind(connection_class=connection_class, host="127.0.0.1", port=port)


@pytest.mark.parametrize("resilience", [None, ONCE], ids=["unguarded", "guarded"])
@pytest.mark.parametrize(
    ("kind", "connection_class"),
    [
        (redis.asyncio.ConnectionPool, redis.asyncio.Connection),
        (redis.asyncio.ConnectionPool, OwnConnection),
        (redis.asyncio.BlockingConnectionPool, OwnConnection),
        (OwnPool, redis.asyncio.Connection),
    ],
)
async def test_a_refused_connection_sent_nothing(unused_port, kind, connection_class, resilience):
    client = AsyncRedis(connection_pool=pool_of(kind, connection_class, unused_port), resilience=resilience)
    again = AsyncRedis(connection_pool=client.connection_pool, resilience=resilience)  # marks the pool no second time
    for one in (client, again):
        with pytest.raises(RedisUnavailableError) as command:
            await one.incr("key")
        with pytest.raises(RedisUnavailableError) as pipeline:
            await one.pipeline().incr("key").execute()
        for error in (command.value, pipeline.value):
            assert error.outcome is Outcome.NOT_SENT
            assert classify(error) == (FailureKind.REFUSED, Outcome.NOT_SENT)
    await client.connection_pool.disconnect()


async def test_a_write_that_was_not_sent_is_repeated(start_server, proxy):
    """The first attempt is refused, the second is not: the write is executed once."""
    server = start_server(transport="tcp")
    front = proxy(server)
    front.refuse()
    pool = redis.asyncio.ConnectionPool(connection_class=OwnConnection, **front.connection_kwargs)
    client = AsyncRedis(connection_pool=pool, resilience=ResiliencePolicy(retry=RetryPolicy(1, 0.0)))
    get_connection, outcomes = pool.get_connection, []

    async def note(*args):
        try:
            return await get_connection(*args)
        except redis.ConnectionError as error:
            outcomes.append(error.outcome)
            await async_in_thread(front.accept)
            raise

    pool.get_connection = note
    assert await client.incr("key") == 1
    assert outcomes == [Outcome.NOT_SENT]
    await pool.disconnect()


async def test_what_was_sent_and_not_answered_is_unknown():
    def hang_up(_command, connection):
        connection.reset()

    with FakeServer(hang_up) as fake:
        pool = pool_of(redis.asyncio.ConnectionPool, OwnConnection, fake.port)
        pool.connection_kwargs["retry"] = Retry(NoBackoff(), 0)
        client = AsyncRedis(connection_pool=pool, resilience=ONCE)
        with pytest.raises(RedisUnavailableError) as caught:
            await client.incr("key")
        assert caught.value.outcome is Outcome.UNKNOWN
        await pool.disconnect()


async def test_a_pinned_connection_that_was_lost(start_server):
    """It is opened again before anything is sent, so a refusal says that nothing was."""
    server = start_server(transport="tcp")
    client = AsyncRedis(**server.connection_kwargs, single_connection_client=True, resilience=ONCE)
    assert await client.incr("key") == 1
    await async_in_thread(server.kill)
    outcomes = []
    for _ in range(2):
        with pytest.raises(RedisUnavailableError) as caught:
            await client.incr("key")
        outcomes.append(caught.value.outcome)
    assert outcomes == [Outcome.UNKNOWN, Outcome.NOT_SENT]
    await async_in_thread(server.start)
    assert await client.incr("key") == 1
    await client.aclose()


async def test_an_injected_client(unused_port):
    wrapped = redis.asyncio.Redis(host="127.0.0.1", port=unused_port, retry=None)
    client = AsyncResilientRedisClient(
        "injected", client=wrapped, retry_policy=RetryPolicy(max_retries=0), recovery=None
    )
    with pytest.raises(RedisUnavailableError) as caught:
        await client.incr("key")
    assert caught.value.outcome is Outcome.NOT_SENT
    await wrapped.aclose()


async def test_an_injected_client_of_an_unknown_class_may_have_sent_before(unused_port):
    class Repeating(redis.asyncio.Redis):
        """Its own repetitions stay unseen: the last refusal says nothing about the attempts before it."""

    wrapped = Repeating(host="127.0.0.1", port=unused_port, retry=None)
    client = AsyncResilientRedisClient(
        "injected", client=wrapped, retry_policy=RetryPolicy(max_retries=0), recovery=None
    )
    with pytest.raises(RedisUnavailableError) as caught:
        await client.incr("key")
    assert caught.value.outcome is Outcome.UNKNOWN
    await wrapped.aclose()
