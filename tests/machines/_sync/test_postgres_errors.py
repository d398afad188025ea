# Generated from ../_async/test_postgres_errors.py by tools/generate_sync.py: edit that file, not this one.

"""Every SQLSTATE at every statement of every call of the PostgreSQL store, and what comes of it, by one table."""

from __future__ import annotations

import contextlib
import os
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from postgres_proxy import LOST, PostgresProxy
from tests.machines._sync.store_calls import CALLS, READS, numbers, put_several, seq_of, tried

from agent_memory.memory import (
    DurabilityError,
    LongTermSettings,
    MemorySettings,
    MemoryStoreError,
    MemoryStoreUnavailableError,
    MemorySystem,
    PostgresSettings,
    StoreFault,
)
from agent_memory.memory.stores import MemoryQuery, _compression
from agent_memory.memory.stores.postgres import PostgresStore
from agent_memory.redis import Redis

SCHEMA = "errors_sync"

AWAY, TRANSIENT, FULL, READ_ONLY, LOCKED, DAMAGED, WRONG = StoreFault

MEANS = {
    LOST: AWAY,
    "08006": AWAY,
    "08P01": AWAY,
    "22003": WRONG,
    "23505": WRONG,
    "25006": READ_ONLY,
    "25P03": AWAY,
    "40001": TRANSIENT,
    "40003": AWAY,
    "40P01": TRANSIENT,
    "42501": WRONG,
    "42P01": WRONG,
    "53100": FULL,
    "53200": FULL,
    "53300": AWAY,
    "53400": FULL,
    "54000": WRONG,
    "55006": LOCKED,
    "55P03": LOCKED,
    "57014": LOCKED,
    "57P01": AWAY,
    "57P02": AWAY,
    "57P03": AWAY,
    "58030": AWAY,
    "58P01": AWAY,
    "XX000": WRONG,
    "XX001": DAMAGED,
    "XX002": DAMAGED,
}
"""What each means, by PostgreSQL's own description of it."""


@pytest.fixture
def proxy(postgres_url):
    folder = parse_qs(urlsplit(postgres_url).query)["host"][0]
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        with contextlib.closing(PostgresProxy(f"{folder}/.s.PGSQL.5432")) as made:
            yield made
        admin.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


@pytest.fixture
def url(proxy):
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable&gssencmode=disable"


@pytest.fixture
def store(url, monkeypatch):
    monkeypatch.setattr(_compression, "MIN_DICTIONARY_SAMPLES", 10)
    settings = PostgresSettings(schema=SCHEMA, max_connections=2)
    long_term = LongTermSettings(dictionary_bytes=4_096)
    with PostgresStore(url, config=settings, long_term=long_term) as made:
        yield made


def codes_at(at, count):
    """Every code at a call's last statement; before it one of each meaning, another one at each. With MACHINE_EXAMPLES: all."""
    if at == count - 1 or "MACHINE_EXAMPLES" in os.environ:
        return list(MEANS.items())
    by_fault = {fault: [code for code, means in MEANS.items() if means is fault] for fault in StoreFault}
    return [(codes[at % len(codes)], fault) for fault, codes in by_fault.items()]


@pytest.mark.parametrize("name", CALLS)
def test_every_code_at_every_statement_of_a_call(store, proxy, name):
    prepare, call = CALLS[name]
    agent = f"agent {next(numbers)}"
    prepared = prepare(store, agent)
    store.get(["warm"])
    proxy.watch()
    call(store, agent, prepared)
    texts = list(proxy.statements)
    assert texts

    for at, text in enumerate(texts):
        for code, fault in codes_at(at, len(texts)):
            agent = f"agent {next(numbers)}"
            prepared = prepare(store, agent)
            store.get(["warm"])  # a connection that is idle
            before = seq_of(store, agent)
            proxy.arm(code, lambda number, _, at=at: number == at)
            changes, error = tried(call, store, agent, prepared)
            proxy.disarm()
            told = (name, at, text[:40], code, proxy.statements[at : at + 2], error)
            assert proxy.hits == 1, told

            is_commit = proxy.hit == "COMMIT" and name not in READS
            if fault is TRANSIENT or (fault is AWAY and not is_commit):
                assert error is None, told
                assert seq_of(store, agent) == before + changes, told
                continue
            assert error is not None, told
            is_unavailable = fault not in (WRONG, DAMAGED)
            assert type(error) is (MemoryStoreUnavailableError if is_unavailable else MemoryStoreError), told
            assert error.fault is fault, told
            assert code in ("", LOST, error.code), told
            if fault is not AWAY and name not in ("expire", "train_dictionary"):
                assert seq_of(store, agent) == before, told  # nothing of it is there


@pytest.mark.parametrize("code", ["40001", "40P01"])
@pytest.mark.parametrize("name", ["put several", "get"])
def test_repetitions_are_bounded(store, proxy, name, code):
    prepare, call = CALLS[name]
    prepared = prepare(store, "agent")
    proxy.arm(code, lambda number, text: "memories" in text, times=1_000)
    _, error = tried(call, store, "agent", prepared)
    proxy.disarm()
    assert (error.fault, error.code, proxy.hits) == (TRANSIENT, code, 8)
    call(store, "agent", prepared)


def test_a_commit_whose_answer_is_lost_is_not_repeated_by_the_store(store, proxy):
    proxy.arm(LOST, lambda number, text: text == "COMMIT")
    _, error = tried(put_several, store, "agent", None)
    assert error.fault is AWAY
    assert store.count(MemoryQuery(agent_id="agent")) == 3  # it had been committed


WRITES_GO = frozenset({AWAY, DAMAGED, WRONG})
IS_REFUSED = {FULL: "full", READ_ONLY: "read-only", LOCKED: "locked", TRANSIENT: "locked"}


@pytest.fixture(params=["with Redis", "without Redis"])
def memory(request, proxy, url, tmp_path):
    with contextlib.ExitStack() as opened:
        client = None
        if request.param == "with Redis":
            valkey = request.getfixturevalue("valkey")
            client = opened.enter_context(Redis(**valkey.connection_kwargs))
        config = MemorySettings(postgres=PostgresSettings(schema=SCHEMA))
        yield opened.enter_context(MemorySystem(tmp_path, redis=client, store=url, config=config))


def writes(_, text):
    return text.upper().startswith(("INSERT", "UPDATE", "DELETE")) or "FOR UPDATE" in text


@pytest.mark.parametrize("code", [code for code in MEANS if code != LOST])
def test_what_each_code_of_a_write_means_for_the_system(memory, proxy, code):
    fault, has_redis = MEANS[code], memory._lifecycle.parts.redis.tier is not None
    first = memory.store("agent", "the first")
    proxy.arm(code, writes, times=10_000)
    if fault in (WRONG, DAMAGED):
        with pytest.raises(MemoryStoreError) as caught:
            memory.store("agent", "x", minimum="redis")
        assert (caught.value.fault, caught.value.code) == (fault, code)
        assert memory.check_health()
    else:
        with pytest.raises(DurabilityError, match=f"SQL is {fault.value}") as caught:
            memory.store("agent", "x")
        assert caught.value.fault is fault
        if has_redis:
            assert memory.store("agent", "degraded", minimum="redis").durability == "redis"
        else:
            with pytest.raises(DurabilityError, match="there is no Redis"):
                memory.store("agent", "degraded", minimum="redis")
    if fault in IS_REFUSED:
        assert memory.get("agent", first).content == "the first"
        assert memory.count("agent") == 1
        assert [entry.id for entry in memory.retrieve("agent", "first")][-1] == first
        # Whether transactions may write is asked by a read, which is not answered for here; only a full disk is remembered.
        assert memory.stats()["sql"]["refuses_writes"] == IS_REFUSED[fault]
        assert memory.check_health().sql in (IS_REFUSED[fault], "here")
    proxy.disarm()
    memory._lifecycle.parts.sql.availability._retry_at = memory._lifecycle.parts.sql.writability._refused_at = (
        0.0  # as if it were later
    )
    assert memory.store("agent", "the last").durability == "sql"
    assert memory.check_health().sql == "here"


@pytest.mark.parametrize("code", [code for code in MEANS if code != LOST])
def test_what_each_code_of_a_read_means_for_the_system(memory, proxy, code):
    fault, has_redis = MEANS[code], memory._lifecycle.parts.redis.tier is not None
    memory.store("agent", "the first")
    proxy.arm(code, lambda _, text: text.startswith("SELECT"), times=10_000)
    with pytest.raises(MemoryStoreError) as caught:
        memory.count("agent")
    assert (caught.value.fault, caught.value.code) == (fault, code)
    assert isinstance(caught.value, MemoryStoreUnavailableError) == (fault not in (WRONG, DAMAGED))
    assert memory.health().sql == IS_REFUSED.get(fault, fault.value)
    health = memory.check_health()
    assert health.sql == IS_REFUSED.get(fault, fault.value)
    reads_go_on = fault in IS_REFUSED
    assert health.state == ("degraded" if has_redis or reads_go_on else "down")
    assert memory._lifecycle.parts.sql.is_away() == (fault is AWAY)
    proxy.disarm()
    memory._lifecycle.parts.sql.availability._retry_at = memory._lifecycle.parts.sql.writability._refused_at = 0.0
    assert memory.count("agent") == 1
    assert memory.check_health().sql == "here"
