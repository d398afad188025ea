"""Stores of each kind, empty, with a clock that is moved by hand. PostgreSQL is a real server, from a wheel."""

from __future__ import annotations

import contextlib

import psycopg
import pytest
import pytest_asyncio
from store_samples import Clock, engine_through_python

from agent_memory.memory import PostgresSettings
from agent_memory.memory.stores.postgres import AsyncPostgresStore, PostgresStore
from agent_memory.memory.stores.sqlite import AsyncSqliteStore, SqliteStore

SQLITE, THROUGH_PYTHON, POSTGRES = "sqlite", "sqlite through python", "postgres"
SCHEMA = "stores"


class Database:
    """Where the stores of one test keep their memories; opens stores of the kind that is tested."""

    def __init__(self, kind, place, clock, schema=""):
        self.kind, self.place, self.clock, self.schema = kind, place, clock, schema

    def async_store(self, **options):
        if self.kind == SQLITE:
            return AsyncSqliteStore(self.place, clock_us=self.clock, **options)
        if self.kind == THROUGH_PYTHON:
            return AsyncSqliteStore.of_engine(engine_through_python(self.place, self.clock, **options))
        return AsyncPostgresStore(self.place, clock_us=self.clock, config=self._settings(), **options)

    def store(self, **options):
        if self.kind == SQLITE:
            return SqliteStore(self.place, clock_us=self.clock, **options)
        if self.kind == THROUGH_PYTHON:
            return SqliteStore.of_engine(engine_through_python(self.place, self.clock, **options))
        return PostgresStore(self.place, clock_us=self.clock, config=self._settings(), **options)

    def _settings(self):
        return PostgresSettings(schema=self.schema)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=[SQLITE, THROUGH_PYTHON, POSTGRES])
def database(request, clock, tmp_path):
    """An empty database of each kind in turn; of SQLite once with the core writing what it can, once without."""
    if request.param in (SQLITE, THROUGH_PYTHON):
        return Database(request.param, tmp_path / "memories.db", clock)
    url = request.getfixturevalue("postgres_url")
    empty(url)
    return Database(POSTGRES, url, clock, SCHEMA)


def empty(url):
    """Empties the tables that the tests share: making them anew for each would take longer than the tests."""
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_name <> 'schema_version'",
            (SCHEMA,),
        ).fetchall()
        if tables:
            names = ", ".join(f"{SCHEMA}.{name}" for (name,) in tables)
            connection.execute(f"TRUNCATE {names} RESTART IDENTITY")


@pytest_asyncio.fixture
async def async_make_store(database):
    """A factory of stores on one database: async_make_store(**options), opened."""
    async with contextlib.AsyncExitStack() as opened:

        async def make(**options):
            return await opened.enter_async_context(database.async_store(**options))

        yield make


@pytest.fixture
def make_store(database):
    """The same for threads."""
    with contextlib.ExitStack() as opened:

        def make(**options):
            return opened.enter_context(database.store(**options))

        yield make


@pytest_asyncio.fixture
async def async_store(async_make_store):
    return await async_make_store()


@pytest.fixture
def store(make_store):
    return make_store()
