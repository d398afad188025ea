"""
The files of one private server: a lock on its data folder, and a private folder for socket, configuration and log.

Locks are flock()s on descriptors that the server process inherits. So a folder stays locked while either the owner or
the server lives, and is free the moment both are gone, however they ended: there is no stale lock to clean up. Folders
left by an owner that was killed are recognised by their free lock and removed by the next one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from agent_memory.embedded.errors import ServerError, ServerInUseError

__all__ = ["FileLock", "PortReservation", "Workspace", "lock_data_folder"]

_PREFIX = "agent-memory-server-"
_LOCK_NAME = "owner.lock"
_DATA_LOCK_NAME = "agent-memory.lock"
# sun_path holds 108 bytes, one of them the terminating zero.
_SOCKET_PATH_BYTES_MAX = 107
# A folder younger than this may not be locked yet by the process that is making it.
_ABANDONED_AFTER_S = 60.0


class FileLock:
    """An exclusive flock() on a file that names its holder."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises BlockingIOError if another owner has it, OSError if the file can't be opened."""
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(self.descriptor)
            raise

    def close(self) -> None:
        """Give up this process's share of the lock; a server that inherited it keeps its own."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def lock_data_folder(folder: Path, timeout_s: float) -> FileLock:
    """
    Lock a data folder for one owner.

    An owner that has just been killed leaves a server that the kernel is about to end; that is waited for. A living
    owner is reported at once. Raises ServerInUseError, OSError.
    """
    path = folder / _DATA_LOCK_NAME
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return FileLock(path)
        except BlockingIOError:
            owner_pid = _read_pid(path)
            if _is_running(owner_pid) or time.monotonic() >= deadline_s:
                raise ServerInUseError(
                    f"path={os.fspath(folder)!r} is served by another owner (process {owner_pid or 'unknown'}): "
                    "close that one first, connect to it, or choose another path"
                ) from None
        time.sleep(0.01)


def _read_pid(path: Path) -> int:
    try:
        return int(path.read_text().strip() or 0)
    except (OSError, ValueError):
        return 0


def _is_running(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # A zombie has released everything but its number.
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[:1] != ["Z"]


class Workspace:
    """A private folder (0700) in the system's temporary folder, locked while its owner or its server lives."""

    def __init__(self) -> None:
        """Make the folder, and remove those that killed owners have left. Raises ServerError, OSError."""
        parent = _choose_parent()
        _remove_abandoned(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self.lock = FileLock(self.folder / _LOCK_NAME)

    @property
    def socket_path(self) -> Path:
        """Where the server's unix socket goes."""
        return self.folder / "server.sock"

    @property
    def config_path(self) -> Path:
        """Where the server's configuration goes."""
        return self.folder / "server.conf"

    @property
    def log_path(self) -> Path:
        """Where the server's output goes."""
        return self.folder / "server.log"

    def write_private(self, path: Path, text: str) -> None:
        """Write a file that only this user can read."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.close()


def _choose_parent() -> Path:
    preferred = tempfile.gettempdir()
    for parent in (preferred, "/tmp"):
        longest = os.path.join(parent, _PREFIX + "x" * 8, "server.sock")
        if len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES_MAX and os.access(parent, os.W_OK):
            return Path(parent)
    raise ServerError(f"the temporary folder {preferred!r} is too long for a unix socket: set TMPDIR to a shorter one")


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(_PREFIX + "*"):
        try:
            status = folder.stat(follow_symlinks=False)
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _ABANDONED_AFTER_S:
                continue
            lock = FileLock(folder / _LOCK_NAME)
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


class PortReservation:
    """
    A loopback port that stays ours while the server is down.

    The socket is bound but never listens: connecting is refused, as with any closed port, yet the kernel gives the
    number to no other process. Without it a client that keeps trying a dead port of the ephemeral range can connect to
    itself, or another process can take the port. A server binds beside it because both set SO_REUSEADDR.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        """Reserve `port`, or a free one. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()
