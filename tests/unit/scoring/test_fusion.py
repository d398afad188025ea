"""Rank fusion, diversity and the context field against naive models."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_memory.scoring import Diversity, MemoryIndex, ScoreWeights

WORDS = ["apple", "pear", "river", "cloud", "harbour"]
RARE_WORDS = [f"rare{number}" for number in range(20)]
FORWARD, BACKWARD, MOST_LENT = [0.7, 0.42, 0.25], [0.5, 0.3, 0.18], 0.2

seeds = st.integers(0, 2**32 - 1)


def check(result, expected: dict[str, float], k: int) -> None:
    """The best `k` of `expected` by score, then id; scores that differ only by rounding may change places."""
    assert len(result.ids) == len(set(result.ids)) == min(k, len(expected))
    np.testing.assert_allclose(result.scores, [expected[name] for name in result.ids], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.scores, sorted(expected.values(), reverse=True)[:k], rtol=1e-9, atol=1e-12)


def random_memories(seed: int) -> tuple[list[str], np.ndarray, list[list[str]], np.random.Generator]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 260))
    ids = [f"m{row}" for row in rng.permutation(count)]
    # Small integers: many ties, which go by id.
    vectors = rng.integers(-2, 3, (count, 3)).astype(np.float32)
    words = [list(rng.choice(WORDS, rng.integers(1, 6))) for _ in ids]
    return ids, vectors, words, rng


def write(index: MemoryIndex, rng: np.random.Generator, ids, vectors=None, texts=None, sequence=None) -> None:
    """In batches, some of them twice, so that there are segments and dead rows."""
    for part in np.array_split(np.arange(len(ids)), int(rng.integers(1, 5))):
        for _ in range(int(rng.integers(1, 3))):
            index.upsert(
                [ids[row] for row in part],
                None if vectors is None else vectors[part],
                None if texts is None else [texts[row] for row in part],
                sequence=None if sequence is None else [sequence[row] for row in part],
            )


@settings(max_examples=80, deadline=None)
@given(seed=seeds, k=st.integers(1, 30), lexical=st.sampled_from([0.5, 1.0, 2.0]))
def test_rank_fusion_adds_reciprocal_ranks(seed, k, lexical):
    ids, vectors, words, rng = random_memories(seed)
    index = MemoryIndex(3, language="none", similarity="inner_product")
    write(index, rng, ids, vectors, [" ".join(one) for one in words])
    query, text = rng.integers(-2, 3, 3).astype(np.float32), " ".join(rng.choice(WORDS, 2, replace=False))
    depth = max(100, 10 * k)
    expected: dict[str, float] = {}
    rankings = [
        (1.0, index.search(query, k=depth, weights=ScoreWeights(lexical=0)).ids),
        (lexical, index.search(text=text, k=depth).ids),
    ]
    by_vector = sorted(ids, key=lambda name: (float(vectors[ids.index(name)] @ query), name), reverse=True)
    assert rankings[0][1] == by_vector[:depth]
    for weight, ranking in rankings:
        for place, name in enumerate(ranking):
            expected[name] = expected.get(name, 0.0) + weight / (60 + place + 1)
    check(index.search(query, text, k, fusion="rrf", weights=ScoreWeights(lexical=lexical)), expected, k)


@settings(max_examples=80, deadline=None)
@given(seed=seeds, k=st.integers(1, 20), pool=st.integers(1, 40), share=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_diversity_is_greedy_marginal_relevance(seed, k, pool, share):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 200))
    ids = [f"m{row}" for row in range(count)]
    vectors = (rng.standard_normal((5, 6))[rng.integers(0, 5, count)] + 0.2 * rng.standard_normal((count, 6))).astype(
        np.float32
    )
    index = MemoryIndex(6)
    write(index, rng, ids, vectors)
    query = rng.standard_normal(6)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    candidates = index.search(query, k=max(pool, k))
    rest = dict(zip(candidates.ids, candidates.scores.tolist(), strict=True))
    low, high = min(rest.values()), max(rest.values())
    found = index.search(query, k=k, diversity=Diversity(share, pool))
    assert len(found.ids) == min(k, len(rest))
    taken: list[int] = []
    for name, score in zip(found.ids, found.scores.tolist(), strict=True):
        assert score == rest[name]

        def value(one: str) -> float:
            relevance = (rest[one] - low) / (high - low) if high > low else 0.0
            likeness = max((float(unit[int(one[1:])] @ unit[row]) for row in taken), default=0.0)
            return share * relevance - (1 - share) * likeness

        assert value(name) >= max(map(value, rest)) - 1e-9
        taken.append(int(name[1:]))
        del rest[name]


@settings(max_examples=80, deadline=None)
@given(seed=seeds, deletions=st.booleans())
def test_the_context_field_is_the_sum_of_what_neighbours_lend(seed, deletions):
    ids, _, words, rng = random_memories(seed)
    # Common words are not lent, rare ones are.
    words = [[*one, *rng.choice(RARE_WORDS, rng.integers(3))] for one in words]
    index = MemoryIndex(1, language="none")
    # Distinct steps with gaps, in no order, in up to four sequences; some memories are in none.
    steps = rng.permutation(3 * len(ids))[: len(ids)]
    sequence = [None if rng.random() < 0.2 else (f"s{rng.integers(4)}", int(step)) for step in steps]
    write(index, rng, ids, None, [" ".join(one) for one in words], sequence)
    memories = {name: (one, place) for name, one, place in zip(ids, words, sequence, strict=True)}
    if deletions:
        gone = [name for name in ids if rng.random() < 0.3]
        assert index.delete(gone) == len(gone)
        memories = {name: memory for name, memory in memories.items() if name not in gone}
    chains: dict[str, list[str]] = {}
    for name in sorted(memories, key=lambda name: memories[name][1][1] if memories[name][1] else 0):
        if memories[name][1] is not None:
            chains.setdefault(memories[name][1][0], []).append(name)

    def borrowed(name: str, of) -> float:
        """What a memory has itself and is lent: from those before it by `FORWARD`, from those after it by `BACKWARD`."""
        total = of(name)
        if memories[name][1] is None:
            return total
        chain = chains[memories[name][1][0]]
        at = chain.index(name)
        for distance in (1, 2, 3):
            if at - distance >= 0:
                total += FORWARD[distance - 1] * of(chain[at - distance])
            if at + distance < len(chain):
                total += BACKWARD[distance - 1] * of(chain[at + distance])
        return total

    terms = [*rng.choice(WORDS, 2, replace=False), *rng.choice(RARE_WORDS, 2, replace=False)]
    has_context = any(place is not None for _, place in memories.values())
    mean = sum(len(one) for one, _ in memories.values()) / max(1, len(memories))
    expected = dict.fromkeys(memories, 0.0)
    for term in terms:
        df = sum(term in one for one, _ in memories.values())
        idf = math.log(1 + (len(memories) - df + 0.5) / (df + 0.5))
        for name in memories:
            is_lent = df <= MOST_LENT * len(memories)
            tf = memories[name][0].count(term)
            if is_lent:
                tf = borrowed(name, lambda one, term=term: memories[one][0].count(term))
            length = borrowed(name, lambda one: len(memories[one][0])) if has_context else len(memories[name][0])
            expected[name] += idf * tf * 1.9 / (tf + 0.9 * (0.85 + 0.15 * length / mean)) if tf else 0.0
    check(index.search(text=" ".join(terms), k=15), {n: s for n, s in expected.items() if s > 0}, 15)


def test_reembed_carries_everything_over_but_the_vectors():
    rng = np.random.default_rng(5)
    ids, vectors, words, _ = random_memories(4)
    index = MemoryIndex(3, model="old", k1=1.5, b=0.4)
    texts = [" ".join(one) for one in words]
    index.upsert(
        ids,
        vectors,
        texts,
        rng.random(len(ids)),
        rng.random(len(ids)) * 1000,
        [{"kind": name[-1]} for name in ids],
        [("s", row) if row % 2 else None for row in range(len(ids))],
        access_counts=rng.integers(0, 9, len(ids)),
    )
    index.delete(ids[:5])
    by_id = dict(zip(ids[6:], texts[6:], strict=True))  # one memory has no text to embed
    sizes = []

    def embed(batch: list[str]) -> np.ndarray:
        sizes.append(len(batch))
        return np.array([[len(text), text.count("a"), 1, 2] for text in batch], np.float32)

    new = index.reembed(embed, by_id, model="new", dimensions=4, batch=50)
    assert (new.model, new.dimensions, len(new)) == ("new", 4, len(index))
    assert max(sizes) <= 50
    assert new.ids() != []
    assert sorted(new.ids()) == sorted(index.ids()) == sorted(ids[5:])
    others = {
        "weights": ScoreWeights(similarity=0, lexical=1, recency=0.3, importance=0.2, access=0.1),
        "filters": {"kind": "3"},
        "now_s": 1000.0,
    }
    old_weights = index.search(text="apple river", k=20, **others)
    new_weights = new.search(text="apple river", k=20, **others)
    assert new_weights.ids == old_weights.ids
    np.testing.assert_array_equal(new_weights.scores, old_weights.scores)
    found = new.search(embed(["apple apple"])[0], k=1000, weights=ScoreWeights(lexical=0))
    assert set(found.ids) == set(by_id)
    with pytest.raises(ValueError, match="embedder must return an array of shape"):
        index.reembed(embed, by_id, model="new", dimensions=5)
    assert index.model == "old"


def test_components_add_up_to_the_score():
    rng = np.random.default_rng(5)
    index = MemoryIndex(8)
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    texts = [f"word{n % 7} other{n % 3}" for n in range(60)]
    index.upsert(
        [f"m{n:02d}" for n in range(50)],
        vectors[:50],
        texts[:50],
        rng.random(50).tolist(),
        [1e9 - n for n in range(50)],
    )
    index.upsert([f"t{n}" for n in range(10)], None, texts[50:], [0.5] * 10, [1e9] * 10)
    weights = ScoreWeights(similarity=0.7, lexical=0.4, recency=0.3, importance=0.2)
    found = index.search(vectors[3], "word3", 60, weights=weights, now_s=1e9, fusion="sum", components=True)
    plain = index.search(vectors[3], "word3", 60, weights=weights, now_s=1e9, fusion="sum")
    assert (found.ids, found.scores.tolist()) == (plain.ids, plain.scores.tolist())
    assert plain.components is None
    assert list(found.components) == ["similarity", "lexical", "recency", "importance"]
    total = sum(getattr(weights, name) * np.nan_to_num(values) for name, values in found.components.items())
    np.testing.assert_allclose(total, found.scores, rtol=1e-12)
    without_vector = [memory_id.startswith("t") for memory_id in found.ids]
    assert np.isnan(found.components["similarity"]).tolist() == without_vector

    alone = index.search(None, "word3", 5, components=True)
    assert list(alone.components) == ["lexical"]
    np.testing.assert_array_equal(alone.components["lexical"], alone.scores)
    assert index.search(None, "nowhere", 5, components=True).components["lexical"].shape == (0,)
