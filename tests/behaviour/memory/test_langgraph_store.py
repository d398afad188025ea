"""The LangGraph adapter: what LangGraph's stores promise, on our memory, beside LangGraph's own store in memory.

Each test that takes `store` runs on both, so that what is expected is what LangGraph's reference does.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from agent_memory.memory import MemorySystem
from agent_memory.memory.langgraph import AgentMemoryStore


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
        return memory.get_by_key("langgraph", "long", ("n",)).expires_at

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
