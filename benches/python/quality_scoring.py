"""Recall of the index on dialogues of yours, with an embedding model of yours.

    python benches/python/quality_scoring.py DIALOGUES [--embedder onnx:FOLDER | module:function] [--cache FOLDER]

`quality_dialogues.py` says what DIALOGUES may be. The embedder turns a list of texts into an array (n, d): a function that
can be imported, or a sentence encoder in a folder (see `agent_memory.scoring.onnx`). Without one only the words are
measured. With `--cache`, embeddings are kept there and computed once; the name given as `--embedder` tells them apart.

A question's recall@k is the share of its evidence turns among the first k found. Every dialogue is an index of its own, and
every question one call of `MemoryIndex.search` with the defaults but for what a row of the table says. Intervals are 95 %,
from 2,000 bootstrap samples of the questions.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quality_dialogues import Dialogue, load

from agent_memory.scoring import Diversity, HalfLife, MemoryIndex, ScoreWeights
from agent_memory.scoring.onnx import OnnxEmbedder

DEPTHS = (5, 10)
RESAMPLES = 2_000
SEED = 20_230_507
WEEK_S = 7 * 86_400.0
WORDS, VECTORS = ScoreWeights(similarity=0), ScoreWeights(lexical=0)

Embed = Callable[[list[str]], Any]
Recalls = NDArray[np.float64]
"""Shape (questions, len(DEPTHS)), 0..1."""


@dataclass(frozen=True, slots=True)
class Run:
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    has_dates: bool = True
    """Whether the words of a turn's date stand beside its text (the vector is that of the text alone)."""


DEFAULT = Run("**both, as by default**")
PARTS = (
    Run("vectors alone", search={"weights": VECTORS}),
    Run("words alone", search={"weights": WORDS}),
)
OTHERS = (
    Run("words alone, no context", {"context": False}, {"weights": WORDS}),
    Run("words alone, no context, no dates", {"context": False}, {"weights": WORDS}, has_dates=False),
    Run("words alone, no stemming or stop list", {"language": "none"}, {"weights": WORDS}),
    Run("both, no context", {"context": False}),
    Run("both, no dates", has_dates=False),
    Run("both, no context, no dates", {"context": False}, has_dates=False),
    Run("both, k1 = 1.2, b = 0.75", {"k1": 1.2, "b": 0.75}),
    Run("both, lexical = 0.5", search={"weights": ScoreWeights(lexical=0.5)}),
    Run("both, lexical = 2", search={"weights": ScoreWeights(lexical=2)}),
    Run("both, reciprocal ranks", search={"fusion": "rrf"}),
    Run(
        "both, recency 0.3, half-life a week", search={"weights": ScoreWeights(recency=0.3), "decay": HalfLife(WEEK_S)}
    ),
    Run("both, `Diversity()`", search={"diversity": Diversity()}),
)


def recall(found: Sequence[str], evidence: frozenset[str], depths: Sequence[int] = DEPTHS) -> list[float]:
    return [len(evidence.intersection(found[:depth])) / len(evidence) for depth in depths]


def interval(values: NDArray[np.float64], seed: int = SEED, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The middle 95 % of the means of samples of `values`, as large as it is and drawn with replacement."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def cached(embed: Embed, name: str, folder: Path | None) -> Embed:
    """`embed`, whose answers are kept in `folder` by its name and the texts."""

    def read_or_embed(texts: list[str]) -> Any:
        if folder is None:
            return embed(texts)
        key = hashlib.sha256("\0".join([name, *texts]).encode()).hexdigest()
        file = folder / f"{key}.npy"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            np.save(file, np.asarray(embed(texts)))
        return np.load(file)

    return read_or_embed


def measure(dialogues: list[Dialogue], embed: Embed | None, run: Run) -> Recalls:
    """The recalls of every question of every dialogue, in order."""
    recalls: list[list[float]] = []
    for dialogue in dialogues:
        turns, asked = dialogue.turns, [question.text for question in dialogue.questions]
        texts = [f"{turn.text} {turn.date_words}" if run.has_dates else turn.text for turn in turns]
        vectors = None if embed is None else np.asarray(embed([turn.text for turn in turns]))
        queries = [None] * len(asked) if embed is None or not asked else list(np.asarray(embed(asked)))
        times = np.array([np.nan if turn.time_s is None else turn.time_s for turn in turns])
        index = MemoryIndex(1 if vectors is None else vectors.shape[1], **run.settings)
        sequence = [turn.sequence for turn in turns]
        index.upsert([turn.id for turn in turns], vectors, texts, timestamps_s=times, sequence=sequence)
        now = 0.0 if np.isnan(times).all() else float(np.nanmax(times))
        for question, query in zip(dialogue.questions, queries, strict=True):
            found = index.search(query, question.text, k=max(DEPTHS), now_s=now, **run.search)
            recalls.append(recall(found.ids, question.evidence))
    return np.array(recalls).reshape(-1, len(DEPTHS))


def shown(values: NDArray[np.float64], sign: str = "") -> str:
    low, high = interval(values)
    return f"{100 * values.mean():{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def embedder(name: str | None, cache: Path | None) -> Embed | None:
    if name is None:
        return None
    module, _, function = name.partition(":")
    embed = OnnxEmbedder(function) if module == "onnx" else getattr(importlib.import_module(module), function)
    return cached(embed, name, cache)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dialogues", type=Path)
    parser.add_argument("--embedder")
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args(arguments)
    dialogues, embed = load(options.dialogues), embedder(options.embedder, options.cache)
    turns, questions = sum(len(one.turns) for one in dialogues), sum(len(one.questions) for one in dialogues)
    unknown = sum(one.unknown_evidence for one in dialogues)
    print(
        f"{len(dialogues)} dialogues, {turns} turns, {questions} questions; {unknown} labels of evidence name no turn\n"
    )
    runs = [run for run in (*PARTS, DEFAULT, *OTHERS) if embed is not None or run.search.get("weights") is WORDS]
    print("| | recall@5 | recall@10 |\n|---|---|---|")
    results: dict[str, Recalls] = {}
    for run in runs:
        recalls = results[run.name] = measure(dialogues, embed, run)
        print(f"| {run.name} | {' | '.join(shown(recalls[:, column]) for column in range(len(DEPTHS)))} |", flush=True)
    if embed is not None:
        print()
        for part in PARTS:
            gained = results[DEFAULT.name] - results[part.name]
            print(f"both over {part.name}: {shown(gained[:, 0], '+')} at 5, {shown(gained[:, 1], '+')} at 10")


if __name__ == "__main__":
    main()
