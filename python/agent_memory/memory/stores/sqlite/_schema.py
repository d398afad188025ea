"""Opening connections, and bringing a database file to the schema of this version.

The schema's number is `PRAGMA user_version`; each migration file raises it by one, in a transaction of its own together with
the number. `PRAGMA application_id` tells our databases from others.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from importlib import resources
from pathlib import Path
from typing import Final

from agent_memory.memory.errors import MemorySchemaError
from agent_memory.memory.settings import SqliteSettings

__all__ = ["PAGE_BYTES", "SCHEMA_VERSION", "connect", "migrate", "size_bytes"]

APPLICATION_ID: Final = 0x41674D65
PAGE_BYTES: Final = 16_384
"""Four times SQLite's default: batches of rows with vectors are written twice as fast."""
_OLDEST_SQLITE: Final = (3, 38, 0)
_BUSY_POLL_S: Final = 0.01
"""Seconds between two attempts to bring a database up to date that another process is bringing up to date."""


def migrations() -> list[str]:
    """The migration files' texts, in their order."""
    folder = resources.files("agent_memory.memory.stores.sqlite").joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [folder.joinpath(name).read_text(encoding="utf-8") for name in names]


SCHEMA_VERSION: Final = len(migrations())


_making = threading.Lock()


def _make_private(path: str | Path) -> None:
    """Makes the file, or an existing one, readable by this user alone; the log and its index get the same mode.

    Raises MemorySchemaError for what is no regular file of this user: a FIFO would be waited for, a link leads elsewhere.

    A file that is there is never opened here. To close a descriptor of it would drop the locks of all connections of this
    process; another process would then take itself for the last one, and remove the log with what is committed to it.
    """
    try:
        with _making:  # a connection of another thread must not be open yet when the new file's descriptor is closed
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600))
    except OSError:
        pass  # it is there, or SQLite says what is wrong
    try:
        status = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise MemorySchemaError(f"{path} must be a regular file of this user, got something else")
    for name in (path, f"{path}-wal", f"{path}-shm"):
        try:
            if os.stat(name).st_mode & 0o077:
                os.chmod(name, 0o600)
        except FileNotFoundError:
            pass


def connect(path: str | Path, settings: SqliteSettings, *, writer: bool) -> sqlite3.Connection:
    """A connection that begins and ends its transactions itself. A reader cannot write."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        needed = ".".join(map(str, _OLDEST_SQLITE))
        raise MemorySchemaError(f"the SQLite library must be >= {needed}, got {sqlite3.sqlite_version}")
    if writer:
        _make_private(path)
    connection = sqlite3.connect(
        path,
        timeout=settings.busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    cache_bytes = settings.cache_bytes if writer else settings.cache_bytes // 8
    try:
        connection.execute(f"PRAGMA cache_size = -{cache_bytes // 1024}")
        connection.execute("PRAGMA temp_store = MEMORY")
        if writer:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            # What is deleted or replaced is overwritten with zeros: else it stays in free pages, erased or not.
            connection.execute("PRAGMA secure_delete = ON")
        else:
            connection.execute("PRAGMA query_only = ON")
    except BaseException as error:
        connection.close()
        # To a reader, whose database has been one, it is damaged.
        if writer and isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            raise MemorySchemaError(f"{path} is not a SQLite database") from None
        raise
    return connection


def migrate(connection: sqlite3.Connection, path: str | Path, timeout_s: float) -> None:
    """Brings the database to SCHEMA_VERSION; raises MemorySchemaError, having changed nothing, where it must not.

    Tries again for `timeout_s` while another process that makes the same database is in the way: SQLite's own waiting does
    not cover the change to a write-ahead log.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            _migrate(connection, path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_BUSY_POLL_S)
        else:
            return


def _migrate(connection: sqlite3.Connection, path: str | Path) -> None:
    _check(connection, path)
    if _pragma(connection, "page_count") == 0:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    for number, script in enumerate(migrations(), start=1):
        if _pragma(connection, "user_version") >= number:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have been faster.
            if _pragma(connection, "user_version") < number:
                for statement in _statements(script):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _check(connection: sqlite3.Connection, path: str | Path) -> None:
    connection.execute("BEGIN")  # one view of all three: another process may just be making the database
    try:
        application_id = _pragma(connection, "application_id")
        version = _pragma(connection, "user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    finally:
        connection.execute("ROLLBACK")
    if application_id != APPLICATION_ID and (tables or application_id):
        raise MemorySchemaError(f"{path} is a database of another application (application_id {application_id:#x})")
    if version > SCHEMA_VERSION:
        raise MemorySchemaError(
            f"{path} has schema {version}, this version of agent_memory knows up to {SCHEMA_VERSION}: it needs a newer one"
        )


def _statements(script: str) -> list[str]:
    """A script's statements: `executescript` would commit the transaction they belong into."""
    statements, lines = [], list[str]()
    for line in script.splitlines():
        lines.append(line)
        text = "\n".join(lines)
        if sqlite3.complete_statement(text):
            statements.append(text)
            lines.clear()
    return statements


def size_bytes(connection: sqlite3.Connection) -> int:
    """The size of the database."""
    return _pragma(connection, "page_count") * _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
