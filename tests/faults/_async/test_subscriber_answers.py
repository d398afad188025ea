"""What a subscriber's own commands are answered, between messages and between the answers to what the client asks by itself."""

import time

import pytest
import redis
from fake_server import FakeServer, bulk

from agent_memory._concurrency import ASYNC, async_in_thread
from agent_memory.errors import Outcome, RedisUnavailableError

WITHIN_S = 20.0
MESSAGE = b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n" + bulk(b"word")


def confirmation(kind, name, count=1):
    return b">3\r\n" + bulk(kind) + bulk(name) + b":%d\r\n" % count


async def next_reply(subscriber):
    """The next reply as it arrived; a timeout fails."""
    deadline_s = time.monotonic() + WITHIN_S
    while (left_s := deadline_s - time.monotonic()) > 0:
        reply = await subscriber.parse_response(block=False, timeout=left_s)
        if reply is not None:
            return reply
    raise AssertionError("no reply")


async def closed(subscriber):
    await (subscriber.aclose() if ASYNC else async_in_thread(subscriber.close))


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_command_of_the_callers_that_is_answered_OK(protocol, server, async_connect):
    subscriber = async_connect(server, protocol=protocol).pubsub()
    await subscriber.execute_command("CLIENT", "SETNAME", "reader")
    assert await next_reply(subscriber) == b"OK"
    await subscriber.execute_command("CLIENT", "GETNAME")
    await subscriber.execute_command("CLIENT", "TRACKING", "off")
    assert await next_reply(subscriber) == b"reader"
    assert await next_reply(subscriber) == b"OK"
    await closed(subscriber)


async def test_commands_answers_and_messages_keep_their_order(server, async_connect):
    client = async_connect(server, protocol=3)
    subscriber = client.pubsub()
    await subscriber.execute_command("CLIENT", "SETNAME", "one")
    await subscriber.subscribe("a", "b")
    await subscriber.execute_command("CLIENT", "SETNAME", "has space")  # refused
    await subscriber.unsubscribe()
    await subscriber.execute_command("CLIENT", "GETNAME")
    assert await next_reply(subscriber) == b"OK"
    assert [await next_reply(subscriber) for _ in "ab"] == [[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]]
    with pytest.raises(redis.ResponseError, match="spaces"):
        await next_reply(subscriber)
    assert sorted([await next_reply(subscriber) for _ in "ab"])[0][:2] == [b"unsubscribe", b"a"]
    assert await next_reply(subscriber) == b"one"
    await closed(subscriber)


async def test_the_clients_own_PING_is_known_by_its_place(async_connect):
    """Answers that look like what the client asks by itself go to the caller who asked before, and the other way round."""
    answered = {b"SUBSCRIBE": confirmation(b"subscribe", b"news"), b"PING": b"+OK\r\n", b"CLIENT": b""}

    def answer(command, connection):
        if command[0] == b"FIRST":
            return bulk(b"redis-py-health-check")
        return answered.get(command[0], b"+OK\r\n")

    with FakeServer(answer) as fake:
        subscriber = async_connect(fake, protocol=3).pubsub()
        await subscriber.subscribe("news")
        assert await next_reply(subscriber) == [b"subscribe", b"news", 1]
        await subscriber.execute_command("FIRST")
        await subscriber._ping(subscriber.connection)
        await subscriber.execute_command("SECOND")
        assert await next_reply(subscriber) == b"redis-py-health-check"
        assert await next_reply(subscriber) == b"OK"
        assert [command[0] for command in fake.received] == [b"SUBSCRIBE", b"FIRST", b"PING", b"SECOND"]
        assert await subscriber.parse_response(block=False, timeout=0.05) is None
        await closed(subscriber)


@pytest.mark.parametrize("answer", [b"+OK\r\n", b"-WRONGPASS no\r\n", b"-ERR no\r\n", b":5\r\n"])
async def test_the_answer_to_renewed_credentials_reaches_no_caller(answer, async_connect, monkeypatch, caplog):
    renewals = [("AUTH", "renewed")]
    with FakeServer(
        lambda command, _: confirmation(b"subscribe", b"news") if command[0] == b"SUBSCRIBE" else MESSAGE
    ) as fake:
        subscriber = async_connect(fake, protocol=3).pubsub()
        await subscriber.subscribe("news")
        assert await next_reply(subscriber) == [b"subscribe", b"news", 1]
        fake._handshake = lambda *_: answer + MESSAGE
        monkeypatch.setattr(
            "agent_memory.redis._async.pubsub.take_renewal", lambda _: renewals.pop() if renewals else None
        )
        assert await next_reply(subscriber) == [b"message", b"news", b"word"]
        assert ("refused renewed credentials" in caplog.text) is answer.startswith(b"-")
        assert subscriber.connection.is_connected
        await closed(subscriber)


async def test_a_refused_subscription_is_the_callers_error_though_an_AUTH_is_under_way(async_connect, monkeypatch):
    renewals = [("AUTH", "renewed")]
    with FakeServer(lambda *_: b"-NOPERM no such channel for you\r\n") as fake:
        subscriber = async_connect(fake, protocol=3).pubsub()
        await subscriber.subscribe("secret")
        monkeypatch.setattr(
            "agent_memory.redis._async.pubsub.take_renewal", lambda _: renewals.pop() if renewals else None
        )
        await subscriber._authenticate_anew(subscriber.connection)
        with pytest.raises(redis.exceptions.NoPermissionError):
            await next_reply(subscriber)
        assert await subscriber.parse_response(block=False, timeout=0.05) is None  # the OK of the AUTH
        await closed(subscriber)


@pytest.mark.parametrize(
    "strange",
    [b"+OK\r\n", b":5\r\n", bulk(b"secret"), b"*1\r\n:1\r\n", b"*0\r\n", b"-ERR odd\r\n", b"_\r\n", b">0\r\n",
     b">2\r\n$7\r\nmessage\r\n$4\r\nnews\r\n", b">1\r\n$9\r\nsubscribe\r\n", b">3\r\n*0\r\n:1\r\n:2\r\n@"],
    ids=repr,
)  # fmt: skip
async def test_an_answer_without_a_request_ends_the_connection_and_reaches_no_caller(strange, async_connect):
    with FakeServer(lambda *_: confirmation(b"subscribe", b"news") + strange) as fake:
        subscriber = async_connect(fake, protocol=3).pubsub(reconnect_timeout_s=0)
        await subscriber.subscribe("news")
        assert await next_reply(subscriber) == [b"subscribe", b"news", 1]
        with pytest.raises(RedisUnavailableError) as caught:
            while True:  # a push that has nothing to do with channels goes first
                await subscriber.get_message(timeout=WITHIN_S)
        assert isinstance(caught.value.outcome, Outcome)
        assert str(fake.port) in str(caught.value)
        await closed(subscriber)


async def test_a_message_over_RESP2_and_one_over_RESP3(server, async_connect):
    for protocol in (2, 3):
        client = async_connect(server, protocol=protocol)
        subscriber = client.pubsub()
        await subscriber.subscribe("news")
        await subscriber.psubscribe("n*")
        assert [(await next_reply(subscriber))[0] for _ in range(2)] == [b"subscribe", b"psubscribe"]
        await client.publish("news", "word")
        assert [await next_reply(subscriber) for _ in range(2)] == [
            [b"message", b"news", b"word"],
            [b"pmessage", b"n*", b"news", b"word"],
        ]
        await subscriber.ping()
        assert (await subscriber.get_message(timeout=WITHIN_S))["type"] == "pong"
        await closed(subscriber)


async def test_a_handler_of_pushes_is_given_them_and_answers_stay_the_callers(server, async_connect):
    seen = []

    async def handler(push):
        seen.append(push)

    subscriber = async_connect(server, protocol=3).pubsub(push_handler_func=handler)
    await subscriber.subscribe("news")
    await subscriber.execute_command("CLIENT", "SETNAME", "reader")
    assert await next_reply(subscriber) == b"OK"
    assert seen == [[b"subscribe", b"news", 1]]
    await closed(subscriber)
