"""Interruptions at every place of queued and of resolved writes: nothing stays leased, what was accepted is written, once."""

from __future__ import annotations

import pytest
import servers
from interrupts import places, strike, within

from agent_memory import Priority, RecoveryConfig, ResilientRedisClient, RetryPolicy
from agent_memory.redis import Redis

WAIT_S = 20.0
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def server(shared_servers):
    return shared_servers.get_clean(servers.REDIS)


@pytest.mark.parametrize("path", [False, True])
def test_an_interrupted_queued_write_is_queued_or_not(server, tmp_path, path):
    config = RecoveryConfig(path=tmp_path / "journal" if path else None, base_delay=0.01, close_timeout_s=WAIT_S)
    client = ResilientRedisClient(
        "interrupted", **server.connection_kwargs, recovery=config, retry_policy=RetryPolicy(max_retries=0)
    )
    with client:
        for number, at in enumerate(places(23)):
            accepted = []
            client.recovery.pause()
            client.guard.force_open()

            def write(number=number, accepted=accepted):
                accepted.append(client.with_priority(Priority.HIGH).set(f"key {number}", "value").status)

            striker = strike(write, at)
            with striker.told():
                client.guard.reset()
                client.recovery.resume()
                assert within(WAIT_S, client.recovery.flush, WAIT_S)
                assert client._engine.queue.core.stats()["leased"] == 0
                assert within(WAIT_S, client.get, f"key {number}") == "value" or accepted != ["queued"]
                assert not client.recovery.dead_letters()
            if striker.place is None:
                assert accepted == ["queued"]
                break


def test_an_interrupted_resolved_write_is_executed_once_or_not_at_all(server):
    client = Redis(**server.connection_kwargs, exactly_once=True, max_connections=2, socket_timeout=5)
    value = 0
    for at in places(23):
        striker = strike(lambda: client.incr("counter"), at)
        with striker.told():
            # What was interrupted is fenced: it is not executed after this.
            now = int(within(WAIT_S, client.incr, "counter")) - 1
            assert now in (value, value + 1)
            value = now + 1
            once = client.transport_here().once
            assert once._fencer is None
            assert not once.unfenced
            assert once._idle is None
            assert not once._parking.locked()
        if striker.place is None:
            break
    client.close()
