"""What the scoring benches share: interleaved rounds, medians with their spread, one line a figure."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def cpu_name() -> str:
    """The processor as the kernel names it, with the instruction sets that matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.processor()
    values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in values.items()}
    flags = set(fields.get("flags", "").split())
    shown = [flag for flag in ("avx2", "fma", "avx512f", "avx512_vnni") if flag in flags]
    return f"{fields.get('model name', '?')} family {fields.get('cpu family')} model {fields.get('model')} ({' '.join(shown)})"


def rounds(work: dict[str, Callable[[], object]], seconds: float = 4.0, least: int = 5) -> dict[str, list[float]]:
    """Runs every function in turn, again and again, so that a slow minute of the machine hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for call in work.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(taken.values()))) < least:
        for name, call in work.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return taken


def report(title: str, taken: dict[str, list[float]], ours: str, targets: dict[str, float]) -> None:
    """Prints medians, quartiles and fastest rounds, and our ratio to each peer beside its target (that of the medians)."""
    print(f"\n{title}  ({len(next(iter(taken.values())))} rounds)")
    our_median = statistics.median(taken[ours])
    for name, values in taken.items():
        low, median, high = statistics.quantiles(values, n=4)
        line = f"  {name:34s} {median * 1e3:9.3f} ms   quartiles {low * 1e3:9.3f} .. {high * 1e3:9.3f}"
        line += f"   fastest {min(values) * 1e3:9.3f}"
        if name != ours:
            line += f"   ours is {our_median / median:5.2f} x, of the fastest {min(taken[ours]) / min(values):5.2f} x"
            if name in targets:
                verdict = "meets" if our_median / median <= targets[name] else "MISSES"
                line += f" ({verdict} <= {targets[name]:.2f})"
        print(line)


def numpy_top(vectors: np.ndarray, query: np.ndarray, k: int = 10) -> np.ndarray:
    """The usual way: a matrix-vector product, then argpartition and a sort of the k."""
    scores = vectors @ query
    best = np.argpartition(-scores, k)[:k]
    return best[np.argsort(-scores[best])]


def unit_rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows of unit length around 200 centres, as embeddings of text cluster."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((200, d), dtype=np.float32)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    rows *= 1.2
    rows += centres[rng.integers(0, 200, n)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
