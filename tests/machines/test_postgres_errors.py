# Generated from test_async_postgres_errors.py by tools/generate_sync.py: edit that file, not this one.

"""Every SQLSTATE at every statement of every call of the PostgreSQL store, and what comes of it, by one table."""

from __future__ import annotations

import contextlib
import itertools
import os
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from agent_memory.memory import (
    DurabilityError,
    LongTermSettings,
    MemorySettings,
    MemoryStoreError,
    MemoryStoreUnavailableError,
    MemorySystem,
    PostgresSettings,
    StoreFault,
    Tier,
    entries,
)
from agent_memory.memory.stores import Delete, MemoryQuery, Move, Put
from agent_memory.memory.stores.operations import Access
from agent_memory.memory.stores.postgres import PostgresStore
from agent_memory.redis import Redis
from postgres_proxy import LOST, PostgresProxy

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

numbers = itertools.count()


def copy(agent, **options):
    number = next(numbers)
    options.setdefault("timestamp", 1_000.0)
    made = {"memory_id": f"e{number:06d}", "writer": 7, "created_us": 0, **options}
    return entries.make_copy(agent, f"content {number}", **made)


def a_memory(store, agent, **options):
    return store.write([Put(copy(agent, **options))])[0]


def prepare_nothing(store, agent):
    return None


def prepare_one(store, agent):
    return a_memory(store, agent, user_id=f"u {agent}", key="k", tags=["t"])


def prepare_dead(store, agent):
    one = a_memory(store, agent)
    store.write([Delete(one.id, agent, writer=7)])


def prepare_due(store, agent):
    a_memory(store, agent, expires_at=5.0)


def prepare_erasure(store, agent):
    a_memory(store, agent)
    store.begin_erasure("agent", agent)


def prepare_user_erasure(store, agent):
    a_memory(store, agent, user_id=f"u {agent}")
    store.begin_erasure("user", f"u {agent}")


def prepare_long(store, agent):
    store.write([Put(copy(agent, tier=Tier.LTM, memory_type="x" * 9)) for _ in range(60)])


def put_several(store, agent, _):
    options = {"user_id": f"u {agent}", "tags": ["t"], "embedding": [1.0]}
    copies = [copy(agent, **options), copy(agent, key="k2", **options), copy(agent, idempotency_key="i", **options)]
    assert [result.status for result in store.write([Put(one) for one in copies])] == [0, 0, 0]
    return 3


def put_over(store, agent, one):
    copies = [copy(agent, memory_id=one.id, user_id=f"u {agent}", key="k")]
    assert [result.status for result in store.write([Put(one) for one in copies])] == [0]
    return 1


def delete_one(store, agent, one):
    assert store.write([Delete(one.id, agent, writer=7)])[0].status == 0
    return 1


def move_one(store, agent, one):
    assert store.write([Move(one.id, agent, one.version, Tier.LTM)])[0].status == 0
    return 1


def record_accesses(store, agent, one):
    store.record_accesses([Access(one.id, 2, 9.0)])
    return 0


def expire(store, agent, _):
    assert len(store.expire(10.0)) >= 1  # what was refused before, too
    return 1


def purge(store, agent, _):
    assert store.purge_tombstones(2**52) >= 1
    return 0


def begin_erasure(store, agent, _):
    assert store.begin_erasure("agent", agent).generation == 2
    return 0


def begin_user_erasure(store, agent, _):
    assert store.begin_erasure("user", f"u {agent}").remaining
    return 0


def erase(store, agent, _):
    assert store.erase("agent", agent).remaining is False
    return 0


def erase_user(store, agent, _):
    erasure = store.erase("user", f"u {agent}")
    assert (erasure.erased, erasure.remaining) == (1, False)
    return 1


def train(store, agent, _):
    assert store.train_dictionary(force=True)
    return 0


def reading(name, *arguments):
    def read(store, agent, one):
        given = [agent if word == "AGENT" else [one.id] if word == "IDS" else word for word in arguments]
        given = [MemoryQuery(agent_id=agent) if word == "QUERY" else word for word in given]
        answer = getattr(store, name)(*given)
        assert answer or name in ("check_writable", "crowded", "erasures", "accesses")
        return 0

    return prepare_one, read


CALLS = {
    "put several": (prepare_nothing, put_several),
    "put over": (prepare_one, put_over),
    "delete": (prepare_one, delete_one),
    "move": (prepare_one, move_one),
    "record_accesses": (prepare_one, record_accesses),
    "expire": (prepare_due, expire),
    "purge_tombstones": (prepare_dead, purge),
    "begin_erasure of an agent": (prepare_one, begin_erasure),
    "begin_erasure of a user": (prepare_one, begin_user_erasure),
    "erase an agent": (prepare_erasure, erase),
    "erase a user": (prepare_user_erasure, erase_user),
    "train_dictionary": (prepare_long, train),
    "get": reading("get", "IDS"),
    "get_by_key": (prepare_one, None),
    "query": reading("query", "QUERY"),
    "count": reading("count", "QUERY"),
    "changes": reading("changes", "AGENT"),
    "agent": reading("agent", "AGENT"),
    "agents": reading("agents"),
    "crowded": reading("crowded", Tier.STM, 10_000),
    "namespaces": reading("namespaces", "AGENT"),
    "aged": reading("aged", Tier.STM, 2**52),
    "oldest": reading("oldest", "AGENT", Tier.STM),
    "accesses": reading("accesses", "IDS"),
    "user_agents": (prepare_one, None),
    "erasures": reading("erasures"),
    "check_writable": reading("check_writable"),
}


def get_by_key(store, agent, one):
    assert store.get_by_key(agent, "k", (), f"u {agent}").id == one.id
    return 0


def user_agents(store, agent, one):
    assert store.user_agents(f"u {agent}") == [agent]
    return 0


CALLS["get_by_key"] = (prepare_one, get_by_key)
CALLS["user_agents"] = (prepare_one, user_agents)
READS = frozenset(
    "get get_by_key query count changes agent agents crowded namespaces aged oldest accesses user_agents erasures"
    " check_writable".split()
)


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
def store(url):
    settings = PostgresSettings(schema=SCHEMA, max_connections=2)
    long_term = LongTermSettings(min_dictionary_samples=10, dictionary_bytes=4_096)
    with PostgresStore(url, settings=settings, long_term=long_term) as made:
        yield made


def seq_of(store, agent):
    state = store.agent(agent)
    return 0 if state is None else state.seq


def tried(call, store, agent, prepared):
    try:
        return call(store, agent, prepared), None
    except MemoryStoreError as error:
        return 0, error


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
    fault, has_redis = MEANS[code], memory._copies.tier is not None
    first = memory.store("agent", "the first")
    proxy.arm(code, writes, times=10_000)
    if fault in (WRONG, DAMAGED):
        with pytest.raises(MemoryStoreError) as caught:
            memory.store("agent", "x", degrade=True)
        assert (caught.value.fault, caught.value.code) == (fault, code)
        assert memory.health() == "healthy"
    else:
        with pytest.raises(DurabilityError, match=f"SQL is {fault.value}") as caught:
            memory.store("agent", "x")
        assert caught.value.fault is fault
        if has_redis:
            assert memory.store("agent", "degraded", degrade=True).durability == "redis"
        else:
            with pytest.raises(DurabilityError, match="there is no Redis"):
                memory.store("agent", "degraded", degrade=True)
    if fault in IS_REFUSED:
        assert memory.get("agent", first).content == "the first"
        assert memory.count("agent") == 1
        assert [entry.id for entry in memory.retrieve("agent", "first")][-1] == first
        # Whether transactions may write is asked by a read, which is not answered for here; only a full disk is remembered.
        assert memory.stats()["sql"]["refuses_writes"] == IS_REFUSED[fault]
        assert memory.health().sql in (IS_REFUSED[fault], "here")
    proxy.disarm()
    memory._copies.sql._retry_at = memory._copies.sql_writes._refused_at = 0.0  # as if it were later
    assert memory.store("agent", "the last").durability == "sql"
    assert (memory.health(), memory.health().sql) == ("healthy", "here")


@pytest.mark.parametrize("code", [code for code in MEANS if code != LOST])
def test_what_each_code_of_a_read_means_for_the_system(memory, proxy, code):
    fault, has_redis = MEANS[code], memory._copies.tier is not None
    memory.store("agent", "the first")
    proxy.arm(code, lambda _, text: text.startswith("SELECT"), times=10_000)
    with pytest.raises(MemoryStoreError) as caught:
        memory.count("agent")
    assert (caught.value.fault, caught.value.code) == (fault, code)
    assert isinstance(caught.value, MemoryStoreUnavailableError) == (fault not in (WRONG, DAMAGED))
    health = memory.health()
    assert health.sql == IS_REFUSED.get(fault, fault.value)
    reads_go_on = fault in IS_REFUSED
    assert health == ("degraded" if has_redis or reads_go_on else "down")
    assert memory._copies.sql.is_away() == (fault is AWAY)
    proxy.disarm()
    memory._copies.sql._retry_at = memory._copies.sql_writes._refused_at = 0.0
    assert memory.count("agent") == 1
    assert (memory.health(), memory.health().sql) == ("healthy", "here")
