"""The arithmetic and the readers of `benches/python/quality_scoring.py`, on a dialogue made up here."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

BENCHES = ROOT / "benches" / "python"

TURNS = [
    ("Ann", "I moved to Oslo in spring."),
    ("Ben", "Nice! My dog Rufus ate a whole cake."),
    ("Ann", "Poor cake. I bake bread on Sundays."),
    ("Ben", "I started to learn the cello."),
]
QUESTIONS = [
    {"question": "Which city did Ann move to?", "evidence": ["D1:1"], "category": 4},
    {"question": "What did Rufus eat?", "evidence": ["D1:02; D2:1"], "category": 1},
    {"question": "Which instrument does Ben learn?", "evidence": ["D2:2", "D9:9"], "category": 4},
    {"question": "Where did Ben buy his boat?", "evidence": ["D1:2"], "category": 5},
    {"question": "Why?", "evidence": ["D7:1"], "category": 4},
]
WORDS = ["oslo", "rufus", "cake", "bread", "cello", "city", "instrument"]


def embed(texts: list[str]) -> np.ndarray:
    """Counts words that mean something; a city is Oslo, an instrument a cello."""
    counts = np.array([[text.lower().count(word) for word in WORDS] for text in texts], np.float32)
    counts[:, 0] += counts[:, 5]
    counts[:, 4] += counts[:, 6]
    return counts[:, :5]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHES))
    return importlib.import_module("quality_scoring")


@pytest.fixture
def dialogues(bench):
    return sys.modules["quality_dialogues"]


def sessions() -> dict:
    said = [{"speaker": speaker, "text": text} for speaker, text in TURNS]
    first = [turn | {"dia_id": f"D1:{step + 1}"} for step, turn in enumerate(said[:2])]
    second = [turn | {"dia_id": f"D2:{step + 1}"} for step, turn in enumerate(said[2:])]
    second[1]["blip_caption"] = "a cello"
    return {
        "session_1": first,
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_2": second,
        "session_2_date_time": "9:00 am on 9 May, 2023",
        "session_3_date_time": "9:00 am on 10 May, 2023",
    }


def as_published(folder: Path) -> Path:
    (folder / "set.json").write_text(json.dumps([{"conversation": sessions(), "qa": QUESTIONS}]))
    return folder / "set.json"


def as_folder(folder: Path) -> Path:
    (folder / "chats").mkdir()
    one = sessions() | {"qa": QUESTIONS}
    for turn in one["session_1"]:
        turn["clean_text"] = turn.pop("text")
        turn["date_time"] = "08.05.2023, 13:56:00"
    (folder / "chats" / "one.json").write_text(json.dumps(one))
    (folder / "chats" / "notes.json").write_text("{}")
    return folder / "chats"


def as_lines(folder: Path) -> Path:
    read = [
        {"dialogue": "d", "question": "Which city did Ann move to?", "evidence": ["D1:1"]},
        {"dialogue": "d", "question": "What did Rufus eat?", "evidence": ["D1:2", "D2:1"]},
        {"dialogue": "d", "question": "Which instrument does Ben learn?", "evidence": ["D2:2", "D9:9"]},
        {"dialogue": "d", "question": "Why?", "evidence": ["D7:1"]},
    ]
    ends = ["", "", "", " and shared a cello."]
    places = [("1", 0, 1683554160), ("1", 1, 1683554160), ("2", 0, 1683622800), ("2", 1, 1683622800)]
    for (speaker, text), end, (session, step, time_s) in zip(TURNS, ends, places, strict=True):
        record = {"dialogue": "d", "id": f"D{session}:{step + 1}", "text": f'{speaker} said, "{text}"{end}'}
        read.append(record | {"session": session, "step": step, "timestamp": time_s})
    (folder / "set.jsonl").write_text("\n".join(json.dumps(one) for one in read) + "\n\n")
    return folder / "set.jsonl"


FORMATS = pytest.mark.parametrize("written", [as_published, as_folder, as_lines])


@FORMATS
def test_every_format_gives_the_same_dialogue(dialogues, tmp_path, written):
    (dialogue,) = dialogues.load(written(tmp_path))
    assert [turn.id for turn in dialogue.turns] == ["D1:1", "D1:2", "D2:1", "D2:2"]
    assert [turn.sequence for turn in dialogue.turns] == [("1", 0), ("1", 1), ("2", 0), ("2", 1)]
    assert [turn.time_s for turn in dialogue.turns] == [1683554160, 1683554160, 1683622800, 1683622800]
    assert [turn.date_words for turn in dialogue.turns] == ["8 May 2023"] * 2 + ["9 May 2023"] * 2
    assert dialogue.turns[0].text == 'Ann said, "I moved to Oslo in spring."'
    assert dialogue.turns[3].text == 'Ben said, "I started to learn the cello." and shared a cello.'
    # The adversarial question is left out, and so are labels of no turn and the question that has no others.
    assert [question.evidence for question in dialogue.questions] == [{"D1:1"}, {"D1:2", "D2:1"}, {"D2:2"}]
    assert dialogue.unknown_evidence == 2


def test_a_memory_may_have_neither_place_nor_time(dialogues, tmp_path):
    (tmp_path / "set.jsonl").write_text('{"dialogue": 1, "id": "a", "text": "A word."}')
    (dialogue,) = dialogues.load(tmp_path / "set.jsonl")
    assert (dialogue.turns[0].sequence, dialogue.turns[0].date_words) == (None, "")


def test_an_unknown_way_to_write_a_time_is_an_error(dialogues, tmp_path):
    conversation = sessions() | {"session_1_date_time": "yesterday"}
    (tmp_path / "set.json").write_text(json.dumps([{"conversation": conversation, "qa": []}]))
    with pytest.raises(ValueError, match=r"date_time must be .* got 'yesterday'"):
        dialogues.load(tmp_path / "set.json")


@pytest.mark.parametrize(
    ("label", "turns", "unknown"),
    [
        ("D1:2", {"D1:2"}, 0),
        ("D8:6; D9:17", {"D8:6", "D9:17"}, 0),
        ("D9:17 D8:6 D8:7", {"D8:6", "D8:7", "D9:17"}, 0),
        ("D8:6-D8:8", {"D8:6", "D8:7"}, 1),
        ("D8:6-D9:17", {"D8:6"}, 0),
        ("D:8:06.", {"D8:6"}, 0),
        ("D8:66", set(), 1),
        ("D", set(), 1),
        ("", set(), 1),
    ],
)
def test_labels_name_turns_in_many_ways(dialogues, label, turns, unknown):
    assert dialogues.evidence_turns([label], {"D1:2", "D8:6", "D8:7", "D9:17"}) == (turns, unknown)


def test_recall_is_the_share_of_the_evidence_among_the_first(bench):
    found = ["a", "b", "c", "d", "e", "f"]
    assert bench.recall(found, frozenset("a")) == [1.0, 1.0]
    assert bench.recall(found, frozenset("afz")) == [1 / 3, 2 / 3]
    assert bench.recall(found, frozenset("ez"), depths=(1, 4, 5)) == [0.0, 0.0, 0.5]
    assert bench.recall([], frozenset("a")) == [0.0, 0.0]


def test_the_interval_is_that_of_the_mean(bench):
    assert bench.interval(np.full(7, 0.25)) == (0.25, 0.25)
    values = np.random.default_rng(1).random(400)
    low, high = bench.interval(values)
    # The mean of many is distributed normally.
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=half / 5)
    assert high == pytest.approx(values.mean() + half, abs=half / 5)
    assert bench.interval(values) == (low, high)
    assert bench.interval(values, seed=2) != (low, high)


def on_a_circle(texts: list[str]) -> np.ndarray:
    """Vectors at an angle of a tenth of the number in the text; questions lie at 0."""
    angles = np.array([int("0" + "".join(filter(str.isdigit, text.partition("?")[0]))) / 10 for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_what_is_measured_is_what_the_index_finds(bench, dialogues):
    turns = [dialogues.Turn(f"t{n}", f"number{n}", None, 86_400.0 * (19_486 if n == 7 else 19_500)) for n in range(12)]
    questions = [
        dialogues.Question("?", frozenset({"t4", "t5"})),
        dialogues.Question("? number11", frozenset({"t11"})),
        dialogues.Question("? 9 May", frozenset({"t7"})),
    ]
    loaded = [dialogues.Dialogue(turns[:0]), dialogues.Dialogue(turns, questions)]
    by_vector, by_words = bench.PARTS
    assert bench.measure(loaded, on_a_circle, by_vector).tolist() == [[0.5, 1.0], [0.0, 0.0], [0.0, 1.0]]
    for embed_or_not in (None, on_a_circle):
        assert bench.measure(loaded, embed_or_not, by_words).tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    assert bench.measure(loaded, on_a_circle, bench.DEFAULT).tolist() == [[0.5, 1.0], [1.0, 1.0], [1.0, 1.0]]
    undated = bench.Run("", search=by_words.search, has_dates=False)
    assert bench.measure(loaded, None, undated).tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    for run in bench.OTHERS:
        assert bench.measure(loaded, on_a_circle, run).shape == (3, 2)


def test_embeddings_are_kept_by_name_and_texts(bench, tmp_path):
    asked = []

    def counting(texts: list[str]) -> np.ndarray:
        asked.append(texts)
        return embed(texts)

    keep = bench.cached(counting, "one", tmp_path / "cache")
    for _ in range(2):
        np.testing.assert_array_equal(keep(["Oslo", "cake"]), embed(["Oslo", "cake"]))
    keep(["Oslo"])
    bench.cached(counting, "two", tmp_path / "cache")(["Oslo"])
    bench.cached(counting, "two", None)(["Oslo"])
    assert asked == [["Oslo", "cake"], ["Oslo"], ["Oslo"], ["Oslo"]]


def test_the_report_has_a_row_for_every_run_and_what_fusion_gains(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    arguments = [
        str(as_published(tmp_path)),
        "--embedder",
        f"{Path(__file__).stem}:embed",
        "--cache",
        str(tmp_path / "cache"),
    ]
    bench.main(arguments)
    report = capsys.readouterr().out
    assert report.startswith("1 dialogues, 4 turns, 3 questions; 2 labels of evidence name no turn\n")
    rows = re.findall(r"^\| (.+?) \| \d+\.\d \[.+?\] \| \d+\.\d \[.+?\] \|$", report, re.MULTILINE)
    assert rows == [run.name for run in (*bench.PARTS, bench.DEFAULT, *bench.OTHERS)]
    assert report.count("both over ") == 2
    bench.main(arguments)
    assert capsys.readouterr().out == report  # from the cache, with the same bootstrap samples

    bench.main([str(tmp_path / "set.json")])
    report = capsys.readouterr().out
    assert "| words alone |" in report
    assert "vectors" not in report
    assert "both" not in report


@pytest.fixture
def memory_bench(bench):
    return importlib.import_module("quality_memory")


def test_every_way_of_storing_is_measured_against_the_best(memory_bench, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    memory_bench.main([str(as_published(tmp_path)), "--embedder", f"{Path(__file__).stem}:embed"])
    report = capsys.readouterr().out
    assert report.startswith("1 dialogues, 4 turns, 3 questions\n")
    for kind in ("words alone", "vectors and words"):
        table = report.partition(f"| {kind} |")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| (.+?) \| \d+\.\d \[.+?\] \| \d+\.\d \[.+?\] \| (\S+) \[.+?\] \|$", table, re.MULTILINE)
        assert [name for name, _ in rows] == list(memory_bench.WAYS)
        # What the documentation shows is as good as all that can be given.
        assert {gain for name, gain in rows if "with a session" in name or name == memory_bench.BEST} == {"+0.0"}


def test_the_ways_of_storing_give_what_they_say(memory_bench, dialogues, tmp_path):
    (dialogue,) = dialogues.load(as_published(tmp_path))
    for way, store in memory_bench.WAYS.items():
        with memory_bench.MemorySystem(tmp_path / way.replace("*", "").replace(" ", "-"), redis=None) as memory:
            store(memory, "a", dialogue.turns)
            entries = list(memory.query("a", order_by="seq"))
        assert [entry.metadata["turn"] for entry in entries] == [turn.id for turn in dialogue.turns]
        has_session, has_step = "no session" not in way, way == memory_bench.BEST or "the same" in way
        assert [entry.session_id for entry in entries] == (["1", "1", "2", "2"] if has_session else [None] * 4)
        assert [entry.step for entry in entries] == ([0, 1, 0, 1] if has_step else [None] * 4)
        assert (entries[0].timestamp_s == 1683554160) == has_step
        assert ("8 May 2023" in entries[0].content) == ("date" in way)
