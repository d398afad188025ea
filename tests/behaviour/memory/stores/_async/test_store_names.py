"""Keys, idempotency keys, equal contents and expiry: whose they are, and when they count."""

from __future__ import annotations

from store_samples import WRITER, put

from agent_memory.memory._copy_rules import is_expired
from agent_memory.memory.stores import Delete, MemoryQuery, WriteStatus

APPLIED, EXISTING = WriteStatus.APPLIED, WriteStatus.EXISTING


async def one(store, operation):
    (result,) = await store.write([operation])
    return result


def in_s(clock, seconds):
    return clock.now_us / 1e6 + seconds


async def test_a_key_is_a_users_own(async_store):
    for user in (None, "ann", "bob"):
        assert (
            await one(async_store, put(f"of {user}", memory_id=f"m-{user}", key="home", user_id=user))
        ).status is APPLIED
    for user in (None, "ann", "bob"):
        assert (await async_store.get_by_key("agent", "home", (), user)).content == f"of {user}".encode()
    assert await async_store.get_by_key("agent", "home", (), "eve") is None
    replaced = await one(async_store, put("new", key="home", user_id="ann"))
    assert (replaced.status, replaced.id, replaced.existed) == (APPLIED, "m-ann", True)
    together = await async_store.write([put(n, key="work", user_id=n) for n in ("ann", "bob")])
    assert len({result.id for result in together}) == 2


async def test_an_idempotency_key_is_a_users_own(async_store):
    for user in (None, "ann", "bob"):
        put_first = put("first", memory_id=f"m-{user}", idempotency_key="i", user_id=user)
        assert (await one(async_store, put_first)).status is APPLIED
        again = await one(async_store, put("again", idempotency_key="i", user_id=user))
        assert again[:2] == (EXISTING, f"m-{user}")
        assert again.existed
    together = await async_store.write([put(n, idempotency_key="j", user_id=n) for n in ("ann", "bob", "ann")])
    assert [result.status for result in together] == [APPLIED, APPLIED, EXISTING]


async def test_the_idempotency_key_of_a_deleted_memory_stays_its_users(async_store):
    await one(async_store, put("hers", memory_id="m", idempotency_key="i", user_id="ann"))
    await one(async_store, Delete("m", "agent"))
    after = await one(async_store, put("hers", idempotency_key="i", user_id="ann"))
    assert (after.status, after.id, after.existed) == (EXISTING, "m", False)
    assert (await one(async_store, put("his", idempotency_key="i", user_id="bob"))).status is APPLIED
    # The erasure of the user takes it, too.
    await async_store.begin_erasure("user", "ann")
    while (await async_store.erase("user", "ann")).remaining:
        pass
    assert (await one(async_store, put("hers", idempotency_key="i", user_id="ann"))).status is APPLIED


async def test_readers_of_the_feed_learn_of_the_tombstones_of_a_user_under_erasure(async_store):
    await one(async_store, put("hers", memory_id="m", idempotency_key="i", user_id="ann"))
    seen = (await async_store.changes("agent", 0)).seq
    await one(async_store, Delete("m", "agent"))
    await async_store.begin_erasure("user", "ann")
    assert [(one.id, one.deleted) for one in (await async_store.changes("agent", seen)).copies] == [("m", 1)]


async def test_equal_content_never_wins_over_a_key_a_session_or_an_expiry(async_store, clock):
    differing = [
        {},
        {"key": "k1"},
        {"key": "k2"},
        {"session_id": "s"},
        {"user_id": "u"},
        {"namespace": ["n"]},
        {"expires_at": in_s(clock, 50)},
        {"expires_at": in_s(clock, 60)},
    ]
    puts = [put("same", memory_id=f"m{n}", deduplicate=True, **words) for n, words in enumerate(differing)]
    assert [result.id for result in await async_store.write(puts)] == [f"m{n}" for n in range(len(differing))]
    again = [put("same", memory_id=f"x{n}", deduplicate=True, **words) for n, words in enumerate(differing)]
    for n, operation in enumerate(again):
        assert (await one(async_store, operation)).id == f"m{n}"
    # One that comes with a version of its own was acknowledged under its own id.
    dirty = await one(async_store, put("same", memory_id="d", deduplicate=True, version=clock.now_us + 5))
    assert (dirty.status, dirty.id) == (APPLIED, "d")


async def test_an_expired_memory_is_gone_before_it_is_swept(async_store, clock):
    soon = {"expires_at": in_s(clock, 10), "namespace": ["n"]}
    await async_store.write(
        [
            put("k", memory_id="k", key="k", **soon),
            put("i", memory_id="i", idempotency_key="i", **soon),
            put("h", memory_id="h", deduplicate=True, **soon),
        ]
    )
    assert [one.memories for one in await async_store.namespaces("agent")] == [3]
    clock.now_us += 10_000_000
    assert await async_store.namespaces("agent") == []
    assert await async_store.get_by_key("agent", "k", ["n"]) is None
    assert await async_store.count(MemoryQuery(agent_id="agent")) == 0
    assert (await one(async_store, put("k", memory_id="k"))).status is WriteStatus.DELETED
    assert (await one(async_store, put("h", memory_id="h2", deduplicate=True, **soon))).id == "h2"
    request = await one(async_store, put("i", idempotency_key="i"))
    assert (request.status, request.id, request.existed) == (EXISTING, "i", False)
    deleted = await one(async_store, Delete("h", "agent"))
    assert (deleted.status, deleted.existed) == (APPLIED, False)


async def test_the_key_of_an_expired_memory_goes_to_a_new_one(async_store, clock):
    await one(async_store, put("old", memory_id="old", key="k", expires_at=in_s(clock, 10), idempotency_key="i"))
    clock.now_us += 11_000_000
    result = await one(async_store, put("new", memory_id="new", key="k"))
    assert (result.status, result.id, result.existed) == (APPLIED, "new", False)
    assert (await async_store.get_by_key("agent", "k")).content == b"new"
    (old,) = await async_store.get(["old"])
    assert (old.deleted, old.content) == (1, b"")
    assert (await async_store.agent("agent")).counts == (1, 0, 0)
    assert await async_store.expire(clock.now_us / 1e6) == []


async def test_a_version_of_its_own_may_come_from_before_the_expiry(async_store, clock):
    first = await one(async_store, put("a", memory_id="m", expires_at=in_s(clock, 10)))
    clock.now_us += 11_000_000
    late = put("a", memory_id="m", version=first.version + 1_000, expires_at=in_s(clock, 100))
    assert (await one(async_store, late)).status is APPLIED
    assert await async_store.count(MemoryQuery(agent_id="agent")) == 1


async def test_sql_and_the_core_agree_on_what_has_expired(async_store, clock):
    now = clock.now_us / 1e6
    for number, expires_at in enumerate((None, now - 1e-6, now, now + 1e-6, 0.0, 4e9)):
        agent_id = f"agent{number}"
        await one(async_store, put(agent_id=agent_id, expires_at=expires_at, writer=WRITER))
        held = await async_store.count(MemoryQuery(agent_id=agent_id))
        assert held == (not is_expired(expires_at, now)), expires_at


async def test_erasures_count_what_was_there(async_store, clock):
    soon = in_s(clock, 10)
    await async_store.write(
        [
            put(memory_id="a", user_id="ann"),
            put(memory_id="b", user_id="ann", expires_at=soon),
            put(memory_id="c", user_id="ann", agent_id="other"),
            put(memory_id="d", agent_id="other", expires_at=soon),
        ]
    )
    clock.now_us += 11_000_000
    await async_store.begin_erasure("user", "ann")
    assert (await async_store.erase("user", "ann")).erased == 2
    await one(async_store, put(memory_id="e", agent_id="other"))
    await async_store.begin_erasure("agent", "other")
    assert (await async_store.erase("agent", "other")).erased == 1


async def test_every_call_is_answered_with_the_memory_it_was_answered_with_first(async_store):
    plain = await one(async_store, put("first", memory_id="m", key="k"))
    for number in range(3):
        answered = await one(async_store, put(f"call {number}", key="k", idempotency_key=f"i{number}"))
        assert answered.id == plain.id
    await one(async_store, put("newest", key="k"))
    for number in range(3):  # a late repetition does not overwrite it
        again = await one(async_store, put(f"call {number}", key="k", idempotency_key=f"i{number}"))
        assert (again.status, again.id, again.existed) == (EXISTING, "m", True)
    assert (await async_store.get_by_key("agent", "k")).content == b"newest"
    equal = await one(async_store, put("same", memory_id="e", deduplicate=True))
    assert (await one(async_store, put("same", deduplicate=True, idempotency_key="d"))).id == equal.id
    await async_store.write([Delete("m", "agent"), Delete("e", "agent")])
    for key in ("i0", "i1", "i2", "d"):
        gone = await one(async_store, put("again", idempotency_key=key))
        assert (gone.status, gone.existed) == (EXISTING, False), key
    await async_store.begin_erasure("agent", "agent")
    while (await async_store.erase("agent", "agent")).remaining:
        pass
    for key in ("i0", "i1", "i2", "d"):
        assert (await one(async_store, put("again", idempotency_key=key))).status is APPLIED, key


async def test_the_erasure_of_a_user_frees_the_idempotency_keys_of_all_calls(async_store):
    await async_store.write(
        [put(f"call {n}", key="k", idempotency_key=f"i{n}", user_id=user) for n in range(3) for user in ("ann", "bob")]
    )
    await async_store.begin_erasure("user", "ann")
    while (await async_store.erase("user", "ann")).remaining:
        pass
    for number in range(3):
        hers = put("again", idempotency_key=f"i{number}", user_id="ann")
        assert (await one(async_store, hers)).status is APPLIED
        his = put("again", idempotency_key=f"i{number}", user_id="bob")
        assert (await one(async_store, his)).status is EXISTING
    assert await async_store.purge_tombstones(2**52) >= 1
    assert (await one(async_store, put("again", idempotency_key="i1", user_id="bob"))).status is APPLIED


async def test_a_memory_under_erasure_does_not_exist_for_a_delete(async_store):
    await one(async_store, put(memory_id="m", user_id="ann"))
    await one(async_store, put(memory_id="n", user_id="ann"))
    await async_store.begin_erasure("user", "ann")
    deleted = await one(async_store, Delete("m", "agent"))
    assert (deleted.status, deleted.existed) == (APPLIED, False)
    assert (await async_store.erase("user", "ann")).erased == 1
