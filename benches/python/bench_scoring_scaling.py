"""How the time of one search grows with rows, dimensions and threads; writes a picture.

`OMP_NUM_THREADS=1 python benches/python/bench_scoring_scaling.py [docs/images/scoring-scaling.svg]`

Every point is the fastest of several rounds (what the work costs; the median of a shared machine is the neighbours'
work), beside numpy's `X @ q` with argpartition in the same rounds. Threads share out a batch of 64 queries.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from scoring_common import cpu_name, numpy_top, rounds, unit_rows

from agent_memory.scoring import MemoryIndex, kernel_tiers, score

BATCH = 8192


def points(n: int, d: int, seconds: float = 2.0) -> dict[str, float]:
    """Milliseconds by the index, by `score` and by numpy."""
    block = unit_rows(min(n, 20_000), d)
    vectors = np.resize(block, (n, d)) + (0 if n <= len(block) else 0.01 * unit_rows(1, d, 9))
    vectors = vectors.astype(np.float32, copy=False)
    index = MemoryIndex(d)
    for start in range(0, n, BATCH):
        part = vectors[start : start + BATCH]
        index.upsert([f"m{start + row}" for row in range(len(part))], part)
    query = np.random.default_rng(6).standard_normal(d).astype(np.float32)
    work = {
        "MemoryIndex.search": lambda: index.search(query),
        "score": lambda: score(query, vectors, similarity="inner_product"),
        "numpy": lambda: numpy_top(vectors, query),
    }
    for tier in kernel_tiers()[1:-1]:  # beside the fastest, which is what the others use
        work[f"MemoryIndex.search, {tier} forced"] = lambda tier=tier: index.search(query, kernel=tier)
    return {name: min(taken) * 1e3 for name, taken in rounds(work, seconds).items()}


def threads_points(n: int = 100_000, d: int = 384) -> dict[int, float]:
    vectors = unit_rows(n, d)
    index = MemoryIndex(d)
    index.upsert([f"m{row}" for row in range(n)], vectors)
    batch = np.ascontiguousarray(vectors[:64])
    counts = sorted({1, 2, os.cpu_count() or 1})
    work = {str(count): lambda count=count: index.search_many(batch, threads=count) for count in counts}
    return {int(name): min(taken) * 1e3 for name, taken in rounds(work, 6.0).items()}


def draw(path: Path, by_rows: dict, by_width: dict, by_threads: dict[int, float]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "scoring", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, series, label in (
        (axes[0], by_rows, "rows (384 dimensions)"),
        (axes[1], by_width, "dimensions (20,000 rows)"),
    ):
        for name in next(iter(series.values())):
            axis.plot(list(series), [point[name] for point in series.values()], marker="o", label=name)
        axis.set(xlabel=label, ylabel="ms", xscale="log", yscale="log")
        axis.set_xticks(list(series), [f"{at:,}" for at in series], minor=False)
        axis.set_xticks([], minor=True)
    axes[2].bar([str(count) for count in by_threads], list(by_threads.values()))
    axes[2].set(xlabel="threads (64 queries, 100,000 rows)", ylabel="ms")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.suptitle(f"top 10, {cpu_name()}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(f"wrote {path}")


def main() -> None:
    print(cpu_name())
    by_rows = {n: points(n, 384) for n in (1_000, 10_000, 100_000, 1_000_000)}
    by_width = {d: points(20_000, d) for d in (128, 256, 384, 768, 1536)}
    by_threads = threads_points()
    for title, series in (("rows", by_rows), ("dimensions", by_width)):
        for at, point in series.items():
            print(f"  {title} {at:>9,}: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in point.items()))
    print("  threads: " + ", ".join(f"{count}: {ms:.1f} ms" for count, ms in by_threads.items()))
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "scoring-scaling.svg"), by_rows, by_width, by_threads)


if __name__ == "__main__":
    main()
