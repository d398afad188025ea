"""`tools/check_typing.py`: blocks of a page become modules, and errors are compared with the marks."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from paths import ROOT


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("check_typing", ROOT / "tools" / "check_typing.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_blocks_and_preambles_keep_their_lines(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\na = 1\nb = 2\n```\n\ntext\n\n```python\nc = 3\n```\n"
        "<!-- typing: module -->\n<!-- typing: preamble\nclient: Redis[str]\n-->\n```python\nclient.get('x')\n```\n"
        "```console\nnot = python\n```\n"
    )
    first, second = tool.modules_of_a_page(page)
    assert first.lines == ["a = 1", "b = 2", "c = 3"]
    assert first.places == [("page.md", 4), ("page.md", 5), ("page.md", 11)]
    assert second.lines == [
        'client: Redis[str] = __import__("typing").cast("Redis[str]", None)',
        "client.get('x')",
    ]
    assert second.places == [("page.md", 15), ("page.md", 18)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([("arg-type", "wrong")], []),
        ([("arg-type", "wrong"), ("other", "too")], []),
        ([], ["p.py:1: mypy: expected arg-type, found nothing"]),
        ([("other", "text")], ["p.py:1: mypy: expected arg-type, found other"]),
    ],
)
def test_a_marked_line_must_be_refused_for_its_reason(tool, found, expected):
    module = tool.Module()
    module.add("f(3)  # refused: arg-type / reportArgumentType", "p.py", 1)
    assert tool.complaints({"m.py": module}, {("m.py", 1): found}, "mypy", 1) == expected


def test_an_error_on_a_line_without_a_mark_is_reported(tool):
    module = tool.Module()
    module.add("f(3)", "page.md", 7)
    assert tool.complaints({"m.py": module}, {("m.py", 1): [("arg-type", "wrong")]}, "mypy", 1) == [
        "page.md:7: mypy: wrong [arg-type]"
    ]
