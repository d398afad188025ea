"""An outage as events and log records: one for each change, with the client, the endpoint and the cause, without values."""

import logging

import pytest

from agent_memory._concurrency import async_sleep
from agent_memory.errors import CircuitOpenError, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import BreakerSettings, Priority, RetryPolicy, subscribe
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.storage.async_redis_client import AsyncResilientRedisClient

FAST = ResiliencePolicy(breaker=BreakerSettings(2), retry=RetryPolicy(max_retries=0))
SECRET = "a value that belongs to a user"


@pytest.fixture
def events():
    found = []
    stop = subscribe(found.append)
    yield found
    stop()


async def until(client, state):
    for _ in range(500):
        if client.guard.state == state:
            return
        try:
            await client.set("key", SECRET)
        except (RedisUnavailableError, RedisTimeoutError, CircuitOpenError):
            await async_sleep(0.02)
    raise AssertionError(f"the circuit never was {state}")


def states(events, source):
    return [event.new for event in events if event.source == source]


@pytest.mark.parametrize(("outage", "cause"), [("stalled", {"timeout"}), ("killed", {"reset", "refused"})])
async def test_an_outage_of_a_drop_in(outage, cause, start_server, async_connect, events, caplog, tmp_path):
    caplog.set_level(logging.DEBUG, "agent_memory")
    server = start_server(path=tmp_path, transport="tcp")
    client = async_connect(server, socket_timeout=0.3, resilience=FAST, client_name="sessions")
    await client.set("key", SECRET)
    assert not events
    if outage == "stalled":
        server.pause()
    else:
        server.kill()
    await until(client, "open")
    if outage == "stalled":
        server.resume()
    else:
        server.start()
    await until(client, "closed")

    assert states(events, "circuit")[0] == "open"
    assert states(events, "circuit")[-1] == "closed"
    assert states(events, "connection")[0] == "lost"
    assert states(events, "connection")[-1] == "connected"
    opened = next(event for event in events if event.source == "circuit")
    assert opened.name == "sessions"
    assert opened.endpoint == client.endpoint
    assert opened.cause in cause
    closed = [event for event in events if event.source == "circuit"][-1]
    assert closed.figures["open_s"] >= 0
    ours = [record for record in caplog.records if hasattr(record, "event")]
    assert [record.event for record in ours] == [f"{event.source}.{event.new}" for event in events]
    assert not any(SECRET in str(vars(record)) for record in caplog.records)


async def test_a_queue_that_fills_and_drains(start_server, events):
    server = start_server(transport="tcp")
    arguments = {**server.connection_kwargs, "socket_timeout": 0.3}
    client = AsyncResilientRedisClient("writer", **arguments, circuit_threshold=1, retry_policy=RetryPolicy(0))
    await client.init()
    server.pause()
    for number in range(3):
        assert (await client.with_priority(Priority.HIGH).set(f"key{number}", SECRET)).status == "queued"
    server.resume()
    assert await client.recovery.flush(10)
    await client.close()
    assert states(events, "queue") == ["waiting", "empty"]
    emptied = [event for event in events if event.source == "queue"][-1]
    assert emptied.name == "writer"
    assert emptied.figures["stored"] == 3
    assert emptied.figures["given_up"] == 0


async def test_a_client_that_is_closed_has_lost_nothing(start_server, async_connect, events):
    server = start_server(transport="tcp")
    client = async_connect(server)
    await client.ping()
    await client.aclose()
    await async_sleep(0.05)
    assert not events
