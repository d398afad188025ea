"""Clusters of three primaries and three replicas, one of each kind for the session, and clients of ours."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import pytest_asyncio
import servers

import agent_memory.redis
import agent_memory.redis.asyncio
from agent_memory.embedded.workspace import PortReservation
from agent_memory.testing import EmbeddedCluster


@pytest.fixture(scope="session", params=[servers.VALKEY, servers.REDIS])
def shared_cluster(request):
    """A cluster of each kind in turn, shared by the session."""
    with EmbeddedCluster(binary=servers.require_server(request.param), node_timeout_s=1.0) as running:
        yield running


@pytest.fixture
def cluster(shared_cluster):
    """A whole, empty cluster, whatever the test before has done to it."""
    for node in shared_cluster.nodes:
        if node.paused:
            node.resume()
    shared_cluster.start()
    for node in shared_cluster.primaries():
        node.ask("FLUSHALL")
    return shared_cluster


@pytest.fixture
def connect_cluster():
    """A factory of our clients: connect_cluster(cluster, **options)."""
    with contextlib.ExitStack() as opened:

        def open_client(where, **options):
            client = agent_memory.redis.RedisCluster(**where.connection_kwargs | options)
            opened.callback(client.close)
            return client

        yield open_client


@pytest_asyncio.fixture
async def async_connect_cluster():
    """The same for asyncio."""
    async with contextlib.AsyncExitStack() as opened:

        def open_client(where, **options):
            client = agent_memory.redis.asyncio.RedisCluster(**where.connection_kwargs | options)
            opened.push_async_callback(client.aclose)
            return client

        yield open_client


@pytest.fixture
def unused_address():
    """An address that refuses connections."""
    with contextlib.closing(PortReservation()) as reservation:
        yield SimpleNamespace(connection_kwargs={"host": "127.0.0.1", "port": reservation.port})
