"""`make compat`: redis-py's own tests, run against our classes in the place of redis-py's.

redis-py's source distribution carries its tests. It is downloaded in the version that is installed here, its tests are
unpacked into a cache folder (nothing of it is kept in this repository), and run on a real Redis 7 and a real Valkey 9:

- "pinned": the sync suite as it is; its fixture asks for clients with one pinned connection;
- "pooled": the sync suite with ordinary clients, which is what users have;
- "asyncio": the asyncio suite, which runs each test both ways by itself.

What fails with our classes is run with redis-py's. A test that passes there is a difference, and differences fail the run,
unless `exceptions.txt` lists the test with the reason. So does a suite in which our transports carried no command.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))  # the servers of the other tests are found in the same way

from servers import REDIS, VALKEY, find_server  # noqa: E402

from agent_memory.testing import EmbeddedServer  # noqa: E402

SYNC_FILES = (
    "test_commands test_hash test_encoding test_lock test_scripting test_pipeline test_function test_pubsub test_monitor "
    "test_connection_pool test_client test_multiprocessing test_max_connections_error"
).split()
ASYNC_FILES = (
    "test_commands test_hash test_encoding test_lock test_scripting test_pipeline test_pubsub test_monitor "
    "test_connection_pool test_client"
).split()
SUITES = {
    "pinned": [f"tests/{name}.py" for name in SYNC_FILES],
    "pooled": [f"tests/{name}.py" for name in SYNC_FILES],
    "asyncio": [f"tests/test_asyncio/{name}.py" for name in ASYNC_FILES],
}
SERVERS = {"redis": REDIS, "valkey": VALKEY}

NOT_POOLED = [
    f"tests/test_commands.py::TestRedisCommands::{name}"
    for name in ("test_auth", "test_client_reply", "test_client_tracking")
]
"""They expect what one command did to its connection to be there for the next one: there must be only one connection."""

MAX_EXCEPTIONS = 5
MAX_OLDER_EXCEPTIONS = 10
"""Of a redis-py before 8.0, beside those."""
TEST_TIMEOUT_S = 60
SUITE_TIMEOUT_S = 1_800


@dataclass
class Outcomes:
    """What one run of pytest came to."""

    by_test: dict[str, str] = field(default_factory=dict)
    carried: int = 0

    def failed(self) -> list[str]:
        return sorted(test for test, outcome in self.by_test.items() if outcome == "failed")

    def passed(self) -> set[str]:
        return {test for test, outcome in self.by_test.items() if outcome == "passed"}


def fetch_tests(cache: Path) -> Path:
    """The folder that holds redis-py's tests in the installed version; downloaded once."""
    version = importlib.metadata.version("redis")
    folder = cache / f"redis-{version}"
    if not (folder / "tests").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "redis"]
        subprocess.run([*pip, "--dest", str(cache), f"redis=={version}"], check=True)
        with tarfile.open(cache / f"redis-{version}.tar.gz") as archive:
            wanted = [
                member
                for member in archive.getmembers()
                # Its package stays behind: the installed one is what is tested.
                if member.name.startswith((f"redis-{version}/tests/", f"redis-{version}/pyproject.toml"))
            ]
            archive.extractall(cache, members=wanted, filter="data")
    return folder


def run_pytest(folder: Path, tests: list[str], url: str, *, client: str, pooled: bool) -> Outcomes:
    """Run tests of redis-py's in a process of their own."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "COMPAT_CLIENT": client,
            "COMPAT_POOLED": "1" if pooled else "0",
            "COMPAT_REPORT": str(report),
        }
        environment.pop("PYTEST_ADDOPTS", None)
        command = [sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "-q", "--no-header"]
        options = [
            *(f"--deselect={test}" for test in NOT_POOLED if pooled),
            f"--redis-url={url}",
            f"--timeout={TEST_TIMEOUT_S}",
            "--tb=line",
            "-W",
            "ignore",
            "--disable-warnings",
        ]
        log = Path(scratch, "log.txt")
        with log.open("w") as output:
            subprocess.run(
                [*command, *options, *tests],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=SUITE_TIMEOUT_S,
                check=False,
            )
        if not report.exists():
            sys.exit(f"pytest came to no end:\n{log.read_text()[-4000:]}")
        found = json.loads(report.read_text(encoding="utf-8"))
    return Outcomes(found["outcomes"], sum(found["carried"].values()))


def read_exceptions() -> dict[str, str]:
    """Tests that may differ, with the reason: `test-id  # reason`, one in a line. Those of older redis-pys stand apart."""
    major = importlib.metadata.version("redis").split(".")[0]
    listed: dict[str, str] = {}
    for name in ("exceptions.txt", f"exceptions-{major}.txt"):
        if not (HERE / name).exists():
            continue
        found = {}
        for line in (HERE / name).read_text(encoding="utf-8").splitlines():
            test, _, reason = line.partition("  # ")
            if test.strip() and not test.startswith("#"):
                found[test.strip()] = reason
        most = MAX_EXCEPTIONS if name == "exceptions.txt" else MAX_OLDER_EXCEPTIONS
        if len(found) > most:
            sys.exit(f"{name} must list at most {most} tests")
        listed |= found
    return listed


def run_suite(
    folder: Path, suite: str, url: str, files: list[str], exceptions: dict[str, str]
) -> tuple[str, list[str]]:
    """Run one suite against one server; returns a line of figures, and what is wrong as lines."""
    pooled = suite == "pooled"
    ours = run_pytest(folder, files, url, client="ours", pooled=pooled)
    failed = ours.failed()
    stock = run_pytest(folder, failed, url, client="stock", pooled=pooled) if failed else Outcomes()
    differences = sorted(set(failed) & stock.passed())
    wrong = [
        f"{suite} {test}: passes with redis-py's classes, not with ours"
        for test in differences
        if test not in exceptions
    ]
    if not ours.passed():
        wrong.append(f"{suite}: no test has passed")
    if ours.carried == 0:
        wrong.append(f"{suite}: our transports carried no command")
    return (
        f"{len(ours.passed())} passed, {len(failed)} failed, {len(differences)} of these pass with redis-py's classes; "
        f"our transports carried {ours.carried} calls"
    ), wrong


def run_server(folder: Path, server: str, suites: list[str], only: str) -> list[str]:
    """Run suites against one server, made for each of them; returns what is wrong, as lines."""
    binary = find_server(SERVERS[server])
    if binary is None:
        return [f"missing: a server of kind {server}"]
    wrong: list[str] = []
    exceptions = read_exceptions()
    for suite in suites:
        started_s = time.monotonic()
        # An older redis-py has fewer files.
        files = [name for name in SUITES[suite] if only in name and (folder / name).exists()]
        with EmbeddedServer(transport="tcp", protected=False, binary=binary) as running:
            url = f"redis://127.0.0.1:{running.port}/0"
            figures, found = run_suite(folder, suite, url, files, exceptions)
        print(f"--- {suite} on {server}, {time.monotonic() - started_s:.0f} s: {figures}", flush=True)
        wrong += [f"{server}: {line}" for line in found]
    return wrong


def main() -> int:
    """Run what the command line asks for; 1 if anything differs."""
    parser = argparse.ArgumentParser(description="redis-py's own tests against our classes")
    parser.add_argument("--server", choices=SERVERS, action="append", help="default: all")
    parser.add_argument("--suite", choices=SUITES, action="append", help="default: all")
    parser.add_argument("--only", metavar="NAME", default="", help="only test files whose name contains this")
    parser.add_argument("--cache", type=Path, default=Path(".venv/compat"), help="where redis-py's tests are kept")
    options = parser.parse_args()
    folder = fetch_tests(options.cache.absolute())
    servers, suites = options.server or list(SERVERS), options.suite or list(SUITES)
    # The servers have nothing to do with each other, and waiting for time-outs is much of what redis-py's tests do.
    with ThreadPoolExecutor(len(servers)) as pool:
        runs = [pool.submit(run_server, folder, server, suites, options.only) for server in servers]
    wrong = [line for run in runs for line in run.result()]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
