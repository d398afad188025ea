"""A signal whose handler returns puts no deadline off: whatever a sync call waits for, and whichever thread is struck."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time

import pytest
import servers

from agent_memory import ResilientRedisClient
from agent_memory.redis import Redis

TIMEOUT_S = 0.3
LONGEST_S = 2.0
"""Far more than the deadline of any call here, far less than the signals go on."""
SIGNALS_S = 10.0


@contextlib.contextmanager
def signals(*threads):
    """Strikes the threads (by default this one) again and again, far more often than any timeout."""
    targets = threads or (threading.get_ident(),)
    over = threading.Event()
    struck = []
    before = signal.signal(signal.SIGUSR1, lambda *_: struck.append(1))

    def strike():
        end = time.monotonic() + SIGNALS_S
        while not over.wait(0.01) and time.monotonic() < end:
            for target in targets:
                with contextlib.suppress(ProcessLookupError):
                    signal.pthread_kill(target, signal.SIGUSR1)

    striker = threading.Thread(target=strike)
    striker.start()
    try:
        yield
    finally:
        over.set()
        striker.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def silent():
    """Accepts and never reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        yield listener.getsockname()[1]


def took_s(function, *args):
    began = time.monotonic()
    with pytest.raises(Exception, match=r"(?i)time|answer"):
        function(*args)
    return time.monotonic() - began


def lock_step(client):
    with client.pipeline() as pipe:
        pipe.watch("key")


CALLS = {
    "get": lambda client: client.get("key"),
    "big set": lambda client: client.set("key", b"x" * 10_000_000),
    "pipeline": lambda client: client.pipeline().get("a").get("b").execute(),
    "big pipeline": lambda client: client.pipeline().set("a", b"x" * 10_000_000).get("b").execute(),
    "blpop": lambda client: client.blpop("list", timeout=0.1),
    "watch": lock_step,
    "subscribe": lambda client: client.pubsub().subscribe("channel"),
}


@pytest.fixture
def stopped(start_server):
    """A client with a connection whose server has stopped answering."""
    server = start_server(servers.REDIS)
    client = Redis(**server.connection_kwargs, socket_timeout=TIMEOUT_S, resilience=None)
    client.ping()
    client.pubsub().subscribe("warm")
    server.pause()
    yield client
    server.resume()
    client.close()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_on_an_open_connection_ends_in_time(stopped, name):
    with signals():
        assert took_s(CALLS[name], stopped) < LONGEST_S


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_has_to_connect_ends_in_time(silent, name):
    client = Redis(port=silent, socket_timeout=TIMEOUT_S, resilience=None)
    with signals():
        assert took_s(CALLS[name], client) < LONGEST_S


def test_a_call_with_retries_ends_in_time(silent):
    client = ResilientRedisClient("signals", port=silent, socket_timeout=TIMEOUT_S)
    with signals():
        assert took_s(client.get, "key") < LONGEST_S
    client.close()


def test_a_call_in_another_thread_ends_in_time(stopped):
    took = []
    go = threading.Event()

    def call():
        go.wait()
        took.append(took_s(stopped.get, "key"))

    thread = threading.Thread(target=call)
    thread.start()
    with signals(thread.ident):
        go.set()
        thread.join()
    assert took[0] < LONGEST_S


def test_a_wait_for_a_place_ends_in_time(start_server):
    server = start_server(servers.REDIS)
    client = Redis(**server.connection_kwargs, socket_timeout=TIMEOUT_S, max_connections=1, resilience=None)
    holder = threading.Thread(target=client.blpop, args=("list",), kwargs={"timeout": 0})
    holder.start()
    while not client.transport_here()._open:
        time.sleep(0.001)
    try:
        with signals():
            began = time.monotonic()
            with pytest.raises(Exception, match="busy"):
                client.get("key")
            assert time.monotonic() - began < LONGEST_S
    finally:
        with Redis(**server.connection_kwargs) as other:
            other.lpush("list", "value")
        holder.join()


def test_a_tls_call_ends_in_time(tls_server):
    client = Redis(**tls_server.connection_kwargs, socket_timeout=TIMEOUT_S, resilience=None)
    client.ping()
    tls_server.pause()
    try:
        with signals():
            assert took_s(client.get, "key") < LONGEST_S
    finally:
        tls_server.resume()


def test_a_reply_that_comes_between_signals_is_read(start_server):
    server = start_server(servers.REDIS)
    client = Redis(**server.connection_kwargs, socket_timeout=5)
    with Redis(**server.connection_kwargs) as other, signals():
        timer = threading.Timer(0.2, other.lpush, ("list", b"x" * 1_000_000))
        timer.start()
        assert client.blpop("list", timeout=5)[1] == b"x" * 1_000_000
        timer.join()
        # The timeout of later calls is what it was.
        assert client.transport_here().idle[-1].timeout_s == 5


def test_what_the_handler_raises_reaches_the_caller(stopped):
    class Interruption(Exception):
        pass

    def interrupt(*_):
        raise Interruption

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(Interruption):
            stopped.get("key")
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
