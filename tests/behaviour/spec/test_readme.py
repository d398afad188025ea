"""The README's Python blocks work as pasted."""

import re
import subprocess
import sys

import pytest
from paths import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
EXPECTED = [
    ["b'Agent Smith'"],
    ["[1, 2, 3]"],
    ["stored"],
    ["next attempt in"],
    ["Bob: In Lisbon, by the river."],
]


@pytest.mark.parametrize(("code", "expected"), list(zip(BLOCKS, EXPECTED, strict=True)))
def test_block(code, expected, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in expected:
        assert text in done.stdout
