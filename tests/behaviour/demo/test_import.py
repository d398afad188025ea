"""Importing the package loads neither the demo nor its dependencies."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["agent_memory", "agent_memory.storage.redis_client", "agent_memory.testing"])
def test_nothing_of_the_demo_is_imported_with_the_package(module):
    code = f"import sys, {module}; print([name for name in sys.modules if name.startswith(('rich', 'demo'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_says_what_is_missing_without_rich(tmp_path):
    code = "import sys; sys.modules['rich'] = None; from demo.__main__ import main; sys.exit(main([]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == "missing: rich, which the extra `demo` brings: pip install 'agent-memory-redis[demo]'\n"
