"""The package's modules take redis-py's classes from `originals.py`: by redis-py's names they may get ours."""

import ast

from paths import ROOT

from agent_memory.redis.installation import _REPLACED

PACKAGE = ROOT / "python" / "agent_memory"
REPLACED = {(module.__name__, name) for module, name, _, _ in _REPLACED}


def copied_names(text):
    """What a module copies, when it is imported, of the names that `install()` replaces."""
    return {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.level == 0
        for alias in node.names
    } & REPLACED


def test_only_originals_copies_redis_py_s_classes():
    copying = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if copied_names(file.read_text())}
    assert copying == {"redis/originals.py"}


def test_a_copy_is_found():
    assert copied_names("from redis.asyncio import Redis as Base\nfrom redis import ConnectionPool") == {
        ("redis.asyncio", "Redis")
    }
