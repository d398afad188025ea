"""Servers for the tests of the specification's clients: one for all that only need an answer, one of its own for faults."""

import sys

import pytest
import redis

from agent_memory.testing import EmbeddedServer


@pytest.fixture(scope="session")
def open_server():
    """A server on TCP without a password, as the specification's examples expect it."""
    with EmbeddedServer(transport="tcp", protected=False) as server:
        yield server


@pytest.fixture
def address(open_server):
    """Host and port of an empty server."""
    with redis.Redis(**open_server.connection_kwargs) as client:
        client.flushall()
    return {"host": open_server.connection_kwargs["host"], "port": open_server.connection_kwargs["port"]}


@pytest.fixture
def mortal_server(tmp_path):
    """A server that a test may kill; it keeps its data."""
    with EmbeddedServer(tmp_path / "data", transport="tcp") as server:
        yield server


@pytest.fixture(autouse=True)
def eager_threads(request):
    """Threads change places as often as they can in the generated tests: async code is atomic between awaits, they are not."""
    if not request.module.__name__.endswith(("_sync.test_storing", "_sync.test_guarding")):
        yield
        return
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
