# Generated from ../_async/test_store_names.py by tools/generate_sync.py: edit that file, not this one.

"""Keys, idempotency keys, equal contents and expiry: whose they are, and when they count."""

from __future__ import annotations

from store_samples import WRITER, put

from agent_memory.memory._copy_rules import is_expired
from agent_memory.memory.stores import Delete, MemoryQuery, WriteStatus

APPLIED, EXISTING = WriteStatus.APPLIED, WriteStatus.EXISTING


def one(store, operation):
    (result,) = store.write([operation])
    return result


def in_s(clock, seconds):
    return clock.now_us / 1e6 + seconds


def test_a_key_is_a_users_own(store):
    for user in (None, "ann", "bob"):
        assert (one(store, put(f"of {user}", memory_id=f"m-{user}", key="home", user_id=user))).status is APPLIED
    for user in (None, "ann", "bob"):
        assert store.get_by_key("agent", "home", (), user).content == f"of {user}".encode()
    assert store.get_by_key("agent", "home", (), "eve") is None
    replaced = one(store, put("new", key="home", user_id="ann"))
    assert (replaced.status, replaced.id, replaced.existed) == (APPLIED, "m-ann", True)
    together = store.write([put(n, key="work", user_id=n) for n in ("ann", "bob")])
    assert len({result.id for result in together}) == 2


def test_an_idempotency_key_is_a_users_own(store):
    for user in (None, "ann", "bob"):
        put_first = put("first", memory_id=f"m-{user}", idempotency_key="i", user_id=user)
        assert one(store, put_first).status is APPLIED
        again = one(store, put("again", idempotency_key="i", user_id=user))
        assert again[:2] == (EXISTING, f"m-{user}")
        assert again.existed
    together = store.write([put(n, idempotency_key="j", user_id=n) for n in ("ann", "bob", "ann")])
    assert [result.status for result in together] == [APPLIED, APPLIED, EXISTING]


def test_the_idempotency_key_of_a_deleted_memory_stays_its_users(store):
    one(store, put("hers", memory_id="m", idempotency_key="i", user_id="ann"))
    one(store, Delete("m", "agent"))
    after = one(store, put("hers", idempotency_key="i", user_id="ann"))
    assert (after.status, after.id, after.existed) == (EXISTING, "m", False)
    assert one(store, put("his", idempotency_key="i", user_id="bob")).status is APPLIED
    # The erasure of the user takes it, too.
    store.begin_erasure("user", "ann")
    while store.erase("user", "ann").remaining:
        pass
    assert one(store, put("hers", idempotency_key="i", user_id="ann")).status is APPLIED


def test_readers_of_the_feed_learn_of_the_tombstones_of_a_user_under_erasure(store):
    one(store, put("hers", memory_id="m", idempotency_key="i", user_id="ann"))
    seen = store.changes("agent", 0).seq
    one(store, Delete("m", "agent"))
    store.begin_erasure("user", "ann")
    assert [(one.id, one.deleted) for one in store.changes("agent", seen).copies] == [("m", 1)]


def test_equal_content_never_wins_over_a_key_a_session_or_an_expiry(store, clock):
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
    assert [result.id for result in store.write(puts)] == [f"m{n}" for n in range(len(differing))]
    again = [put("same", memory_id=f"x{n}", deduplicate=True, **words) for n, words in enumerate(differing)]
    for n, operation in enumerate(again):
        assert one(store, operation).id == f"m{n}"
    # One that comes with a version of its own was acknowledged under its own id.
    dirty = one(store, put("same", memory_id="d", deduplicate=True, version=clock.now_us + 5))
    assert (dirty.status, dirty.id) == (APPLIED, "d")


def test_an_expired_memory_is_gone_before_it_is_swept(store, clock):
    soon = {"expires_at": in_s(clock, 10), "namespace": ["n"]}
    store.write(
        [
            put("k", memory_id="k", key="k", **soon),
            put("i", memory_id="i", idempotency_key="i", **soon),
            put("h", memory_id="h", deduplicate=True, **soon),
        ]
    )
    assert [one.memories for one in store.namespaces("agent")] == [3]
    clock.now_us += 10_000_000
    assert store.namespaces("agent") == []
    assert store.get_by_key("agent", "k", ["n"]) is None
    assert store.count(MemoryQuery(agent_id="agent")) == 0
    assert one(store, put("k", memory_id="k")).status is WriteStatus.DELETED
    assert one(store, put("h", memory_id="h2", deduplicate=True, **soon)).id == "h2"
    request = one(store, put("i", idempotency_key="i"))
    assert (request.status, request.id, request.existed) == (EXISTING, "i", False)
    deleted = one(store, Delete("h", "agent"))
    assert (deleted.status, deleted.existed) == (APPLIED, False)


def test_the_key_of_an_expired_memory_goes_to_a_new_one(store, clock):
    one(store, put("old", memory_id="old", key="k", expires_at=in_s(clock, 10), idempotency_key="i"))
    clock.now_us += 11_000_000
    result = one(store, put("new", memory_id="new", key="k"))
    assert (result.status, result.id, result.existed) == (APPLIED, "new", False)
    assert store.get_by_key("agent", "k").content == b"new"
    (old,) = store.get(["old"])
    assert (old.deleted, old.content) == (1, b"")
    assert store.agent("agent").counts == (1, 0, 0)
    assert store.expire(clock.now_us / 1e6) == []


def test_a_version_of_its_own_may_come_from_before_the_expiry(store, clock):
    first = one(store, put("a", memory_id="m", expires_at=in_s(clock, 10)))
    clock.now_us += 11_000_000
    late = put("a", memory_id="m", version=first.version + 1_000, expires_at=in_s(clock, 100))
    assert one(store, late).status is APPLIED
    assert store.count(MemoryQuery(agent_id="agent")) == 1


def test_sql_and_the_core_agree_on_what_has_expired(store, clock):
    now = clock.now_us / 1e6
    for number, expires_at in enumerate((None, now - 1e-6, now, now + 1e-6, 0.0, 4e9)):
        agent_id = f"agent{number}"
        one(store, put(agent_id=agent_id, expires_at=expires_at, writer=WRITER))
        held = store.count(MemoryQuery(agent_id=agent_id))
        assert held == (not is_expired(expires_at, now)), expires_at


def test_erasures_count_what_was_there(store, clock):
    soon = in_s(clock, 10)
    store.write(
        [
            put(memory_id="a", user_id="ann"),
            put(memory_id="b", user_id="ann", expires_at=soon),
            put(memory_id="c", user_id="ann", agent_id="other"),
            put(memory_id="d", agent_id="other", expires_at=soon),
        ]
    )
    clock.now_us += 11_000_000
    store.begin_erasure("user", "ann")
    assert store.erase("user", "ann").erased == 2
    one(store, put(memory_id="e", agent_id="other"))
    store.begin_erasure("agent", "other")
    assert store.erase("agent", "other").erased == 1


def test_every_call_is_answered_with_the_memory_it_was_answered_with_first(store):
    plain = one(store, put("first", memory_id="m", key="k"))
    for number in range(3):
        answered = one(store, put(f"call {number}", key="k", idempotency_key=f"i{number}"))
        assert answered.id == plain.id
    one(store, put("newest", key="k"))
    for number in range(3):  # a late repetition does not overwrite it
        again = one(store, put(f"call {number}", key="k", idempotency_key=f"i{number}"))
        assert (again.status, again.id, again.existed) == (EXISTING, "m", True)
    assert store.get_by_key("agent", "k").content == b"newest"
    equal = one(store, put("same", memory_id="e", deduplicate=True))
    assert one(store, put("same", deduplicate=True, idempotency_key="d")).id == equal.id
    store.write([Delete("m", "agent"), Delete("e", "agent")])
    for key in ("i0", "i1", "i2", "d"):
        gone = one(store, put("again", idempotency_key=key))
        assert (gone.status, gone.existed) == (EXISTING, False), key
    store.begin_erasure("agent", "agent")
    while store.erase("agent", "agent").remaining:
        pass
    for key in ("i0", "i1", "i2", "d"):
        assert one(store, put("again", idempotency_key=key)).status is APPLIED, key


def test_the_erasure_of_a_user_frees_the_idempotency_keys_of_all_calls(store):
    store.write(
        [put(f"call {n}", key="k", idempotency_key=f"i{n}", user_id=user) for n in range(3) for user in ("ann", "bob")]
    )
    store.begin_erasure("user", "ann")
    while store.erase("user", "ann").remaining:
        pass
    for number in range(3):
        hers = put("again", idempotency_key=f"i{number}", user_id="ann")
        assert one(store, hers).status is APPLIED
        his = put("again", idempotency_key=f"i{number}", user_id="bob")
        assert one(store, his).status is EXISTING
    assert store.purge_tombstones(2**52) >= 1
    assert one(store, put("again", idempotency_key="i1", user_id="bob")).status is APPLIED


def test_a_memory_under_erasure_does_not_exist_for_a_delete(store):
    one(store, put(memory_id="m", user_id="ann"))
    one(store, put(memory_id="n", user_id="ann"))
    store.begin_erasure("user", "ann")
    deleted = one(store, Delete("m", "agent"))
    assert (deleted.status, deleted.existed) == (APPLIED, False)
    assert store.erase("user", "ann").erased == 1
