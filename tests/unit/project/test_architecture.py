"""The tree has the structure of docs/explanation/design.md: layers, no import circles, twins by folder, a pure core.

Every check is a function of a tree, so it also runs on small trees that break it. An import counts wherever it stands: under
TYPE_CHECKING, inside a function, as `importlib.import_module("...")`. The module that is named counts as imported; the
`__init__` files that Python runs first do not.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = "agent_memory"

LAYERS = (
    {
        "_core",
        "_at_fork",
        "_check",
        "_commits",
        "_concurrency",
        "_enums",
        "_face",
        "_interruptible",
        "_wall_clock",
        "errors",
    },
    {"embedded", "policy", "scoring"},
    {"redis"},
    {"recovery"},
    {"storage"},
    {"memory"},
    {"testing", "integrations", "observability", "cli", ""},  # "" is agent_memory/__init__.py
)
"""A module may import those of its own folder and of lower layers; folders of one layer know nothing of each other."""
SHARED = LAYERS[0]
"""The modules at the top of the package, which may import each other."""

CORE_DEPENDENCIES = {
    "crc32fast",
    "frostem",
    "half",
    "hashbrown",
    "memmap2",
    "unicode-normalization",
    "unicode-segmentation",
}
IMPURE_CRATES = re.compile(
    r"pyo3|numpy|python|rand|getrandom|fastrand|mio|tokio|async|socket2|rustix|nix$|rusqlite|libsqlite|libloading|chrono|time$|quanta"
)
IMPURE_CODE = re.compile(
    r"\bInstant::now|\bSystemTime\b|\bstd::(net|fs|process|env)\b|\bstd::os::unix::net|\bthread_rng\b|\bgetrandom\b|\bpyo3\b"
)
"""What reads a clock or an environment, opens a file or a socket, draws, or speaks to Python."""


def modules(sources: Path) -> dict[str, Path]:
    """The modules of the package by full name, the extension included."""
    found = {}
    for file in [*sources.rglob("*.py"), *sources.rglob("*.pyi")]:
        name = ".".join(file.relative_to(sources).with_suffix("").parts).removesuffix(".__init__")
        found[name] = file
    return found


def imported(name: str, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a module names."""
    parts = name.split(".")
    package = parts if known[name].stem == "__init__" else parts[:-1]
    targets = []
    for node in ast.walk(ast.parse(known[name].read_text())):
        if isinstance(node, ast.Import):
            targets += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                target = f"{module}.{alias.name}"
                targets.append(target if target in known else module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            targets += [word.value for word in node.args if isinstance(word, ast.Constant)]
    return {target for target in targets if target in known and target != name}


def import_graph(sources: Path) -> dict[str, set[str]]:
    known = modules(sources)
    return {name: imported(name, known) for name in known}


def folder(name: str) -> str:
    """The part of the package that a module belongs to: a folder, or a module at its top."""
    return name.split(".")[1] if "." in name else ""


def wrong_layers(sources: Path) -> list[str]:
    """Every import that points upwards or sideways."""
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    wrong = []
    for name, targets in sorted(import_graph(sources).items()):
        own = folder(name)
        if own not in level:
            wrong.append(f"{name}: {own} has no layer")
            continue
        for target in sorted(targets):
            other = folder(target)
            same = own == other or {own, other} <= SHARED
            if not same and level.get(other, len(LAYERS)) >= level[own]:
                wrong.append(f"{name} imports {target}")
    return wrong


def circles(sources: Path) -> list[list[str]]:
    """The sets of modules that import each other, directly or by others (strongly connected components, Tarjan's way)."""
    graph = import_graph(sources)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        path.append(name)
        for target in sorted(graph[name]):
            if target not in number:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in path:
                lowest[name] = min(lowest[name], number[target])
        if lowest[name] == number[name]:
            start = path.index(name)
            if len(path) - start > 1:
                found.append(sorted(path[start:]))
            del path[start:]

    for name in sorted(graph):
        if name not in number:
            visit(name)
    return found


def wrong_twins(root: Path) -> list[str]:
    """Sync files without a source, sources without a sync file, and sync files that do not say what they are."""
    wrong = []
    for top in ("python", "tests"):
        for file in sorted((root / top).rglob("*.py")):
            twin = file.parent.with_name("_sync" if file.parent.name == "_async" else "_async") / file.name
            if file.parent.name not in {"_async", "_sync"}:
                continue
            if not twin.exists():
                wrong.append(f"{file.relative_to(root)} has no {twin.relative_to(root)}")
            elif file.parent.name == "_sync" and not file.read_text().startswith(
                f"# Generated from ../_async/{file.name} "
            ):
                wrong.append(f"{file.relative_to(root)} does not begin with what it is generated from")
    return wrong


def impurities(root: Path) -> list[str]:
    """What the core crate has to do with the world."""
    manifest = tomllib.loads((root / "rust/core/Cargo.toml").read_text())
    named = set(manifest.get("dependencies", {}))
    wrong = [f"rust/core/Cargo.toml depends on {name}" for name in sorted(named - CORE_DEPENDENCIES)]
    needs: dict[str, set[str]] = {}
    for package in tomllib.loads((root / "Cargo.lock").read_text())["package"]:
        needs.setdefault(package["name"], set()).update(line.split()[0] for line in package.get("dependencies", ()))
    reached: set[str] = set()
    waiting = list(named)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += needs.get(name, ())
    wrong += [f"rust/core depends on {name}" for name in sorted(reached) if IMPURE_CRATES.match(name)]
    for file in sorted((root / "rust/core/src").rglob("*.rs")):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if IMPURE_CODE.search(line.partition("//")[0]):
                wrong.append(f"{file.relative_to(root)}:{number}: {line.strip()}")
    return wrong


def test_imports_point_down():
    assert wrong_layers(ROOT / "python") == []


def test_imports_form_no_circle():
    assert circles(ROOT / "python") == []


def test_every_sync_file_has_its_source():
    assert wrong_twins(ROOT) == []


def test_the_core_is_pure():
    assert impurities(ROOT) == []


# The checks themselves, on trees that break them.


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("module", "text", "target"),
    [
        ("redis/keys", "from agent_memory.memory import x", "memory"),
        ("redis/keys", "import agent_memory.memory.entries", "memory.entries"),
        ("redis/keys", "from agent_memory.memory import entries", "memory.entries"),
        ("redis/keys", "from ..memory.entries import Entry", "memory.entries"),
        ("redis/keys", "if TYPE_CHECKING:\n    from agent_memory.memory.entries import Entry", "memory.entries"),
        ("redis/keys", "def f():\n    import agent_memory.memory.entries as entries", "memory.entries"),
        ("redis/keys", "importlib.import_module('agent_memory.memory.entries')", "memory.entries"),
        ("redis/__init__", "from ..memory import entries", "memory.entries"),
        ("policy/kinds", "from agent_memory.embedded import x", "embedded"),
        ("memory/entries", "from agent_memory.testing import x", "testing"),
        ("errors", "from agent_memory.policy import x", "policy"),
        ("redis/keys", "import agent_memory", ""),
    ],
)
def test_an_import_that_points_up_is_found(tmp_path, module, text, target):
    others = ("__init__", "errors", "redis/__init__", "memory/__init__", "memory/entries", "testing/__init__")
    files = {f"{PACKAGE}/{name}.py": "" for name in (*others, "embedded/__init__", "policy/__init__")}
    assert wrong_layers(write(tmp_path, files)) == []
    write(tmp_path, {f"{PACKAGE}/{module}.py": text})
    name = f"{PACKAGE}.{module}".replace("/", ".").removesuffix(".__init__")
    assert wrong_layers(tmp_path) == [f"{name} imports {PACKAGE}{'.' if target else ''}{target}"]


@pytest.mark.parametrize(
    "back",
    [
        "from agent_memory.redis.b import B",
        "from .b import B",
        "import agent_memory.redis.b as b",
        "if TYPE_CHECKING:\n    from agent_memory.redis.b import B",
        "def f():\n    from agent_memory.redis import b",
        "class A:\n    def f(self):\n        return importlib.import_module('agent_memory.redis.b').B",
    ],
)
def test_a_circle_is_found(tmp_path, back):
    files = {
        f"{PACKAGE}/__init__.py": "",
        f"{PACKAGE}/redis/__init__.py": "from agent_memory.redis.b import B",
        f"{PACKAGE}/redis/a.py": "",
        f"{PACKAGE}/redis/b.py": "from agent_memory.redis import a",
        f"{PACKAGE}/redis/c.py": "from agent_memory.redis import a\nfrom agent_memory.redis.b import B",
    }
    assert circles(write(tmp_path, files)) == []
    write(tmp_path, {f"{PACKAGE}/redis/a.py": back})
    assert circles(tmp_path) == [[f"{PACKAGE}.redis.a", f"{PACKAGE}.redis.b"]]


def test_a_long_circle_and_a_second_one_are_found(tmp_path):
    ring = {f"{PACKAGE}/redis/r{at}.py": f"from agent_memory.redis import r{(at + 1) % 5}" for at in range(5)}
    pair = {f"{PACKAGE}/policy/{one}.py": f"from . import {other}" for one, other in ("pq", "qp")}
    package = {f"{PACKAGE}/{name}__init__.py": "" for name in ("", "redis/", "policy/")}
    assert circles(write(tmp_path, ring | pair | package)) == [
        [f"{PACKAGE}.policy.{name}" for name in "pq"],
        [f"{PACKAGE}.redis.r{at}" for at in range(5)],
    ]


def test_a_folder_without_a_layer_is_found(tmp_path):
    files = {f"{PACKAGE}/__init__.py": "", f"{PACKAGE}/extra/__init__.py": ""}
    assert wrong_layers(write(tmp_path, files)) == [f"{PACKAGE}.extra: extra has no layer"]


def test_imports_that_point_down_pass(tmp_path):
    files = {
        f"{PACKAGE}/__init__.py": "from agent_memory.memory import x",
        f"{PACKAGE}/_core.pyi": "",
        f"{PACKAGE}/errors.py": "from agent_memory import _core",
        f"{PACKAGE}/memory/__init__.py": "import redis, json\nfrom agent_memory import _core, errors",
        f"{PACKAGE}/testing/__init__.py": "from agent_memory.memory import x",
    }
    assert wrong_layers(write(tmp_path, files)) == []


def test_twins_that_lack_each_other_are_found(tmp_path):
    made = "# Generated from ../_async/{}.py by tools/generate_sync.py: edit that file, not this one.\n"
    files = {
        "python/p/_async/good.py": "",
        "python/p/_sync/good.py": made.format("good"),
        "python/p/_async/alone.py": "",
        "tests/_sync/test_orphan.py": made.format("test_orphan"),
        "tests/_async/test_mute.py": "",
        "tests/_sync/test_mute.py": "",
    }
    assert wrong_twins(write(tmp_path, files)) == [
        "python/p/_async/alone.py has no python/p/_sync/alone.py",
        "tests/_sync/test_mute.py does not begin with what it is generated from",
        "tests/_sync/test_orphan.py has no tests/_async/test_orphan.py",
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("let now = Instant::now();", True),
        ("let now = std::time::SystemTime::now();", True),
        ("use std::net::TcpStream;", True),
        ("use std::fs;", True),
        ("use pyo3::prelude::*;", True),
        ("let seed = rand::thread_rng().next_u64();", True),
        ("// Instant::now() is the caller's affair", False),
        ("use std::time::Duration;", False),
        ("pub fn admit(&self, now_ns: u64) -> Permit {", False),
    ],
)
def test_a_line_of_the_core_that_reaches_out_is_found(tmp_path, line, found):
    files = {"rust/core/Cargo.toml": "", "Cargo.lock": "package = []", "rust/core/src/a/b.rs": f"\n{line}\n"}
    assert impurities(write(tmp_path, files)) == ([f"rust/core/src/a/b.rs:2: {line}"] if found else [])


def test_a_dependency_of_the_core_that_reaches_out_is_found(tmp_path):
    lock = '[[package]]\nname = "half"\ndependencies = ["zero 1.0"]\n[[package]]\nname = "zero"\ndependencies = ["getrandom"]\n'
    files = {"rust/core/Cargo.toml": '[dependencies]\nhalf = "1"\npyo3 = "1"\n', "Cargo.lock": lock}
    assert impurities(write(tmp_path, files)) == [
        "rust/core/Cargo.toml depends on pyo3",
        "rust/core depends on getrandom",
        "rust/core depends on pyo3",
    ]
