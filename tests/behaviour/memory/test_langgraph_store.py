"""The LangGraph adapter: what LangGraph's stores promise, on our memory, beside LangGraph's own store in memory.

Each test that takes `store` runs on both, so that what is expected is what LangGraph's reference does.
"""

from __future__ import annotations

import asyncio
import datetime
import decimal
import enum
import functools
import uuid

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from agent_memory.memory import AsyncMemorySystem, MemorySettings, MemorySystem
from agent_memory.memory.errors import DurabilityError, MemoryStoreUnavailableError, StoreFault
from agent_memory.memory.langgraph import AgentMemoryStore
from agent_memory.memory.settings import SyncSettings
from agent_memory.memory.stores.sqlite import _engine


def embed(texts):
    """Letters counted: texts of the same letters are alike."""
    return [[float(text.count(letter)) + 0.01 for letter in "abcdefghij"] for text in texts]


@pytest.fixture
def memory(tmp_path):
    with MemorySystem(tmp_path / "memory", redis=None) as system:
        yield system


@pytest.fixture(params=["ours", "reference"])
def store(request):
    if request.param == "reference":
        return InMemoryStore()
    return AgentMemoryStore(request.getfixturevalue("memory"))


def test_put_get_delete(store):
    store.put(("users", "1"), "name", {"first": "Ann", "tags": [1, {"a": None}]})
    item = store.get(("users", "1"), "name")
    assert (item.namespace, item.key) == (("users", "1"), "name")
    assert item.value == {"first": "Ann", "tags": [1, {"a": None}]}
    assert store.get(("users",), "name") is None
    store.put(("users", "1"), "name", {"first": "Bob"})
    changed = store.get(("users", "1"), "name")
    assert changed.value == {"first": "Bob"}
    assert changed.updated_at > item.updated_at
    store.delete(("users", "1"), "name")
    store.delete(("users", "1"), "name")
    assert store.get(("users", "1"), "name") is None


def test_a_batch_sees_what_was_before_it(store):
    store.put(("a",), "k", {"n": 1})
    results = store.batch(
        [
            PutOp(("a",), "k", {"n": 2}),
            GetOp(("a",), "k"),
            PutOp(("a",), "k", {"n": 3}),
            SearchOp(("a",)),
            ListNamespacesOp(),
            PutOp(("b",), "k", {"n": 4}),
        ]
    )
    assert results[0] is results[2] is results[5] is None
    assert results[1].value == {"n": 1}
    assert [item.value for item in results[3]] == [{"n": 1}]
    assert results[4] == [("a",)]
    assert store.get(("a",), "k").value == {"n": 3}
    assert store.get(("b",), "k").value == {"n": 4}


def test_search_by_prefix_and_filter(store):
    for number in range(6):
        kind = "even" if number % 2 == 0 else "odd"
        store.put(("docs", kind), f"d{number}", {"n": number, "kind": kind, "deep": {"n": number}})
    store.put(("other",), "x", {"n": 1})
    store.put(("docsx",), "x", {"n": 1})

    def found(prefix, **options):
        return sorted(item.key for item in store.search(prefix, **options))

    assert found(("docs",)) == [f"d{number}" for number in range(6)]
    assert found(("docs", "odd")) == ["d1", "d3", "d5"]
    assert found(("docs",), filter={"kind": "even"}) == ["d0", "d2", "d4"]
    assert found(("docs",), filter={"n": {"$gt": 1, "$lte": 3}}) == ["d2", "d3"]
    assert found(("docs",), filter={"n": {"$ne": 0}, "kind": {"$eq": "even"}}) == ["d2", "d4"]
    assert found(("docs",), filter={"deep": {"n": 2}}) == ["d2"]
    assert found((), filter={"n": 1}) == ["d1", "x", "x"]
    pages = [item.key for offset in (0, 4) for item in store.search(("docs",), limit=4, offset=offset)]
    assert sorted(pages) == [f"d{number}" for number in range(6)]


def test_list_namespaces(store):
    for namespace in (("a", "b", "c"), ("a", "b", "d"), ("a", "x"), ("b",), ("z", "b", "c")):
        store.put(namespace, "k", {})
    assert store.list_namespaces() == [("a", "b", "c"), ("a", "b", "d"), ("a", "x"), ("b",), ("z", "b", "c")]
    assert store.list_namespaces(prefix=("a",), max_depth=2) == [("a", "b"), ("a", "x")]
    assert store.list_namespaces(suffix=("b", "c")) == [("a", "b", "c"), ("z", "b", "c")]
    assert store.list_namespaces(prefix=("*", "b")) == [("a", "b", "c"), ("a", "b", "d"), ("z", "b", "c")]
    assert store.list_namespaces(limit=2, offset=1) == [("a", "b", "d"), ("a", "x")]
    both = (MatchCondition("prefix", ("a",)), MatchCondition("suffix", ("c",)))
    assert store.batch([ListNamespacesOp(match_conditions=both)]) == [[("a", "b", "c")]]


@pytest.mark.parametrize("namespace", [(), ("",), ("a.b",), ("langgraph", "x"), (1,)])
def test_bad_namespaces_are_refused(store, namespace):
    with pytest.raises(InvalidNamespaceError):
        store.put(namespace, "k", {})


async def test_the_same_for_asyncio(memory):
    store = AgentMemoryStore(memory)
    await asyncio.gather(*[store.aput(("a",), f"k{number}", {"n": number}) for number in range(10)])
    assert (await store.aget(("a",), "k7")).value == {"n": 7}
    assert len(await store.asearch(("a",), limit=20)) == 10
    assert await store.alist_namespaces() == [("a",)]
    await store.adelete(("a",), "k7")
    assert await store.aget(("a",), "k7") is None


def test_search_by_meaning_and_by_words(memory):
    store = AgentMemoryStore(memory, embed=embed, fields=["text"])
    store.put(("n",), "ab", {"text": "abba", "note": "cccc"})
    store.put(("n",), "cd", {"text": "cdcd", "note": "aaaa"})
    store.put(("n",), "none", {"text": "abba"}, index=False)
    items = store.search(("n",), query="bbaa", limit=2)
    assert items[0].key == "ab"
    assert items[0].score > items[1].score
    filtered = store.search(("n",), query="bbaa", filter={"note": "aaaa"}, limit=1)
    assert [item.key for item in filtered] == ["cd"]
    words = AgentMemoryStore(memory, agent_id="words")
    words.put(("n",), "rain", {"text": "It rains in Lisbon"})
    words.put(("n",), "sun", {"text": "The sun shines in Porto"})
    assert [item.key for item in words.search(("n",), query="rain in Lisbon", limit=1)] == ["rain"]


def test_vectors_may_be_arrays(memory):
    store = AgentMemoryStore(memory, embed=lambda texts: np.ones((len(texts), 4), dtype=np.float32))
    store.put(("n",), "k", {"text": "x"})
    assert [item.key for item in store.search(("n",), query="y")] == ["k"]


def test_time_to_live(memory):
    store = AgentMemoryStore(memory)
    store.put(("n",), "short", {"v": 1}, ttl=1e-9)
    store.put(("n",), "long", {"v": 2}, ttl=60)
    assert store.get(("n",), "short") is None
    assert [item.key for item in store.search(("n",))] == ["long"]

    def expiry():
        return memory.get_by_key("langgraph", "long", ("n",)).expires_at_s

    before = expiry()
    store.get(("n",), "long", refresh_ttl=False)
    assert expiry() == before
    store.get(("n",), "long")
    assert expiry() > before


def test_a_changed_item_keeps_the_time_of_its_creation(memory):
    store = AgentMemoryStore(memory)
    store.put(("n",), "k", {"v": 1})
    item = store.get(("n",), "k")
    store.put(("n",), "k", {"v": 2})
    changed = store.get(("n",), "k")
    assert changed.created_at == item.created_at <= item.updated_at < changed.updated_at


def test_items_outlive_the_process(tmp_path):
    for number in range(2):
        with MemorySystem(tmp_path / "memory", redis=None) as system:
            store = AgentMemoryStore(system)
            if number == 0:
                store.put(("n",), "k", {"v": 1})
            assert store.get(("n",), "k").value == {"v": 1}


# --- what a batch costs ---


def transactions(memory):
    return memory.stats()["store"]["transactions"]


def test_puts_of_a_batch_are_one_commit_and_so_are_deletes_and_renewals(tmp_path, monkeypatch):
    # On a busy machine a transaction may reach the time at which it is divided.
    monkeypatch.setattr(_engine, "MAX_TRANSACTION_S", 60.0)
    with MemorySystem(tmp_path / "memory", redis=None) as memory:
        store = AgentMemoryStore(memory)
        before = transactions(memory)
        store.batch([PutOp(("n",), f"k{number}", {"v": number}, ttl=60) for number in range(300)])
        assert transactions(memory) == before + 1
        store.search(("n",), limit=300, refresh_ttl=True)
        assert transactions(memory) == before + 2
        store.batch([PutOp(("n",), f"k{number}", None) for number in range(300)])
        assert transactions(memory) == before + 3
        assert store.search(("n",)) == []


def test_puts_of_a_batch_are_in_their_order(memory):
    store = AgentMemoryStore(memory)
    store.batch([PutOp(("n",), key, {"v": 1}) for key in "ab"])
    store.batch([PutOp(("n",), key, {"v": 2}) for key in "cabd"] + [PutOp(("n",), "c", {"v": 3})])
    items = store.search(("n",))
    assert [item.key for item in items] == ["c", "d", "b", "a"]
    times = [item.updated_at for item in items]
    assert times == sorted(set(times), reverse=True)


def test_what_is_wrong_in_a_batch_is_raised_before_anything_is_done(memory):
    store = AgentMemoryStore(memory)
    for wrong in (
        PutOp(("n",), "k", {"v": object()}),
        SearchOp(("n",), {"v": {"$in": [1]}}),
        ListNamespacesOp(limit=-1),
        PutOp(("n",), "k", {"v": 1}, ttl=-1),
        PutOp(("n",), "k", {"v": 1}, index="v"),
        "no operation",
    ):
        with pytest.raises((TypeError, ValueError)):
            store.batch([PutOp(("n",), "first", {"v": 1}), wrong])
    assert store.list_namespaces() == []


def test_a_batch_goes_where_the_settings_let_it_while_sql_is_away(tmp_path, monkeypatch):
    async_away = functools.partial(_raise, MemoryStoreUnavailableError("away"))
    config = MemorySettings(journal=True, durability="journal")
    with MemorySystem(tmp_path / "memory", redis=None, config=config) as memory:
        store = AgentMemoryStore(memory)
        with monkeypatch.context() as patched:
            patched.setattr(memory._lifecycle.parts.sql.store, "write", async_away)
            store.batch([PutOp(("n",), f"k{number}", {"v": number}) for number in range(3)])
            assert memory.stats()["journal"]["entries"] == 3
        with MemorySystem(tmp_path / "other", redis=None) as strict, monkeypatch.context() as patched:
            patched.setattr(strict._lifecycle.parts.sql.store, "write", async_away)
            with pytest.raises(DurabilityError):
                AgentMemoryStore(strict).batch([PutOp(("n",), f"k{number}", {"v": number}) for number in range(3)])
    with MemorySystem(tmp_path / "memory", redis=None, config=config) as memory:
        assert AgentMemoryStore(memory).get(("n",), "k2").value == {"v": 2}


def _raise(error, *_, **__):
    raise error


# --- values and filters ---


class Colour(enum.Enum):
    RED = "red"


def test_dates_and_the_like_are_stored_as_text(memory):
    store = AgentMemoryStore(memory)
    day = datetime.date(2024, 2, 29)
    moment = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    name = uuid.UUID(int=7)
    store.put(("n",), "k", {"day": day, "at": [moment, {"id": name}], "colour": Colour.RED, "pair": (1, 2)})
    assert store.get(("n",), "k").value == {
        "day": "2024-02-29",
        "at": ["2024-02-29T12:00:00+00:00", {"id": str(name)}],
        "colour": "red",
        "pair": [1, 2],
    }
    for wanted in (
        {"day": day},
        {"day": {"$gte": day}},
        {"pair": (1, 2)},
        {"pair": {"$eq": (1, 2)}},
        {"colour": Colour.RED},
    ):
        assert [item.key for item in store.search(("n",), filter=wanted)] == ["k"]
    assert store.search(("n",), filter={"day": {"$gt": day}}) == []


@pytest.mark.parametrize(
    ("value", "error", "place"),
    [
        ({"a": {"b": [1, decimal.Decimal(1)]}}, TypeError, r"value\['a'\]\['b'\]\[1\] must be JSON.*decimal.Decimal"),
        ({"a": float("nan")}, ValueError, r"value\['a'\] must be a finite number, got nan"),
        ({"a": "\ud800"}, ValueError, r"value\['a'\] must have a UTF-8 encoding"),
        ({("a", 1): 1}, TypeError, "value must have names that are str, got tuple"),
        ("text", TypeError, "value must be a mapping, got str"),
    ],
)
def test_a_value_that_is_no_json_is_refused_by_place_and_type(memory, value, error, place):
    with pytest.raises(error, match=place):
        AgentMemoryStore(memory).put(("n",), "k", value)


def test_a_value_that_holds_itself_is_refused(memory):
    value = {}
    value["self"] = value
    with pytest.raises(ValueError, match="must not hold itself"):
        AgentMemoryStore(memory).put(("n",), "k", value)


def test_texts_are_ordered_as_texts_and_numbers_as_numbers(memory):
    store = AgentMemoryStore(memory)
    for key, value in {"a": "2024-01-01", "b": "2024-01-02", "c": "2024-01-10", "n": 9, "x": None, "t": "10"}.items():
        store.put(("n",), key, {"v": value})

    def found(**wanted):
        return sorted(
            item.key for item in store.search(("n",), filter={"v": {f"${name}": one for name, one in wanted.items()}})
        )

    assert found(gt="2024-01-01") == ["b", "c"]
    assert found(gte="2024-01-01", lt="2024-01-10") == ["a", "b"]
    assert found(gt=8) == ["n", "t"]
    assert found(lt=2**70) == ["n", "t"]
    assert found(lte="9") == ["a", "b", "c", "n", "t"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"$or": [{"v": 1}]}, r"names of the value's keys.*got '\$or'"),
        ({"v": {"$in": [1, 2]}}, r"must use \$eq, \$ne, \$gt, \$gte, \$lt, \$lte, got '\$in' with \[1, 2\] for 'v'"),
        ({"v": {"$gt": 1, "other": 2}}, "got 'other' with 2 for 'v'"),
        ({"v": {"w": [{"$regex": "x"}]}}, r"got '\$regex' with 'x' for 'v.w'"),
        ({"v": {"$gt": None}}, r"must give '\$gt' a number or a text to compare 'v' with, got None"),
        ({"v": {"$lt": [1]}}, r"must give '\$lt' a number or a text"),
        ({"v": {"$eq": float("nan")}}, "must be a finite number"),
    ],
)
def test_filters_that_would_find_nothing_are_refused(memory, wanted, message):
    store = AgentMemoryStore(memory)
    for query in (None, "x"):
        with pytest.raises(ValueError, match=message):
            store.search(("n",), filter=wanted, query=query)


def test_pages(memory):
    store = AgentMemoryStore(memory)
    store.put(("n",), "k", {"text": "tea"})
    for query in (None, "tea"):
        assert store.search(("n",), query=query, limit=0) == []
        assert store.search(("n",), query=query, offset=1) == []
        for page in ({"limit": -1}, {"offset": -1}, {"limit": 1.5}):
            with pytest.raises(ValueError, match=r"must be a whole number of at least 0, got"):
                store.search(("n",), query=query, **page)
    assert store.list_namespaces(limit=0) == []
    with pytest.raises(ValueError, match="max_depth must be at least 1, got 0"):
        store.list_namespaces(max_depth=0)
    with pytest.raises(ValueError, match="match_type must be 'prefix' or 'suffix', got 'infix'"):
        store.batch([ListNamespacesOp((MatchCondition("infix", ("n",)),))])


def test_other_memories_of_the_agent_are_no_items(memory):
    store = AgentMemoryStore(memory)
    store.put(("n",), "k", {"text": "tea"})
    memory.store("langgraph", "tea", namespace=("n",))
    memory.store("langgraph", "tea", namespace=("n",), key="text")
    memory.store("langgraph", {"text": "tea"}, namespace=("n",), key="ann", user_id="ann")
    for query in (None, "tea"):
        assert [item.key for item in store.search(("n",), query=query, limit=1)] == ["k"]
        assert [item.key for item in store.search(("n",), query=query)] == ["k"]
    assert store.get(("n",), "text") is None
    assert store.get(("n",), "ann") is None


def test_equal_values_under_two_keys_are_two_items(tmp_path):
    with MemorySystem(tmp_path / "memory", redis=None, config=MemorySettings(deduplicate=True)) as system:
        store = AgentMemoryStore(system)
        store.put(("n",), "a", {"v": 1})
        store.batch([PutOp(("n",), key, {"v": 1}) for key in ("b", "c")])
        assert [store.get(("n",), key).value for key in ("a", "b", "c")] == [{"v": 1}] * 3


# --- the life of items ---


def test_reading_changes_when_an_item_expires_and_nothing_else(memory):
    store = AgentMemoryStore(memory)
    store.put(("n",), "old", {"v": "tea"}, ttl=10)
    store.put(("n",), "new", {"v": "tea"}, ttl=10)

    def state():
        return [item.dict() | {"score": None} for item in store.search(("n",), refresh_ttl=False)]

    def expiries():
        return [memory.get_by_key("langgraph", key, ("n",)).expires_at_s for key in ("old", "new")]

    before, ends = state(), expiries()
    store.get(("n",), "old")
    assert expiries()[0] > ends[0]
    assert expiries()[1] == ends[1]
    for query in (None, "tea"):
        ends = expiries()
        assert len(store.search(("n",), query=query)) == 2
        assert all(end > earlier for end, earlier in zip(expiries(), ends, strict=True))
    assert state() == before
    assert [item["key"] for item in before] == ["new", "old"]


def test_a_read_does_not_shorten_the_life_that_another_put_gives(memory):
    store = AgentMemoryStore(memory)
    store.put(("n",), "k", {"v": 1}, ttl=1)
    entry = memory.get_by_key("langgraph", "k", ("n",))
    store.put(("n",), "k", {"v": 2})
    store._items._renew([entry])
    assert memory.get_by_key("langgraph", "k", ("n",)).expires_at_s is None
    assert store.get(("n",), "k").value == {"v": 2}


def test_a_database_that_takes_no_writes_is_read(memory, monkeypatch, caplog):
    store = AgentMemoryStore(memory)
    store.put(("n",), "k", {"v": "tea"}, ttl=10)

    def expiry():
        return memory.get_by_key("langgraph", "k", ("n",)).expires_at_s

    before = expiry()
    with monkeypatch.context() as patched:
        refusal = MemoryStoreUnavailableError("read-only", fault=StoreFault.READ_ONLY)
        patched.setattr(memory._lifecycle.parts.sql.store, "write", functools.partial(_raise, refusal))
        for _ in range(3):
            assert store.get(("n",), "k").value == {"v": "tea"}
            assert len(store.search(("n",), query="tea")) == 1
        with pytest.raises(DurabilityError):
            store.delete(("n",), "k")
    assert [record.message for record in caplog.records if "is not renewed" in record.message] == [
        f"the life of items that are read is not renewed: {refusal}"
    ]
    assert expiry() == before


def test_expired_items_are_nowhere(memory):
    store = AgentMemoryStore(memory)
    store.batch([PutOp(("gone",), f"k{number}", {"v": "tea"}, ttl=1e-9) for number in range(2)])
    assert store.get(("gone",), "k0") is None
    assert store.search((), query="tea") == store.search(()) == []
    assert store.list_namespaces() == []
    store.delete(("gone",), "k0")
    store.put(("gone",), "k1", {"v": "tea"})
    assert [item.key for item in store.search(())] == ["k1"]


def test_a_default_ttl_and_no_renewal(memory):
    store = AgentMemoryStore(memory, ttl={"default_ttl": 60, "refresh_on_read": False})

    def expiry():
        return memory.get_by_key("langgraph", "k", ("n",)).expires_at_s

    store.put(("n",), "k", {"v": 1})
    first = expiry()
    assert first == pytest.approx(memory.get_by_key("langgraph", "k", ("n",)).timestamp_s + 3_600, abs=10)
    store.get(("n",), "k")
    store.search(("n",))
    assert expiry() == first
    store.get(("n",), "k", refresh_ttl=True)
    assert expiry() > first
    store.put(("n",), "k", {"v": 1}, ttl=None)
    assert expiry() is None


@pytest.mark.parametrize("ttl", [{"default_ttl": 0}, {"default_ttl": float("inf")}, {"default": 60}])
def test_a_ttl_configuration_that_is_none_is_refused(memory, ttl):
    with pytest.raises(ValueError, match="ttl must have"):
        AgentMemoryStore(memory, ttl=ttl)


# --- what is searched ---


def test_items_get_vectors_of_the_memory_system(tmp_path):
    given = []

    def counted(texts):
        given.extend(texts)
        return embed(texts)

    with MemorySystem(tmp_path / "memory", redis=None, embed=counted) as system:
        store = AgentMemoryStore(system, fields=["text"])
        store.batch(
            [
                PutOp(("n",), "ab", {"text": "abba", "note": "cccc"}),
                PutOp(("n",), "cd", {"text": "cdcd"}),
                PutOp(("n",), "no", {"text": "abba"}, index=False),
            ]
        )
        assert given == ["abba", "cdcd"]
        items = store.search(("n",), query="bbaa")
        assert [item.key for item in items] == ["ab", "cd"]
        assert items[0].score > 0.5 > items[1].score > 0


def test_items_have_vectors_of_the_next_model_after_reembed(tmp_path):
    def longer(texts):
        return [vector + [0.0] * 3 for vector in embed(texts)]

    config = MemorySettings(sync=SyncSettings(max_staleness_s=0.001))
    with MemorySystem(tmp_path / "memory", redis=None, embed=embed, config=config) as system:
        store = AgentMemoryStore(system, fields=["text"])
        store.put(("n",), "ab", {"text": "abba"})
        store.put(("n",), "whole", {"text": "jj"}, index=["$"])
        store.put(("n",), "no", {"text": "abba"}, index=False)
        (entry,) = system.query("langgraph", key="ab")
        system.update("langgraph", entry.id, metadata={"seen": True})
    with MemorySystem(tmp_path / "memory", redis=None, embed=longer, config=config) as system:
        assert (system.reembed().embedded, AgentMemoryStore(system).get(("n",), "ab").value) == (2, {"text": "abba"})
        entries = {entry.key: entry.embedding for entry in system.query("langgraph")}
        np.testing.assert_allclose(entries["ab"], longer(["abba"])[0])
        np.testing.assert_allclose(entries["whole"], longer(['{"text": "jj"}'])[0])
        assert entries["no"] is None


def test_items_that_embed_fails_for_are_embedded_later(tmp_path):
    is_away = True

    def embed_or_fail(texts):
        if is_away:
            raise ConnectionError("the model is away")
        return embed(texts)

    with MemorySystem(tmp_path / "memory", redis=None, embed=embed_or_fail) as system:
        store = AgentMemoryStore(system, fields=["text"])
        store.batch([PutOp(("n",), "ab", {"text": "abba tea"}), PutOp(("n",), "cd", {"text": "cdcd"})])
        assert [item.key for item in store.search(("n",), query="tea")] == ["ab"]
        is_away = False
        system.store("other", "a first vector begins the space")
        system.maintain()
        assert [item.key for item in store.search(("n",), query="dcdc")] == ["cd", "ab"]


@pytest.mark.parametrize("has_vectors", [False, True])
def test_only_what_is_indexed_is_found(tmp_path, has_vectors):
    def found(store):
        return {
            word: [item.key for item in store.search(("n",), query=word)][:1]
            for word in ("zebra", "giraffe", "pizza", "soup", "otter", "heron")
        }

    wanted = {"zebra": [], "giraffe": [], "pizza": ["fields"], "soup": [], "otter": ["deep"], "heron": ["whole"]}

    def vectors(texts):
        return [[float("pizza" in text), float("otter" in text), float("heron" in text)] for text in texts]

    for _ in range(2):  # with the index of this process, and made anew from SQL
        with MemorySystem(tmp_path / "memory", redis=None, embed=vectors if has_vectors else None) as memory:
            store = AgentMemoryStore(memory)
            if not store.list_namespaces():
                store.put(("n",), "deep", {"a": [{"b": "an otter"}, {"b": "two"}], "c": "zebra"}, index=["a[*].b"])
                store.put(("n",), "whole", {"any": ["heron"]})
                store.put(("n",), "none", {"text": "likes soup", "secret": "giraffe"}, index=False)
                store.put(("n",), "fields", {"text": "likes pizza", "secret": "zebra"}, index=["text"])
            answers = found(store)
            if has_vectors:  # what has a vector is found by any question
                assert all(keys and keys != ["none"] for keys in answers.values())
                assert all(answers[word] == keys for word, keys in wanted.items() if keys)
            else:
                assert answers == wanted
            (entry,) = memory.query("langgraph", key="none")
            assert [item.key for item in store.search(("n",)) if item.key == "none"] == ["none"]
            # A change of the memory beside LangGraph keeps it out of the search.
            memory.update("langgraph", entry.id, importance=0.9, metadata={"seen": True})
            memory.update("langgraph", entry.id, content={"text": "a giraffe"})
            assert "none" not in [item.key for item in store.search(("n",), query="giraffe")]


def test_new_content_beside_langgraph_is_searched_whole(memory):
    store = AgentMemoryStore(memory)
    store.put(("n",), "k", {"text": "pizza", "note": "zebra"}, index=["text"])
    (entry,) = memory.query("langgraph", key="k")
    memory.update("langgraph", entry.id, metadata={"seen": True})
    assert [item.key for item in store.search(("n",), query="pizza")] == ["k"]
    assert store.search(("n",), query="zebra") == []
    memory.update("langgraph", entry.id, content={"text": "soup", "note": "heron"})
    assert store.search(("n",), query="pizza") == []
    assert [item.key for item in store.search(("n",), query="heron")] == ["k"]


def test_an_exported_item_keeps_what_is_searched_of_it(memory, tmp_path):
    AgentMemoryStore(memory).put(("n",), "k", {"text": "pizza", "note": "zebra"}, index=["text"])
    with MemorySystem(tmp_path / "other", redis=None) as other:
        other.import_(list(memory.export("langgraph")))
        store = AgentMemoryStore(other)
        assert [item.key for item in store.search(("n",), query="pizza")] == ["k"]
        assert store.search(("n",), query="zebra") == []


class Letters(Embeddings):
    def embed_documents(self, texts):
        return embed(texts)

    def embed_query(self, text):
        return embed([text])[0]


async def test_embeddings_of_langchain_and_coroutine_functions(tmp_path):
    async def embed_later(texts):
        await asyncio.sleep(0)
        return embed(texts)

    async with AsyncMemorySystem(tmp_path / "memory", redis=None) as memory:
        for number, embedder in enumerate((embed, embed_later, Letters())):
            store = AgentMemoryStore(memory, agent_id=f"agent-{number}", embed=embedder, fields=["text"])
            await store.aput(("n",), "ab", {"text": "abba"})
            await store.aput(("n",), "cd", {"text": "cdcd"})
            assert [item.key for item in await store.asearch(("n",), query="bbaa")] == ["ab", "cd"]
    with MemorySystem(tmp_path / "other", redis=None) as system:
        with pytest.raises(TypeError, match="embed must not be a coroutine function with a MemorySystem"):
            AgentMemoryStore(system, embed=embed_later)
        store = AgentMemoryStore(system, embed=Letters(), fields=["text"])
        store.put(("n",), "ab", {"text": "abba"})
        assert [item.key for item in store.search(("n",), query="bbaa")] == ["ab"]
        wrong = AgentMemoryStore(system, embed=lambda texts: [1.0])
        with pytest.raises(ValueError, match=r"embed must return an array of shape \(1, dimensions\), got \(1,\)"):
            wrong.put(("n",), "k", {"text": "x"})
        assert store.get(("n",), "k") is None


# --- on an AsyncMemorySystem ---


async def test_an_async_system_from_its_loop_another_loop_and_threads(tmp_path):
    async with AsyncMemorySystem(tmp_path / "memory", redis=None) as memory:
        store = AgentMemoryStore(memory)
        await store.aput(("n",), "k", {"v": 1})
        assert await memory.count("langgraph") == 1
        assert (await asyncio.to_thread(store.get, ("n",), "k")).value == {"v": 1}
        assert (await asyncio.to_thread(asyncio.run, store.aget(("n",), "k"))).value == {"v": 1}
        with pytest.raises(RuntimeError, match="got a call inside that loop"):
            store.get(("n",), "k")


def test_an_async_system_without_its_loop(tmp_path):
    memory = AsyncMemorySystem(tmp_path / "memory", redis=None)
    store = AgentMemoryStore(memory)
    with pytest.raises(RuntimeError, match="got no running loop"):
        store.put(("n",), "k", {"v": 1})

    async def use():
        async with memory:
            await store.aput(("n",), "k", {"v": 1})
            return await store.aget(("n",), "k")

    for _ in range(2):
        assert asyncio.run(use()).value == {"v": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": object()}, "memory must be a MemorySystem or an AsyncMemorySystem, got object"),
        ({"embed": 3}, "embed must be callable, an Embeddings or its name, got int"),
        ({"fields": "text"}, "fields must be a sequence of paths, got 'text'"),
    ],
)
def test_wrong_arguments(memory, arguments, message):
    with pytest.raises(TypeError, match=message):
        AgentMemoryStore(**({"memory": memory} | arguments))
