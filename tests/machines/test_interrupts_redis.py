"""Interruptions at every place of a call of the sync client: places, locks and the stream are as if it had not been made."""

from __future__ import annotations

import gc

import pytest
import redis
import servers
from interrupts import places, strike, within

from agent_memory.redis import Redis


def pipeline(client):
    client.pipeline().set("a", 1).incrbyfloat("b", 0.5).execute()


def watch(client):
    with client.pipeline() as pipe:
        pipe.watch("a")
        pipe.multi()
        pipe.set("a", 2)
        pipe.execute()


def connect_anew(client):
    client.transport_here().close()
    client.get("key")


def stale(client):
    for channel in list(client.transport_here().idle):
        channel.last_used_ns = 0
        channel.sock.shutdown(2)
    client.get("key")


def fail(client):
    """The connection breaks in the middle of the call."""
    for channel in list(client.transport_here().idle):
        channel.sock.shutdown(0)
    try:
        client.get("key")
    except ConnectionError:
        pass


CALLS = {
    "get": lambda client: client.get("key"),
    "connect": connect_anew,
    "stale": stale,
    "fail": fail,
    "pipeline": pipeline,
    "blpop": lambda client: client.blpop("list", timeout=0.001),
    "watch": watch,
}


@pytest.fixture
def server(shared_servers):
    return shared_servers.get_clean(servers.REDIS)


def server_connections(server):
    with redis.Redis(**server.connection_kwargs) as other:
        return other.client_list()


def check(client, number):
    """What holds between calls, whatever became of the one before."""
    transport = client.transport_here()
    taken = len(transport._open) + len(transport._connecting) - len(transport.idle)
    assert taken == 0, "places are taken though no call is under way"
    assert not transport._lock.locked()
    assert not transport._waiting
    client.guard.reset()  # calls that fail are a part of it
    assert within(20, client.echo, f"in step {number}") == f"in step {number}".encode()


# A channel dropped between two steps is closed when it is freed.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_leaves_nothing_taken(server, name):
    client = Redis(**server.connection_kwargs, max_connections=1, socket_timeout=5)
    client.set("key", "value")
    call = CALLS[name]
    gc.collect()
    gc.disable()
    try:
        for at in places(7):
            striker = strike(lambda: call(client), at)
            with striker.told():
                check(client, at)
            if striker.place is None:
                break
        # And no connection waits for the garbage collector.
        assert len(server_connections(server)) <= 3
    finally:
        gc.enable()
        client.close()


def test_a_connection_that_could_not_be_made_takes_no_place(server, monkeypatch):
    """redis-py's pool counts a connection before it makes it."""
    made = []

    class Interrupted(redis.Connection):
        def __init__(self, **kwargs):
            made.append(self)
            if len(made) <= 2:
                raise KeyboardInterrupt if len(made) == 1 else ValueError("not this time")
            super().__init__(**kwargs)

    with Redis(**server.connection_kwargs, max_connections=1) as client:
        monkeypatch.setattr(client.connection_pool, "connection_class", Interrupted)
        for error in (KeyboardInterrupt, ValueError):
            with pytest.raises(error):
                watch(client)
        watch(client)
        assert client.get("a") == b"2"
