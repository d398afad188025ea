"""Stores of each kind, empty, with a clock that is moved by hand."""

from __future__ import annotations

import contextlib

import pytest
import pytest_asyncio

from agent_memory.memory.stores.sqlite import AsyncSqliteStore, SqliteStore

KINDS = ["sqlite"]


class Clock:
    """Microseconds since the epoch; each look at it takes none."""

    def __init__(self):
        self.now_us = 1_750_000_000_000_000

    def __call__(self):
        return self.now_us


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=KINDS)
def store_kind(request):
    return request.param


@pytest_asyncio.fixture
async def async_make_store(store_kind, clock, tmp_path):
    """A factory of stores on one database: async_make_store(**options), opened."""
    async with contextlib.AsyncExitStack() as opened:

        async def make(**options):
            store = AsyncSqliteStore(tmp_path / "memories.db", clock_us=clock, **options)
            return await opened.enter_async_context(store)

        yield make


@pytest.fixture
def make_store(store_kind, clock, tmp_path):
    """The same for threads."""
    with contextlib.ExitStack() as opened:

        def make(**options):
            return opened.enter_context(SqliteStore(tmp_path / "memories.db", clock_us=clock, **options))

        yield make


@pytest_asyncio.fixture
async def async_store(async_make_store):
    return await async_make_store()


@pytest.fixture
def store(make_store):
    return make_store()
