"""Unknown is not absent: where a store that is away may have it, the answer is an error, never None, [], False or 0."""

from __future__ import annotations

import contextlib

import pytest

from agent_memory.memory import AsyncMemorySystem, DurabilityError, MemoryHealth, MemoryStoreUnavailableError
from agent_memory.memory.stores import MemoryQuery
from agent_memory.memory.stores.sqlite import AsyncSqliteStore
from agent_memory.redis.asyncio import Redis as AsyncRedis

AGENT = "agent"


class AbsentableStore:
    """A store that can be made unavailable, like one whose database cannot be reached."""

    def __init__(self, store):
        self._store = store
        self.is_away = False

    def __getattr__(self, name):
        found = getattr(self._store, name)
        return self._refuse if self.is_away and name not in ("open", "close") else found

    async def _refuse(self, *args, **options):
        raise MemoryStoreUnavailableError("the database is away")


@pytest.fixture
async def open_memory(valkey, proxy, tmp_path):
    """A factory: open_memory() -> a memory system in one folder, its store, and what is between it and Redis."""
    async with contextlib.AsyncExitStack() as opened:

        async def open_one():
            between = proxy((valkey.connection_kwargs["host"], valkey.connection_kwargs["port"]))
            options = {**valkey.connection_kwargs, "host": between.host, "port": between.port, "socket_timeout": 0.2}
            client = await opened.enter_async_context(AsyncRedis(**options))
            store = AbsentableStore(AsyncSqliteStore(tmp_path / "memories.sqlite"))
            memory = await opened.enter_async_context(AsyncMemorySystem(tmp_path, redis=client, store=store))
            return memory, store, between

        yield open_one


async def until(condition):
    """Waits for a coroutine function to be true; the test's own timeout bounds it."""
    while True:
        with contextlib.suppress(MemoryStoreUnavailableError):
            if await condition():
                return


async def test_what_redis_alone_may_have_is_no_none_no_false_and_no_key_error(open_memory):
    memory, _, between = await open_memory()
    stored = await memory.store(AGENT, "only in Redis", durability="redis")
    in_sql = await memory.store(AGENT, "in SQL")
    gone = await memory.store(AGENT, "gone")
    await memory.delete(AGENT, gone)
    between.black_hole()
    for memory_id in (stored, "another process's"):
        for call in (
            lambda memory_id=memory_id: memory.get(AGENT, memory_id),
            lambda memory_id=memory_id: memory.update(AGENT, memory_id, content="x"),
            lambda memory_id=memory_id: memory.delete(AGENT, memory_id),
        ):
            with pytest.raises(MemoryStoreUnavailableError, match="Redis is away, which alone may have this memory"):
                await call()
    # SQL knows of these.
    assert (await memory.get(AGENT, in_sql)).content == "in SQL"
    assert await memory.get(AGENT, gone) is None
    assert not await memory.delete(AGENT, gone)
    assert await memory.delete(AGENT, in_sql)
    between.heal()

    async def is_back():
        return (await memory.get(AGENT, stored)).content == "only in Redis"

    await until(is_back)
    assert await memory.get(AGENT, "another process's") is None
    assert not await memory.delete(AGENT, "another process's")
    assert await memory.delete(AGENT, stored)
    assert await memory.get(AGENT, stored) is None


async def test_an_own_update_that_redis_alone_has_is_not_answered_with_the_version_before(open_memory):
    memory, store, between = await open_memory()
    stored = await memory.store(AGENT, "old")
    deleted = await memory.store(AGENT, "deleted")
    store.is_away = True
    await memory.update(AGENT, stored, content="new", minimum="redis")
    await memory.delete(AGENT, deleted, minimum="redis")
    store.is_away = False
    between.black_hole()
    await until(lambda: memory._lifecycle.parts.sql.ask(store.agents))
    with pytest.raises(MemoryStoreUnavailableError, match="Redis is away"):
        await memory.get(AGENT, stored)
    assert await memory.get(AGENT, deleted) is None


async def test_a_memory_that_redis_alone_has_is_deleted_with_the_version_that_is_named(open_memory):
    memory, _, _ = await open_memory()
    stored = await memory.store(AGENT, "only in Redis", durability="redis")
    other, _, _ = await open_memory()
    assert await other.delete(AGENT, stored, if_version=stored.version)
    assert await memory.get(AGENT, stored) is None


async def test_nothing_found_is_an_error_while_what_there_is_cannot_be_read(open_memory):
    memory, store, _ = await open_memory()
    await memory.store(AGENT, "likes tea")
    await memory._lifecycle.parts.clean.flush()
    other, other_store, other_between = await open_memory()
    other_store.is_away = True
    for _ in range(2):
        # Its index is not loaded, and nothing is dirty.
        with pytest.raises(MemoryStoreUnavailableError, match="unknown"):
            await other.retrieve(AGENT, "tea")
    other_store.is_away = False
    await until(lambda: other.retrieve(AGENT, "tea"))
    other_store.is_away = True
    assert [entry.content for entry in await other.retrieve(AGENT, "tea")] == ["likes tea"]  # from Redis
    other_between.black_hole()
    with pytest.raises(MemoryStoreUnavailableError, match="unknown"):
        await other.retrieve(AGENT, "tea")
    for call in (other.count, other.namespaces, other.history, other.check):
        with pytest.raises(MemoryStoreUnavailableError):
            await call(AGENT)
    with pytest.raises(MemoryStoreUnavailableError):
        await other.get_by_key(AGENT, "key")
    with pytest.raises(DurabilityError, match="SQL is away"):
        await other.delete(AGENT, "whatever")
    assert await other.check_health() == MemoryHealth(healthy=False, state="down", sql="away", redis="away")
    assert other.health() == await other.check_health()
    assert await store.count(MemoryQuery(agent_id=AGENT)) == 1
