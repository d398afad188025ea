"""KeyboardInterrupt in the middle of a call: the client stays usable, in step, and keeps its place under the bound."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from agent_memory.redis import Redis


@pytest.fixture
def interrupt_soon():
    """Raises KeyboardInterrupt in the main thread a little later, as often as it is called."""

    def raise_interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, raise_interrupt)
    timers = []

    def soon():
        timers.append(threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)))
        timers[-1].start()

    yield soon
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGUSR1, before)


def test_an_interrupted_call_costs_its_connection_and_no_place(start_server, interrupt_soon):
    server = start_server(transport="tcp")
    client = Redis(**server.connection_kwargs, max_connections=1, socket_timeout=10)
    for number in range(5):
        client.set("key", number)
        server.pause()
        interrupt_soon()
        with pytest.raises(KeyboardInterrupt):
            client.get("key")
        server.resume()
        # A reply to the interrupted GET must not be taken for the reply to this one, and the one place must be free.
        assert client.incr("counter") == number + 1
        assert client.get("key") == str(number).encode()
    assert client.guard.state == "closed"
    client.close()
