"""`score` against a naive float64 model, and everything it refuses."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent_memory.scoring import HalfLife, PowerLaw, ScoreWeights, kernel_tiers, score

RNG = np.random.default_rng(5)


def naive_similarity(name: str, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    q, x = query.astype(np.float64), vectors.astype(np.float64)
    if name == "inner_product":
        return x @ q
    if name == "euclidean":
        return 1 / (1 + np.linalg.norm(x - q, axis=1))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(q)
    return np.divide(x @ q, norms, out=np.zeros(len(x)), where=norms > 0)


def check_ranking(indices: np.ndarray, scores: np.ndarray, expected: np.ndarray, k: int) -> None:
    """The answer is a best-k of `expected` up to rounding, sorted, ties by index."""
    ranked = np.flatnonzero(~np.isnan(expected))
    assert len(indices) == min(k, len(ranked))
    assert len(set(indices.tolist())) == len(indices)
    tolerance = 1e-9 * (1 + np.nanmax(np.abs(expected), initial=0))
    best = np.sort(expected[ranked])[::-1][: len(indices)]
    np.testing.assert_allclose(scores, expected[indices], rtol=0, atol=tolerance)
    np.testing.assert_allclose(scores, best, rtol=0, atol=tolerance)
    for place in range(1, len(indices)):
        assert (scores[place - 1], -indices[place - 1]) > (scores[place], -indices[place])


@st.composite
def matrices(draw):
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    rows, width = draw(st.integers(0, 40)), draw(st.integers(1, 70))
    elements = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=16))
    vectors = draw(hnp.arrays(dtype, (rows, width), elements=elements))
    return draw(hnp.arrays(dtype, width, elements=elements)), vectors


@settings(max_examples=150, deadline=None)
@given(
    data=matrices(),
    name=st.sampled_from(["cosine", "inner_product", "euclidean"]),
    k=st.integers(1, 50),
    threads=st.integers(1, 2),
    layout=st.sampled_from(["plain", "every second row", "reversed", "columns of a wider array"]),
)
def test_similarity_agrees_with_float64_on_every_tier(data, name, k, threads, layout):
    query, vectors = data
    if layout == "every second row":
        vectors = vectors[::2]
    elif layout == "reversed":
        vectors = vectors[::-1]
    elif layout == "columns of a wider array":
        vectors = np.hstack([vectors, vectors])[:, : len(query)]
    expected = naive_similarity(name, query, vectors)
    answers = [score(query, vectors, similarity=name, k=k, threads=threads, kernel=tier) for tier in kernel_tiers()]
    check_ranking(*answers[0], expected, k)
    for indices, scores in answers[1:]:
        assert indices.tolist() == answers[0][0].tolist()
        assert scores.tolist() == answers[0][1].tolist()


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 60),
    k=st.integers(1, 20),
    weights=st.tuples(*[st.sampled_from([0.0, 0.3, 1.0, 7.5])] * 5),
    normalize=st.sampled_from([None, "minmax"]),
    decay=st.sampled_from([HalfLife(1000.0), PowerLaw(500.0, 0.7)]),
    keep=st.sampled_from([0.0, 0.3, 1.0]),
)
@example(  # weights of 0 make zeros of both signs, which are equal
    seed=16, rows=17, k=2, weights=(0.0,) * 5, normalize=None, decay=HalfLife(1000.0), keep=0.3
)  # fmt: skip
def test_the_fused_score_is_the_documented_sum(seed, rows, k, weights, normalize, decay, keep):
    rng = np.random.default_rng(seed)
    vectors, query = rng.standard_normal((rows, 24), dtype=np.float32), rng.standard_normal(24)
    importance, count = rng.integers(0, 10, rows), rng.integers(0, 5, rows)
    age_s, lexical = rng.uniform(-10, 5000, rows).astype(np.float32), rng.random(rows)
    mask = rng.random(rows) < keep
    weighing = ScoreWeights(*weights)
    indices, scores, parts = score(
        query, vectors, importance=importance, age_s=age_s, access_count=count, lexical=lexical, mask=mask,
        weights=weighing, decay=decay, normalize=normalize, components=True, k=k,
    )  # fmt: skip
    age = np.maximum(age_s.astype(np.float64), 0)
    recency = 2 ** (-age / 1000) if isinstance(decay, HalfLife) else (1 + age / 500) ** -0.7
    naive = {
        "similarity": naive_similarity("cosine", query, vectors),
        "lexical": lexical,
        "recency": recency,
        "importance": importance.astype(float),
        "access": np.log1p(count),
    }
    expected = np.zeros(rows)
    for name, values in naive.items():
        if normalize == "minmax" and mask.any():
            low, high = values[mask].min(), values[mask].max()
            values = (values - low) / (high - low) if high > low else np.zeros(rows)  # noqa: PLW2901
        weight = getattr(weighing, name)
        expected += weight * values
        assert (name in parts) == (weight != 0 or name == "similarity")
        if name in parts:
            np.testing.assert_allclose(parts[name], values[indices], atol=1e-9)
    expected[~mask] = np.nan
    check_ranking(indices, scores, expected, k)


def test_ties_come_by_index():
    vectors = np.tile(RNG.standard_normal(50).astype(np.float32), (1000, 1))
    indices, scores = score(vectors[0], vectors, k=7)
    assert indices.tolist() == list(range(7))
    assert len(set(scores.tolist())) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_rows_that_are_not_finite_are_not_ranked(dtype):
    vectors = np.array([[1, 0], [np.nan, 1], [np.inf, 0], [0, 0], [-1, 0], [-np.inf, np.nan]], dtype=dtype)
    for name in ("cosine", "inner_product", "euclidean"):
        indices, scores = score(np.array([1.0, 0.0]), vectors, similarity=name, k=9)
        assert indices.tolist() == [0, 3, 4]
        assert np.isfinite(scores).all()


def test_values_that_overflow_float32_sums_are_still_exact():
    vectors = np.array([[1e30, 1e30], [3e38, -3e38], [1e-30, 0], [1e-45, 1e-45]], dtype=np.float32)
    for scale in (1.0, 1e-30, 1e30):
        query = np.array([2.0, 1.0]) * scale
        indices, scores = score(query, vectors, k=9)
        check_ranking(indices, scores, naive_similarity("cosine", query, vectors), 9)


def test_a_zero_query_or_row_scores_zero_by_cosine():
    vectors = RNG.standard_normal((5, 3)).astype(np.float32)
    indices, scores = score(np.zeros(3), vectors)
    assert (indices.tolist(), scores.tolist()) == ([0, 1, 2, 3, 4], [0.0] * 5)
    assert score(vectors[0], np.zeros((2, 3), np.float32))[1].tolist() == [0.0, 0.0]


def test_nothing_to_rank_is_an_empty_answer():
    vectors = np.ones((4, 3), np.float32)
    for indices, scores in (
        score(np.ones(3), vectors[:0]),
        score(np.ones(3), vectors, mask=np.zeros(4, bool)),
        score(np.ones(3), vectors, threshold=2.0),
    ):
        assert (indices.shape, scores.shape) == ((0,), (0,))
        assert (indices.dtype, scores.dtype) == (np.int64, np.float64)
    assert score(np.ones(3), vectors, k=99)[0].tolist() == [0, 1, 2, 3]


def test_the_threshold_is_inclusive():
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    assert score(np.array([1.0, 0.0]), vectors, threshold=1.0)[0].tolist() == [0]


GOOD = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "k must be >= 1, got 0", {"k": 0}),
        (TypeError, "k must be an int, got 1.0", {"k": 1.0}),
        (ValueError, "threads must be >= 1, got 0", {"threads": 0}),
        (ValueError, r"query must have 4 elements, got 3", {"query": np.ones(3)}),
        (ValueError, r"query must be finite, got NaN at 1", {"query": np.array([1, np.nan, 1, 1])}),
        (TypeError, "query must hold real numbers, got a ndarray of dtype complex128", {"query": np.ones(4, complex)}),
        (TypeError, "vectors must be a numpy array, got list", {"vectors": [[1.0]]}),
        (TypeError, "vectors must be an array of float16, float32 or float64", {"vectors": np.ones((3, 4), int)}),
        (TypeError, "native byte order", {"vectors": GOOD.astype(">f4")}),
        (ValueError, r"vectors must have 2 dimensions \(n, d\), got shape \[3\]", {"vectors": np.ones(3)}),
        (ValueError, "vectors must have 1 to 65536 columns, got 0", {"vectors": np.ones((3, 0))}),
        (ValueError, "vectors must be contiguous along its last axis", {"vectors": np.ones((4, 3)).T}),
        (ValueError, r"mask must have one element per row \(3\), got 4", {"mask": np.ones(4, bool)}),
        (TypeError, "mask must be an array of bool", {"mask": np.ones(3)}),
        (ValueError, r"lexical must have one element per row \(3\), got 2", {"lexical": [1.0, 2.0]}),
        (ValueError, "lexical must be finite, got inf in row 1", {"lexical": [1.0, np.inf, np.nan]}),
        (ValueError, "access_count must be >= 0, got -1 in row 2",
         {"access_count": [1, 0, -1], "weights": ScoreWeights(access=1)}),
        (ValueError, "age_s must be given when weights.recency is not 0", {"weights": ScoreWeights(recency=1)}),
        (ValueError, "similarity must be one of cosine, inner_product, euclidean", {"similarity": "dot"}),
        (ValueError, "normalize must be None or 'minmax', got 'max'", {"normalize": "max"}),
        (ValueError, "threshold must be a number, got nan", {"threshold": float("nan")}),
        (ValueError, "kernel must be one of scalar, neon, avx2, avx512, got \"sse\"", {"kernel": "sse"}),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(error, message, arguments):
    arguments = {"query": np.ones(4), "vectors": GOOD} | arguments
    with pytest.raises(error, match=message):
        score(arguments.pop("query"), arguments.pop("vectors"), **arguments)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="recency must be finite and >= 0, got -1"):
        ScoreWeights(recency=-1)
    with pytest.raises(ValueError, match="half_life_s must be finite and > 0, got 0"):
        HalfLife(0)
    with pytest.raises(ValueError, match="exponent must be finite and > 0, got nan"):
        PowerLaw(1.0, float("nan"))


def test_arrays_may_change_during_the_call():
    """Whatever another thread writes, the answer is well formed and the process survives."""
    vectors = RNG.standard_normal((20_000, 64)).astype(np.float32)
    query = vectors[0].copy()
    stop = threading.Event()

    def scribble() -> None:
        values = np.array([np.nan, np.inf, 1e38, 0, 1], np.float32)
        while not stop.is_set():
            vectors[RNG.integers(0, len(vectors), 500)] = values[RNG.integers(0, 5)]

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        for _ in range(50):
            indices, scores = score(query, vectors, normalize="minmax")
            assert len(indices) <= 10
            assert np.isfinite(scores).all()
            assert (indices < len(vectors)).all()
    finally:
        stop.set()
        writer.join()


def test_numpy_is_not_imported_with_the_package():
    import subprocess
    import sys

    code = "import agent_memory, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
