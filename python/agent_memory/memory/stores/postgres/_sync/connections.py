# Generated from ../_async/connections.py by tools/generate_sync.py: edit that file, not this one.

"""Connections to PostgreSQL: made when needed, kept when idle, thrown away when they broke.

Rules
- At most `max_connections` at a time; a caller that finds all of them in use waits for the next one.
- The connection that was used last is used next.
- A connection that broke takes all idle ones with it: whatever broke it (a restart, a network) has broken them as well. So does
  one that takes no writes: the address may lead to the new primary by now.
- If a connection broke while idle, the call goes on with another one: nothing can have reached the server, or nothing
  of it was committed.
- Transactions are READ COMMITTED, whatever the role's or the database's default: they lock what they decide by.
- In a child of fork() there are none; the parent's are left alone.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg import Connection, IsolationLevel, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agent_memory import _at_fork
from agent_memory._concurrency import Slots, sleep
from agent_memory.memory.errors import MemoryStoreClosedError, MemoryStoreUnavailableError, StoreFault
from agent_memory.memory.settings import PostgresSettings
from agent_memory.memory.stores.postgres._errors import translated

__all__ = ["MAX_ATTEMPTS", "Connections", "Session"]

T = TypeVar("T")

MAX_ATTEMPTS: Final = 8
"""How often a call is tried, the first time included, where its transaction was undone or its pooled connection had broken."""

PAUSE_S: Final = 0.02
"""The longest pause before the second attempt after a conflict; before each further one it is longer by as much."""

Session: TypeAlias = "Connection[tuple[Any, ...]]"

# Never closed and never used: closing a parent's connection would end its session on the server. Bounded by the number of
# connections at the time of the forks.
_abandoned: Final[list[object]] = []


class Connections:
    """The connections of one store, of one thread."""

    def __init__(self, conninfo: str, settings: PostgresSettings) -> None:
        self._parameters = _parsed(conninfo)
        self._settings = settings
        self._mutex = threading.Lock()
        self._idle: list[Session] = []
        self._slots = Slots(settings.max_connections)
        self.is_open = False
        _at_fork.in_child(self._after_fork)

    def _after_fork(self) -> None:
        _abandoned.extend(self._idle)
        self._mutex = threading.Lock()
        self._idle = []
        self._slots = Slots(self._settings.max_connections)
        self.is_open = False

    def __repr__(self) -> str:
        shown = {name: self._parameters.get(name) for name in ("host", "port", "dbname", "user")}
        return " ".join(f"{name}={value}" for name, value in shown.items() if value)

    def transact(self, function: Callable[[Session], T]) -> T:
        """Runs a function in a transaction and commits it; both again, on another connection, where nothing was committed.

        After a COMMIT whose answer was lost nothing is repeated: MemoryStoreUnavailableError says that the outcome is unknown.
        """
        is_ending = False

        def run(connection: Session) -> T:
            nonlocal is_ending
            is_ending = False
            with connection.transaction():
                result = function(connection)
                is_ending = True
            return result

        return self._repeated(run, lambda: not is_ending)

    def read(self, function: Callable[[Session], T]) -> T:
        """Runs a function that only reads; again, on another connection, as `transact` does."""
        return self._repeated(function, lambda: True)

    def _repeated(self, function: Callable[[Session], T], is_repeatable: Callable[[], bool]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                with self.use() as connection:
                    return function(connection)
            except MemoryStoreUnavailableError as error:
                is_stale = isinstance(error, _PooledConnectionError)
                if attempt < MAX_ATTEMPTS and error.fault is StoreFault.TRANSIENT:
                    sleep(random.random() * PAUSE_S * attempt)
                elif attempt == MAX_ATTEMPTS or not (is_stale and is_repeatable()):
                    if is_stale:
                        raise MemoryStoreUnavailableError(str(error), code=error.code) from error.__cause__
                    raise

    @contextmanager
    def use(self) -> Iterator[Session]:
        """A connection for the length of the block; not in a transaction, neither before nor after.

        Raises MemoryStoreUnavailableError where none can be had, and translates psycopg's errors of the block.
        """
        if not self.is_open:
            raise MemoryStoreClosedError("the store is not open: open() it first")
        with self._slots.hold():
            connection = self._take()
            is_pooled = connection is not None
            if connection is None:
                try:
                    connection = self._connect()
                except psycopg.Error as error:
                    raise translated(error) from error
            is_useless = False
            try:
                yield connection
            except psycopg.Error as error:
                failure = translated(error)
                is_useless = failure.fault in (StoreFault.AWAY, StoreFault.READ_ONLY)
                if is_pooled and failure.fault is StoreFault.AWAY:
                    raise _PooledConnectionError(str(failure), code=failure.code) from error
                raise failure from error
            finally:
                self._give_back(connection, is_useless)

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
            # Said by each BEGIN, and for single statements once.
            connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
            connection.execute(
                sql.SQL(
                    "SET search_path TO {}; SET statement_timeout = {};"
                    " SET default_transaction_isolation = 'read committed'; SET default_transaction_deferrable = off"
                ).format(sql.Identifier(settings.schema), sql.Literal(round(settings.statement_timeout_s * 1_000)))
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: Session, is_useless: bool) -> None:
        idle = psycopg.pq.TransactionStatus.IDLE
        is_idle = not connection.closed and connection.info.transaction_status == idle
        if is_idle and self.is_open and not is_useless:
            with self._mutex:
                self._idle.append(connection)
            return
        useless = [connection]
        if connection.broken or is_useless:
            useless += self._take_all()
        for one in useless:
            one.close()

    def _take_all(self) -> list[Session]:
        with self._mutex:
            idle, self._idle = self._idle, []
        return idle

    def drop_idle(self) -> None:
        """Closes the connections that are idle."""
        for connection in self._take_all():
            connection.close()

    def close(self) -> None:
        """Closes the idle ones; those at work close when they are given back."""
        self.is_open = False
        self.drop_idle()


def _parsed(conninfo: str) -> dict[str, Any]:
    """The words of a connection string. Errors do not repeat it, as psycopg's do: it may hold a password."""
    if not isinstance(conninfo, str):
        raise TypeError(f"conninfo must be a str, got {type(conninfo).__name__}")
    try:
        return dict(conninfo_to_dict(conninfo))
    except psycopg.ProgrammingError:
        raise ValueError("conninfo must be a URL or a string of libpq's, got a str that is neither") from None


class _PooledConnectionError(MemoryStoreUnavailableError):
    """A connection that had been idle before turned out to be broken."""
