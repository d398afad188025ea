# Generated from _async_connections.py by tools/generate_sync.py: edit that file, not this one.

"""Connections to PostgreSQL: made when needed, kept when idle, thrown away when they broke.

Rules
- At most `max_connections` at a time; who finds all of them at work waits for the next one.
- The connection that was used last is used next.
- A connection that broke takes all idle ones with it: whatever broke it (a restart, a network) has broken them as well.
- In a child of fork() there are none; the parent's are left alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agent_memory import _at_fork
from agent_memory._compat import Semaphore
from agent_memory.memory.errors import MemoryStoreClosedError, MemoryStoreError, MemoryStoreUnavailableError
from agent_memory.memory.settings import PostgresSettings

__all__ = ["Connections", "Session", "translated"]

Session: TypeAlias = "Connection[tuple[Any, ...]]"

# Never closed and never used: closing a parent's connection would end its session on the server. Bounded by the number of
# connections at the time of the forks.
_abandoned: Final[list[object]] = []


class Connections:
    """The connections of one store, of one thread."""

    def __init__(self, conninfo: str, settings: PostgresSettings) -> None:
        self._parameters = conninfo_to_dict(conninfo)
        self._settings = settings
        self._mutex = threading.Lock()
        self._idle: list[Session] = []
        self._slots = Semaphore(settings.max_connections)
        self.is_open = False
        _at_fork.in_child(self._after_fork)

    def _after_fork(self) -> None:
        _abandoned.extend(self._idle)
        self._mutex = threading.Lock()
        self._idle = []
        self._slots = Semaphore(self._settings.max_connections)
        self.is_open = False

    def __repr__(self) -> str:
        shown = {name: self._parameters.get(name) for name in ("host", "port", "dbname", "user")}
        return " ".join(f"{name}={value}" for name, value in shown.items() if value)

    @contextmanager
    def use(self) -> Iterator[Session]:
        """A connection for the length of the block; not in a transaction, neither before nor after.

        Raises MemoryStoreUnavailableError where none can be had, and translates psycopg's errors of the block.
        """
        if not self.is_open:
            raise MemoryStoreClosedError("the store is not open: open() it first")
        with self._slots:
            try:
                connection = self._take() or self._connect()
            except psycopg.Error as error:
                raise translated(error) from error
            try:
                yield connection
            except psycopg.Error as error:
                raise translated(error) from error
            finally:
                self._give_back(connection)

    def _take(self) -> Session | None:
        with self._mutex:
            while self._idle:
                connection = self._idle.pop()
                if not connection.closed:
                    return connection
        return None

    def _connect(self) -> Session:
        settings = self._settings
        # Later words win: what the caller's string says of these two is kept.
        defaults = {"connect_timeout": max(1, round(settings.connect_timeout_s)), "application_name": "agent_memory"}
        given: dict[str, Any] = {**defaults, **self._parameters}
        conninfo = make_conninfo("", **given)
        connection: Session = Connection.connect(conninfo, autocommit=True)
        try:
            connection.execute(
                sql.SQL("SET search_path TO {}; SET statement_timeout = {}").format(
                    sql.Identifier(settings.schema), sql.Literal(round(settings.statement_timeout_s * 1_000))
                )
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: Session) -> None:
        idle = psycopg.pq.TransactionStatus.IDLE
        if not connection.closed and connection.info.transaction_status == idle and self.is_open:
            with self._mutex:
                self._idle.append(connection)
            return
        broken = [connection]
        if connection.broken:
            with self._mutex:
                broken += self._idle
                self._idle = []
        for one in broken:
            one.close()

    def close(self) -> None:
        """Closes the idle ones; those at work close when they are given back."""
        self.is_open = False
        with self._mutex:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def translated(error: psycopg.Error) -> Exception:
    """Our error for one of psycopg's, without the detail, which may hold values."""
    if isinstance(error, psycopg.DataError):  # its message quotes what was refused
        return MemoryStoreError(f"PostgreSQL: {type(error).__name__} (SQLSTATE {error.sqlstate})")
    message = error.diag.message_primary or (str(error).splitlines() or ["no reason given"])[0]
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return MemoryStoreUnavailableError(f"PostgreSQL: {message}")
    return MemoryStoreError(f"PostgreSQL: {message}")
