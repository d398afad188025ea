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

Children are made with posix_spawn and not with `subprocess`: gevent replaces the latter by one that runs Python's fork
handlers in the child, where ours would close the descriptors that the child is to inherit.
"""

from __future__ import annotations

import functools
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

__all__ = ["Child", "spawn"]

_SHELL_WRAPPER = '[ "$PPID" = "$1" ] || exit 125; shift; umask 077; exec "$@"'

_PYTHON_WRAPPER = """
import ctypes, os, signal, sys
if ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) or os.getppid() != int(sys.argv[1]):
    os._exit(125)
os.umask(0o077)
os.execv(sys.argv[2], sys.argv[2:])
"""


def _wrap(command: Sequence[str], owner_pid: int) -> list[str]:
    if not sys.platform.startswith("linux"):
        return ["/bin/sh", "-c", _SHELL_WRAPPER, "sh", str(owner_pid), *command]
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


class Child:
    """A child process of this process. Thread-safe; a signal never hits another process that got its number."""

    def __init__(self, pid: int) -> None:
        """Adopt a process that no other object waits for."""
        self.pid = pid
        self._lock = threading.Lock()
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code (minus the signal's number if killed), or None while the process runs."""
        with self._lock:
            return self._poll()

    def _poll(self) -> int | None:
        if self._exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # Reaped behind our back, by a handler of SIGCHLD for instance. How it ended is lost.
                pid, status = self.pid, 0
            if pid:
                self._exit_code = os.waitstatus_to_exitcode(status)
        return self._exit_code

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the process; return False if it runs on after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        interval_s = 0.0005
        while self.poll() is None:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(interval_s)
            interval_s = min(interval_s * 2, 0.02)
        return True

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        with self._lock:
            if self._poll() is None:
                os.kill(self.pid, number)


class _Spawner:
    """The thread whose end means the end of the process."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[Callable[[], int], Future[int]]] = queue.SimpleQueue()
        self._owner_pid = os.getpid()
        thread = threading.Thread(target=self._serve, name="agent-memory-spawner", daemon=True)
        thread.start()

    def serves_this_process(self) -> bool:
        return self._owner_pid == os.getpid()

    def submit(self, make: Callable[[], int]) -> int:
        future: Future[int] = Future()
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


def spawn(command: Sequence[str], log_path: Path, kept_descriptors: Sequence[int] = ()) -> Child:
    """
    Start `command` as a direct child that dies with this process, its output appended to `log_path`.

    The child leads a session of its own, so that Ctrl-C reaches the owner alone, which then decides; its files are private
    (umask 077). The descriptors in `kept_descriptors` stay open in it. Raises OSError. Thread-safe.
    """
    global _spawner
    with _spawner_lock:
        if _spawner is None or not _spawner.serves_this_process():
            _spawner = _Spawner()
        spawner = _spawner
    wrapped = _wrap(command, os.getpid())

    def make() -> int:
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # A duplicate is inheritable, and a number above all others takes the place of nothing that is still needed.
            free = max(log, *kept_descriptors, 2) + 1
            return os.posix_spawn(
                wrapped[0],
                wrapped,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                    *((os.POSIX_SPAWN_DUP2, kept, free + index) for index, kept in enumerate(kept_descriptors)),
                ],
                setsid=True,
                setsigmask=(),
                # Python ignores these, and what is ignored stays so in a child.
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        finally:
            os.close(log)

    return Child(spawner.submit(make))
