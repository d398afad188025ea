"""A pytest plugin for redis-py's own tests: puts our classes in the place of redis-py's, counts, writes down what came out.

Loaded by `run.py` with `-p plugin`; it takes its orders from environment variables, because redis-py's conftest owns the
command line:

- COMPAT_CLIENT: "ours", or "stock" for redis-py's own classes;
- COMPAT_POOLED: "1" makes `Redis.client()` return the client itself. The sync suite's fixture asks it for a client with one
  pinned connection; with this its tests run over the transport that users have;
- COMPAT_REPORT: the JSON file to write: {"outcomes": {test: outcome}, "carried": number of commands}.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster

PROBE_ENDS_S = 2.0
"""How long the end of a probe under way is waited for."""

outcomes: dict[str, str] = {}
carried: collections.Counter[str] = collections.Counter()
probers: weakref.WeakSet[Any] = weakref.WeakSet()
"""The background probes that clients of a test have begun."""


def _count(owner: type, method: str) -> None:
    """Counts the calls of one method by which commands enter a transport."""
    original = getattr(owner, method)

    @functools.wraps(original)
    def counted(*args: Any, **options: Any) -> Any:
        carried[f"{owner.__name__}.{method}"] += 1
        return original(*args, **options)

    setattr(owner, method, counted)


def _take_the_place_of_redis_py() -> None:
    import agent_memory.redis
    import agent_memory.redis.asyncio
    from agent_memory.redis._sync.probe import Prober
    from agent_memory.redis.redis_py_internals import settings
    from agent_memory.redis.transport.blocking.transport import BlockingTransport
    from agent_memory.redis.transport.multiplexed.connection import MultiplexedConnection

    # CLIENT LIST shows this package behind redis-py's name, on purpose; redis-py's tests compare the whole of it.
    settings.driver_arguments = lambda _version: {}
    for method in ("call", "call_within", "call_leased", "call_many", "send_batch"):
        _count(BlockingTransport, method)
    for method in ("send", "send_window"):
        _count(MultiplexedConnection, method)
    begin = Prober._start

    def noted(prober: Prober) -> None:
        probers.add(prober)
        begin(prober)

    Prober._start = noted  # type: ignore[method-assign]
    redis.Redis = redis.client.Redis = agent_memory.redis.Redis  # type: ignore[misc]
    redis.asyncio.Redis = redis.asyncio.client.Redis = agent_memory.redis.asyncio.Redis  # type: ignore[misc]
    redis.RedisCluster = redis.cluster.RedisCluster = agent_memory.redis.RedisCluster  # type: ignore[misc]
    redis.asyncio.RedisCluster = agent_memory.redis.asyncio.RedisCluster  # type: ignore[misc]
    redis.asyncio.cluster.RedisCluster = agent_memory.redis.asyncio.RedisCluster  # type: ignore[misc]


# redis-py's conftest traces every allocation and never looks: making a cluster client would take half a second.
tracemalloc.start = lambda *_: None  # type: ignore[assignment,misc]

if os.environ["COMPAT_CLIENT"] == "ours":
    _take_the_place_of_redis_py()
if os.environ.get("COMPAT_POOLED") == "1":
    redis.Redis.client = lambda self: self  # type: ignore[method-assign]


def pytest_runtest_teardown() -> None:
    """The client of a test that is over, held by its traceback, looks for its server no more.

    Some tests count the errors that any connection of the process meets, and its probe's would be among them.
    """
    while probers:
        probers.pop().stop(PROBE_ENDS_S)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test passes if its call and its set-up and tear-down do."""
    before = outcomes.get(report.nodeid)
    if before in (None, "passed") and (report.when == "call" or report.outcome != "passed"):
        outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    """Write the report."""
    report = {"outcomes": outcomes, "carried": carried}
    Path(os.environ["COMPAT_REPORT"]).write_text(json.dumps(report), encoding="utf-8")
