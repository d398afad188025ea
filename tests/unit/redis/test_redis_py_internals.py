"""Only redis/redis_py_internals/ touches names of redis-py that are not public API.

A private name counts as redis-py's if redis-py defines it and the package does not: imports from its private modules, and
attributes of any object. What both define
(`_lock`) cannot be told apart here and is not looked at.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import redis

PACKAGE = Path(__file__).resolve().parents[3] / "python" / "agent_memory"
INTERNALS = "redis_py_internals"
REDIS_PY = Path(redis.__file__).parent


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def defined(tree: ast.AST) -> set[str]:
    """The private names that a module defines or assigns, attributes included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return {name for name in names if is_private(name)}


def imports_of_privates(tree: ast.AST) -> list[str]:
    """The imports of a module that name a private module of redis-py, or a private name of a public one."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found += [name for name in names if name.startswith("redis.") and any(map(is_private, name.split(".")))]
    return found


def uses_of_privates(tree: ast.AST, theirs: set[str], ours: set[str]) -> list[str]:
    """The attributes of a module that are redis-py's private ones."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in theirs and node.attr not in ours
    ]


def trees(folder: Path) -> dict[str, ast.AST]:
    return {
        str(file.relative_to(folder)): ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(folder.rglob("*.py"))
        if INTERNALS not in file.parts
    }


def test_nothing_else_imports_private_names_of_redis_py():
    assert {name: found for name, tree in trees(PACKAGE).items() if (found := imports_of_privates(tree))} == {}


def test_nothing_else_uses_private_attributes_of_redis_py():
    modules = trees(PACKAGE)
    theirs = set().union(*map(defined, trees(REDIS_PY).values()))
    ours = set().union(*map(defined, modules.values()))
    assert {"_parser", "_sock", "_in_use_connections"} <= theirs - ours
    ours.add("_execute")  # the breaker's method, of the extension
    assert {name: found for name, tree in modules.items() if (found := uses_of_privates(tree, theirs, ours))} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from redis._parsers.base import BaseParser", ["redis._parsers.base.BaseParser"]),
        ("from redis.connection import _Hidden", ["redis.connection._Hidden"]),
        ("def f():\n    import redis._defaults", ["redis._defaults"]),
        ("from redis.connection import Connection", []),
        ("from agent_memory.redis._async.pubsub import AsyncPubSub", []),
    ],
)
def test_an_import_of_a_private_name_is_found(text, found):
    assert imports_of_privates(ast.parse(text)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("connection._parser.on_disconnect()", ["connection._parser"]),
        ("cast(Any, self)._parser = None", ["cast(Any, self)._parser"]),
        ("self._parser", ["self._parser"]),
        ("self._own", []),
        ("connection.parser", []),
    ],
)
def test_a_private_attribute_is_found(text, found):
    assert uses_of_privates(ast.parse(text), theirs={"_parser", "_own"}, ours={"_own"}) == found
