"""The busy loops beside a run end with it, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paths import TOOLS

TOOL = TOOLS / "under_load.py"
pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="the tools are not installed beside the tests")

# Prints the processes beside it; each test appends a command.
BESIDE = """
import os, subprocess, sys
parent = os.getppid()
children = open(f"/proc/{parent}/task/{parent}/children").read().split()
print(*[child for child in children if int(child) != os.getpid()], flush=True)
"""


def run(*options, command):
    return subprocess.Popen(
        [sys.executable, str(TOOL), *options, "--", sys.executable, "-c", BESIDE + command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until_gone(pids):
    for pid in pids:
        while os.path.exists(f"/proc/{pid}") and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            pass


def test_every_run_has_its_loops_and_the_status_is_that_of_the_first_failure():
    with run("--runs", "2", "--loops", "2", command="sys.exit(3)") as process:
        lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 3
    loops = [line.split() for line in lines if line.replace(" ", "").isdigit()]
    assert [len(pids) for pids in loops] == [2, 2]
    assert lines[-1] == "run 2 of 2 beside 2 busy loops: exit status 3"
    wait_until_gone([pid for pids in loops for pid in pids])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_loops_end_when_it_is_ended(number):
    with run("--runs", "1", "--loops", "2", command="sys.stdin.read()") as process:
        pids = process.stdout.readline().split()
        assert len(pids) == 2
        process.send_signal(number)
        process.stdin.close()
        process.wait(timeout=60)
    wait_until_gone(pids)
