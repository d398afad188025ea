# Generated from ../_async/test_wait.py by tools/generate_sync.py: edit that file, not this one.

"""WAIT and WAITAOF cover the caller's writes, on every connection, and delay no other command."""

import time

import pytest
import redis
import servers

from agent_memory._concurrency import gather, sleep, spawn
from agent_memory.errors import Outcome
from agent_memory.testing import EmbeddedServer

LONG_MS = 20_000


@pytest.fixture(scope="module", params=servers.KINDS)
def started(request):
    """A primary with an append-only file, and its replica, in step."""
    binary = servers.require_server(request.param)
    settings = {"repl-diskless-sync-delay": 0, "appendonly": True, "appendfsync": "everysec"}
    options = {"binary": binary, "transport": "tcp", "protected": False}
    with (
        EmbeddedServer(**options, config=settings, users={"mute": "~* +@all resetchannels"}) as primary,
        EmbeddedServer(**options, config={"replicaof": f"127.0.0.1 {primary.port}"}) as replica,
    ):
        with redis.Redis(**replica.connection_kwargs) as client:
            deadline_s = time.monotonic() + 60
            while client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
        yield primary, replica


@pytest.fixture
def pair(started):
    """The same, the replica running before and after."""
    yield started
    if started[1].paused:
        started[1].resume()


def test_wait_speaks_of_the_callers_writes(pair, connect):
    primary, replica = pair
    client = connect(primary)
    client.set("key", 1)
    assert client.wait(1, LONG_MS) == 1
    replica.pause()
    # A connection that exists and has not written would answer 1 here: its own writes, none, are with the replica.
    client.set("key", 2)
    assert client.wait(1, 100) == 0
    assert client.wait(1, 100) == 0
    replica.resume()
    assert client.wait(1, LONG_MS) == 1


def test_wait_delays_no_other_command(pair, connect):
    primary, replica = pair
    client = connect(primary)
    client.set("key", 1)
    replica.pause()
    client.set("key", 2)
    task = spawn(client.wait, 1, LONG_MS)
    for number in range(50):
        client.set("other", number)
        sleep(0.002)
    assert not task.is_done()
    replica.resume()
    assert gather(task) == [1]


def test_wait_in_a_pipeline_is_about_the_pipeline(pair, connect):
    primary, replica = pair
    client = connect(primary)
    replica.pause()
    pipeline = client.pipeline(transaction=False)
    pipeline.set("key", 1)
    pipeline.wait(1, 100)
    assert pipeline.execute() == [True, 0]
    replica.resume()


def test_without_permission_it_says_so_instead_of_guessing(pair, connect):
    primary, _ = pair
    client = connect(primary, **primary.connection_kwargs_for("mute"))
    client.set("key", 1)
    with pytest.raises(redis.exceptions.NoPermissionError) as caught:
        client.wait(1, 100)
    assert caught.value.outcome is Outcome.REJECTED
    assert client.get("key") == b"1"


def test_waitaof(pair, connect):
    if pair[0].product != "valkey":
        return  # Redis has it from 7.2 on
    client = connect(pair[0])
    client.set("key", 1)
    assert client.waitaof(1, 0, LONG_MS)[0] == 1
