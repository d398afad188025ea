"""`MemoryIndex` against a naive float64 model, through any history of writes."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_memory.scoring import Diversity, Filters, MemoryIndex, ScoreWeights, kernel_tiers

RNG = np.random.default_rng(11)


def similarities(name: str, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    q, x = query.astype(np.float64), vectors.astype(np.float64)
    if name == "inner_product":
        return x @ q
    if name == "euclidean":
        return 1 / (1 + np.linalg.norm(x - q, axis=1))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(q)
    return np.divide(x @ q, norms, out=np.zeros(len(x)), where=norms > 0)


def check(result, expected: dict[str, float], k: int, times: dict[str, float] | None = None) -> None:
    """The best `k` of `expected`; of equal scores the later time comes first, then the greater id."""
    assert len(result.ids) == len(set(result.ids)) == min(k, len(expected))
    tolerance = 1e-9 * (1 + max(map(abs, expected.values()), default=0))
    best = sorted(expected.values(), reverse=True)[:k]
    np.testing.assert_allclose(result.scores, [expected[name] for name in result.ids], atol=tolerance, rtol=0)
    np.testing.assert_allclose(result.scores, best, atol=tolerance, rtol=0)
    known = times or dict.fromkeys(result.ids, 0.0)
    pairs = [(score, known[name], name) for name, score in zip(result.ids, result.scores, strict=True)]
    assert pairs == sorted(pairs, reverse=True)


def adversarial(kind: str, rows: int, width: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal((rows, width)).astype(np.float32)
    if kind == "near duplicates":
        x = (x[:1] + 1e-4 * x).astype(np.float32)
    elif kind == "one outlier dimension":
        x[:, 0] *= 1000
    elif kind == "clustered":
        x = (x[rng.integers(0, min(3, rows), rows)] + 0.01 * x).astype(np.float32)
    elif kind == "exact duplicates and zeros":
        x = x[rng.integers(0, min(4, rows), rows)]
        x[:: max(1, rows // 3)] = 0
    elif kind == "wild scales":
        x *= (10.0 ** rng.integers(-12, 12, (rows, 1))).astype(np.float32)
    return x


KINDS = ["plain", "near duplicates", "one outlier dimension", "clustered", "exact duplicates and zeros", "wild scales"]


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    name=st.sampled_from(["cosine", "inner_product", "euclidean"]),
    rows=st.integers(1, 700),
    width=st.integers(1, 150),
    k=st.sampled_from([1, 3, 10, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_search_by_vector_is_exact_on_every_tier(kind, name, rows, width, k, seed):
    rng = np.random.default_rng(seed)
    vectors = adversarial(kind, rows, width, rng)
    index = MemoryIndex(width, similarity=name)
    ids = [f"m{row}" for row in range(rows)]
    for part in np.array_split(np.arange(rows), 3):
        index.upsert([ids[row] for row in part], vectors[part])
    query = vectors[rng.integers(rows)] + 0.1 * rng.standard_normal(width).astype(np.float32)
    expected = dict(zip(ids, similarities(name, query, vectors).tolist(), strict=True))
    results = [index.search(query, k=k, kernel=tier) for tier in kernel_tiers()]
    check(results[0], expected, k)
    for result in results[1:]:
        assert result.ids == results[0].ids
        assert result.scores.tolist() == results[0].scores.tolist()
    batch = np.vstack([query, -query, query, vectors[0], query])
    for result, one in zip(index.search_many(batch, k=k, threads=2), batch, strict=True):
        assert result.ids == index.search(one, k=k).ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_segment_of_adversarial_data_is_ranked_exactly(kind):
    vectors = adversarial(kind, 20_000, 96, RNG)
    index = MemoryIndex(96)
    ids = [f"m{row:05d}" for row in range(len(vectors))]
    index.upsert(ids, vectors)
    for query in (vectors[3], RNG.standard_normal(96).astype(np.float32)):
        result = index.search(query, k=10)
        check(result, dict(zip(ids, similarities("cosine", query, vectors).tolist(), strict=True)), 10)
        assert 10 <= result.reranked <= len(vectors)


WORDS = ["apple", "pear", "river", "stone", "cloud", "Zürich", "2023", "the", "running"]


class Model:
    """What an index should hold, the naive way."""

    def __init__(self) -> None:
        self.rows: dict[str, dict] = {}

    def bm25(self, terms: list[str], stems: dict[str, str]) -> dict[str, float]:
        documents = {name: [stems[w] for w in row["words"] if stems[w]] for name, row in self.rows.items()}
        mean = sum(map(len, documents.values())) / max(1, len(documents))
        scores = dict.fromkeys(documents, 0.0)
        for term in dict.fromkeys(stems[w] for w in terms if stems[w]):
            df = sum(term in words for words in documents.values())
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            for name, words in documents.items():
                tf = words.count(term)
                scores[name] += idf * tf * 1.9 / (tf + 0.9 * (0.85 + 0.15 * len(words) / mean)) if tf else 0
        return scores


STEMS = {word: word.lower() for word in WORDS} | {
    "the": "", "running": "run", "apple": "appl", "stone": "stone", "river": "river",
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 25))
def test_any_history_of_writes_searches_like_the_naive_model(seed, steps):
    rng = np.random.default_rng(seed)
    index, model = MemoryIndex(8, context=False), Model()
    for _ in range(steps):
        names = list(dict.fromkeys(f"m{n}" for n in rng.integers(0, 200, rng.integers(1, 90))))
        if rng.random() < 0.3:
            assert index.delete(names) == sum(model.rows.pop(name, None) is not None for name in names)
            continue
        rows = [
            {
                "vector": rng.standard_normal(8).astype(np.float32),
                "words": list(rng.choice(WORDS, rng.integers(1, 9))),
                "importance": float(rng.integers(0, 5)),
                "time": float(rng.integers(0, 1000)),
                "kind": str(rng.choice(["fact", "note"])),
            }
            for _ in names
        ]
        index.upsert(
            names,
            np.stack([row["vector"] for row in rows]),
            [" ".join(row["words"]) for row in rows],
            [row["importance"] for row in rows],
            [row["time"] for row in rows],
            [{"kind": row["kind"], "big": row["importance"] > 2} for row in rows],
        )
        model.rows.update(zip(names, rows, strict=True))
    assert len(index) == len(model.rows)
    assert all((name in index) == (name in model.rows) for name in (f"m{n}" for n in range(0, 200, 7)))
    if not model.rows:
        assert index.search(np.ones(8)).ids == []
        return
    query, terms = rng.standard_normal(8), ["apple", "running", "the", "2023"]
    lexical = model.bm25(terms, STEMS)
    vectors = np.stack([row["vector"] for row in model.rows.values()])
    cosine = dict(zip(model.rows, similarities("cosine", query, vectors).tolist(), strict=True))
    times = {name: row["time"] for name, row in model.rows.items()}
    check(index.search(query, k=7), cosine, 7, times)
    check(index.search(text=" ".join(terms), k=7), {n: s for n, s in lexical.items() if s > 0}, 7, times)

    def chosen(name: str) -> bool:
        row = model.rows[name]
        return row["kind"] == "fact" and row["importance"] > 2 and 100 <= row["time"] < 900

    kept = [name for name in model.rows if chosen(name)]
    weights = ScoreWeights(similarity=1.0, lexical=0.7, recency=0.2, importance=0.4)
    parts = [
        (1.0, cosine),
        (0.7, lexical),
        (0.2, {name: 0.5 ** (max(0.0, 950 - model.rows[name]["time"]) / 300) for name in kept}),
        (0.4, {name: model.rows[name]["importance"] for name in kept}),
    ]
    expected = dict.fromkeys(kept, 0.0)
    for weight, values in parts:
        low = min((values[n] for n in kept), default=0.0)
        high = max((values[n] for n in kept), default=0.0)
        for name in kept:
            expected[name] += weight * ((values[name] - low) / (high - low) if high > low else 0.0)
    from agent_memory.scoring import HalfLife

    filters = Filters({"kind": ["fact", "other"], "big": True}, since_s=100, until_s=900)
    options = {"weights": weights, "filters": filters, "now_s": 950, "decay": HalfLife(300)}
    check(index.search(query, " ".join(terms), 9, **options), expected, 9, times)


def test_updates_and_deletes_are_compacted():
    index = MemoryIndex(16)
    vectors = RNG.standard_normal((3000, 16)).astype(np.float32)
    ids = [f"m{row}" for row in range(3000)]
    index.upsert(ids, vectors)
    for start in range(0, 3000, 100):
        index.upsert(ids[start : start + 100], -vectors[start : start + 100])
        index.delete(ids[start : start + 20])
    assert len(index) == 3000 - 600
    assert index.stats()["dead_rows"] <= 0.34 * 3000
    assert index.search(-vectors[55], k=1).ids == ["m55"]
    assert index.search(-vectors[5], k=1).ids != ["m5"]


def test_neighbours_in_a_sequence_lend_their_words():
    index = MemoryIndex(4)
    texts = ["we flew to Lisbon", "it was sunny", "the food was great", "what a week", "nothing here", "totally else"]
    index.upsert([f"a{i}" for i in range(6)], texts=texts, sequence=[("s", i) for i in range(6)])
    index.upsert(["b0"], texts=["unrelated words"], sequence=[("t", 0)])
    assert index.search(text="Lisbon").ids == ["a0", "a1", "a2", "a3"]
    index.delete(["a1"])
    assert index.search(text="Lisbon").ids == ["a0", "a2", "a3", "a4"]
    index.upsert(["a1"], texts=["back again"], sequence=[("s", 1)])
    assert index.search(text="Lisbon").ids == ["a0", "a1", "a2", "a3"]
    plain = MemoryIndex(4, context=False)
    plain.upsert([f"a{i}" for i in range(6)], texts=texts, sequence=[("s", i) for i in range(6)])
    assert plain.search(text="Lisbon").ids == ["a0"]


def test_reciprocal_ranks_and_diversity():
    index = MemoryIndex(3)
    vectors = np.array([[1, 0, 0], [0.999, 0.01, 0], [0.9, 0, 0.5], [0, 1, 0]], np.float32)
    index.upsert(["a", "b", "c", "d"], vectors, ["red", "green", "red apple", "apple"])
    result = index.search([1, 0, 0], "apple", fusion="rrf", k=4)
    assert dict(zip(result.ids, result.scores, strict=True)) == pytest.approx(
        {"a": 1 / 61, "b": 1 / 62, "c": 1 / 63 + 1 / 62, "d": 1 / 64 + 1 / 61}
    )
    assert index.search([1, 0, 0], k=2).ids == ["a", "b"]
    assert index.search([1, 0, 0], k=2, diversity=Diversity(0.5)).ids[0] == "a"
    assert index.search([1, 0, 0], k=2, diversity=Diversity(0.3)).ids[1] != "b"


def test_rows_without_vectors_or_texts_take_part_with_what_they_have():
    index = MemoryIndex(2)
    index.upsert(["v"], np.array([[1, 0]], np.float32))
    index.upsert(["t"], texts=["hello world"])
    assert index.search([1, 0]).ids == ["v"]
    assert index.search(text="hello").ids == ["t"]
    assert sorted(index.search([1, 0], "hello").ids) == ["t", "v"]
    assert index.search(text="absent").ids == []


def test_the_embedder_is_called_for_texts_without_vectors():
    calls = []

    def embed(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return np.array([[len(text), 1.0] for text in texts])

    index = MemoryIndex(2, embedder=embed)
    index.upsert(["a", "b"], texts=["xx", "a much longer text"])
    assert index.search(text="y y", weights=ScoreWeights(lexical=0)).ids == ["a", "b"]
    assert calls == [["xx", "a much longer text"], ["y y"]]
    with pytest.raises(ValueError, match=r"embedder must return an array of shape \(1, 2\), got \(1, 3\)"):
        MemoryIndex(2, embedder=lambda texts: np.ones((1, 3))).search(text="z")


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "dimensions must be >= 1, got 0", lambda i: MemoryIndex(0)),
        (ValueError, "b must be in 0..1, got 2", lambda i: MemoryIndex(2, b=2)),
        (ValueError, "language must be one of", lambda i: MemoryIndex(2, language="klingon")),
        (ValueError, r"vectors must have shape \(1, 2\), got \(1, 3\)", lambda i: i.upsert(["a"], np.ones((1, 3)))),
        (ValueError, "vectors must be finite and at most 1e15 in size, got NaN in row 0",
         lambda i: i.upsert(["a"], np.full((1, 2), np.nan))),
        (ValueError, 'ids must be unique within a call, got "a" twice', lambda i: i.upsert(["a", "a"])),
        (TypeError, "ids must be a collection of str, got a str", lambda i: i.upsert("ab")),
        (TypeError, "ids must hold str, got int at 1", lambda i: i.delete(["a", 1])),
        (ValueError, r"texts must have one element per id \(1\), got 2", lambda i: i.upsert(["a"], texts=["x", "y"])),
        (ValueError, "importance must be finite, got inf in row 0", lambda i: i.upsert(["a"], importance=[math.inf])),
        (ValueError, "access_counts must be finite and >= 0, got -1",
         lambda i: i.upsert(["a"], access_counts=[-1])),
        (TypeError, "attributes must have values that are str, int, float or bool, got dict",
         lambda i: i.upsert(["a"], attributes=[{"x": {}}])),
        (ValueError, "vector must have 2 elements, got 3", lambda i: i.search(np.ones(3))),
        (ValueError, "vector must be finite, got inf at 0", lambda i: i.search([np.inf, 1])),
        (ValueError, "vector or text must be given", lambda i: i.search()),
        (ValueError, "k must be >= 1, got 0", lambda i: i.search([1, 1], k=0)),
        (ValueError, "fusion must be one of minmax, sum, rrf", lambda i: i.search([1, 1], fusion="max")),
        (ValueError, r"texts must have one element per vector \(1\), got 2",
         lambda i: i.search_many(np.ones((1, 2)), ["a", "b"])),
        (ValueError, "relevance_share must be in 0..1, got 2", lambda i: Diversity(2)),
    ],
)  # fmt: skip
def test_bad_arguments_are_named_and_change_nothing(error, message, call):
    index = MemoryIndex(2)
    index.upsert(["kept"], np.ones((1, 2)))
    with pytest.raises(error, match=message):
        call(index)
    assert len(index) == 1


def test_searches_beside_writes_see_whole_batches():
    """Every batch turns all vectors to one direction: a search never sees two directions."""
    index = MemoryIndex(8)
    ids = [f"m{row}" for row in range(500)]
    directions = np.eye(8, dtype=np.float32)
    index.upsert(ids, np.tile(directions[0], (500, 1)))
    stop, failures = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            scores = index.search(directions[0], k=500).scores
            if len(scores) != 500 or len(set(scores.tolist())) != 1:
                failures.append(scores)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        index.upsert(ids, np.tile(directions[turn % 8], (500, 1)))
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures
