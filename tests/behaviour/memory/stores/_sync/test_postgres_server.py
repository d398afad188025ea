# Generated from ../_async/test_postgres_server.py by tools/generate_sync.py: edit that file, not this one.

"""What only the PostgreSQL store has: a server that goes away and comes back, a schema that many share."""

from __future__ import annotations

import contextlib

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from store_samples import copy, put

from agent_memory._concurrency import gather, spawn
from agent_memory.memory import (
    CorruptMemoryError,
    MemorySchemaError,
    MemoryStoreError,
    MemoryStoreFullError,
    MemoryStoreUnavailableError,
    PostgresSettings,
    StoreFault,
)
from agent_memory.memory.stores import MemoryQuery, Put, WriteStatus
from agent_memory.memory.stores.postgres import PostgresStore
from agent_memory.memory.stores.postgres._sync import group
from agent_memory.memory.stores.postgres._sync.schema import SCHEMA_VERSION

SCHEMA = "server_sync"


@pytest.fixture
def statement(postgres_url):
    """Runs a statement of the test's own: statement(text) -> rows."""

    def run(text):
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else None

    run(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    yield run
    run(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


@pytest.fixture
def make(postgres_url):
    def make(**options):
        return PostgresStore(postgres_url, config=PostgresSettings(schema=SCHEMA, **options))

    return make


def test_stores_that_open_at_once_make_one_schema(make, statement):
    stores = [make() for _ in range(4)]
    gather(*[spawn(store.open) for store in stores])
    assert statement(f"SELECT version FROM {SCHEMA}.schema_version") == [(SCHEMA_VERSION,)]
    for store in stores:
        store.close()


def test_a_newer_or_foreign_schema_is_refused_and_left_alone(make, statement):
    with make():
        pass
    statement(f"UPDATE {SCHEMA}.schema_version SET version = 999")
    with pytest.raises(MemorySchemaError, match="has version 999, this version of agent_memory knows up to "):
        make().open()
    statement(f"DROP SCHEMA {SCHEMA} CASCADE")
    statement(f"CREATE SCHEMA {SCHEMA}")
    statement(f"CREATE TABLE {SCHEMA}.theirs (x INT)")
    with pytest.raises(MemorySchemaError, match="another application"):
        make().open()
    assert statement(f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{SCHEMA}'") == [
        ("theirs",)
    ]


def test_a_missing_server_is_unavailable_and_no_secret_is_shown(tmp_path):
    store = PostgresStore(f"postgresql://user:hunter2@/base?host={tmp_path}&port=1")
    with pytest.raises(MemoryStoreUnavailableError) as caught:
        store.open()
    assert "hunter2" not in f"{caught.value} {store!r} {store.stats()!r}"


def test_a_server_that_ends_its_idle_sessions_costs_no_call(make, statement):
    with make() as store:
        store.write([put(memory_id="m")])
        statement("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent_memory'")
        assert store.get(["m"])[0] is not None  # a read is tried again
        statement("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent_memory'")
        (result,) = store.write([put(memory_id="n", create=True)])
        assert result.status is WriteStatus.APPLIED
        assert store.stats().transactions == 2


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_the_isolation_is_the_stores_own(postgres_url, statement, level):
    """Defaults of roles and databases are a policy; transactions that lock what they decide by need READ COMMITTED."""
    options = "-c default_transaction_isolation=" + level.replace(" ", "\\ ")
    url = make_conninfo(postgres_url, options=options)
    stores = [PostgresStore(url, config=PostgresSettings(schema=SCHEMA)) for _ in range(3)]
    stores[0].open()

    def store_some(store):
        store.open()
        for number in range(20):
            store.write([put(f"content {number}", key=f"key {number % 3}")])

    gather(*[spawn(store_some, store) for store in stores])
    assert stores[0].count(MemoryQuery(agent_id="agent")) == 3
    for store in stores:
        store.close()


def test_a_standby_takes_no_writes_and_is_left_when_it_is_one_no_longer(make, statement, postgres_url):
    role = statement("SELECT current_user")[0][0]
    with make() as store:
        store.write([put(memory_id="m")])
        statement(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        try:
            statement("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent_memory'")
            for call in (lambda: store.write([put(memory_id="n")]), store.check_writable):
                with pytest.raises(MemoryStoreUnavailableError) as caught:
                    call()
                assert (caught.value.fault, caught.value.code) == (StoreFault.READ_ONLY, "25006")
            assert store.get(["m", "n"])[1] is None
        finally:
            with psycopg.connect(
                postgres_url, options="-c default_transaction_read_only=off", autocommit=True
            ) as admin:
                admin.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")
        with contextlib.suppress(MemoryStoreUnavailableError):
            store.check_writable()  # an idle session of before is as it was, and goes
        store.check_writable()
        assert store.write([put(memory_id="n")])[0].status is WriteStatus.APPLIED


def test_what_was_acknowledged_is_there_after_kill_9(make, statement, postgres_server):
    store = make()
    store.open()
    acknowledged = []

    def store_some(caller):
        number = 0
        while True:
            memory_id = f"m{caller}-{number}"
            try:
                store.write([put(memory_id=memory_id, agent_id=f"agent{caller % 2}")])
            except MemoryStoreUnavailableError:
                return
            acknowledged.append(memory_id)
            number += 1
            if len(acknowledged) == 40:
                postgres_server.kill()

    gather(*[spawn(store_some, caller) for caller in range(6)])
    with pytest.raises(MemoryStoreUnavailableError):
        store.write([put()])
    postgres_server.start()
    assert len(acknowledged) >= 40
    assert None not in store.get(acknowledged)
    for name in ("agent0", "agent1"):
        page = store.changes(name, limit=10_000)
        state = store.agent(name)
        assert [found.seq for found in page.copies] == list(range(1, state.seq + 1))
        assert state.counts == (len(page.copies), 0, 0)
    store.close()


def test_one_bad_write_does_not_fail_its_neighbours(make, statement):
    with make() as store:
        bad = Put(copy(memory_id="bad", version=5)._replace(step="no number"))
        outcomes = []

        def write(operation):
            try:
                outcomes.append(store.write([operation])[0].status)
            except MemoryStoreError as error:
                outcomes.append(str(error))

        operations = [put(memory_id="first"), put(memory_id="second"), bad, put(memory_id="third")]
        gather(*[spawn(write, operation) for operation in operations])
        refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert len(refused) == 1
        assert "no number" not in refused[0]  # a value, as far as the store knows
        assert store.count(MemoryQuery(agent_id="agent")) == 3


def test_the_queue_has_a_bound(make, statement, postgres_url):
    with make(max_pending_writes=1) as store:
        with psycopg.connect(postgres_url, autocommit=True) as holder:
            store.write([put()])
            holder.execute("BEGIN")
            holder.execute(f"SELECT * FROM {SCHEMA}.agents FOR UPDATE")
            waiting = spawn(store.write, [put()])
            while store.stats().pending_writes == 0:
                store.agent("agent")
            with pytest.raises(MemoryStoreFullError, match="max_pending_writes"):
                store.write([put()])
            holder.execute("ROLLBACK")
        ((result,),) = gather(waiting)
        assert result.status is WriteStatus.APPLIED


def test_a_changed_byte_of_a_row_is_noticed(make, statement):
    with make() as store:
        store.write([put("first", memory_id="a")])
        statement(f"UPDATE {SCHEMA}.memories SET content = 'frist'")
        with pytest.raises(CorruptMemoryError):
            store.get(["a"])


def test_a_transaction_takes_no_more_writes_than_it_may(make, statement, monkeypatch):
    monkeypatch.setattr(group, "MAX_TRANSACTION_WRITES", 10)
    with make() as store:
        results = store.write([put(f"content {n}", memory_id=f"m{n:02}") for n in range(35)])
        stats = store.stats()

    assert [result.status for result in results] == [WriteStatus.APPLIED] * 35
    assert (stats.transactions, stats.writes) == (4, 35)
    sizes = statement(f"SELECT count(*) FROM {SCHEMA}.memories GROUP BY xmin ORDER BY 1")
    assert sizes == [(5,), (10,), (10,), (10,)]
