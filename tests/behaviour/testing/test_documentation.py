"""The examples of docs/how-to/testing.md work as pasted."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from paths import DOCS

PAGE = DOCS / "how-to/testing.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_has_examples():
    assert len(EXAMPLES) == 8


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number, tmp_path):
    script = tmp_path / f"test_example_{number}.py"
    script.write_text(EXAMPLES[number])
    # Away from this project's configuration, as a reader would run it.
    command = [sys.executable, "-W", "error"]
    if "import pytest" in EXAMPLES[number]:
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        command = [sys.executable, "-m", "pytest", "-q"]
    finished = subprocess.run(
        [*command, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
