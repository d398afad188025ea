"""
Child processes that cannot outlive their owner, however it ends.

The kernel's parent-death signal (PR_SET_PDEATHSIG) does it without a second process: it reaches the child even if the
owner is killed with SIGKILL, and it kills even a child stopped by SIGSTOP. It has three traps:

- it fires when the *thread* that made the child ends, so all children are made by one daemon thread that lives as long
  as the process;
- it has to be set in the child before the program starts. A `preexec_fn` may deadlock in a process with threads, so a
  tiny wrapper sets it and then becomes the program: `setpriv` (util-linux) where it can, else a bare Python;
- an owner that dies before the signal is set would go unnoticed, so the wrapper then compares its parent with the
  owner.

A forked child of the owner is not the owner: its end changes nothing. Where there is no such signal (not Linux), a
server is stopped by close(), garbage collection and interpreter exit only.
"""

from __future__ import annotations

import functools
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

__all__ = ["spawn"]

_SHELL_WRAPPER = '[ "$PPID" = "$1" ] || exit 125; shift; exec "$@"'

_PYTHON_WRAPPER = """
import ctypes, os, signal, sys
if ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) or os.getppid() != int(sys.argv[1]):
    os._exit(125)
os.execv(sys.argv[2], sys.argv[2:])
"""


def _wrap(command: Sequence[str], owner_pid: int) -> list[str]:
    if not sys.platform.startswith("linux"):
        return list(command)
    setpriv = _find_setpriv()
    if setpriv is not None:
        return [setpriv, "--pdeathsig", "KILL", "/bin/sh", "-c", _SHELL_WRAPPER, "sh", str(owner_pid), *command]
    # sys.executable may be a host program (uWSGI) or empty in an embedded interpreter.
    python = sys.executable if "python" in os.path.basename(sys.executable or "") else shutil.which("python3")
    if not python:
        return list(command)
    return [python, "-I", "-S", "-c", _PYTHON_WRAPPER, str(owner_pid), *command]


@functools.cache
def _find_setpriv() -> str | None:
    setpriv = shutil.which("setpriv")
    if setpriv is None or not os.access("/bin/sh", os.X_OK):
        return None
    # BusyBox has a setpriv without this option.
    try:
        probe = subprocess.run(
            [setpriv, "--pdeathsig", "KILL", "/bin/sh", "-c", "exit 0"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return setpriv if probe.returncode == 0 else None


class _Spawner:
    """The thread whose end means the end of the process."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self._requests = queue.SimpleQueue()
        self._owner_pid = os.getpid()
        thread = threading.Thread(target=self._serve, name="agent-memory-spawner", daemon=True)
        thread.start()

    def serves_this_process(self) -> bool:
        return self._owner_pid == os.getpid()

    def submit(self, make: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((make, future))
        return future.result()

    def _serve(self) -> None:
        while True:
            make, future = self._requests.get()
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
            # Keep nothing alive while waiting for the next request.
            del make, future


_spawner: _Spawner | None = None
_spawner_lock = threading.Lock()


def _forget_in_child() -> None:
    # The thread was not copied by the fork, and the lock may have been held by a thread that was not copied either.
    global _spawner, _spawner_lock
    _spawner = None
    _spawner_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)


def spawn(command: Sequence[str], log_path: Path, kept_descriptors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """
    Start `command` as a direct child that dies with this process, its output appended to `log_path`.

    The child leads a session of its own, so that Ctrl-C reaches the owner alone, which then decides. The descriptors in
    `kept_descriptors` stay open in it. Raises OSError. Thread-safe.
    """
    global _spawner
    with _spawner_lock:
        if _spawner is None or not _spawner.serves_this_process():
            _spawner = _Spawner()
        spawner = _spawner
    wrapped = _wrap(command, os.getpid())

    def make() -> subprocess.Popen[bytes]:
        with open(log_path, "ab") as log:
            return subprocess.Popen(
                wrapped,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(kept_descriptors),
                umask=0o077,
            )

    return spawner.submit(make)
