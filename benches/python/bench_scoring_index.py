"""`MemoryIndex` beside numpy, faiss, usearch, SimSIMD and bm25s in one run, interleaved.

`OMP_NUM_THREADS=1 taskset -c 0 python benches/python/bench_scoring_index.py [vector|batch|text|growth|million ...]`
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time

import numpy as np
from scoring_common import cpu_name, numpy_top, report, rounds, unit_rows

from agent_memory.scoring import MemoryIndex, kernel_tiers

D = 384
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))  # numpy's BLAS reads it too


def filled(vectors: np.ndarray, batch: int = 8192) -> MemoryIndex:
    index = MemoryIndex(vectors.shape[1])
    for start in range(0, len(vectors), batch):
        part = vectors[start : start + batch]
        index.upsert([f"m{start + i:07d}" for i in range(len(part))], part)
    return index


def bench_vector(n: int = 100_000) -> None:
    import faiss
    import simsimd

    faiss.omp_set_num_threads(THREADS)
    vectors = unit_rows(n, D)
    query = (vectors[7] + 0.02 * np.random.default_rng(2).standard_normal(D)).astype(np.float32)
    query /= np.linalg.norm(query)
    index = filled(vectors)
    found = index.search(query)
    assert [int(name[1:]) for name in found.ids] == numpy_top(vectors, query).tolist()
    print(f"candidates re-ranked: {found.reranked} of {n}")
    work = {"index": lambda: index.search(query), "numpy": lambda: numpy_top(vectors, query)}
    for name, kind in (("8bit", faiss.ScalarQuantizer.QT_8bit), ("bf16", faiss.ScalarQuantizer.QT_bf16)):
        quantised = faiss.IndexScalarQuantizer(D, kind, faiss.METRIC_INNER_PRODUCT)
        quantised.train(vectors)
        quantised.add(vectors)
        work[f"faiss {name}"] = lambda quantised=quantised: quantised.search(query[None], 10)
    signed = faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT)
    scale = 127 / np.abs(vectors).max()
    signed.train(np.rint(vectors * scale))
    signed.add(np.rint(vectors * scale))
    signed_query = np.rint(query[None] * 127 / np.abs(query).max()).astype(np.float32)
    work["faiss 8bit signed (not exact)"] = lambda: signed.search(signed_query, 10)
    bytes_ = np.rint(vectors * scale).astype(np.int8)
    query_bytes = np.rint(query * 127 / np.abs(query).max()).astype(np.int8)

    def simsimd_top() -> np.ndarray:
        scores = np.asarray(simsimd.cdist(query_bytes[None], bytes_, metric="inner")).ravel()
        return np.argpartition(-scores, 10)[:10]

    work["simsimd i8 (not exact)"] = simsimd_top
    if n <= 100_000:
        import usearch.index

        work["usearch exact f32"] = lambda: usearch.index.search(
            vectors, query, 10, usearch.index.MetricKind.IP, exact=True, threads=THREADS
        )
    for tier in kernel_tiers():
        work[f"index, {tier} forced"] = lambda tier=tier: index.search(query, kernel=tier)
    taken = rounds(work, 10.0)
    report(f"top 10 of {n} x {D} through the index, 1 query", taken, "index", {"numpy": 0.30 if n > 5000 else 0.6})
    peers = [name for name in work if name.startswith(("faiss", "simsimd"))]
    best = min(peers, key=lambda name: statistics.median(taken[name]))
    ratio = statistics.median(taken["index"]) / statistics.median(taken[best])
    print(f"  best quantised peer: {best}; ours is {ratio:.2f} x" + (" (target <= 0.60)" if n > 5000 else ""))


def bench_batch(n: int = 100_000, queries: int = 64) -> None:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    vectors = unit_rows(n, D)
    batch = np.ascontiguousarray(vectors[:queries] + 0.02 * unit_rows(queries, D, 3))
    index = filled(vectors)

    def numpy_batch() -> np.ndarray:
        return np.argpartition(-(batch @ vectors.T), 10, axis=1)[:, :10]

    flat = faiss.IndexFlatIP(D)
    flat.add(vectors)
    work = {
        "index": lambda: index.search_many(batch, threads=THREADS),
        "numpy": numpy_batch,
        "faiss flat": lambda: flat.search(batch, 10),
    }

    def tuned() -> object:
        default = faiss.cvar.distance_compute_blas_database_bs
        faiss.cvar.distance_compute_blas_database_bs = 8192
        try:
            return flat.search(batch, 10)
        finally:
            faiss.cvar.distance_compute_blas_database_bs = default

    work["faiss flat, tuned blocks"] = tuned
    for tier in kernel_tiers()[1:]:
        work[f"index, {tier} forced"] = lambda tier=tier: index.search_many(batch, threads=THREADS, kernel=tier)
    targets = {"numpy": 0.45, "faiss flat, tuned blocks": 0.6}
    report(f"{queries} queries, top 10 of {n} x {D}, {THREADS} thread(s)", rounds(work, 15.0), "index", targets)


def corpus(n: int, seed: int = 4) -> list[str]:
    """Short texts of 5 to 30 words drawn from 30,000 by Zipf's law with exponent 1."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 30_001)
    words = rng.choice(30_000, size=n * 30, p=weights / weights.sum())
    lengths = rng.integers(5, 31, n)
    return [" ".join(f"w{word}x" for word in words[30 * i : 30 * i + lengths[i]]) for i in range(n)]


def bench_text(n: int = 100_000) -> None:
    import bm25s

    texts = corpus(n)
    k1, b = 0.9, 0.15
    index = MemoryIndex(1, language="none", k1=k1, b=b)
    index.upsert([f"m{i}" for i in range(n)], texts=texts)
    # Queries of 3 to 6 distinct words of texts, without the 100 most frequent: what a stop list leaves.
    rng = np.random.default_rng(5)
    queries = []
    while len(queries) < 50:
        words = {word for word in texts[rng.integers(n)].split() if int(word[1:-1]) >= 100}
        if len(words) >= 3:
            queries.append(" ".join(sorted(words)[:6]))
    peer = bm25s.BM25(k1=k1, b=b, method="lucene")
    peer.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)

    def peer_all() -> None:
        for query in queries:
            tokens = bm25s.tokenize(query, stopwords=None, show_progress=False, return_ids=False)
            peer.retrieve(tokens, k=10, show_progress=False, n_threads=0)

    def ours() -> None:
        for query in queries:
            index.search(text=query)

    tokens = bm25s.tokenize(queries[0], stopwords=None, show_progress=False, return_ids=False)
    _, scores = peer.retrieve(tokens, k=10, show_progress=False)
    # The peer leaves out the factor that is the same for all.
    np.testing.assert_allclose(index.search(text=queries[0]).scores / (k1 + 1), scores[0], rtol=1e-4)
    taken = {name: [s / len(queries) for s in v] for name, v in rounds({"index": ours, "bm25s": peer_all}, 10).items()}
    report(f"BM25 over {n} short texts, one query", taken, "index", {"bm25s": 0.2})


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def bench_growth(n: int = 1_000_000, batch: int = 1000) -> MemoryIndex:
    block = unit_rows(10_000, D)
    before = peak_gb()
    index = MemoryIndex(D)
    pauses, worked = [], []
    cpu_started = time.process_time()
    for start in range(0, n, batch):
        ids = [f"m{start + i:07d}" for i in range(batch)]
        at = start % len(block)
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        index.upsert(ids, block[at : at + batch])
        pauses.append(time.perf_counter() - begin)
        worked.append(time.thread_time() - begin_cpu)
    cpu_s = time.process_time() - cpu_started
    longest = max(pauses) * 1e3
    print(f"\ngrowing to {len(index)} x {D} in batches of {batch}: {n / sum(pauses):,.0f} rows/s (target >= 200,000)")
    print(f"  CPU time: {n / cpu_s:,.0f} rows per CPU second (the wall figure is worth little on a busy machine)")
    print(f"  longest call {longest:.1f} ms (target <= 50), 99.9 % {np.quantile(pauses, 0.999) * 1e3:.1f} ms")
    print(f"  longest call in CPU time {max(worked) * 1e3:.1f} ms (what it takes when no other process runs)")
    print(f"  peak memory {peak_gb():.2f} GB, of which {before:.2f} GB before (target: 2.4 GB for the index)")
    return index


def bench_million(n: int = 1_000_000) -> None:
    index = bench_growth(n)
    query = np.random.default_rng(6).standard_normal(D).astype(np.float32)
    codes = np.ones((n, D), np.int8)
    work = {"index": lambda: index.search(query), "streaming the int8 rows (max)": codes.max}
    near = (np.asarray(unit_rows(1, D)[0]) + 0.02 * query).astype(np.float32)
    work["index, a query with near neighbours"] = lambda: index.search(near)
    for tier in kernel_tiers()[1:]:
        work[f"index, {tier} forced"] = lambda tier=tier: index.search(query, kernel=tier)
    taken = rounds(work, 8.0)
    report(f"top 10 of {n} x {D} through the index", taken, "index", {})
    limit = 1.3 * statistics.median(taken["streaming the int8 rows (max)"]) + 1e-3
    ours = statistics.median(taken["index"])
    print(f"  limit 1.3 x streaming + 1 ms = {limit * 1e3:.1f} ms: {'meets' if ours <= limit else 'MISSES'}")


def main() -> None:
    print(cpu_name(), "kernels:", kernel_tiers(), "threads:", THREADS)
    chosen = sys.argv[1:] or ["vector", "small", "batch", "text", "million"]
    benches = {
        "vector": bench_vector,
        "small": lambda: bench_vector(1000),
        "batch": bench_batch,
        "text": bench_text,
        "growth": bench_growth,
        "million": bench_million,
    }
    for name in chosen:
        benches[name]()


if __name__ == "__main__":
    main()
