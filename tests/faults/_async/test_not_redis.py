"""What answers is no Redis, or no RESP: every caller gets an error with an outcome, the circuit counts it, priorities queue."""

import pytest
import redis
from fake_server import FakeServer, answer_handshake, bulk

from agent_memory import AsyncResilientRedisClient, Priority, RecoveryConfig
from agent_memory._concurrency import ASYNC
from agent_memory.errors import CircuitOpenError, Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import BreakerSettings, RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.asyncio.sentinel import Sentinel

HTTP = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
GREETINGS = {
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x16",
    "HTTP": HTTP,
    "OK": b"+OK\r\n",
    "number": b":5\r\n",
    "nothing": b"_\r\n",
    "RESP2": b"%1\r\n+proto\r\n:2\r\n",
    "too much": b"%1\r\n+proto\r\n:3\r\n+OK\r\n",
    "huge": b"*4000000000\r\n",
}
NO_REPLIES = {
    "garbage": b"@@\r\n",
    "HTTP": HTTP,
    "list as key": b"%1\r\n*1\r\n:1\r\n+x\r\n",
    "huge": b"*4000000000\r\n",
    "deep": b"*1\r\n" * 100_000,
    "length of no number": b"$abc\r\n",
}
ODD_REPLIES = {
    "number": b":5\r\n",
    "array": b"*1\r\n:1\r\n",
    "MOVED without address": b"-MOVED\r\n",
    "text": b"+\xff\r\n",
}

ONCE = ResiliencePolicy(retry=RetryPolicy(max_retries=0), breaker=BreakerSettings(3, 60.0), probe_interval_s=None)
UNAVAILABLE = (RedisUnavailableError, RedisTimeoutError)


def saying(words):
    """A server that says the same to everything, the handshake included."""
    return FakeServer(lambda *_: words, handshake=lambda *_: words)


async def failure_of(call):
    """The error that a call raises; never one without an outcome."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any at all: what it has to be is what is tested
        await call()
    assert isinstance(getattr(caught.value, "outcome", None), Outcome), repr(caught.value)
    return caught.value


@pytest.mark.parametrize("options", [{}, {"password": "secret"}, {"decode_responses": True}], ids=["", "AUTH", "text"])
@pytest.mark.parametrize("name", GREETINGS)
async def test_a_stranger_that_greets(async_connect, name, options):
    with saying(GREETINGS[name]) as fake:
        client = async_connect(fake, resilience=ONCE, socket_timeout=1, protocol=3, **options)
        for _ in range(3):
            error = await failure_of(lambda: client.set("key", "value"))
            assert isinstance(error, UNAVAILABLE)
            assert not isinstance(error, CircuitOpenError)
            assert error.outcome is Outcome.NOT_SENT
            assert str(fake.port) in str(error)
        assert isinstance(await failure_of(lambda: client.set("key", "value")), CircuitOpenError)
        assert not fake.received


@pytest.mark.parametrize("answer", [b":5\r\n", b"_\r\n", b"*1\r\n+OK\r\n"], ids=["number", "nothing", "array"])
async def test_an_answer_to_AUTH_that_is_no_refusal_is_no_wrong_password(async_connect, answer):
    with saying(answer) as fake:
        client = async_connect(fake, resilience=ONCE, protocol=2, password="secret", socket_timeout=1)
        error = await failure_of(lambda: client.get("key"))
        assert isinstance(error, RedisUnavailableError)
        assert not isinstance(error, redis.AuthenticationError)


async def test_a_wrong_password_is_raised_as_it_is_and_not_counted(async_connect):
    def handshake(command, connection):
        if b"AUTH" in command:
            return b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
        return answer_handshake(command, connection)

    with FakeServer(lambda *_: b"+OK\r\n", handshake=handshake) as fake:
        client = async_connect(fake, resilience=ONCE, password="wrong")
        for _ in range(5):
            assert isinstance(await failure_of(lambda: client.get("key")), redis.AuthenticationError)
        assert client.guard.state == "closed"


class NotAProvider(redis.CredentialProvider):
    """A credential provider that is broken itself."""

    def get_credentials(self):
        """What redis-py asks for."""
        return None.user  # type: ignore[attr-defined]


async def test_the_callers_own_mistake_is_not_blamed_on_the_server(async_connect):
    with FakeServer(lambda *_: b"+OK\r\n") as fake:
        client = async_connect(fake, resilience=ONCE, credential_provider=NotAProvider())
        with pytest.raises(AttributeError, match="user"):
            await client.get("key")


@pytest.mark.parametrize("name", GREETINGS)
async def test_queued_priorities_queue(name):
    with saying(GREETINGS[name]) as fake:
        options = {"circuit_threshold": 1, "retry_policy": ONCE.retry, "recovery": RecoveryConfig(close_timeout_s=0.01)}
        options["protocol"] = 3
        async with AsyncResilientRedisClient("stranger", **fake.connection_kwargs, **options) as client:
            result = await client.with_priority(Priority.HIGH).set("key", "value")
            assert result.status == "queued"


def calls_of(client):
    """A call of each kind that reads replies."""

    async def pipeline():
        await client.pipeline(transaction=False).get("a").get("b").execute()

    async def transaction():
        await client.pipeline().get("a").execute()

    async def watch():
        async with client.pipeline() as pipe:
            await pipe.watch("a")
            pipe.multi()
            pipe.get("a")
            await pipe.execute()

    async def pinned():
        async with client.client() as one:
            await one.get("a")

    async def monitor():
        async with client.monitor() as lines:
            await lines.next_command()

    async def subscriber():
        listener = client.pubsub(reconnect_timeout_s=0)
        try:
            await listener.subscribe("a")
            await listener.get_message(timeout=5)
        finally:
            await (listener.aclose() if ASYNC else listener.close())

    return {
        "command": lambda: client.get("a"),
        "raw command": lambda: client.dump("a"),
        "leased command": lambda: client.blpop("a", timeout=1),
        "pipeline": pipeline,
        "transaction": transaction,
        "WATCH": watch,
        "pinned": pinned,
        "MONITOR": monitor,
        "subscriber": subscriber,
    }


@pytest.mark.parametrize("kind", calls_of(None))
@pytest.mark.parametrize("name", NO_REPLIES)
async def test_what_is_no_reply_ends_the_connection_with_an_outcome(async_connect, name, kind):
    with FakeServer(lambda *_: NO_REPLIES[name]) as fake:
        client = async_connect(fake, resilience=ONCE, socket_timeout=1)
        error = await failure_of(calls_of(client)[kind])
        assert isinstance(error, UNAVAILABLE)
        assert str(fake.port) in str(error)


@pytest.mark.parametrize("name", NO_REPLIES)
async def test_the_circuit_counts_what_is_no_reply(async_connect, name):
    with FakeServer(lambda *_: NO_REPLIES[name]) as fake:
        client = async_connect(fake, resilience=ONCE, socket_timeout=1)
        for _ in range(3):
            error = await failure_of(lambda: client.set("key", "value"))
            assert error.outcome is Outcome.UNKNOWN
        assert isinstance(await failure_of(lambda: client.set("key", "value")), CircuitOpenError)
        assert len(fake.connections) == 3  # each was closed


@pytest.mark.parametrize("kind", ["transaction", "WATCH", "MONITOR"])
@pytest.mark.parametrize("name", ODD_REPLIES)
async def test_a_reply_of_another_shape_has_an_outcome(async_connect, name, kind):
    with FakeServer(lambda *_: ODD_REPLIES[name]) as fake:
        client = async_connect(fake, resilience=ONCE, socket_timeout=1)
        told: object = Outcome.APPLIED
        try:
            await calls_of(client)[kind]()
        except Exception as error:
            told = getattr(error, "outcome", None)
        assert isinstance(told, Outcome)


async def test_a_callback_that_fails_over_the_reply_says_that_the_command_ran(async_connect):
    with FakeServer(lambda *_: b":5\r\n") as fake:
        client = async_connect(fake, resilience=ONCE)
        error = await failure_of(client.info)
        assert error.outcome is Outcome.APPLIED
        assert client.guard.state == "closed"


async def test_replies_before_the_garbage_reach_their_callers(async_connect):
    with FakeServer(lambda *_: bulk(b"one") + b"@@\r\n") as fake:
        client = async_connect(fake, resilience=ONCE)
        pipeline = client.pipeline(transaction=False).get("a").get("b")
        error = await failure_of(pipeline.execute)
        assert error.outcome is Outcome.UNKNOWN
        assert error.replies == [b"one"]


async def test_a_sentinel_that_answers_nonsense_is_passed_over():
    with FakeServer(lambda *_: b":5\r\n") as nonsense, saying(HTTP) as stranger:
        sentinel = Sentinel([("127.0.0.1", nonsense.port), ("127.0.0.1", stranger.port)], socket_timeout=1)
        error = await failure_of(lambda: sentinel.discover_master("service"))
        assert isinstance(error, redis.ConnectionError)
        assert str(nonsense.port) in str(error)
        assert str(stranger.port) in str(error)
        client = sentinel.master_for("service", resilience=None)
        error = await failure_of(lambda: client.get("key"))
        assert isinstance(error, RedisUnavailableError)
        assert error.outcome is Outcome.NOT_SENT
        await (client.aclose() if ASYNC else client.close())
