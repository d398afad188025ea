"""Random programs on LangGraph's own store in memory and on ours, by every entry point: the answers must be the same.

Differences that are meant, and how the programs allow for them (docs/reference/memory.md lists them for users):
- Without a query LangGraph's store gives items in the order of their first put, ours the last put first, as its PostgresStore:
  the reference's answer is sorted before the page is cut from it.
- A query without embeddings changes nothing there and ranks by words here: what is expected is looked up in the texts.
- With embeddings it fills an answer up with items that have no vector; ours finds these by no query, as PostgresStore.
- It goes on naming namespaces whose items are gone, and those that were only asked for: they are removed from it.
- It keeps vectors of an item that is put again with other fields: items are removed there before they are put again.
- It fails on an item with the same text at two of its fields: there an item is searched as a whole, or not at all.
- It raises what float() does where a value has no order with the operand; here such an item does not match.
- It orders texts only where both are numbers; ours orders them as texts (tested beside this, in test_langgraph_store.py).
- It takes negative limits, a depth of 0, and names with a $; ours refuses them. It knows no TTL.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
import zlib

import pytest
from hypothesis import HealthCheck, Phase, event, given, seed, settings
from hypothesis import strategies as st
from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
    get_text_at_path,
    tokenize_path,
)
from langgraph.store.memory import InMemoryStore

from agent_memory.memory import AsyncMemorySystem, MemorySystem
from agent_memory.memory.langgraph import AgentMemoryStore

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "60"))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
BUDGET = settings(
    phases=PHASES if "MACHINE_EXAMPLES" in os.environ else PHASES[:-1],
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    print_blob=True,
)
WORDS = ("apple", "lisbon", "rain", "violin")
ALL = 10_000
EXPIRED_AT_ONCE = 1e-9
numbers = itertools.count()


def embed(texts):
    """A direction for each word: no two items need be equally near."""
    return [[0.1 + text.count(word) for word in WORDS] for text in texts]


# --- programs ---


def weighted(*choices):
    """One of the strategies, each as often as the number before it says."""
    return st.sampled_from([strategy for weight, strategy in choices for _ in range(weight)]).flatmap(lambda one: one)


# Few names, so that programs come back to what they have put.
LABELS = st.sampled_from(["a", "b"])
NAMESPACES = st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "b"), ("a", "b", "a")])
PREFIXES = st.sampled_from([(), (), ("a",), ("b",), ("a", "b"), ("c",)])
KEYS = st.sampled_from(["k1", "k2"])
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map(" ".join)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([-0.5, 1.5, 1e300]),
    st.sampled_from(["2", "-1"]),
    TEXTS,
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = st.sampled_from(["n", "text", "other"])
VALUES = st.fixed_dictionaries(
    {"n": weighted((3, st.integers(-2, 2)), (1, NESTED))}, optional={"text": TEXTS, "other": NESTED}
)
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.one_of(st.integers(-2, 2), st.just(1.5))),
    st.tuples(st.sampled_from(["$eq", "$ne"]), NESTED),
)
WANTED = st.one_of(NESTED, st.lists(OPERATIONS, min_size=1, max_size=2).map(dict))
FILTERS = weighted(
    (2, st.none()),
    (2, st.fixed_dictionaries({"n": OPERATIONS.map(lambda one: dict([one]))})),
    (1, st.dictionaries(NAMES, WANTED, max_size=2)),
)
INDEXES = st.sampled_from([None, None, False, ["text"], ["other", "n[*]"]])
PUTS = weighted(
    (6, st.builds(PutOp, NAMESPACES, KEYS, VALUES, INDEXES, st.sampled_from([None, 600.0, 600.0]))),
    (1, st.builds(PutOp, NAMESPACES, KEYS, VALUES, INDEXES, st.just(EXPIRED_AT_ONCE))),
    (1, st.builds(PutOp, NAMESPACES, KEYS, st.none(), st.none(), st.none())),
)
PAGES = {"limit": st.sampled_from([0, 1, 2, 3, ALL, ALL, ALL]), "offset": st.sampled_from([0, 0, 0, 1, 2])}
SEARCHES = st.builds(
    SearchOp,
    PREFIXES,
    FILTERS,
    query=st.none(),
    refresh_ttl=st.booleans(),
    **PAGES,
)
QUESTIONS = st.builds(
    SearchOp,
    PREFIXES,
    FILTERS,
    limit=st.just(ALL),
    offset=st.just(0),
    query=st.sampled_from(WORDS),
    refresh_ttl=st.booleans(),
)
PATHS = st.lists(st.one_of(LABELS, st.just("*")), min_size=1, max_size=2).map(tuple)
LISTINGS = st.builds(
    ListNamespacesOp,
    st.one_of(
        st.none(),
        st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), PATHS).map(lambda one: (one,)),
        st.lists(st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), PATHS), max_size=2).map(tuple),
    ),
    st.sampled_from([None, None, 1, 2, 3]),
    **PAGES,
)
GETS = st.builds(GetOp, NAMESPACES, KEYS, st.booleans())
OPS = weighted((5, PUTS), (1, GETS), (3, SEARCHES), (1, QUESTIONS), (1, LISTINGS))
BATCHES = st.lists(OPS, min_size=2, max_size=6)
PROGRAMS = st.lists(BATCHES, min_size=4, max_size=12)


# --- the reference ---


class Reference:
    """LangGraph's store with the differences that are meant, and when which item was put."""

    def __init__(self, *, has_embeddings):
        index = {"dims": len(WORDS), "embed": embed, "fields": ["$"]} if has_embeddings else None
        self.has_embeddings = has_embeddings
        self.store = InMemoryStore(index=index)
        self.order = {}
        self.texts = {}
        self.put_count = 0

    def read(self, op):
        for namespace in [namespace for namespace, items in self.store._data.items() if not items]:
            del self.store._data[namespace]
        return self.search(op) if isinstance(op, SearchOp) else self.store.batch([op])[0]

    def search(self, op):
        query = op.query if self.has_embeddings else None
        found = [
            item
            for item in self.store.batch([SearchOp(op.namespace_prefix, limit=ALL, query=query)])[0]
            if self.matches(item, op.filter)
        ]
        if op.query and self.has_embeddings:
            found = [item for item in found if item.score is not None]
        elif op.query:
            found = [item for item in found if op.query in self.texts[item.namespace, item.key]]
        found.sort(key=lambda item: -self.order[item.namespace, item.key])
        return found[op.offset : op.offset + op.limit]

    @staticmethod
    def matches(item, wanted):
        probe = InMemoryStore()
        probe.put(("probe",), "k", item.value)
        try:
            return bool(probe.search(("probe",), filter=wanted))
        except (TypeError, ValueError):
            return False

    def write(self, ops):
        puts = {}
        for op in ops:
            puts.pop((op.namespace, op.key), None)
            puts[op.namespace, op.key] = op
        self.store.batch([PutOp(*place, None) for place in puts])
        for place, op in puts.items():
            self.order.pop(place, None)
            if op.value is None or op.ttl == EXPIRED_AT_ONCE:
                continue
            self.put_count += 1
            self.order[place] = self.put_count
            self.texts[place] = self.text(op)
            is_searched = op.index is None or self.texts[place]
            self.store.batch([op._replace(index=None if is_searched else False)])

    @staticmethod
    def text(op):
        if op.index is False:
            return ""
        if op.index is None:
            return "\n".join(strings(op.value))
        return "\n".join(text for field in op.index for text in get_text_at_path(op.value, tokenize_path(field)))


def strings(value):
    """All texts of a JSON value, without the names in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


# --- both ---


class Pair:
    """One program's state: reference and ours, and what ours has said of each put's time."""

    def __init__(self, place, *, has_embeddings):
        self.reference = Reference(has_embeddings=has_embeddings)
        self.store = place.store(f"program-{next(numbers)}", embed if has_embeddings else None)
        self.run = place.run
        self.times = {}

    def batch(self, ops):
        expected = [None if isinstance(op, PutOp) else self.reference.read(op) for op in ops]
        answers = self.run(self.store, ops)
        assert len(answers) == len(ops)
        for op, wanted, answer in zip(ops, expected, answers, strict=True):
            self.compare(op, wanted, answer)
        self.reference.write([op for op in ops if isinstance(op, PutOp)])

    def compare(self, op, wanted, answer):
        if isinstance(op, SearchOp):
            assert isinstance(answer, list)
            places, expected = (
                [(item.namespace, item.key, item.value) for item in items] for items in (answer, wanted)
            )
            if op.query:  # what is ranked, not how
                order = self.reference.order
                places.sort(key=lambda place: -order[place[:2]])
                scores = [item.score for item in answer]
                assert all(0 <= score <= 1 for score in scores)
            assert places == expected, op
            for item in answer:
                self.check_times(item)
            event("a search finds items" if answer else "a search finds none")
        elif isinstance(op, GetOp) and wanted is not None:
            assert (answer.namespace, answer.key, answer.value) == (wanted.namespace, wanted.key, wanted.value)
            self.check_times(answer)
        else:
            assert answer == wanted, op

    def check_times(self, item):
        """An item's times are those of its put, however often it is read, in the order of the puts."""
        number = self.reference.order[item.namespace, item.key]
        assert item.created_at <= item.updated_at
        assert self.times.setdefault(number, item.updated_at) == item.updated_at
        for other, updated_at in self.times.items():
            assert (other < number) == (updated_at < item.updated_at)


class SyncPlace:
    """A `MemorySystem`, asked from this thread, or as asyncio does."""

    def __init__(self, folder, *, is_async_call, **options):
        self._is_async_call = is_async_call
        self._memory = MemorySystem(folder, redis=None, **options)

    def __enter__(self):
        self._memory.open()
        return self

    def __exit__(self, *_):
        self._memory.close()

    def store(self, agent_id, embedder):
        return AgentMemoryStore(self._memory, agent_id=agent_id, embed=embedder)

    def run(self, store, ops):
        return asyncio.run(store.abatch(ops)) if self._is_async_call else store.batch(ops)


class AsyncPlace:
    """An `AsyncMemorySystem` in the loop of another thread, asked in that loop, or from this thread."""

    def __init__(self, folder, *, is_async_call, **options):
        self._is_async_call = is_async_call
        self._memory = AsyncMemorySystem(folder, redis=None, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def __enter__(self):
        self._thread.start()
        self._call(self._memory.open())
        return self

    def __exit__(self, *_):
        try:
            self._call(self._memory.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def store(self, agent_id, embedder):
        async def make():
            return AgentMemoryStore(self._memory, agent_id=agent_id, embed=embedder)

        return self._call(make())

    def run(self, store, ops):
        return self._call(store.abatch(ops)) if self._is_async_call else store.batch(ops)


def check(place, request):
    @seed(zlib.crc32(request.node.name.encode()) if "MACHINE_EXAMPLES" not in os.environ else random.getrandbits(32))
    @BUDGET
    @given(program=PROGRAMS, has_embeddings=st.booleans())
    def run(program, has_embeddings):
        pair = Pair(place, has_embeddings=has_embeddings)
        for ops in program:
            pair.batch(ops)

    run()


@pytest.mark.timeout(0 if "MACHINE_EXAMPLES" in os.environ else 240)
@pytest.mark.parametrize("is_async_call", [False, True], ids=["batch", "abatch"])
@pytest.mark.parametrize("kind", [SyncPlace, AsyncPlace], ids=["MemorySystem", "AsyncMemorySystem"])
def test_sqlite(request, tmp_path, kind, is_async_call):
    with kind(tmp_path, is_async_call=is_async_call) as place:
        check(place, request)


@pytest.mark.timeout(0 if "MACHINE_EXAMPLES" in os.environ else 240)
@pytest.mark.parametrize(("kind", "is_async_call"), [(SyncPlace, False), (AsyncPlace, True)], ids=["sync", "asyncio"])
def test_postgres(request, tmp_path, postgres_url, kind, is_async_call):
    with kind(tmp_path, is_async_call=is_async_call, store=postgres_url) as place:
        check(place, request)
