"""The second connection of an event loop: which commands take it while the shared one is busy, and when it closes."""

import asyncio
import time

import pytest
import redis
from slow_link import LARGE_VALUE, MIB, FakeAddress, slow_reader, touchy

from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import RetryPolicy
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.redis.exactly_once import ExactlyOnce
from agent_memory.redis.transport.multiplexed import second as second_module

SLOW = 2 * MIB  # bytes a second: the large value takes three


def transport_of(client):
    return client.transport_here()


async def until(condition, timeout_s=10):
    """Wait for something that is going to be so."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.001)


@pytest.fixture
def busy(valkey, proxy, async_connect):
    """busy(): a client whose shared connection carries a large reply, and the task that waits for it."""
    relay = proxy(valkey)

    async def start(*before, **options):
        client = async_connect(relay, socket_timeout=1.0, **{"resilience": touchy(deadline=20)} | options)
        await client.set("large", LARGE_VALUE)
        relay.down.bandwidth_bytes_per_s = SLOW
        large = asyncio.create_task(client.get("large"))
        await asyncio.sleep(0)
        stuck = [asyncio.create_task(client.execute_command(*words.split())) for words in before]
        await until(lambda: transport_of(client).current.busy and transport_of(client).current.executed_upto)
        client.relay = relay
        return client, large, stuck

    return start


async def test_other_callers_are_answered_while_a_large_reply_arrives(busy):
    client, large, _ = await busy()
    transport = transport_of(client)
    first = transport.current
    for number in range(20):
        assert await client.incr("counter") == number + 1
        assert await client.get("small") is None
    assert not large.done()
    assert transport.second.connection is not None
    client.relay.heal()
    assert await large == LARGE_VALUE
    assert transport.current is first
    assert transport.connections_opened == 1
    assert client.guard.state == "closed"


async def test_a_ping_a_question_to_the_keyspace_and_a_message_are_answered_too(busy):
    client, large, _ = await busy()
    assert await client.ping()
    assert await client.dbsize() == 1
    assert await client.publish("channel", "message") == 0
    assert await client.eval("return 5", 0) == 5
    assert not large.done()


@pytest.mark.parametrize(
    ("stuck", "candidate", "passes"),
    [
        ("SET key 1", "SET key 2", False),
        ("SET key 1", "GET key", False),
        ("GET key", "SET key 2", False),
        ("SET key 1", "MSET other 1 key 2", False),
        ("SET key 1", "DEL large", False),  # asked for by the reply that arrives
        ("EVAL return 0", "SET key 1", False),
        ("SET key 1", "FLUSHDB", False),
        ("SET key 1", "DBSIZE", False),
        ("GET key", "GET key", True),
        ("SET key 1", "SET other 1", True),
        ("SET key 1", "PING", True),
        ("DBSIZE", "GET key", True),
    ],
)
async def test_which_commands_may_pass_those_behind_the_large_reply(busy, stuck, candidate, passes):
    words = stuck.split() if not stuck.startswith("EVAL") else ["EVAL", "return 0", "0"]
    client, large, _ = await busy()
    transport = transport_of(client)
    blocked = asyncio.create_task(client.execute_command(*words))
    # The first command takes the second connection: put this one behind the large reply, as if it had come earlier.
    transport.second._is_better = lambda second, first: False
    await asyncio.sleep(0)
    await until(lambda: transport.current.in_flight == 2)
    del transport.second._is_better
    candidate_task = asyncio.create_task(client.execute_command(*candidate.split()))
    done, _ = await asyncio.wait([candidate_task], timeout=0.3)
    assert bool(done) is passes
    assert not large.done()
    assert not blocked.done()
    client.relay.heal()
    await asyncio.wait_for(asyncio.gather(large, blocked, candidate_task), 10)
    assert client.guard.state == "closed"


async def test_a_question_to_the_keyspace_that_waits_is_passed_by_others(busy):
    client, large, _ = await busy()
    transport = transport_of(client)
    transport.second._is_better = lambda second, first: False
    blocked = asyncio.create_task(client.set("key", 1))
    await until(lambda: transport.current.in_flight == 2)
    del transport.second._is_better
    question = asyncio.create_task(client.dbsize())
    await asyncio.sleep(0)
    assert await client.set("other", 1)
    assert not question.done()
    client.relay.heal()
    assert await question >= 2
    assert await blocked
    await large


async def test_writes_of_one_key_stay_in_order_across_both_connections(busy, valkey):
    """What is on the second connection is not overtaken when the first is free again."""
    client, large, _ = await busy()
    writes = []
    for number in range(400):
        writes.append(asyncio.create_task(client.append("log", f"{number},")))
        writes.append(asyncio.create_task(client.set(f"other{number % 7}", number)))
        if number == 200:
            client.relay.heal()
        await asyncio.sleep(0.001)
    await asyncio.gather(large, *writes)
    assert (await client.get("log")).decode() == "".join(f"{number}," for number in range(400))


async def test_the_second_connection_closes_when_it_is_idle(busy, valkey, monkeypatch):
    monkeypatch.setattr(second_module, "IDLE_S", 0.05)
    client, large, _ = await busy()
    await client.ping()
    client.relay.heal()
    await large
    transport = transport_of(client)
    await until(lambda: transport.second.connection is None)
    await until(lambda: len(transport._opener.open_connections) == 1)
    assert transport._leases.places._value == transport._leases.max_places
    assert not transport.second.active
    assert transport.current.accepting
    assert await client.ping()


async def test_the_next_large_reply_finds_it_open(busy):
    client, large, _ = await busy()
    await client.ping()
    kept = transport_of(client).second.connection
    client.relay.heal()
    await large
    assert await client.ping()
    client.relay.down.bandwidth_bytes_per_s = SLOW
    large = asyncio.create_task(client.get("large"))
    await until(lambda: transport_of(client).current.busy)
    assert await client.incr("counter") == 1
    assert transport_of(client).second.connection is kept
    client.relay.heal()
    await large


async def test_a_large_reply_on_the_second_one_leaves_the_first_to_others(busy):
    client, large, _ = await busy()
    await client.ping()
    client.relay.down.bandwidth_bytes_per_s = 8 * SLOW
    await client.set("large too", LARGE_VALUE)
    await large
    client.relay.down.bandwidth_bytes_per_s = SLOW
    large = asyncio.create_task(client.get("large"))
    await until(lambda: transport_of(client).current.busy)
    too = asyncio.create_task(client.get("large too"))
    await until(lambda: transport_of(client).second.connection.in_flight == 1)
    client.relay.heal()
    assert await asyncio.gather(large, too) == [LARGE_VALUE, LARGE_VALUE]
    assert await client.incr("counter") == 1


async def test_windows_of_a_pipeline_stay_in_order(busy):
    client, large, _ = await busy()
    await client.ping()
    pipeline = client.pipeline(transaction=False)
    for number in range(2_500):
        pipeline.append("log", f"{number},").get(f"key{number}")
    replies = asyncio.create_task(pipeline.execute())
    await asyncio.sleep(0.02)
    client.relay.heal()
    assert len(await replies) == 5_000
    assert (await client.get("log")).decode() == "".join(f"{number}," for number in range(2_500))
    await large


async def test_the_shared_connection_lost_in_the_middle_is_replaced_by_the_second(busy):
    client, large, _ = await busy(resilience=None)
    assert await client.incr("counter") == 1
    transport = transport_of(client)
    kept = transport.second.connection
    transport.current.fail(RedisUnavailableError("lost"))
    with pytest.raises(redis.ConnectionError) as caught:
        await large
    assert caught.value.outcome is Outcome.UNKNOWN
    assert transport.current is kept
    assert not transport.second.active
    assert await client.incr("counter") == 2
    assert transport._leases.places._value == transport._leases.max_places


async def test_the_second_connection_lost_in_the_middle_takes_only_its_own_with_it(busy):
    client, large, _ = await busy(resilience=None)
    await client.ping()
    transport = transport_of(client)
    client.relay.pause()
    lost = asyncio.create_task(client.incr("counter"))
    await until(lambda: transport.second.connection.in_flight == 1)
    transport.second.connection.fail(RedisUnavailableError("lost"))
    client.relay.heal()
    client.relay.resume()
    with pytest.raises(redis.ConnectionError):
        await lost
    assert await large == LARGE_VALUE
    assert await client.ping()
    assert transport._leases.places._value == transport._leases.max_places


@pytest.mark.parametrize("level", ["marker", "offset", "gate"])
async def test_exactly_once_names_the_connection_that_carried_the_write(busy, level):
    calm = ResiliencePolicy(retry=RetryPolicy(0, deadline_s=20))
    client, large, _ = await busy(exactly_once=ExactlyOnce(level), resilience=calm)
    transport = transport_of(client)
    for number in range(5):
        assert await client.incr("counter") == number + 1
    first, second = transport.current, transport.second.connection
    lost = client.relay.drop_replies(1, command=["INCRBY", "EXEC", "EVALSHA", "EVAL"])
    with pytest.raises(RedisTimeoutError) as caught:
        await client.incr("counter")
    assert lost.dropped == 1
    stream = caught.value.ticket.stream
    assert stream is not first.stream
    assert caught.value.outcome in (Outcome.APPLIED, Outcome.UNKNOWN)
    client.relay.heal()
    await large
    assert await client.resolve(caught.value, 10) is Outcome.APPLIED
    assert await client.incr("counter") == 7
    assert second.closed


async def test_without_a_place_commands_go_behind_the_large_reply(valkey, proxy, async_connect):
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=2.0, resilience=touchy(deadline=20), max_connections=2)
    await client.set("large", LARGE_VALUE)
    leased = asyncio.create_task(client.blpop("list", 20))
    await until(transport_of(client)._leases.places.locked)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    large = asyncio.create_task(client.get("large"))
    await asyncio.sleep(0.2)
    started_s = time.monotonic()
    assert await client.incr("counter") == 1
    assert time.monotonic() - started_s > 0.5
    assert await large == LARGE_VALUE
    assert client.guard.state == "closed"
    await client.rpush("list", "element")
    await leased


async def test_a_blocking_command_gets_the_place_of_an_idle_second_connection(valkey, proxy, async_connect):
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=2.0, resilience=touchy(deadline=20), max_connections=2)
    await client.set("large", LARGE_VALUE)
    relay.down.bandwidth_bytes_per_s = 4 * MIB
    large = asyncio.create_task(client.get("large"))
    await until(lambda: transport_of(client).second.connection is not None)
    relay.heal()
    await large
    assert await client.blpop("list", 0.01) is None
    assert transport_of(client).second.connection is None


async def test_a_large_command_that_leaves_slowly_holds_up_its_own_key_only(async_connect):
    with slow_reader(bytes_per_s=2 * MIB) as port:
        client = async_connect(FakeAddress(port), socket_timeout=1.0, resilience=touchy(deadline=30))
        large = asyncio.create_task(client.set("k", LARGE_VALUE))
        await until(lambda: transport_of(client).current is not None and transport_of(client).current.busy)
        assert await client.get("other") == b"OK"
        behind = asyncio.create_task(client.get("k"))
        assert await client.get("other") == b"OK"
        assert not large.done()
        assert not behind.done()
        assert await large is True
        behind.cancel()
        assert client.guard.state == "closed"


async def test_a_burst_of_small_commands_that_leaves_slowly_stays_on_one_connection(valkey, proxy, async_connect):
    relay = proxy(valkey)
    client = async_connect(relay, socket_timeout=1.0, resilience=touchy(deadline=30))
    await client.ping()
    relay.up.bandwidth_bytes_per_s = 4 * MIB
    burst = asyncio.gather(*(client.set(f"key:{number}", "x" * 1_000) for number in range(8_000)))
    connection = transport_of(client).current
    await until(lambda: connection.last_moved_s > connection.last_read_s)  # the write has been seen to leave slowly
    assert not connection.busy
    await burst
    assert transport_of(client).second.connection is None
    assert len(await client.client_list()) == 1


async def test_closing_ends_both(busy):
    client, large, _ = await busy(resilience=None)
    await client.ping()
    transport = transport_of(client)
    await client.aclose()
    with pytest.raises(redis.ConnectionError):
        await large
    assert not transport._opener.open_connections
    assert transport.second.connection is None
