"""`make compat-versions`: this package on each redis-py that it accepts, each in a virtual environment of its own.

The environment has its redis-py and nothing else; what it lacks it finds in the one that runs this program. In it run:

- our own tests of what stands on redis-py (`OWN_TESTS`; with `--quick` the few of `QUICK_TESTS`);
- redis-py's own tests in that version, with our classes in the place of its own (`run.py`).

Fails where a test fails, and where a version is not one that the package's metadata accepts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

VERSIONS = ("6.4.0", "7.0.1", "7.1.1", "7.2.2", "7.3.1", "7.4.1", "8.0.1", "8.1.0")
"""The last patch of each minor version that the package accepts."""

OWN_TESTS = (
    "tests/unit/redis",
    "tests/unit/storage",
    "tests/behaviour/spec",
    "tests/behaviour/transport",
    "tests/behaviour/cluster",
    "tests/behaviour/frameworks/test_install.py",
    "tests/behaviour/frameworks/_async",
    "tests/behaviour/frameworks/_sync",
    "tests/faults",
)
QUICK_TESTS = (
    "tests/unit/redis/_sync/test_arguments.py",
    "tests/unit/redis/test_redis_py_internals.py",
    "tests/behaviour/transport/_async/test_announced_driver.py",
    "tests/behaviour/transport/_async/test_credentials.py",
    "tests/behaviour/transport/_sync/test_credentials.py",
    "tests/behaviour/transport/_async/test_fallback.py",
    "tests/behaviour/transport/_sync/test_connection_state.py",
    "tests/behaviour/cluster/_async/test_cluster_commands.py",
    "tests/behaviour/frameworks/test_install.py",
)
QUICK_SUITE = ("--suite", "asyncio", "--server", "redis", "--only", "test_pipeline")
TEST_TIMEOUT_S = 120
TESTS_TIMEOUT_S = 3_600


def accepted() -> Requirement:
    """What the package's metadata says of redis-py."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(found for found in map(Requirement, project["dependencies"]) if found.name == "redis")


def make_environment(folder: Path, version: str) -> Path:
    """A new virtual environment with that redis-py alone in it, in front of what this interpreter finds; its interpreter."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, f"redis=={version}"], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    own = Path(sys.base_prefix).resolve()
    others = [place for place in sys.path if place and own not in Path(place).resolve().parents and place != str(HERE)]
    (packages / "outer.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
    return python


def run(python: Path, arguments: list[str], log: Path) -> tuple[bool, str]:
    """Whether a program of the environment succeeds, and its last line; the rest is in the log."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTEST_ADDOPTS", "PYTHONPATH")}
    with log.open("w", encoding="utf-8") as output:
        ended = subprocess.run(
            [str(python), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=TESTS_TIMEOUT_S,
            check=False,
        )
    lines = log.read_text(encoding="utf-8").splitlines() or ["no output"]
    if ended.returncode:
        print("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR", "E  ")) or ": passes" in line))
    return ended.returncode == 0, lines[-1]


def check_version(version: str, options: argparse.Namespace) -> bool:
    """Run the tests of one version; whether all passed."""
    if not accepted().specifier.contains(version):
        print(f"--- redis-py {version}: not accepted, the metadata says {accepted()}")
        return False
    folder = options.cache.absolute() / f"environment-{version}"
    python = make_environment(folder, version)
    own = list(options.own or (QUICK_TESTS if options.quick else OWN_TESTS))
    suite = QUICK_SUITE if options.quick else ()
    programs = {
        "our tests": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", str(TEST_TIMEOUT_S), *own],
        "redis-py's tests": [str(HERE / "run.py"), "--cache", str(options.cache.absolute()), *suite, *options.compat],
    }
    passed = True
    for name, arguments in programs.items():
        if name in options.skip:
            continue
        started_s = time.monotonic()
        succeeded, last = run(python, arguments, folder / f"{name.replace(' ', '-')}.txt")
        verdict = "passed" if succeeded else "FAILED"
        print(f"--- redis-py {version}, {name}: {verdict} in {time.monotonic() - started_s:.0f} s: {last}", flush=True)
        passed = passed and succeeded
    return passed


def main() -> int:
    """Run what the command line asks for; 1 if anything fails."""
    parser = argparse.ArgumentParser(description="this package on each redis-py that it accepts")
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"default: {' '.join(VERSIONS)}")
    parser.add_argument("--cache", type=Path, default=Path(".venv/versions"), help="where the environments are made")
    parser.add_argument("--quick", action="store_true", help="a few tests only, as continuous integration does")
    parser.add_argument("--own", action="append", metavar="PATH", help="our tests to run; default: those on redis-py")
    parser.add_argument("--skip", action="append", default=[], choices=["our tests", "redis-py's tests"])
    parser.add_argument("--compat", type=str.split, default=[], help='arguments for run.py: --compat="--suite pooled"')
    options = parser.parse_args()
    results = [check_version(version, options) for version in options.versions]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
