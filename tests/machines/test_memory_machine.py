"""The memory machine with a small budget; `make memory-machine` runs it for long."""

from __future__ import annotations

import os

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from memory_machine import SETTINGS, MemoryMachine, Place

import agent_memory.redis

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "20"))
STEPS = int(os.environ.get("MACHINE_STEPS", "30"))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
BUDGET = settings(
    phases=PHASES[: -1 if "MACHINE_QUICK" in os.environ else None],
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="MACHINE_EXAMPLES" not in os.environ,
    print_blob=True,
)


class PostgresPlace(Place):
    """Tables that are emptied before each run; erased text is looked for in them, too."""

    def make(self):
        super().make()
        schema = SETTINGS.postgres.schema
        with psycopg.connect(self.store, autocommit=True) as connection:
            tables = connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_name <> 'schema_version'",
                (schema,),
            ).fetchall()
            if tables:
                connection.execute(f"TRUNCATE {', '.join(f'{schema}.{name}' for (name,) in tables)} RESTART IDENTITY")

    def holding(self, marks):
        found = super().holding(marks)
        schema = SETTINGS.postgres.schema
        with psycopg.connect(self.store, autocommit=True) as connection:
            for table in ("memories", "memory_tags", "requests", "accesses"):
                for (row,) in connection.execute(f"SELECT t::text FROM {schema}.{table} t"):
                    found += [f"{table}: {mark}" for mark in marks if mark in row or mark.encode().hex() in row]
        return found


class ServerPlace(PostgresPlace):
    """With a server of the caller's, which is searched as well."""

    def __init__(self, folder, server, store):
        super().__init__(folder, store=store)
        self._server = server
        self.has_redis = True
        self._clients = []

    def make(self):
        super().make()
        with agent_memory.redis.Redis(**self._server.connection_kwargs) as client:
            client.flushall()

    def open(self):
        self.redis = agent_memory.redis.Redis(**self._server.connection_kwargs)
        self._clients.append(self.redis)
        return super().open()

    def holding(self, marks):
        found = super().holding(marks)
        with agent_memory.redis.Redis(**self._server.connection_kwargs) as client:
            for key in client.keys("*:m:*"):
                value = client.get(key) or b""
                found += [f"{key!r}: {mark}" for mark in marks if mark.encode() in value]
        return found

    def remove(self):
        for client in self._clients:
            client.close()
        self._clients.clear()


def run(world):
    machine = type("Machine", (MemoryMachine,), {"world": staticmethod(world)})
    run_state_machine_as_test(machine, settings=BUDGET)


@pytest.mark.timeout(0 if "MACHINE_EXAMPLES" in os.environ else 120)
@pytest.mark.parametrize("redis", [None, "embedded"])
def test_sqlite(tmp_path, redis):
    run(lambda: Place(tmp_path, redis=redis))


@pytest.mark.timeout(0 if "MACHINE_EXAMPLES" in os.environ else 120)
def test_postgres(tmp_path, postgres_url):
    run(lambda: PostgresPlace(tmp_path, store=postgres_url))


@pytest.mark.timeout(0 if "MACHINE_EXAMPLES" in os.environ else 120)
def test_postgres_and_redis(tmp_path, postgres_url, valkey):
    run(lambda: ServerPlace(tmp_path, valkey, postgres_url))
