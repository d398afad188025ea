"""The demo is an example, not a part of the package: its processes are told where it is."""

import os
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True, scope="session")
def demo_on_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.fspath(EXAMPLES), prepend=os.pathsep)
        yield
