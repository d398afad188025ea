"""What documents, comments and build files call by name is there: a file that moves takes its mentions along."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from paths import ROOT

DOCUMENTS = (
    "docs/**/*.md",
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "tests/README.md",
    "tests/fixtures/README.md",
)
BUILD_FILES = ("Makefile", ".ci/run", "pyproject.toml", ".cargo/*.toml")
SOURCES = ("python/**/*.py", "python/**/*.pyi", "rust/*/src/**/*.rs", "tools/*", "examples/**/*.py")

TOPS = "benches|docs|examples|python|rust|tests|tools"
PATH = re.compile(rf"(?<![\w./$<-])(?:{TOPS})/[\w.*/-]*[\w*/]")
"""A path from the root of the repository."""
FILE = re.compile(r"(?<![\w./<*-])[\w/]*\w\.(?:py|rs)\b(?!\()")
"""A source file by its name, with or without folders before it."""
TREE = re.compile(r"^```\n([\w./]+/)\n((?: .*\n)+)```$", re.MULTILINE)
"""A block that lists a folder: its path, then one line for each entry."""
LINK = re.compile(r"\]\(([^)\s:]*)\)")
"""The target of a link that is no URL."""
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
IN_BACKTICKS = re.compile(r"`([\w.*-]*(?:/[\w.*-]*)+)`")
BASES = ("", "python/agent_memory", "rust/core/src")
"""Where a path in docs/explanation/design.md may begin."""


def missing_paths(text: str, root: Path) -> list[str]:
    """Paths from the root that lead nowhere; stars stand for any name."""
    return sorted({path for path in PATH.findall(text) if not any(root.glob(path.rstrip("/")))})


def missing_files(text: str, known: set[str]) -> list[str]:
    """Names of source files that no file has, unless they stand for any NAME. `known` holds the ends of all paths."""
    return sorted({name for name in FILE.findall(text) if name.lstrip("/") not in known and "NAME" not in name})


def missing_in_design(text: str, root: Path) -> list[str]:
    """What docs/explanation/design.md names in backticks or lists as an entry of a folder, and is not there."""
    wanted = [[f"{base}/{token}" for base in BASES] for token in IN_BACKTICKS.findall(text) if "NAME" not in token]
    for folder, lines in TREE.findall(text):
        indent = min(len(line) - len(line.lstrip()) for line in lines.splitlines())
        entries = [line.split()[0] for line in lines.splitlines() if line[indent] != " "]
        wanted += [[folder + entry] for entry in entries]
    return [paths[0].lstrip("/") for paths in wanted if not any(any(root.glob(path.strip("/"))) for path in paths)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {word.strip().replace(" ", "-") for word in words}


def broken_links(page: Path) -> list[str]:
    """Targets of the page's links that are no file, or have no such heading."""
    broken = []
    for target in LINK.findall(page.read_text()):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    return broken


def read(pattern: str) -> dict[str, str]:
    files = (file for file in sorted(ROOT.glob(pattern)) if file.is_file() and file.suffix != ".so")
    return {str(file.relative_to(ROOT)): file.read_text() for file in files}


@pytest.fixture(scope="module")
def known():
    found = set()
    for top in TOPS.split("|"):
        for file in (ROOT / top).rglob("*.*"):
            parts = file.relative_to(ROOT).parts
            found.update("/".join(parts[start:]) for start in range(len(parts)))
    return found


@pytest.mark.parametrize("pattern", [*DOCUMENTS, *BUILD_FILES])
def test_every_path_that_is_named_is_there(pattern):
    texts = read(pattern)
    assert texts
    assert {name: missing for name, text in texts.items() if (missing := missing_paths(text, ROOT))} == {}


@pytest.mark.parametrize("pattern", [*DOCUMENTS, *SOURCES])
def test_every_source_file_that_is_named_is_there(pattern, known):
    texts = read(pattern)
    assert texts
    assert {name: missing for name, text in texts.items() if (missing := missing_files(text, known))} == {}


def test_everything_that_the_design_names_is_there():
    text = (ROOT / "docs/explanation/design.md").read_text()
    assert len(TREE.findall(text)) >= 5
    assert missing_in_design(text, ROOT) == []


@pytest.mark.parametrize("pattern", [*DOCUMENTS, "*.md"])
def test_every_link_leads_to_a_file_and_a_heading(pattern):
    pages = sorted(ROOT.glob(pattern))
    assert pages
    assert {str(page.relative_to(ROOT)): broken for page in pages if (broken := broken_links(page))} == {}


def test_every_page_is_in_the_index():
    index = ROOT / "docs/README.md"
    listed = {(index.parent / target).resolve() for target in LINK.findall(index.read_text())}
    assert {*(ROOT / "docs").rglob("*.md")} - {index} - listed == set()


# The checks themselves.


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.md").write_text("# A `word`, and more\n")
    page = tmp_path / "b.md"
    page.write_text(
        "# Title\n[1](a.md) [2](a.md#a-word-and-more) [3](#title) [4](https://x.org/#y)\n[5](c.md) [6](a.md#b) [7](#c)\n"
    )
    assert broken_links(page) == ["c.md", "a.md#b", "#c"]


def test_what_is_missing_is_found(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").touch()
    text = "see docs/a.md, `docs/*.md` and docs/; not docs/b.md nor [c](docs/c_*.py), but /tmp/docs/d.md is another's"
    assert missing_paths(text, tmp_path) == ["docs/b.md", "docs/c_*.py"]
    known = {"a.py", "p/a.py", "b.rs"}
    assert missing_files("a.py, `p/a.py`, b.rs; but q/a.py, `c.py`, thing.pyx, 1.python and x.py()", known) == [
        "c.py",
        "q/a.py",
    ]


def test_what_the_design_lacks_is_found(tmp_path):
    (tmp_path / "python/agent_memory/redis").mkdir(parents=True)
    (tmp_path / "python/agent_memory/redis/a.py").touch()
    tree = "```\npython/agent_memory/redis/\n    a.py   the first\n           and more of it\n    b.py   gone\n```\n"
    text = f"{tree}`redis/a.py`, `redis/c.py`, `python/agent_memory/redis/`, `python/nowhere/`, `a / b`, `first`"
    assert missing_in_design(text, tmp_path) == ["redis/c.py", "python/nowhere/", "python/agent_memory/redis/b.py"]


@pytest.mark.parametrize("pattern", [*DOCUMENTS, *BUILD_FILES, *SOURCES, "CHANGELOG.md"])
def test_every_extra_is_one_of_the_distribution(pattern):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for file, text in read(pattern).items():
        for name, named in re.findall(r"(agent[-_]memory[-\w]*)\[([a-z][a-z,]*)\]", text):
            assert name == project["name"], (file, name, named)
            assert {*named.split(",")} <= {*extras}, (file, name, named)


def test_the_makefile_installs_the_wheel_of_the_distribution():
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"].replace("-", "_")
    wheels = re.findall(r"(\w+)-\*\.whl", (ROOT / "Makefile").read_text())
    assert wheels
    assert {*wheels} == {name}
