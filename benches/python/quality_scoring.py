"""Recall of the index on LoCoMo dialogues. The data is not shipped: its licence forbids it; bring `locomo10.json`.

    python benches/python/quality_scoring.py locomo10.json [module:function | onnx:FOLDER]

The function turns a list of texts into an array (n, d); `onnx:` takes the sentence encoder in a folder (see
`agent_memory.scoring.onnx`). Without either only the text side is measured. A memory is one turn
of a dialogue with the words of its session's date; a question counts as the share of its evidence turns among the first
k, adversarial questions (category 5) left out.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np

from agent_memory.scoring import HalfLife, MemoryIndex, ScoreWeights
from agent_memory.scoring.onnx import OnnxEmbedder


def turns_of(conversation: dict) -> list[tuple[str, str, str, int]]:
    """(id, text, session, step) of every turn."""
    turns = []
    for number in range(1, 100):
        for step, turn in enumerate(conversation.get(f"session_{number}") or []):
            date = conversation[f"session_{number}_date_time"].split(" on ")[-1]
            caption = turn.get("blip_caption", "")
            turns.append((turn["dia_id"], f"{turn['speaker']}: {turn['text']} {caption} {date}", str(number), step))
    return turns


def dialogues(path: Path) -> list[dict]:
    """From the one file of the published set, or a folder of one file a dialogue, as an earlier version had it."""
    if path.is_dir():
        loaded = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(path.glob("*.json"))]
        return [{"conversation": dialogue, "qa": dialogue["qa"]} for dialogue in loaded if "qa" in dialogue]
    return json.loads(path.read_text(encoding="utf-8"))


def recall(data: list[dict], embed, settings: dict, search: dict, depths: tuple[int, ...]) -> list[float]:
    found: list[list[float]] = []
    for sample in data:
        turns = turns_of(sample["conversation"])
        ids, texts = [turn[0] for turn in turns], [turn[1] for turn in turns]
        vectors = None if embed is None else np.asarray(embed(texts))
        index = MemoryIndex(1 if vectors is None else vectors.shape[1], **settings)
        index.upsert(
            ids, vectors, texts, sequence=[turn[2:] for turn in turns], timestamps=np.arange(len(ids)) * 3600.0
        )
        questions = [q for q in sample["qa"] if q.get("evidence") and q["category"] != 5]
        asked = [q["question"] for q in questions]
        queries = None if embed is None else np.asarray(embed(asked))
        results = index.search_many(queries, asked, k=max(depths), now=len(ids) * 3600.0, **search)
        for question, result in zip(questions, results, strict=True):
            evidence = set(question["evidence"])
            found.append([len(evidence & set(result.ids[:depth])) / len(evidence) for depth in depths])
    return (100 * np.mean(found, axis=0)).tolist()


def main() -> None:
    data = dialogues(Path(sys.argv[1]))
    embed = None
    if len(sys.argv) > 2:
        module, _, function = sys.argv[2].partition(":")
        embed = OnnxEmbedder(function) if module == "onnx" else getattr(importlib.import_module(module), function)
    text_only, vector_only = ScoreWeights(similarity=0), ScoreWeights(lexical=0)
    runs = {
        "words, no context": ({"context": False}, {"weights": text_only}),
        "words, context": ({}, {"weights": text_only}),
        "words, context, b = 0.75": ({"b": 0.75}, {"weights": text_only}),
        "words, no stemming or stop list": ({"language": "none", "context": False}, {"weights": text_only}),
        "words, context, recency 0.3": (
            {},
            {"weights": ScoreWeights(similarity=0, recency=0.3), "decay": HalfLife(86_400 * 7)},
        ),
    }
    if embed is not None:
        runs |= {
            "vectors": ({}, {"weights": vector_only}),
            "both, min-max, no context": ({"context": False}, {}),
            "both, min-max": ({}, {}),
            "both, rank fusion": ({}, {"fusion": "rrf"}),
        }
    if embed is not None:
        print("the hybrid is to beat both its parts by 5 points of recall@5")
    print(f"{'':34s}  recall@5  recall@10")
    for name, (settings, search) in runs.items():
        at_5, at_10 = recall(data, embed, settings, search, (5, 10))
        print(f"{name:34s}  {at_5:8.1f}  {at_10:9.1f}")


if __name__ == "__main__":
    main()
