"""Servers and journals of the tests' own."""

import sys

import pytest

from agent_memory.testing import EmbeddedServer


@pytest.fixture
def mortal_server(tmp_path):
    """A server that a test may kill; it keeps its data."""
    with EmbeddedServer(tmp_path / "data", transport="tcp") as server:
        yield server


@pytest.fixture
def journal(tmp_path):
    """The directory of a journal."""
    return tmp_path / "journal"


@pytest.fixture(autouse=True)
def eager_threads(request):
    """Threads change places as often as they can in the generated tests: async code is atomic between awaits, they are not."""
    if "async" in request.module.__name__:
        yield
        return
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)
