"""Type-checks what a user reads and writes: the Python blocks of README.md and docs/, and the programs of tests/typing.

    python tools/check_typing.py

mypy and pyright, both strict, each run once over all of them. An error is reported at the page and line of its code.

The blocks of one page are one module, in their order. Two HTML comments, which no reader sees, say otherwise:

    <!-- typing: module -->          the next block begins a new module
    <!-- typing: preamble            code that the blocks below it need: a name that the page speaks of and does not define
    client: Redis[bytes]
    -->

There `name: Type` alone gives the name a value, as the page's reader has one.

In tests/typing every line that must be refused ends with `# refused: MYPY_CODE / PYRIGHT_RULE`. A marked line that a checker
accepts, or refuses for another reason, fails the check, as does an error on a line without a mark.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORKS = ROOT / "docs" / "how-to" / "frameworks"
"""Pages whose frameworks are mostly untyped: their blocks are run, by tests/behaviour/frameworks."""
PAGES = (ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if FRAMEWORKS not in page.parents))
PROGRAMS = sorted((ROOT / "tests" / "typing").glob("*.py"))

PART = re.compile(
    r"^```python\n(?P<block>.*?)^```$|^<!-- typing: (?P<module>module) -->$|^<!-- typing: preamble\n(?P<preamble>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
DECLARED = re.compile(r"^\w+: ([\w\[\], .]+)$", re.MULTILINE)
MARK = re.compile(r"# refused: ([\w-]+) / (\w+)$")
MYPY_LINE = re.compile(r"(.+?):(\d+): error: (.*?)\s+\[([\w-]+)\]$")

MYPY_OPTIONS = ("--strict", "--no-error-summary", "--python-version=3.11", "--untyped-calls-exclude=redis")
PYRIGHT_SETTINGS = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    # redis-py, numpy and a block's fragments: what is unknown or unused there is no fault of the page.
    "reportUnknownMemberType": False,
    "reportUnknownVariableType": False,
    "reportUnknownArgumentType": False,
    "reportUnusedExpression": False,
    "reportUnusedImport": False,
    "reportMissingTypeStubs": False,
    "reportMissingModuleSource": False,
}

Place = tuple[str, int]


@dataclass
class Module:
    """The code of some blocks, and for each of its lines where it stands."""

    lines: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    def add(self, code: str, page: str, first_line: int) -> None:
        for number, line in enumerate(code.splitlines()):
            self.lines.append(line)
            self.places.append((page, first_line + number))


def modules_of_a_page(page: Path) -> list[Module]:
    """The modules of one page: one, unless the page begins others."""
    text = page.read_text()
    name = str(page.relative_to(ROOT))
    modules = [Module()]
    for part in PART.finditer(text):
        if part["module"]:
            modules.append(Module())
            continue
        kind = "block" if part["block"] is not None else "preamble"
        code = part[kind]
        if kind == "preamble":
            code = DECLARED.sub(r'\g<0> = __import__("typing").cast("\1", None)', code)
        modules[-1].add(code, name, text.count("\n", 0, part.start(kind)) + 1)
    return [module for module in modules if module.lines]


def written_into(directory: Path) -> dict[str, Module]:
    """Writes every module into `directory`; the modules by their file names."""
    written: dict[str, Module] = {}
    for page in PAGES:
        for number, module in enumerate(modules_of_a_page(page), 1):
            stem = "_".join(page.relative_to(ROOT).with_suffix("").parts)
            written[f"{stem.lower().replace('-', '_')}_{number}.py"] = module
    for program in PROGRAMS:
        module = Module()
        module.add(program.read_text(), str(program.relative_to(ROOT)), 1)
        written[f"program_{program.name}"] = module
    for name, module in written.items():
        (directory / name).write_text("\n".join(module.lines) + "\n")
    return written


Found = dict[tuple[str, int], list[tuple[str, str]]]
"""File name and line, and of each error there its code and its text."""


def errors_of_mypy(directory: Path) -> Found:
    command = [sys.executable, "-m", "mypy", "--config-file=", *MYPY_OPTIONS, f"--cache-dir={ROOT / '.mypy_cache'}"]
    run = subprocess.run(
        [*command, *sorted(map(str, directory.glob("*.py")))],
        env={"MYPYPATH": str(ROOT / "python"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode not in (0, 1):
        sys.exit(f"mypy failed with status {run.returncode}:\n{run.stdout}{run.stderr}")
    found: Found = {}
    for line in run.stdout.splitlines():
        if match := MYPY_LINE.match(line):
            found.setdefault((Path(match[1]).name, int(match[2])), []).append((match[4], match[3]))
        elif ": error:" in line:
            sys.exit(f"not understood: {line}")
    return found


def errors_of_pyright(directory: Path) -> Found:
    project = directory / "pyrightconfig.json"
    project.write_text(json.dumps({**PYRIGHT_SETTINGS, "include": ["."], "extraPaths": [str(ROOT / "python")]}))
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--pythonpath",
        sys.executable,
        "--project",
        str(project),
        "--outputjson",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1):
        sys.exit(f"pyright failed with status {run.returncode}:\n{run.stdout}{run.stderr}")
    found: Found = {}
    for error in json.loads(run.stdout)["generalDiagnostics"]:
        if error["severity"] == "error":
            place = (Path(error["file"]).name, error["range"]["start"]["line"] + 1)
            found.setdefault(place, []).append((error.get("rule", "-"), error["message"].replace("\n", " ")))
    return found


def complaints(written: dict[str, Module], found: Found, checker: str, mark_group: int) -> list[str]:
    """The errors on lines without a mark, and the marked lines that `checker` did not refuse for the reason of the mark."""
    lines: list[str] = []
    left = dict(found)
    for name, module in written.items():
        for number, (code, (page, line)) in enumerate(zip(module.lines, module.places, strict=True), 1):
            errors = left.pop((name, number), [])
            mark = MARK.search(code)
            if mark is None:
                lines += [f"{page}:{line}: {checker}: {text} [{rule}]" for rule, text in errors]
            elif mark[mark_group] not in {rule for rule, _ in errors}:
                got = ", ".join(sorted({rule for rule, _ in errors})) or "nothing"
                lines.append(f"{page}:{line}: {checker}: expected {mark[mark_group]}, found {got}")
    return lines + [f"{name}:{line}: {checker}: {errors}" for (name, line), errors in left.items()]


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary).resolve()
        written = written_into(directory)
        lines = complaints(written, errors_of_mypy(directory), "mypy", 1)
        lines += complaints(written, errors_of_pyright(directory), "pyright", 2)
    for line in lines:
        print(line)
    marks = sum(bool(MARK.search(line)) for module in written.values() for line in module.lines)
    if not lines:
        print(
            f"{len(written)} modules of {len(PAGES)} pages and {len(PROGRAMS)} programs; {marks} lines refused as marked"
        )
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
