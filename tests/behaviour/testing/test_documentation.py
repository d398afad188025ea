"""The examples of docs/how-to/testing.md and docs/how-to/cluster.md work as pasted."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from paths import DOCS

PAGES = {"testing.md": 8, "cluster.md": 8}
"""Pages of docs/how-to/, and how many examples each has."""
EXAMPLES = [
    pytest.param(example, id=f"{page.removesuffix('.md')}-{number}")
    for page in PAGES
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (DOCS / "how-to" / page).read_text(), re.M | re.S)
    )
]


def test_the_pages_have_examples():
    assert len(EXAMPLES) == sum(PAGES.values())


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example, tmp_path):
    script = tmp_path / "test_example.py"
    script.write_text(example)
    # Away from this project's configuration, as a reader would run it.
    command = [sys.executable, "-W", "error"]
    if "import pytest" in example:
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        command = [sys.executable, "-m", "pytest", "-q"]
    finished = subprocess.run(
        [*command, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
