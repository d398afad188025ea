"""Each framework, real, on our clients: the programs of `trials/`, which run their how-to page's blocks through an outage."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

HERE = Path(__file__).parent / "trials"
PROGRAMS = sorted(program for program in HERE.glob("*.py") if program.name != "outage.py")
PAGES = ROOT / "docs" / "how-to" / "frameworks"
WITHIN_S = 110


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_trial(program):
    for package in re.search(r"^# needs: (.*)$", program.read_text(), re.MULTILINE)[1].split():
        # kombu, once imported, stands in sys.modules without a spec.
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            # `make test` installs all of them; a run of single files may do without.
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{package} is not installed")
    places = [str(HERE), str(ROOT / "tests" / "support"), *filter(None, sys.path)]
    finished = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(program)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    print(finished.stdout)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "restart: rejected after" in finished.stdout


def test_every_page_has_a_trial():
    tried = {name for program in PROGRAMS for name in re.findall(r'\.page\("([\w-]+)"\)', program.read_text())}
    assert {page.stem for page in PAGES.glob("*.md")} - {"README"} == tried
