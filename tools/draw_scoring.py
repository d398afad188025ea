#!/usr/bin/env python3
"""Draws the pictures of docs/reference/scoring.md. Every number in them is computed by `agent_memory.scoring` itself.

`python tools/draw_scoring.py [folder]` writes scoring-parts.svg, scoring-weights.svg and scoring-context.svg; needs matplotlib
(the `bench` extra).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from agent_memory.scoring import HalfLife, MemoryIndex, PowerLaw, ScoreWeights, score

mpl.rcParams.update(
    {
        "svg.hashsalt": "scoring",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

COLOURS = {
    "similarity": "#4477aa",
    "lexical": "#66ccee",
    "recency": "#ee6677",
    "importance": "#228833",
    "access": "#ccbb44",
}
DAY_S = 86_400.0


def part(name: str, n: int, **arrays: Any) -> np.ndarray:
    """The values of one part for `n` rows, in their order."""
    vectors = np.ones((n, 1), np.float32)
    settings = {"recency": 0.0, "importance": 0.0, "access": 0.0, name: 1.0}
    weights = ScoreWeights(similarity=1.0, **settings)
    indices, _, parts = score(np.ones(1), vectors, weights=weights, components=True, k=n, **arrays)
    values = np.empty(n)
    values[indices] = parts[name]
    return values


def draw_similarity(axis: Any) -> None:
    degrees = np.linspace(0, 180, 181)
    vectors = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    for similarity in ("cosine", "euclidean"):
        indices, scores = score(np.array([1.0, 0.0]), vectors, similarity=similarity, k=len(degrees))
        axis.plot(degrees[indices][np.argsort(indices)], scores[np.argsort(indices)], label=similarity)
    axis.set(title="similarity", xlabel="degrees between unit vectors", xticks=[0, 60, 120, 180])
    axis.legend(fontsize=8)


def draw_lexical(axis: Any) -> None:
    """BM25 of one word by how often it stands in texts of several lengths, in one index."""
    counts, lengths = range(1, 9), (8, 24, 72)
    index = MemoryIndex(1, language="none")
    for length in lengths:
        texts = [" ".join(["word"] * count + [f"other{n}" for n in range(length - count)]) for count in counts]
        index.upsert([f"{length}/{count}" for count in counts], texts=texts)
    index.upsert([f"without/{n}" for n in range(50)], texts=["none of it here at all today"] * 50)
    found = index.search(text="word", k=100)
    scores = dict(zip(found.ids, found.scores, strict=True))
    for length in lengths:
        axis.plot(
            list(counts), [scores[f"{length}/{count}"] for count in counts], marker="o", ms=3, label=f"{length} words"
        )
    axis.set(title="lexical (BM25)", xlabel="how often the word stands there", ylim=(0, None))
    axis.legend(fontsize=8)


def draw_recency(axis: Any) -> None:
    days = np.linspace(0, 30, 121)
    for name, decay in (
        ("HalfLife() (0.995 an hour)", HalfLife()),
        ("HalfLife(10 days)", HalfLife(10 * DAY_S)),
        ("PowerLaw(1 day, 0.5)", PowerLaw(scale_s=DAY_S, exponent=0.5)),
    ):
        axis.plot(days, part("recency", len(days), age_s=days * DAY_S, decay=decay), label=name)
    axis.set(title="recency", xlabel="age in days", ylim=(0, 1.02))
    axis.legend(fontsize=8)


def draw_access(axis: Any) -> None:
    counts = np.arange(0, 101, dtype=np.float64)
    axis.plot(counts, part("access", len(counts), access_count=counts), color=COLOURS["access"])
    axis.set(title="access", xlabel="times used", ylim=(0, None))


def draw_parts(path: Path) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(12, 2.8), layout="constrained")
    for axis, draw in zip(axes, (draw_similarity, draw_lexical, draw_recency, draw_access), strict=True):
        draw(axis)
    save(figure, path)


def draw_weights(path: Path) -> None:
    """Five memories, ranked with three sets of weights."""
    names = np.array(
        ["A: says it, old", "B: says it in other words", "C: same topic, today", "D: important", "E: often used"]
    )
    query = np.array([1.0, 0.0])
    degrees = np.radians([25, 15, 45, 60, 70])
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    arrays = {
        "lexical": np.array([6.0, 1.0, 1.5, 0.0, 0.5]),
        "age_s": np.array([60, 20, 0.2, 30, 10]) * DAY_S,
        "importance": np.array([0.3, 0.3, 0.2, 1.0, 0.2]),
        "access_count": np.array([0.0, 1, 0, 2, 40]),
    }
    choices = {
        "the defaults: similarity 1, lexical 1": ScoreWeights(),
        "+ recency 0.5": ScoreWeights(recency=0.5),
        "+ importance 0.5, access 0.5": ScoreWeights(recency=0.5, importance=0.5, access=0.5),
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 2.6), layout="constrained", sharex=True)
    for axis, (title, weights) in zip(axes, choices.items(), strict=True):
        decay = HalfLife(7 * DAY_S)
        indices, _, parts = score(
            query, vectors, weights=weights, normalize="minmax", decay=decay, components=True, k=5, **arrays
        )
        left = np.zeros(len(indices))
        for name, values in parts.items():
            width = values * getattr(weights, name)
            axis.barh(names[indices], width, left=left, color=COLOURS[name], label=name)
            left += width
        axis.invert_yaxis()
        axis.set(title=title, xlim=(0, 2.2))
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    save(figure, path)


def draw_context(path: Path) -> None:
    """Nine turns of a dialogue; the word that is asked for stands in the fifth alone."""
    turns = [f"turn{n} says something{n}" for n in range(9)]
    turns[4] = "turn4 says lisbon"
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.4), layout="constrained", sharey=True)
    for axis, context in zip(axes, (False, True), strict=True):
        index = MemoryIndex(1, language="none", context=context)
        index.upsert([str(n) for n in range(9)], texts=turns, sequence=[("dialogue", n) for n in range(9)])
        found = index.search(text="lisbon", k=9)
        scores = dict(zip(found.ids, found.scores, strict=True))
        bars = axis.bar(range(9), [scores.get(str(n), 0.0) for n in range(9)], color=COLOURS["similarity"])
        bars[4].set_color(COLOURS["lexical"])
        axis.set(title=f"context={context}", xlabel="turn of the dialogue", xticks=range(9))
    axes[0].set_ylabel('score for "lisbon"')
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(f"wrote {path}")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "images"
    draw_parts(folder / "scoring-parts.svg")
    draw_weights(folder / "scoring-weights.svg")
    draw_context(folder / "scoring-context.svg")


if __name__ == "__main__":
    main()
