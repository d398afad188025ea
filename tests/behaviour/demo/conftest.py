"""The demo is an example, not a part of the package: its processes get its path."""

import os

import pytest
from paths import EXAMPLES


@pytest.fixture(autouse=True, scope="session")
def demo_on_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.fspath(EXAMPLES), prepend=os.pathsep)
        yield
