"""`tools/check_language.py`: which lines it finds, and where it looks."""

from __future__ import annotations

import importlib.util

import pytest
from paths import ROOT

spec = importlib.util.spec_from_file_location("check_language", ROOT / "tools" / "check_language.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.mark.parametrize(
    "line",
    [
        "Returned to whoever asked for it.",
        "Nobody else waits.",
        "Who finds no connection waits.",
        "those who wait for a channel",
        "the caller is told that it failed",
        "the detour of a plain write",
        "the log is folded back",
        "a lease is let go",
        "a write in doubt",
    ],
)
def test_a_line_with_such_a_word_is_found(line):
    assert tool.word_of(line) is not None


@pytest.mark.parametrize(
    "line",
    ["a caller who blocks the loop", "replies that cannot be told apart", "a loosely coupled store", "the whole log"],
)
def test_other_lines_are_not(line):
    assert tool.word_of(line) is None


def test_python_is_looked_at_in_comments_and_strings():
    source = 'nobody = 1  # nobody\n"""Docstring:\nnobody."""\nraise ValueError("nobody")\n'
    assert [number for number, _ in tool.found_in("python/x.py", source)] == [1, 3, 4]
    assert [number for number, _ in tool.found_in("tests/x.py", source)] == [1, 3]


def test_rust_is_looked_at_in_comments_and_strings():
    source = '/// Nobody.\nlet one = 1; // nobody\nlet one = "redis://nobody";\nlet two = "\\"\nnobody";\n'
    assert [number for number, _ in tool.found_in("rust/x.rs", source)] == [1, 2, 3, 5]
    assert [number for number, _ in tool.found_in("rust/core/tests/x.rs", source)] == [1, 2]


def test_names_are_looked_at():
    assert tool.found_in("tests/x.py", "async def test_nobody_waits():\n    nobody_waits()\n") != []
    assert tool.found_in("rust/x.rs", "fn nobody_waits() {\n    nobody_waits();\n") != []
    assert tool.found_in("tests/x.py", "def test_no_caller_waits():\n    nobody_else()\n") != []
    assert tool.found_in("tests/x.py", "def test_no_caller_waits():\n    no_bodies()\n") == []
    for name in ("let_go", "DOUBTED", "doubt_all", "LooseEnd", "is_detour"):
        assert tool.found_in("rust/core/x.rs", f"let {name} = 1;\n") != []
        assert tool.found_in("python/x.py", f"{name} = 1\n") != []


def test_of_the_change_log_the_first_section():
    source = "# Changelog\n\n## [Unreleased]\n\nnobody\n\n## [1.0]\n\nnobody\n"
    assert [number for number, _ in tool.found_in("CHANGELOG.md", source)] == [5]
