"""The shared connection: matching of replies, their order, and the bound of commands in flight."""

import asyncio
import contextvars
import gc
import random
import threading
import time
import weakref

import pytest
from fake_server import FakeServer, bulk, error, integer

from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.transport.multiplexed.connection import MAX_IN_FLIGHT


def transport_of(client):
    """The client's transport in the running loop."""
    return client._transports[asyncio.get_running_loop()]


def block_the_loop(seconds):
    """A caller that computes without yielding to the loop."""
    time.sleep(seconds)


def echo(command, _connection):
    """Answer each command with its last argument."""
    return bulk(command[-1])


async def test_gathered_commands_travel_in_few_writes(valkey, proxy, async_connect):
    """Implicit pipelining: what is issued in one iteration of the loop leaves together, over one connection."""
    relay = proxy(valkey)
    client = async_connect(relay)
    await client.set("key", "value")
    assert await asyncio.gather(*(client.get("key") for _ in range(12_000))) == [b"value"] * 12_000
    assert relay.commands["GET"] == 12_000
    assert relay.connections_accepted == 1
    assert transport_of(client).connections_opened == 1


async def test_each_caller_gets_its_own_reply(server, async_connect):
    client = async_connect(server)
    await client.mset({f"key:{number}": f"value:{number}" for number in range(2_000)})
    numbers = [random.Random(4).randrange(2_000) for _ in range(15_000)]
    replies = await asyncio.gather(*(client.get(f"key:{number}") for number in numbers))
    assert replies == [f"value:{number}".encode() for number in numbers]


async def test_decoded_and_raw_replies_share_the_connection(valkey, async_connect):
    """DUMP asks for bytes whatever the client decodes; its neighbours in flight are not affected."""
    client = async_connect(valkey, decode_responses=True)
    await client.mset({f"key:{number}": f"wert:{number}:ä" for number in range(100)})
    calls, expected = [], []
    for number in random.Random(11).choices(range(100), k=3_000):
        if number % 3:
            calls.append(client.get(f"key:{number}"))
            expected.append(f"wert:{number}:ä")
        else:
            calls.append(client.dump(f"key:{number}"))
            expected.append(bytes)
    for reply, wanted in zip(await asyncio.gather(*calls), expected, strict=True):
        if wanted is bytes:
            assert type(reply) is bytes
        else:
            assert reply == wanted
    assert transport_of(client).connections_opened == 1


async def test_an_undecodable_reply_is_its_callers_error_alone(valkey, async_connect):
    client = async_connect(valkey, decode_responses=True)
    writer = async_connect(valkey)
    await writer.set("binary", b"\xff\xfe")
    await writer.hset("hash", mapping={"good": "text", "bad": b"\xff"})
    await client.ping()
    calls = [client.incr("counter") for _ in range(50)]
    calls.insert(10, client.get("binary"))
    calls.insert(30, client.hgetall("hash"))
    replies = await asyncio.gather(*calls, return_exceptions=True)
    failed = [replies.pop(30), replies.pop(10)]
    assert replies == list(range(1, 51))
    for failure in failed:
        assert isinstance(failure, UnicodeDecodeError)
        assert failure.outcome is Outcome.APPLIED
    assert transport_of(client).connections_opened == 1
    assert client.guard.state == "closed"


async def test_error_replies_go_to_their_callers(server, async_connect):
    client = async_connect(server)
    await client.rpush("list", "element")
    await client.set("text", "value")
    calls = []
    for _ in range(500):
        calls += [client.get("list"), client.get("text"), client.incr("text"), client.execute_command("NONSENSE")]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for wrong_type, value, not_a_number, unknown in zip(*(replies[n::4] for n in range(4)), strict=True):
        assert str(wrong_type).startswith(("WRONGTYPE", "Operation against"))
        assert wrong_type.outcome is Outcome.REJECTED
        assert value == b"value"
        assert "not an integer" in str(not_a_number)
        assert "unknown command" in str(unknown)
    assert transport_of(client).connections_opened == 1
    assert client.guard.state == "closed"


async def test_pushes_between_replies_belong_to_no_caller(async_connect):
    def answer(command, _connection):
        push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
        return push + bulk(command[-1]) + push

    with FakeServer(answer) as fake:
        client = async_connect(fake)
        keys = [f"key:{number}" for number in range(300)]
        assert await asyncio.gather(*(client.get(key) for key in keys)) == [key.encode() for key in keys]
        assert len(fake.connections) == 1


async def test_ten_thousand_at_once_share_two_connections(server, async_connect):
    client = async_connect(server, max_connections=2)
    await asyncio.gather(*(client.set(f"key:{number}", number) for number in range(10_000)))
    replies = await asyncio.gather(*(client.get(f"key:{number}") for number in range(10_000)))
    assert [int(reply) for reply in replies] == list(range(10_000))
    assert len(await client.client_list()) == 1


async def test_commands_in_flight_are_bounded(valkey, async_connect):
    """Commands that come one by one, each in a flush of its own, meet the same bound as a burst."""
    client = async_connect(valkey, socket_timeout=20)
    await client.ping()
    valkey.pause()
    calls = []
    for _ in range(MAX_IN_FLIGHT + 200):
        calls.append(asyncio.create_task(client.incr("counter")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transport_of(client).current.in_flight <= MAX_IN_FLIGHT
    assert transport_of(client).current.in_flight == MAX_IN_FLIGHT
    burst = [asyncio.create_task(client.incr("counter")) for _ in range(1_000)]
    await asyncio.sleep(0.01)
    assert transport_of(client).current.in_flight == MAX_IN_FLIGHT
    valkey.resume()
    replies = await asyncio.gather(*calls, *burst)
    assert replies == list(range(1, len(replies) + 1))
    assert transport_of(client).connections_opened == 1


async def test_waiters_are_served_in_the_order_they_came(async_connect):
    """Also past a caller who comes later and finds the connection open again."""
    gate = threading.Event()

    def answer(command, _connection):
        if command[0] == b"GET":
            gate.wait(20)
        return bulk(command[-1])

    with FakeServer(answer) as fake:
        client = async_connect(fake, socket_timeout=20)
        await client.ping()
        calls = [asyncio.create_task(client.get("filler")) for _ in range(MAX_IN_FLIGHT)]
        calls += [asyncio.create_task(client.echo(f"{number}")) for number in range(3_000)]
        await asyncio.sleep(0)
        assert len(transport_of(client)._admission.waiters) == 3_000
        gate.set()
        late = 3_000
        while late < 6_000:
            for _ in range(50):
                calls.append(asyncio.create_task(client.echo(f"{late}")))
                late += 1
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        arrived = [int(command[1]) for command in fake.received if command[0] == b"ECHO"]
        assert arrived == sorted(arrived)
        assert len(arrived) == 6_000


async def test_cancelled_waiters_pass_their_turn_on(async_connect):
    gate = threading.Event()

    def answer(command, _connection):
        if command[0] == b"GET":
            gate.wait(20)
        return bulk(command[-1])

    with FakeServer(answer) as fake:
        client = async_connect(fake, socket_timeout=20)
        await client.ping()
        fillers = [asyncio.create_task(client.get("filler")) for _ in range(MAX_IN_FLIGHT)]
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(client.echo(f"{number}")) for number in range(2_000)]
        await asyncio.sleep(0)
        choice = random.Random(8)
        for number in choice.sample(range(2_000), 700):
            waiting[number].cancel()
        gate.set()
        await asyncio.gather(*fillers)
        # Some are cancelled just after their turn has come.
        for call in choice.sample(waiting, 700):
            call.cancel()
        replies = await asyncio.gather(*waiting, return_exceptions=True)
        for number, reply in enumerate(replies):
            assert isinstance(reply, asyncio.CancelledError) or reply == f"{number}".encode()
        assert await client.echo("after") == b"after"
        assert transport_of(client).current.in_flight == 0
        assert len(fake.connections) == 1


async def test_a_waiter_waits_no_longer_than_its_timeout(valkey, async_connect):
    client = async_connect(valkey, socket_timeout=1.0, resilience=None)
    await client.ping()
    valkey.pause()
    started_s = time.monotonic()
    calls = [asyncio.create_task(client.incr("counter")) for _ in range(MAX_IN_FLIGHT + 100)]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    # Waiting, then the answer: each has socket_timeout. The rest is for a machine that is busy with something else.
    assert time.monotonic() - started_s < 2.0 + 10.0
    sent, waited = replies[:MAX_IN_FLIGHT], replies[MAX_IN_FLIGHT:]
    assert {(type(reply), reply.outcome) for reply in sent} == {(RedisTimeoutError, Outcome.UNKNOWN)}
    assert {(type(reply), reply.outcome) for reply in waited} == {(RedisTimeoutError, Outcome.NOT_SENT)}
    valkey.resume()
    observer = async_connect(valkey)
    async with asyncio.timeout(30):
        # The server works through what it had received before it was paused, between the calls of others.
        while int(await observer.get("counter") or 0) < MAX_IN_FLIGHT:
            pass
    assert int(await observer.get("counter")) == MAX_IN_FLIGHT


async def test_a_full_socket_closes_admission(valkey, async_connect):
    """What a server does not read is held back by its callers, not piled up in memory."""
    client = async_connect(valkey, socket_timeout=20)
    await client.ping()
    valkey.pause()
    value = b"x" * 100_000
    calls = [asyncio.create_task(client.set(f"key:{number}", value)) for number in range(400)]
    await asyncio.sleep(0.2)
    first_wave = transport_of(client).current.in_flight
    later = [asyncio.create_task(client.set(f"later:{number}", value)) for number in range(400)]
    await asyncio.sleep(0.2)
    assert transport_of(client).current.in_flight == first_wave
    valkey.resume()
    assert all(await asyncio.gather(*calls, *later))
    assert await client.dbsize() == 800
    assert transport_of(client).connections_opened == 1


@pytest.mark.parametrize("garbage", [b"GARBAGE\r\n", b"\x00\x01\x02", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$x\r\n"])
async def test_bytes_that_are_not_the_protocol_end_the_connection(garbage, async_connect):
    with FakeServer(lambda command, _: garbage if command[0] == b"INCRBY" else bulk(command[-1])) as fake:
        client = async_connect(fake, resilience=None, socket_timeout=5)
        await client.ping()
        replies = await asyncio.gather(*(client.incr("counter") for _ in range(5)), return_exceptions=True)
        for reply in replies:
            assert isinstance(reply, RedisUnavailableError)
            assert reply.outcome is Outcome.UNKNOWN
        assert await client.echo("again") == b"again"
        assert len(fake.connections) >= 2


async def test_a_surplus_reply_ends_the_connection(async_connect):
    with FakeServer(lambda command, _: bulk(command[-1]) + integer(7)) as fake:
        client = async_connect(fake, resilience=None, socket_timeout=5)
        for number in range(20):
            [reply] = await asyncio.gather(client.echo(f"{number}"), return_exceptions=True)
            assert isinstance(reply, RedisUnavailableError) or reply == f"{number}".encode()
        assert len(fake.connections) > 1


async def test_deadlines_hold_in_a_loop_that_is_always_late(async_connect):
    """Steps of 60 ms each, without a pause: the sweep is late every time, and sweeps all the same."""
    with FakeServer(lambda command, _: None if command[0] == b"GET" else bulk(command[-1])) as fake:
        client = async_connect(fake, socket_timeout=0.3, resilience=None)
        await client.ping()
        call = asyncio.create_task(client.get("key"))
        started_s = time.monotonic()
        while not call.done() and time.monotonic() - started_s < 5:
            block_the_loop(0.06)
            await asyncio.sleep(0)
        assert time.monotonic() - started_s < 0.3 + 1.0
        with pytest.raises(RedisTimeoutError):
            await call


async def test_a_loop_that_was_blocked_reads_before_it_gives_up(valkey, async_connect):
    """The answer has been in the kernel all the time: a caller who blocked the loop does not lose it."""
    client = async_connect(valkey, socket_timeout=0.3, resilience=None)
    await client.set("key", "value")
    for _ in range(5):
        call = asyncio.create_task(client.get("key"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        block_the_loop(0.5)
        assert await call == b"value"
    assert transport_of(client).connections_opened == 1


async def test_a_connection_keeps_no_callers_context_alive(valkey, async_connect):
    class Request:
        pass

    variable = contextvars.ContextVar("request")
    client = async_connect(valkey)

    async def handle():
        request = Request()
        variable.set(request)
        await asyncio.gather(*(client.set(f"key:{number}", "x" * 10_000) for number in range(100)))
        return weakref.ref(request)

    request = await asyncio.create_task(handle())
    await client.ping()
    gc.collect()
    assert request() is None


async def test_max_number_of_clients_is_an_error_with_an_outcome(async_connect):
    def refuse(_command, connection):
        connection.send(error("ERR max number of clients reached"))
        connection.close()

    with FakeServer(echo, handshake=refuse) as fake:
        client = async_connect(fake, resilience=None, socket_timeout=2)
        with pytest.raises(Exception, match="max number of clients") as caught:
            await client.get("key")
        assert caught.value.outcome in (Outcome.NOT_SENT, Outcome.REJECTED)
