"""Ctrl-C in the thread that commits for others: they are committed all the same, its own connection and place come back."""

from __future__ import annotations

import signal
import threading

import psycopg
import pytest
from store_samples import put

from agent_memory.memory import PostgresSettings
from agent_memory.memory.stores import WriteStatus
from agent_memory.memory.stores.postgres import PostgresStore

SCHEMA = "interrupts"


class Interruption(BaseException):
    pass


def wait_until(is_so):
    for _ in range(2000):
        if is_so():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not come to that in 10 s")


@pytest.fixture
def connect(postgres_url):
    connections = []

    def make():
        connections.append(psycopg.connect(postgres_url))
        return connections[-1]

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    yield make
    for connection in connections:
        connection.close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


@pytest.fixture
def on_signal():
    def interrupt(*_):
        raise Interruption

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("max_connections", [2, 4])
def test_the_writes_that_travelled_with_an_interrupted_thread_are_committed(
    postgres_url, connect, on_signal, max_connections
):
    store = PostgresStore(postgres_url, config=PostgresSettings(schema=SCHEMA, max_connections=max_connections))
    store.open()
    store.write([put(agent_id=name) for name in "abc"])
    group, ended = store._group, {}

    def lock(agent):
        connection = connect()
        connection.execute(f"SELECT * FROM {SCHEMA}.agents WHERE agent_id = %s FOR UPDATE", [agent])
        return connection

    def writes(agent):
        def write():
            ended[agent] = store.write([put(agent_id=agent)])[0].status

        thread = threading.Thread(target=write)
        thread.start()
        return thread

    watcher = connect()
    watcher.autocommit = True

    def waits_for_a_lock():
        found = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return watcher.execute(found).fetchone()[0] == 1

    first, second = lock("a"), lock("b")
    threads = [writes("a")]
    wait_until(waits_for_a_lock)

    def strike():
        wait_until(lambda: len(group._waiting) == 2)  # the first, and this thread
        threads.append(writes("c"))
        wait_until(lambda: len(group._waiting) == 3)
        first.rollback()
        wait_until(lambda: "a" in ended and waits_for_a_lock())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    striker = threading.Thread(target=strike)
    striker.start()
    with pytest.raises(Interruption):
        store.write([put(agent_id="b")])
    striker.join()
    second.rollback()
    for thread in threads:
        thread.join(10)
    assert ended == {"a": WriteStatus.APPLIED, "c": WriteStatus.APPLIED}
    assert group.pending == 0
    assert store.write([put(agent_id="b")])[0].status is WriteStatus.APPLIED
    store.close()
