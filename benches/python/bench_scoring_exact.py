"""`score` over a numpy array beside numpy: exact top 10, fused with a mask, and small n.

Run it pinned to one core: `OMP_NUM_THREADS=1 taskset -c 0 python benches/python/bench_scoring_exact.py`; with
`OMP_NUM_THREADS=2` and two cores both sides use two threads (the targets are those of one).
"""

from __future__ import annotations

import os

import numpy as np
from scoring_common import cpu_name, numpy_top, report, rounds, unit_rows

from agent_memory.scoring import ScoreWeights, kernel_tiers, score

THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))  # numpy's BLAS reads it too


def main() -> None:
    print(cpu_name(), "kernels:", kernel_tiers(), "threads:", THREADS)
    vectors = unit_rows(100_000, 384)
    query = vectors[7] + 0.02
    rng = np.random.default_rng(1)
    n = len(vectors)
    importance, age_s, mask = rng.random(n), rng.random(n) * 1e6, rng.random(n) < 0.5
    fused = ScoreWeights(recency=0.2, importance=0.3)
    indices, _ = score(query, vectors, similarity="inner_product")
    assert indices.tolist() == numpy_top(vectors, query).tolist()

    work = {
        "score": lambda: score(query, vectors, similarity="inner_product", threads=THREADS),
        "score, cosine": lambda: score(query, vectors, threads=THREADS),
        "numpy": lambda: numpy_top(vectors, query),
        "reading the array (max)": vectors.max,
        "fused, 50 % mask": lambda: score(
            query,
            vectors,
            similarity="inner_product",
            importance=importance,
            age_s=age_s,
            mask=mask,
            weights=fused,
            threads=THREADS,
        ),
    }
    for tier in kernel_tiers():
        work[f"score, {tier} forced"] = lambda tier=tier: score(
            query, vectors, similarity="inner_product", kernel=tier, threads=THREADS
        )
    taken = rounds(work, 8.0)
    report(
        f"exact top 10 of 100k x 384, one query, {THREADS} thread(s)",
        taken,
        "score",
        {"numpy": 0.85, "reading the array (max)": 1.3},
    )
    report("fused", {key: taken[key] for key in ("score", "fused, 50 % mask")}, "fused, 50 % mask", {"score": 1.1})

    small = vectors[:1000]
    work = {
        "score": lambda: score(query, small, similarity="inner_product"),
        "numpy": lambda: numpy_top(small, query),
        "score, avx2 forced": lambda: score(query, small, similarity="inner_product", kernel="avx2"),
    }
    if "avx2" not in kernel_tiers():
        del work["score, avx2 forced"]
    taken = rounds(work, 3.0)
    report("exact top 10 of 1,000 x 384, one query", taken, "score", {"numpy": 0.6})


if __name__ == "__main__":
    main()
