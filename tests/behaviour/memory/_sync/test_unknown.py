# Generated from ../_async/test_unknown.py by tools/generate_sync.py: edit that file, not this one.

"""Unknown is not absent: where a store that is away may have it, the answer is an error, never None, [], False or 0."""

from __future__ import annotations

import contextlib

import pytest

from agent_memory.memory import DurabilityError, MemoryHealth, MemoryStoreUnavailableError, MemorySystem
from agent_memory.memory.stores import MemoryQuery
from agent_memory.memory.stores.sqlite import SqliteStore
from agent_memory.redis import Redis

AGENT = "agent"


class AbsentableStore:
    """A store that can be made unavailable, like one whose database cannot be reached."""

    def __init__(self, store):
        self._store = store
        self.is_away = False

    def __getattr__(self, name):
        found = getattr(self._store, name)
        return self._refuse if self.is_away and name not in ("open", "close") else found

    def _refuse(self, *args, **options):
        raise MemoryStoreUnavailableError("the database is away")


@pytest.fixture
def open_memory(valkey, proxy, tmp_path):
    """A factory: open_memory() -> a memory system in one folder, its store, and what is between it and Redis."""
    with contextlib.ExitStack() as opened:

        def open_one():
            between = proxy((valkey.connection_kwargs["host"], valkey.connection_kwargs["port"]))
            options = {**valkey.connection_kwargs, "host": between.host, "port": between.port, "socket_timeout": 0.2}
            client = opened.enter_context(Redis(**options))
            store = AbsentableStore(SqliteStore(tmp_path / "memories.sqlite"))
            memory = opened.enter_context(MemorySystem(tmp_path, redis=client, store=store))
            return memory, store, between

        yield open_one


def until(condition):
    """Waits for a function to be true; the test's own timeout bounds it."""
    while True:
        with contextlib.suppress(MemoryStoreUnavailableError):
            if condition():
                return


def test_what_redis_alone_may_have_is_no_none_no_false_and_no_key_error(open_memory):
    memory, _, between = open_memory()
    stored = memory.store(AGENT, "only in Redis", durability="redis")
    in_sql = memory.store(AGENT, "in SQL")
    gone = memory.store(AGENT, "gone")
    memory.delete(AGENT, gone)
    between.black_hole()
    for memory_id in (stored, "another process's"):
        for call in (
            lambda memory_id=memory_id: memory.get(AGENT, memory_id),
            lambda memory_id=memory_id: memory.update(AGENT, memory_id, content="x"),
            lambda memory_id=memory_id: memory.delete(AGENT, memory_id),
        ):
            with pytest.raises(MemoryStoreUnavailableError, match="Redis is away, which alone may have this memory"):
                call()
    # SQL knows of these.
    assert memory.get(AGENT, in_sql).content == "in SQL"
    assert memory.get(AGENT, gone) is None
    assert not memory.delete(AGENT, gone)
    assert memory.delete(AGENT, in_sql)
    between.heal()

    def is_back():
        return memory.get(AGENT, stored).content == "only in Redis"

    until(is_back)
    assert memory.get(AGENT, "another process's") is None
    assert not memory.delete(AGENT, "another process's")
    assert memory.delete(AGENT, stored)
    assert memory.get(AGENT, stored) is None


def test_an_own_update_that_redis_alone_has_is_not_answered_with_the_version_before(open_memory):
    memory, store, between = open_memory()
    stored = memory.store(AGENT, "old")
    deleted = memory.store(AGENT, "deleted")
    store.is_away = True
    memory.update(AGENT, stored, content="new", minimum="redis")
    memory.delete(AGENT, deleted, minimum="redis")
    store.is_away = False
    between.black_hole()
    until(lambda: memory._lifecycle.parts.sql.ask(store.agents))
    with pytest.raises(MemoryStoreUnavailableError, match="Redis is away"):
        memory.get(AGENT, stored)
    assert memory.get(AGENT, deleted) is None


def test_a_memory_that_redis_alone_has_is_deleted_with_the_version_that_is_named(open_memory):
    memory, _, _ = open_memory()
    stored = memory.store(AGENT, "only in Redis", durability="redis")
    other, _, _ = open_memory()
    assert other.delete(AGENT, stored, if_version=stored.version)
    assert memory.get(AGENT, stored) is None


def test_nothing_found_is_an_error_while_what_there_is_cannot_be_read(open_memory):
    memory, store, _ = open_memory()
    memory.store(AGENT, "likes tea")
    memory._lifecycle.parts.clean.flush()
    other, other_store, other_between = open_memory()
    other_store.is_away = True
    for _ in range(2):
        # Its index is not loaded, and nothing is dirty.
        with pytest.raises(MemoryStoreUnavailableError, match="unknown"):
            other.retrieve(AGENT, "tea")
    other_store.is_away = False
    until(lambda: other.retrieve(AGENT, "tea"))
    other_store.is_away = True
    assert [entry.content for entry in other.retrieve(AGENT, "tea")] == ["likes tea"]  # from Redis
    other_between.black_hole()
    with pytest.raises(MemoryStoreUnavailableError, match="unknown"):
        other.retrieve(AGENT, "tea")
    for call in (other.count, other.namespaces, other.history, other.check):
        with pytest.raises(MemoryStoreUnavailableError):
            call(AGENT)
    with pytest.raises(MemoryStoreUnavailableError):
        other.get_by_key(AGENT, "key")
    with pytest.raises(DurabilityError, match="SQL is away"):
        other.delete(AGENT, "whatever")
    assert other.check_health() == MemoryHealth(healthy=False, state="down", sql="away", redis="away")
    assert other.health() == other.check_health()
    assert store.count(MemoryQuery(agent_id=AGENT)) == 1
