"""
Fixtures shared by all tests: real servers, and proxies in front of them.

Every server listens on loopback or a unix socket, at a free port, with a random password, and is stopped by the fixture
that started it.
"""

from __future__ import annotations

import contextlib

import hypothesis
import pytest
import pytest_asyncio
import redis
import servers
from redis.backoff import NoBackoff
from redis.retry import Retry

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory.policy import event_listeners
from agent_memory.testing import EmbeddedServer, FaultProxy

# How long one example takes says more about the machine than about the code.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def fresh_event_log():
    """The rate of log records is bounded for the process: each test has the whole of it."""
    event_listeners._log._start_afresh()


class SharedServers:
    """Servers that live as long as the session, each started when first asked for."""

    def __init__(self):
        self._servers = {}

    def get_clean(self, kind, **options):
        """Return a server without data that runs, whatever the test before has done to it."""
        key = (kind, *sorted(options))
        server = self._servers.get(key)
        if server is None:
            server = self._servers[key] = EmbeddedServer(
                binary=servers.require_server(kind), transport="tcp", **options
            )
            return server.start()
        if server.paused or not server.alive:
            server.kill()
            return server.start()
        with redis.Redis(**server.connection_kwargs, retry=Retry(NoBackoff(), 0)) as client:
            client.flushall()
            client.script_flush()
        return server

    def close(self):
        for server in self._servers.values():
            server.close()


@pytest.fixture(scope="session")
def shared_servers():
    with contextlib.closing(SharedServers()) as shared:
        yield shared


@pytest.fixture(scope="session")
def postgres_server():
    """The session's PostgreSQL server. A test that kills it starts it again; each test uses a schema of its own."""
    from postgres_server import PostgresServer

    with contextlib.closing(PostgresServer()) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server):
    """Where the PostgreSQL server is."""
    return postgres_server.url


@pytest.fixture(params=servers.KINDS)
def server_kind(request):
    """Each kind of server in turn: the test runs once for each; for start_server(server_kind)."""
    servers.require_server(request.param)
    return request.param


@pytest.fixture
def server(server_kind, shared_servers):
    """Each kind of server in turn, empty, over TCP. For tests that leave it running and its configuration alone."""
    return shared_servers.get_clean(server_kind)


@pytest.fixture
def valkey(shared_servers):
    """Valkey alone, otherwise like `server`: for tests that have nothing to learn from the other kinds."""
    return shared_servers.get_clean(servers.VALKEY)


@pytest.fixture
def tls_server(shared_servers):
    """A server that speaks TLS only, otherwise like `server`."""
    return shared_servers.get_clean(servers.REDIS, tls=True)


@pytest.fixture
def start_server():
    """A factory of servers of the test's own, to be killed and stalled: start_server(kind, **EmbeddedServer's options)."""
    with contextlib.ExitStack() as started:

        def start(kind=servers.VALKEY, **options):
            return started.enter_context(EmbeddedServer(binary=servers.require_server(kind), **options))

        yield start


@pytest.fixture
def proxy():
    """A factory of proxies: proxy(upstream), started, in front of a server, (host, port) or a socket's path."""
    with contextlib.ExitStack() as started:

        def start(upstream, **options):
            return started.enter_context(FaultProxy(upstream, **options))

        yield start


@pytest.fixture
def connect():
    """A factory of our clients: connect(where, **options) with anything that has `connection_kwargs`."""
    with contextlib.ExitStack() as opened:

        def open_client(where, **options):
            client = agent_memory.redis.Redis(**where.connection_kwargs | options)
            opened.callback(client.close)
            return client

        yield open_client


@pytest_asyncio.fixture
async def async_connect():
    """The same for asyncio."""
    async with contextlib.AsyncExitStack() as opened:

        def open_client(where, **options):
            client = agent_memory.redis.asyncio.Redis(**where.connection_kwargs | options)
            opened.push_async_callback(client.aclose)
            return client

        yield open_client
