"""Closing ends what is under way: at once, with an outcome, no connection left at the server and nothing executed later."""

import gc
import time
import warnings

import pytest
import redis
import redis.asyncio

from agent_memory import AsyncResilientRedisClient
from agent_memory._concurrency import ASYNC, AsyncEvent, async_settle, async_sleep, async_spawn
from agent_memory.errors import ClientClosedError, Outcome
from agent_memory.policy import RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.asyncio import Redis

AT_ONCE_S = 2.0
"""What ends at once ends within this on two noisy cores; the timeouts below are far longer."""
TIMEOUT_S = 30.0


class Server:
    """A server of the test's own, and what it says of connections."""

    def __init__(self, server):
        self.server = server
        self.admin = redis.Redis(**server.connection_kwargs)
        self.admin.ping()

    def others(self):
        """The connections that are not the admin's."""
        own = self.admin.client_id()
        return [entry for entry in self.admin.client_list() if int(entry["id"]) != own]

    def blocked(self):
        return [entry for entry in self.others() if entry["cmd"] in {"blpop", "subscribe", "xread"}]

    async def wait(self, condition, what):
        deadline_s = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < deadline_s, what
            await async_sleep(0.01)


@pytest.fixture
def server(start_server):
    own = Server(start_server(transport="tcp"))
    yield own
    own.admin.close()


class Caller:
    """A call in the background; what it raised or returned."""

    def __init__(self, function, *args):
        self.ended = AsyncEvent()
        self.error = self.value = None
        self._function, self._args = function, args
        self.task = async_spawn(self._run)

    async def _run(self):
        try:
            self.value = await async_settle(self._function(*self._args))
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()

    async def failure(self, within_s=AT_ONCE_S):
        assert await self.ended.wait(within_s), "still waits"
        assert self.error is not None, f"gave {self.value!r}"
        return self.error


OPTIONS = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}


def of_its_own(server, **options):
    return Redis(**server.connection_kwargs, **OPTIONS, **options)


def without_resilience(server, **options):
    return of_its_own(server, resilience=None, **options)


def exactly_once(server, **options):
    return of_its_own(server, exactly_once=True, **options)


def given_pool(server, **options):
    return Redis(connection_pool=redis.asyncio.ConnectionPool(**server.connection_kwargs, **OPTIONS, **options))


def resilient(server, **options):
    return AsyncResilientRedisClient("name", **server.connection_kwargs, **OPTIONS, **options)


KINDS = [of_its_own, without_resilience, exactly_once, given_pool, resilient]


def pool_of(client):
    return client.client.connection_pool if isinstance(client, AsyncResilientRedisClient) else client.connection_pool


async def close_client(client):
    if isinstance(client, Redis) and not client.auto_close_connection_pool:
        await close_pool(client)  # its pool is the caller's to close
    elif ASYNC and isinstance(client, Redis):
        await client.aclose()
    else:
        await client.close()


async def close_pool(client):
    await async_settle(pool_of(client).aclose() if ASYNC else pool_of(client).close())


async def disconnect_pool(client):
    await async_settle(pool_of(client).disconnect())


ENDINGS = [close_client, close_pool, disconnect_pool]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_blocking_call(kind, ending, server):
    client = kind(server.server)
    await client.ping()
    calls = [
        Caller(client.blpop, ["list"], 0),
        Caller(lambda: client.xread({"stream": "$"}, block=0)),
    ]
    await server.wait(lambda: len(server.blocked()) == 2, "blocked")
    await ending(client)
    for call in calls:
        failure = await call.failure()
        assert isinstance(failure, ClientClosedError)
        assert failure.outcome is Outcome.UNKNOWN
    await server.wait(lambda: not server.others(), "no connection is left")
    server.admin.rpush("list", "element")
    server.admin.xadd("stream", {"field": "value"})
    assert server.admin.llen("list") == 1
    assert await client.ping()  # a closed client may be used again
    await close_client(client)


async def call_read(client, _):
    await client.get("key")


async def call_write(client, _):
    await client.incr("counter")


async def call_pipeline(client, _):
    await client.pipeline().incr("counter").get("key").execute()


async def call_watched(client, hole):
    async with client.pipeline() as pipeline:
        await pipeline.watch("key")
        hole()
        await pipeline.get("key")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [call_read, call_write, call_pipeline, call_watched])
async def test_a_call_whose_reply_does_not_come(call, kind, ending, server, proxy):
    relay = proxy(server.server)
    client = kind(relay)
    await client.set("key", "value")

    def hole():
        relay.black_hole("down")

    if call is not call_watched:
        hole()
    caller = Caller(call, client, hole)
    await server.wait(lambda: relay.commands.get("INCRBY" if call is call_write else "GET"), "sent")
    if call in {call_write, call_pipeline}:
        await server.wait(lambda: server.admin.get("counter"), "executed")
    await ending(client)
    failure = await caller.failure()
    assert isinstance(failure, ClientClosedError)
    assert failure.outcome is Outcome.UNKNOWN
    await server.wait(lambda: not server.others(), "no connection is left")
    assert server.admin.get("counter") in {None, b"1", "1"}
    relay.heal()
    await close_client(client)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_waits_for_a_place(kind, ending, server):
    client = kind(server.server, max_connections=2 if ASYNC else 1)
    holder = Caller(client.blpop, ["list"], 0)
    await server.wait(lambda: len(server.blocked()) == 1, "blocked")
    waiter = Caller(client.blpop, ["another"], 0)
    await async_sleep(0.1)
    await ending(client)
    assert (await holder.failure()).outcome is Outcome.UNKNOWN
    failure = await waiter.failure()
    assert isinstance(failure, ClientClosedError)
    assert failure.outcome is Outcome.NOT_SENT
    await server.wait(lambda: not server.others(), "no connection is left")
    await close_client(client)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [call_write, lambda client, _: client.blpop(["list"], 0)])
async def test_a_call_that_waits_for_its_connection(call, kind, ending, server, proxy):
    relay = proxy(server.server)
    relay.black_hole("down")
    client = kind(relay)
    caller = Caller(call, client, None)
    await server.wait(lambda: relay.commands, "begins its handshake")
    await ending(client)
    failure = await caller.failure()
    assert isinstance(failure, ClientClosedError)
    assert failure.outcome is Outcome.NOT_SENT
    await server.wait(lambda: not server.others(), "no connection is left")
    relay.heal()
    assert server.admin.get("counter") is None
    await close_client(client)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", [of_its_own, exactly_once, given_pool, resilient])
async def test_a_call_between_two_attempts(kind, ending, server, proxy):
    """It does not come back to life when the server does."""
    relay = proxy(server.server)
    retry = RetryPolicy(3, 20.0, jitter="none")
    if kind is resilient:
        client = kind(relay, retry_policy=retry)
    elif kind is given_pool:
        pool = kind(relay).connection_pool
        client = Redis(connection_pool=pool, resilience=ResiliencePolicy(retry=retry))
    else:
        client = kind(relay, resilience=ResiliencePolicy(retry=retry))
    await client.ping()
    relay.refuse()
    relay.reset()
    caller = Caller(call_read, client, None)
    await async_sleep(0.3)
    relay.accept()
    sent = dict(relay.commands)
    await ending(client)
    failure = await caller.failure()
    assert isinstance(failure, ClientClosedError)
    await server.wait(lambda: not server.others(), "no connection is left")
    assert relay.commands == sent
    await close_client(client)


async def heard(subscriber, into):
    async for message in subscriber.listen():
        into.append(message["data"])


@pytest.mark.parametrize("ending", [close_client, close_pool])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_subscriber_ends_with_its_client(kind, ending, server):
    client = kind(server.server)
    subscriber = client.pubsub(ignore_subscribe_messages=True)
    await subscriber.subscribe("news")
    messages = []
    listener = Caller(heard, subscriber, messages)
    await server.wait(lambda: server.admin.publish("news", "before") and messages, "subscribed")
    await ending(client)
    failure = await listener.failure()
    assert isinstance(failure, ClientClosedError)
    assert failure.outcome is Outcome.NOT_SENT
    await server.wait(lambda: not server.others(), "no connection is left")
    with pytest.raises(ClientClosedError):
        await subscriber.get_message(timeout=0.1)
    assert not server.others()
    # It may be used again, as its client may.
    await subscriber.subscribe("news")
    again = Caller(heard, subscriber, messages)
    await server.wait(lambda: server.admin.publish("news", "after") and "after" in map(text, messages), "heard again")
    await ending(client)
    await again.failure()
    await subscriber.aclose() if ASYNC else subscriber.close()


def text(word):
    return word.decode() if isinstance(word, bytes) else word


@pytest.mark.parametrize("kind", [of_its_own, exactly_once, resilient])
async def test_a_subscriber_outlives_the_loss_of_its_connections(kind, server):
    client = kind(server.server)
    subscriber = client.pubsub(ignore_subscribe_messages=True)
    await subscriber.subscribe("news")
    messages = []
    listener = Caller(heard, subscriber, messages)
    await server.wait(lambda: server.admin.publish("news", "first") and messages, "subscribed")
    await disconnect_pool(client)
    await server.wait(lambda: server.admin.publish("news", "second") and "second" in map(text, messages), "again")
    for entry in server.others():
        if int(entry["sub"]):
            server.admin.client_kill_filter(_id=entry["id"])
    await server.wait(lambda: server.admin.publish("news", "third") and "third" in map(text, messages), "and again")
    await close_client(client)
    assert isinstance(await listener.failure(), ClientClosedError)
    await subscriber.aclose() if ASYNC else subscriber.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_dropped_is_closed(kind, server):
    async def use():
        client = kind(server.server)
        await client.set("key", "value")
        await client.blpop(["list"], 0.01)
        await client.pipeline().get("key").execute()
        assert server.others()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            await use()
        deadline_s = time.monotonic() + 20.0
        while server.others():
            assert time.monotonic() < deadline_s, "connections are left"
            gc.collect()
            await async_sleep(0.01)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_outlives_what_the_caller_drops(kind, server):
    caller = Caller(kind(server.server).blpop, ["list"], 0)
    await server.wait(lambda: len(server.blocked()) == 1, "blocked")
    gc.collect()
    server.admin.rpush("list", "element")
    assert await caller.ended.wait(AT_ONCE_S)
    assert text(caller.value[1]) == "element"
    del caller
    deadline_s = time.monotonic() + 20.0
    while server.others():
        assert time.monotonic() < deadline_s, "connections are left"
        gc.collect()
        await async_sleep(0.01)
