"""Fixtures of the tests of faults."""

import contextlib

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

ONCE = Retry(NoBackoff(), 0)
LIMIT = 8


@pytest.fixture
def full(start_server):
    """(server, fill): a server with a small maxclients; `fill` takes all free places and returns their clients."""
    with contextlib.ExitStack() as opened:
        server = start_server(transport="tcp", config={"maxclients": LIMIT})

        def fill():
            others = []
            for _ in range(LIMIT + 1):
                try:
                    other = redis.Redis(**server.connection_kwargs, single_connection_client=True, retry=ONCE)
                except redis.ConnectionError:
                    return others
                others.append(opened.enter_context(other))
            raise AssertionError("the server admits more than its limit")

        yield server, fill
