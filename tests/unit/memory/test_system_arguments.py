"""A memory system refuses wrong arguments when it is made, and names the extra that is missing."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from agent_memory import AsyncMemorySystem, MemorySettings, MemorySystem
from agent_memory.memory import IndexSettings, IntermediateSettings, MaintenanceSettings

SYSTEMS = [MemorySystem, AsyncMemorySystem]
STORES = "'sqlite:///FILE', 'postgresql://...', a store object or None"


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"path": 3}, TypeError, "path must be a folder (a str or a path), got 3"),
        ({"path": ""}, ValueError, "path must be a folder, got ''"),
        ({"store": 3}, TypeError, f"store must be {STORES}, got int"),
        ({"store": "mysql://:secret@x"}, ValueError, f"store must be {STORES}, got another string"),
        ({"embed": 3}, TypeError, "embed must be callable or None, got 3"),
        ({"config": 3}, TypeError, "config must be a MemorySettings, got 3"),
        ({"config": None}, TypeError, "config must be a MemorySettings, got None"),
        ({"redis": "localhost"}, ValueError, "redis must be 'embedded', a redis://"),
    ],
)
def test_a_system_says_what_is_wrong(tmp_path, system, arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        system(**{"path": tmp_path / "memory"} | arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MemorySettings(short_term=3), TypeError, "short_term must be a ShortTermSettings, got 3"),
        (lambda: MemorySettings(sqlite={}), TypeError, "sqlite must be a SqliteSettings, got {}"),
        (lambda: MemorySettings(journal=3), ValueError, "journal must be True or False, got 3"),
        (lambda: MemorySettings(deduplicate="x"), ValueError, "deduplicate must be True or False, got 'x'"),
        (lambda: MaintenanceSettings(counts_uses=3), ValueError, "counts_uses must be True or False, got 3"),
        (lambda: IndexSettings(model=3), TypeError, "model must be a str, got 3"),
        (lambda: IntermediateSettings(min_importance="x"), ValueError, "min_importance must be in 0..1, got 'x'"),
    ],
)
def test_settings_say_what_is_wrong(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize(
    ("missing", "program", "expected"),
    [
        (
            "psycopg",
            "import agent_memory.memory.stores.postgres",
            "ModuleNotFoundError: a store in PostgreSQL needs psycopg: pip install 'agent-memory-redis[postgres]'",
        ),
        (
            "psycopg",
            "from agent_memory import MemorySystem; MemorySystem(sys.argv[1], redis=None, store='postgresql://h/d').open()",
            "MemorySystemError: a store in PostgreSQL needs psycopg: pip install 'agent-memory-redis[postgres]'",
        ),
        (
            "langgraph.store.base",
            "import agent_memory.memory.langgraph",
            "ModuleNotFoundError: AgentMemoryStore needs langgraph-checkpoint: pip install 'agent-memory-redis[langgraph]'",
        ),
        (
            "onnxruntime",
            "from agent_memory.scoring.onnx import OnnxEmbedder\n"
            "for name in ('model.onnx', 'tokenizer.json'): pathlib.Path(sys.argv[1], name).touch()\n"
            "OnnxEmbedder(sys.argv[1])",
            "ModuleNotFoundError: OnnxEmbedder needs onnxruntime: pip install 'agent-memory-redis[onnx]'",
        ),
    ],
    ids=["postgres import", "postgres store", "langgraph", "onnx"],
)
def test_a_missing_extra_is_named(tmp_path, missing, program, expected):
    blocked = f"import pathlib, sys\nsys.modules[{missing!r}] = None\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", blocked, str(tmp_path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].removeprefix("agent_memory.memory.errors.") == expected
