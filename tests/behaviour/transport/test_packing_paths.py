"""No word of a command reaches hiredis' packer, which ends the process where a signal handler raises inside it."""

from __future__ import annotations

import enum
import signal

import hiredis
import pytest
import redis
import servers

from agent_memory.redis import Redis


class Slot(enum.IntEnum):
    SEVEN = 7


@pytest.fixture
def packed_by_hiredis(monkeypatch):
    """The commands that hiredis was asked to pack."""
    pack, commands = hiredis.pack_command, []

    def record(words):
        commands.append(words)
        return pack(words)

    monkeypatch.setattr(hiredis, "pack_command", record)
    return commands


def use(client):
    """Every way that a command takes: the pool's own connections, and the leased ones that stay redis-py's."""
    client.zadd("scores", {"a": 1.5, "b": 2})
    with client.pipeline() as pipe:
        pipe.watch("scores")
        pipe.multi()
        pipe.incrbyfloat("number", 0.5)
        pipe.execute()
    with client.pubsub() as subscriber:
        subscriber.subscribe("channel")
        assert subscriber.get_message(timeout=5)["type"] == "subscribe"
        subscriber.ping(7)
    with client.client() as single:
        single.incrbyfloat("number", 0.25)
    assert client.zscore("scores", "a") == 1.5


def test_the_clients_own_connections(start_server, packed_by_hiredis):
    server = start_server(servers.REDIS)
    client = Redis(**server.connection_kwargs, db=3, health_check_interval=1)
    use(client)
    assert packed_by_hiredis == []
    client.close()


@pytest.mark.parametrize("pool_class", [redis.ConnectionPool, redis.BlockingConnectionPool])
def test_the_connections_of_a_pool_that_was_given(start_server, packed_by_hiredis, pool_class):
    server = start_server(servers.REDIS, transport="tcp")
    pool = pool_class(**server.connection_kwargs, db=3)
    client = Redis(connection_pool=pool)
    use(client)
    Redis(connection_pool=pool).ping()
    assert packed_by_hiredis == []
    pool.disconnect()


def test_words_are_taken_and_refused_as_by_redis_py(start_server):
    server = start_server(servers.REDIS)
    with Redis(**server.connection_kwargs) as client, client.client() as single:
        for word, text in [(Slot.SEVEN, b"7"), (1.5, b"1.5"), (bytearray(b"x"), b"x")]:
            assert single.execute_command("ECHO", word) == text
        for word in (object(), True, None):
            with pytest.raises(redis.DataError, match="ECHO"):
                single.execute_command("ECHO", word)


def test_a_handler_that_raises_while_a_number_is_packed_reaches_the_caller(start_server):
    server = start_server(servers.REDIS)

    class Interruption(Exception):
        pass

    class Number(int):
        def __str__(self):
            signal.raise_signal(signal.SIGUSR1)
            return super().__str__()

    def interrupt(*_):
        raise Interruption

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with Redis(**server.connection_kwargs) as client, client.client() as single:
            with pytest.raises(Interruption):
                single.execute_command("ECHO", Number(7))
            assert single.ping()
    finally:
        signal.signal(signal.SIGUSR1, before)
