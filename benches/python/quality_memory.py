"""Recall of `MemorySystem` on dialogues of yours, stored as README.md and docs/tutorial/memory.md show, and in other ways.

    python benches/python/quality_memory.py DIALOGUES [--embedder onnx:FOLDER | module:function] [--cache FOLDER]

DIALOGUES is, for instance, LoCoMo's `data/locomo10.json` from https://github.com/snap-research/locomo. It is not shipped: its
licence, CC BY-NC 4.0, allows no commercial use. `quality_dialogues.py` says what else it may be, `quality_scoring.py` what
recall, embedder and intervals are.

Each dialogue is an agent, and each turn one memory, in the order in which it was said. Each question is one `retrieve` with the
defaults. A way of storing that is not as good as the best one is a fault of the defaults or of the documentation.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from quality_dialogues import Dialogue, Turn, load
from quality_scoring import DEPTHS, Embed, Recalls, embedder, recall, shown

from agent_memory import MemorySystem

Store = Callable[[MemorySystem, str, Sequence[Turn]], None]
"""Stores the turns of a dialogue as memories of an agent; their metadata hold the id of the turn."""


def as_documented(memory: MemorySystem, agent_id: str, turns: Sequence[Turn]) -> None:
    for turn in turns:
        memory.store(agent_id, turn.text, **session_of(turn), metadata={"turn": turn.id})


def many_as_documented(memory: MemorySystem, agent_id: str, turns: Sequence[Turn]) -> None:
    memory.store_many(
        agent_id, [{"content": turn.text, **session_of(turn), "metadata": {"turn": turn.id}} for turn in turns]
    )


def with_steps(memory: MemorySystem, agent_id: str, turns: Sequence[Turn]) -> None:
    memory.store_many(agent_id, [full(turn) for turn in turns])


def with_dates(memory: MemorySystem, agent_id: str, turns: Sequence[Turn]) -> None:
    memory.store_many(
        agent_id, [{**full(turn), "content": f"{turn.text} {turn.date_words}".rstrip()} for turn in turns]
    )


def without_sessions(memory: MemorySystem, agent_id: str, turns: Sequence[Turn]) -> None:
    memory.store_many(agent_id, [{"content": turn.text, "metadata": {"turn": turn.id}} for turn in turns])


def session_of(turn: Turn) -> dict[str, Any]:
    return {} if turn.sequence is None else {"session_id": turn.sequence[0]}


def full(turn: Turn) -> dict[str, Any]:
    """All that is known of a turn."""
    found = {"content": turn.text, **session_of(turn), "metadata": {"turn": turn.id}}
    if turn.sequence is not None:
        found["step"] = turn.sequence[1]
    if turn.time_s is not None:
        found["timestamp_s"] = turn.time_s
    return found


BEST = "session, step and timestamp"
WAYS: dict[str, Store] = {
    "**as documented**: `store` with a session": as_documented,
    "`store_many` with a session": many_as_documented,
    BEST: with_steps,
    "the same, and the words of the date in the content": with_dates,
    "no session": without_sessions,
}


def measure(dialogues: list[Dialogue], embed: Embed | None, store: Store) -> Recalls:
    """The recalls of every question of every dialogue, in order."""
    recalls: list[list[float]] = []
    for number, dialogue in enumerate(dialogues):
        with (
            tempfile.TemporaryDirectory() as folder,
            MemorySystem(folder, redis=None, embed=None if embed is None else looked_up(embed, dialogue)) as memory,
        ):
            agent_id = f"dialogue-{number}"
            store(memory, agent_id, dialogue.turns)
            for question in dialogue.questions:
                found = memory.retrieve(agent_id, question.text, k=max(DEPTHS))
                recalls.append(recall([entry.metadata["turn"] for entry in found], question.evidence))
    return np.array(recalls).reshape(-1, len(DEPTHS))


def looked_up(embed: Embed, dialogue: Dialogue) -> Embed:
    """`embed` for the texts of one dialogue, of which it is asked once; dates do not count among the words of a vector."""
    turns = [turn.text for turn in dialogue.turns]
    asked = [question.text for question in dialogue.questions]
    vectors = dict(zip(turns, np.asarray(embed(turns)), strict=True))
    if asked:
        vectors |= zip(asked, np.asarray(embed(asked)), strict=True)
    dated = {f"{turn.text} {turn.date_words}".rstrip(): turn.text for turn in dialogue.turns}
    return lambda texts: np.array([vectors[text] if text in vectors else vectors[dated[text]] for text in texts])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dialogues", type=Path)
    parser.add_argument("--embedder")
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args(arguments)
    dialogues, embed = load(options.dialogues), embedder(options.embedder, options.cache)
    turns, questions = sum(len(one.turns) for one in dialogues), sum(len(one.questions) for one in dialogues)
    print(f"{len(dialogues)} dialogues, {turns} turns, {questions} questions")
    for name, used in (("words alone", None), ("vectors and words", embed)):
        if used is None and name != "words alone":
            continue
        print(f"\n| {name} | recall@5 | recall@10 | @5 over {BEST} |\n|---|---|---|---|")
        results = {BEST: measure(dialogues, used, WAYS[BEST])}
        for way, store in WAYS.items():
            recalls = results[way] if way in results else measure(dialogues, used, store)
            found = [shown(recalls[:, column]) for column in range(len(DEPTHS))]
            print(f"| {way} | {' | '.join(found)} | {shown((recalls - results[BEST])[:, 0], '+')} |", flush=True)


if __name__ == "__main__":
    main()
