"""Dialogues with questions and the turns that answer them, for `quality_scoring.py`. None are shipped: bring your own.

Read are

- the file that LoCoMo is published as: a list of `{"conversation": {"session_1": [...], "session_1_date_time": ...}, "qa"}`;
- a folder of one JSON file a dialogue with the sessions at the top, as LoCoMo once was and REALTALK is;
- `.jsonl`, to which anything else can be brought. One object a line, memories and questions in any order:

      {"dialogue": "d1", "id": "t1", "text": "Ann moved to Oslo.", "session": "1", "step": 0, "timestamp": 1683554160}
      {"dialogue": "d1", "question": "Where does Ann live?", "evidence": ["t1"]}

  `session` with `step`, and `timestamp` (seconds since the epoch), may be missing.

A memory is one turn, written as LoCoMo's authors write it: `Speaker said, "text" and shared caption.` Their adversarial
questions (category 5) ask for what was never said and are left out. Evidence that names no turn cannot be found; it
is left out and counted, and a question without any other is left out too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ADVERSARIAL = 5
_SESSION = re.compile(r"session_(\d+)")
_TURN = re.compile(r"D\s*:?(\d+)\s*:\s*(\d+)(?:\s*-\s*D(\d+):(\d+))?")
_TIME_FORMATS = ("%I:%M %p on %d %B, %Y", "%d.%m.%Y, %H:%M:%S")


@dataclass(frozen=True, slots=True)
class Turn:
    id: str
    text: str
    sequence: tuple[str, int] | None
    time_s: float | None

    @property
    def date_words(self) -> str:
        """As people write a date, "7 May 2023"; empty without a time."""
        if self.time_s is None:
            return ""
        moment = datetime.fromtimestamp(self.time_s, UTC)
        return f"{moment.day} {moment:%B %Y}"


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    evidence: frozenset[str]


@dataclass(slots=True)
class Dialogue:
    turns: list[Turn] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    unknown_evidence: int = 0


def load(path: Path) -> list[Dialogue]:
    if path.is_dir():
        loaded = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(path.glob("*.json"))]
        return [_from_sessions(one, one["qa"]) for one in loaded if "qa" in one]
    if path.suffix == ".jsonl":
        return _from_lines(path.read_text(encoding="utf-8").splitlines())
    return [_from_sessions(one["conversation"], one["qa"]) for one in json.loads(path.read_text(encoding="utf-8"))]


def evidence_turns(labels: Iterable[str], known: set[str]) -> tuple[frozenset[str], int]:
    """The turns that labels name, and how many they name in vain.

    Published labels hold several turns ("D8:6; D9:17"), ranges ("D12:3-D12:5"), leading zeros and stray dots.
    """
    turns: set[str] = set()
    unknown = 0
    for label in labels:
        found = _TURN.findall(label)
        unknown += not found
        for session, first, last_session, last in found:
            end = int(last) if last_session == session else int(first)
            for number in range(int(first), end + 1):
                turn = f"D{int(session)}:{number}"
                unknown += turn not in known
                turns |= {turn} & known
    return frozenset(turns), unknown


def _from_sessions(conversation: dict[str, Any], questions: list[dict[str, Any]]) -> Dialogue:
    dialogue = Dialogue()
    numbers = sorted(int(match[1]) for match in map(_SESSION.fullmatch, conversation) if match)
    for number in numbers:
        started = conversation.get(f"session_{number}_date_time")
        for step, turn in enumerate(conversation[f"session_{number}"]):
            said = f'{turn["speaker"]} said, "{turn.get("clean_text") or turn.get("text", "")}"'
            if turn.get("blip_caption"):
                said += f" and shared {turn['blip_caption']}."
            time_s = _seconds(turn.get("date_time") or started)
            dialogue.turns.append(Turn(turn["dia_id"], said, (str(number), step), time_s))
    known = {turn.id for turn in dialogue.turns}
    for question in questions:
        if question.get("category") != ADVERSARIAL:
            evidence, unknown = evidence_turns(question.get("evidence") or [], known)
            _add(dialogue, question["question"], evidence, unknown)
    return dialogue


def _from_lines(lines: list[str]) -> list[Dialogue]:
    dialogues: dict[str, Dialogue] = {}
    records = [json.loads(line) for line in lines if line.strip()]
    for one in records:
        dialogue = dialogues.setdefault(str(one["dialogue"]), Dialogue())
        if "question" not in one:
            sequence = (str(one["session"]), int(one["step"])) if "session" in one and "step" in one else None
            dialogue.turns.append(Turn(one["id"], one["text"], sequence, one.get("timestamp")))
    known = {name: {turn.id for turn in dialogue.turns} for name, dialogue in dialogues.items()}
    for one in records:
        if "question" in one:
            name, evidence = str(one["dialogue"]), frozenset(one["evidence"])
            found = evidence & known[name]
            _add(dialogues[name], one["question"], found, len(evidence - found))
    return list(dialogues.values())


def _add(dialogue: Dialogue, text: str, evidence: frozenset[str], unknown: int) -> None:
    dialogue.unknown_evidence += unknown
    if evidence:
        dialogue.questions.append(Question(text, evidence))


def _seconds(written: str | None) -> float | None:
    if not written:
        return None
    for time_format in _TIME_FORMATS:
        try:
            return datetime.strptime(written, time_format).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    raise ValueError(f"date_time must be written as one of {_TIME_FORMATS}, got {written!r}")
