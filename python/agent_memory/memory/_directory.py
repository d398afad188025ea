"""The folder of a memory system: database, snapshots, and the server that the first process to come starts in it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

from agent_memory.embedded import EmbeddedServer
from agent_memory.embedded.errors import ServerInUseError
from agent_memory.embedded.readiness import ask_ping
from agent_memory.memory.errors import MemorySystemError

__all__ = ["MemoryDirectory"]

OPENING_WAIT_S: Final = 10.0
"""How long a process that opens a folder waits for the server of another one that is just starting or closing."""

OPENING_POLL_S: Final = 0.02
"""Seconds between two attempts meanwhile."""

PING_TIMEOUT_S: Final = 1.0
"""How long another process's server may take to answer before it counts as none."""

_SERVER_CONFIG: Final = {
    "maxmemory-policy": "noeviction",
    # Vectors are most of a copy, and do not get shorter: a rewrite of the append-only file takes 0.6 of the processor time.
    "rdbcompression": "no",
}

_SERVER_FILE: Final = "server.json"


class MemoryDirectory:
    """A folder that one process owns and others attach to.

    The owner runs the embedded server, whose data are in the folder and which ends with it. `server.json` (readable by the
    user alone) tells other processes where it is. When the owner has gone, the first of them that misses the server becomes the
    owner of a new one on the same data (`open_server()` again), and the others attach to that. All of this blocks.

    Any number of processes may open a folder at the same time. One becomes the owner; the others wait until its server
    answers. One that comes while the owner is closing waits for that to end, and becomes the owner itself.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._server: EmbeddedServer | None = None
        self._owner_pid = 0

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.path / "memories.sqlite"

    @property
    def snapshots(self) -> Path:
        """Where snapshots of indexes are."""
        return self.path / "snapshots"

    @property
    def journal(self) -> Path:
        """Where the journal is."""
        return self.path / "journal"

    # --- erasures whose traces in files have not been overwritten yet ---

    @property
    def _trace(self) -> Path:
        return self.path / "erasure.pending"

    def note_erasure(self) -> None:
        """Before rows of an erasure go: a process that finds the note overwrites what they leave in files."""
        if self.path.is_dir():
            os.close(os.open(self._trace, os.O_WRONLY | os.O_CREAT, 0o600))

    def has_noted_erasure(self) -> bool:
        """Whether files may hold traces of an erasure."""
        return self._trace.exists()

    def forget_erasure(self) -> None:
        """Nothing of an erasure is in files any more."""
        self._trace.unlink(missing_ok=True)

    @property
    def server(self) -> EmbeddedServer | None:
        """The server, where this process owns it."""
        return self._server

    def make(self) -> None:
        """Makes the folder, for this user alone."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise MemorySystemError(f"path must be a folder that can be made, got {str(self.path)!r}") from error

    def open_server(self, wait_s: float = OPENING_WAIT_S) -> dict[str, Any]:
        """Starts the server, or finds the one that runs; returns what a client is made with.

        While another process holds the folder and its server does not answer, because that process has just begun or is
        about to end, tries again for `wait_s` seconds. Then raises ServerInUseError. Raises MemorySystemError where the
        folder cannot be made, and the errors of `EmbeddedServer.start`.
        """
        if self._server is not None and os.getpid() == self._owner_pid:
            self._server.start()  # it runs, or was killed: then it comes back at the same place
            return dict(self._server.connection_kwargs)
        self.make()
        deadline = time.monotonic() + wait_s
        while True:
            found = self._find_owner()
            if found is not None:
                return found
            try:
                return self._become_owner()
            except ServerInUseError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(OPENING_POLL_S)

    def _become_owner(self) -> dict[str, Any]:
        server = EmbeddedServer(self.path / "redis", config=_SERVER_CONFIG)
        try:
            server.start()
            kwargs = dict(server.connection_kwargs)
            self._tell(server.pid, kwargs)
        except BaseException:
            server.close()
            raise
        self._server, self._owner_pid = server, os.getpid()
        return kwargs

    def _tell(self, pid: int | None, kwargs: dict[str, Any]) -> None:
        """Writes where the server is, for other processes."""
        content = json.dumps({"pid": pid, "connection": kwargs})
        temporary = self.path / f"{_SERVER_FILE}.{os.getpid()}"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(content)
        temporary.replace(self.path / _SERVER_FILE)

    def _find_owner(self) -> dict[str, Any] | None:
        """The connection arguments of another process's server; None if no server is registered or it does not answer."""
        try:
            told = json.loads((self.path / _SERVER_FILE).read_text())
            os.kill(int(told["pid"]), 0)
            kwargs = dict(told["connection"])
            answer = ask_ping(Path(kwargs["unix_socket_path"]), kwargs["password"], None, PING_TIMEOUT_S)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return kwargs if answer == "+PONG" else None

    @property
    def nowhere(self) -> dict[str, Any]:
        """What a client is made with as long as no server is found: an address at which nothing listens."""
        return {"unix_socket_path": os.fspath(self.path / "redis" / "no-server.sock")}

    def close(self) -> None:
        """Ends the server, where this process owns it. In a forked child, does nothing."""
        server, self._server = self._server, None
        if server is not None and os.getpid() == self._owner_pid:
            (self.path / _SERVER_FILE).unlink(missing_ok=True)
            server.close()
