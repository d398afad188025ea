"""What only the PostgreSQL store has: a server that goes away and comes back, a schema that many share."""

from __future__ import annotations

import contextlib

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from store_samples import copy, put

from agent_memory._concurrency import ASYNC, async_gather, async_spawn
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
from agent_memory.memory.stores.postgres import AsyncPostgresStore
from agent_memory.memory.stores.postgres._async import group
from agent_memory.memory.stores.postgres._async.schema import SCHEMA_VERSION

SCHEMA = "server_async" if ASYNC else "server_sync"


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
def async_make(postgres_url):
    def make(**options):
        return AsyncPostgresStore(postgres_url, config=PostgresSettings(schema=SCHEMA, **options))

    return make


async def test_stores_that_open_at_once_make_one_schema(async_make, statement):
    stores = [async_make() for _ in range(4)]
    await async_gather(*[async_spawn(store.open) for store in stores])
    assert statement(f"SELECT version FROM {SCHEMA}.schema_version") == [(SCHEMA_VERSION,)]
    for store in stores:
        await store.close()


async def test_a_newer_or_foreign_schema_is_refused_and_left_alone(async_make, statement):
    async with async_make():
        pass
    statement(f"UPDATE {SCHEMA}.schema_version SET version = 999")
    with pytest.raises(MemorySchemaError, match="has version 999, this version of agent_memory knows up to "):
        await async_make().open()
    statement(f"DROP SCHEMA {SCHEMA} CASCADE")
    statement(f"CREATE SCHEMA {SCHEMA}")
    statement(f"CREATE TABLE {SCHEMA}.theirs (x INT)")
    with pytest.raises(MemorySchemaError, match="another application"):
        await async_make().open()
    assert statement(f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{SCHEMA}'") == [
        ("theirs",)
    ]


async def test_a_missing_server_is_unavailable_and_no_secret_is_shown(tmp_path):
    store = AsyncPostgresStore(f"postgresql://user:hunter2@/base?host={tmp_path}&port=1")
    with pytest.raises(MemoryStoreUnavailableError) as caught:
        await store.open()
    assert "hunter2" not in f"{caught.value} {store!r} {store.stats()!r}"


async def test_a_server_that_ends_its_idle_sessions_costs_no_call(async_make, statement):
    async with async_make() as store:
        await store.write([put(memory_id="m")])
        statement("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent_memory'")
        assert (await store.get(["m"]))[0] is not None  # a read is tried again
        statement("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent_memory'")
        (result,) = await store.write([put(memory_id="n", create=True)])
        assert result.status is WriteStatus.APPLIED
        assert store.stats().transactions == 2


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_the_isolation_is_the_stores_own(postgres_url, statement, level):
    """Defaults of roles and databases are a policy; transactions that lock what they decide by need READ COMMITTED."""
    options = "-c default_transaction_isolation=" + level.replace(" ", "\\ ")
    url = make_conninfo(postgres_url, options=options)
    stores = [AsyncPostgresStore(url, config=PostgresSettings(schema=SCHEMA)) for _ in range(3)]
    await stores[0].open()

    async def store_some(store):
        await store.open()
        for number in range(20):
            await store.write([put(f"content {number}", key=f"key {number % 3}")])

    await async_gather(*[async_spawn(store_some, store) for store in stores])
    assert await stores[0].count(MemoryQuery(agent_id="agent")) == 3
    for store in stores:
        await store.close()


async def test_a_standby_takes_no_writes_and_is_left_when_it_is_one_no_longer(async_make, statement, postgres_url):
    role = statement("SELECT current_user")[0][0]
    async with async_make() as store:
        await store.write([put(memory_id="m")])
        statement(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        try:
            statement("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agent_memory'")
            for call in (lambda: store.write([put(memory_id="n")]), store.check_writable):
                with pytest.raises(MemoryStoreUnavailableError) as caught:
                    await call()
                assert (caught.value.fault, caught.value.code) == (StoreFault.READ_ONLY, "25006")
            assert (await store.get(["m", "n"]))[1] is None
        finally:
            with psycopg.connect(
                postgres_url, options="-c default_transaction_read_only=off", autocommit=True
            ) as admin:
                admin.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")
        with contextlib.suppress(MemoryStoreUnavailableError):
            await store.check_writable()  # an idle session of before is as it was, and goes
        await store.check_writable()
        assert (await store.write([put(memory_id="n")]))[0].status is WriteStatus.APPLIED


async def test_what_was_acknowledged_is_there_after_kill_9(async_make, statement, postgres_server):
    store = async_make()
    await store.open()
    acknowledged = []

    async def store_some(caller):
        number = 0
        while True:
            memory_id = f"m{caller}-{number}"
            try:
                await store.write([put(memory_id=memory_id, agent_id=f"agent{caller % 2}")])
            except MemoryStoreUnavailableError:
                return
            acknowledged.append(memory_id)
            number += 1
            if len(acknowledged) == 40:
                postgres_server.kill()

    await async_gather(*[async_spawn(store_some, caller) for caller in range(6)])
    with pytest.raises(MemoryStoreUnavailableError):
        await store.write([put()])
    postgres_server.start()
    assert len(acknowledged) >= 40
    assert None not in await store.get(acknowledged)
    for name in ("agent0", "agent1"):
        page = await store.changes(name, limit=10_000)
        state = await store.agent(name)
        assert [found.seq for found in page.copies] == list(range(1, state.seq + 1))
        assert state.counts == (len(page.copies), 0, 0)
    await store.close()


async def test_one_bad_write_does_not_fail_its_neighbours(async_make, statement):
    async with async_make() as store:
        bad = Put(copy(memory_id="bad", version=5)._replace(step="no number"))
        outcomes = []

        async def write(operation):
            try:
                outcomes.append((await store.write([operation]))[0].status)
            except MemoryStoreError as error:
                outcomes.append(str(error))

        operations = [put(memory_id="first"), put(memory_id="second"), bad, put(memory_id="third")]
        await async_gather(*[async_spawn(write, operation) for operation in operations])
        refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert len(refused) == 1
        assert "no number" not in refused[0]  # a value, as far as the store knows
        assert await store.count(MemoryQuery(agent_id="agent")) == 3


async def test_the_queue_has_a_bound(async_make, statement, postgres_url):
    async with async_make(max_pending_writes=1) as store:
        with psycopg.connect(postgres_url, autocommit=True) as holder:
            await store.write([put()])
            holder.execute("BEGIN")
            holder.execute(f"SELECT * FROM {SCHEMA}.agents FOR UPDATE")
            waiting = async_spawn(store.write, [put()])
            while store.stats().pending_writes == 0:
                await store.agent("agent")
            with pytest.raises(MemoryStoreFullError, match="max_pending_writes"):
                await store.write([put()])
            holder.execute("ROLLBACK")
        ((result,),) = await async_gather(waiting)
        assert result.status is WriteStatus.APPLIED


async def test_a_changed_byte_of_a_row_is_noticed(async_make, statement):
    async with async_make() as store:
        await store.write([put("first", memory_id="a")])
        statement(f"UPDATE {SCHEMA}.memories SET content = 'frist'")
        with pytest.raises(CorruptMemoryError):
            await store.get(["a"])


async def test_a_transaction_takes_no_more_writes_than_it_may(async_make, statement, monkeypatch):
    monkeypatch.setattr(group, "MAX_TRANSACTION_WRITES", 10)
    async with async_make() as store:
        results = await store.write([put(f"content {n}", memory_id=f"m{n:02}") for n in range(35)])
        stats = store.stats()

    assert [result.status for result in results] == [WriteStatus.APPLIED] * 35
    assert (stats.transactions, stats.writes) == (4, 35)
    sizes = statement(f"SELECT count(*) FROM {SCHEMA}.memories GROUP BY xmin ORDER BY 1")
    assert sizes == [(5,), (10,), (10,), (10,)]
