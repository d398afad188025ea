"""The SQLite engine: one thread writes, any thread reads.

States: new, open, closing, closed; `open()` again from closed. In a child of fork() it is new: connections never cross a
fork.

Rules
- Writes wait in one queue, in the order in which they came. The writer takes as many as are there, up to
  `max_transaction_writes` operations (fewer where so many took longer than `max_transaction_s`), into one transaction, and
  answers all of them once it is committed and synced: under load many callers share one sync. A longer list of operations
  goes through several transactions.
- If a transaction fails, nothing of it is there. Where the database is not to blame, its jobs are tried again one by one,
  so that one bad write does not fail its neighbours.
- Reads have a connection per thread. Tasks read in `reader_threads` threads.
- The write-ahead log is folded back by the writer after its callers have been answered.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from agent_memory import _at_fork
from agent_memory.memory.entries import new_writer
from agent_memory.memory.errors import (
    MemoryStoreClosedError,
    MemoryStoreError,
    MemoryStoreFullError,
    MemoryStoreUnavailableError,
)
from agent_memory.memory.settings import LongTermSettings, SqliteSettings
from agent_memory.memory.stores._compression import Compression
from agent_memory.memory.stores.operations import Operation, StoreStats, WriteResult
from agent_memory.memory.stores.sqlite import _schema
from agent_memory.memory.stores.sqlite._reading import Reader
from agent_memory.memory.stores.sqlite._waiters import AsyncWaiter, Waiter, deliver_all
from agent_memory.memory.stores.sqlite._writing import apply_operations, load_dictionaries

__all__ = ["SqliteEngine"]

T = TypeVar("T")

WAL_LIMIT_FACTOR: Final = 4
"""A log that has grown to this many times `wal_bytes`, because somebody kept reading, is folded back with waiting."""


_LEAST_ROOM: Final = 16
"""However slow the disk: so many writes share a sync, if they are there."""


class _Job:
    """Operations of one caller, or one function to run in a transaction."""

    __slots__ = ("function", "operations", "results", "waiter")

    def __init__(
        self,
        waiter: Waiter | AsyncWaiter,
        operations: Sequence[Operation] = (),
        function: Callable[[sqlite3.Connection], Any] | None = None,
    ) -> None:
        self.waiter = waiter
        self.operations = operations
        self.function = function
        self.results: list[WriteResult] = []


class SqliteEngine:
    """The part of the SQLite store that both of its faces share. Thread-safe."""

    def __init__(
        self,
        path: str | Path,
        settings: SqliteSettings,
        long_term: LongTermSettings,
        clock_us: Callable[[], int],
    ) -> None:
        self.path = Path(path)
        self.settings = settings
        self.long_term = long_term
        self.clock_us = clock_us
        self.writer_number = new_writer()
        self.compression = Compression(long_term)
        self._forget()
        self._abandoned: list[object] = []
        _at_fork.in_child(self._after_fork)

    def _forget(self) -> None:
        self._state = "new"
        self._opening = threading.Lock()
        self._condition = threading.Condition(threading.Lock())
        self._queue: deque[_Job] = deque()
        self._pending = 0
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._readers = threading.local()
        self._epoch = object()
        self._executor: ThreadPoolExecutor | None = None
        self._transactions = 0
        self._writes = 0
        self._longest_ns = 0
        self._dirty_bytes = 0
        self._room = self.settings.max_transaction_writes

    def _after_fork(self) -> None:
        # Closing the parent's connections here would let go of its locks: they are kept, unused, for as long as we live.
        self._abandoned += [self._connection, self._readers, self._executor]
        self._forget()

    # --- opening and closing -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens the database and starts the writer; does nothing when open."""
        with self._opening:
            if self._state == "open":
                return
            try:
                connection = _schema.connect(self.path, self.settings, writer=True)
                try:
                    _schema.migrate(connection, self.path)
                    load_dictionaries(connection, self.compression)
                except BaseException:
                    connection.close()
                    raise
            except sqlite3.Error as error:
                raise _translated(error) from error
            self._connection = connection
            self._epoch = object()
            self._state = "open"
            self._thread = threading.Thread(target=self._work, name="agent-memory-sqlite-writer", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Writes what waits, then closes; does nothing unless open."""
        with self._opening:
            with self._condition:
                if self._state != "open":
                    return
                self._state = "closing"
                self._condition.notify()
            assert self._thread is not None
            self._thread.join()
            executor, self._executor = self._executor, None
            if executor is not None:
                executor.shutdown(wait=True)
            self._readers = threading.local()
            self._state = "closed"

    # --- writing --------------------------------------------------------------------------------------------------------

    def submit(self, waiter: Waiter | AsyncWaiter, operations: Sequence[Operation]) -> None:
        """Queues operations; `waiter` gets their results, or the error."""
        self._enqueue(_Job(waiter, operations), len(operations))

    def submit_function(self, waiter: Waiter | AsyncWaiter, function: Callable[[sqlite3.Connection], Any]) -> None:
        """Queues a function to be run in a transaction; `waiter` gets what it returns."""
        self._enqueue(_Job(waiter, (), function), 1)

    def _enqueue(self, job: _Job, count: int) -> None:
        with self._condition:
            if self._state != "open":
                raise MemoryStoreClosedError(f"the store is {self._state}: open() it first")
            if self._pending >= self.settings.max_pending_writes:
                raise MemoryStoreFullError(
                    f"max_pending_writes ({self.settings.max_pending_writes}) writes wait already"
                )
            self._pending += count
            self._queue.append(job)
            if len(self._queue) == 1:
                self._condition.notify()

    def _work(self) -> None:
        connection = self._connection
        assert connection is not None
        try:
            while True:
                with self._condition:
                    while not self._queue and self._state == "open":
                        self._condition.wait()
                    if not self._queue:
                        break
                    jobs = self._take()
                self._run(connection, jobs)
                self._fold_log(connection)
        finally:
            self._connection = None
            connection.close()

    def _take(self) -> list[_Job]:
        """The jobs of the next transaction; a long list of operations is taken alone, and goes back with what is left."""
        room = self._room
        jobs: list[_Job] = []
        while self._queue and room > 0:
            job = self._queue[0]
            size = 1 if job.function is not None else len(job.operations) - len(job.results)
            if jobs and (size > room or job.function is not None):
                break
            jobs.append(self._queue.popleft())
            room -= size
            if job.function is not None:
                break
        return jobs

    def _run(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        try:
            answers = self._transact(connection, jobs)
        except Exception as error:  # whatever it is, its callers must learn of it
            failure = _translated(error)
            if len(jobs) > 1 and not isinstance(failure, MemoryStoreUnavailableError):
                for job in jobs:
                    self._run(connection, [job])
                return
            answers = [(job, None, failure) for job in jobs]
        finished = 0
        with self._condition:
            for job, _, failed in reversed(answers):
                if failed is None and job.function is None and len(job.results) < len(job.operations):
                    self._queue.appendleft(job)
                else:
                    finished += 1 if job.function is not None else len(job.operations)
            self._pending -= finished
        deliver_all(
            (job.waiter, result, failed)
            for job, result, failed in answers
            if failed is not None or job.function is not None or len(job.results) == len(job.operations)
        )

    def _transact(
        self, connection: sqlite3.Connection, jobs: list[_Job]
    ) -> list[tuple[_Job, Any, BaseException | None]]:
        began_ns = time.perf_counter_ns()
        operations: list[Operation] = []
        room = self._room
        parts = []
        result: Any = None
        for job in jobs:
            part = job.operations[len(job.results) : len(job.results) + room] if job.function is None else ()
            parts.append(part)
            operations.extend(part)
        changed = connection.total_changes
        connection.execute("BEGIN IMMEDIATE")
        try:
            if jobs[0].function is not None:
                result = jobs[0].function(connection)
                results: list[WriteResult] = []
            else:
                results = apply_operations(connection, operations, self.compression, self.clock_us())
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._transactions += 1
        self._writes += len(operations)
        self._dirty_bytes += (connection.total_changes - changed) * 1_024
        took_ns = time.perf_counter_ns() - began_ns
        self._longest_ns = max(self._longest_ns, took_ns)
        self._fit_room(took_ns / 1e9, len(operations))
        start = 0
        for job, part in zip(jobs, parts, strict=True):
            job.results += results[start : start + len(part)]
            start += len(part)
        return [(job, result if job.function is not None else job.results, None) for job in jobs]

    def _fit_room(self, took_s: float, count: int) -> None:
        """Fits how many writes the next transaction takes to what the last one took."""
        limit_s = self.settings.max_transaction_s
        if took_s > limit_s and count > _LEAST_ROOM:
            # Most of it may have been one slow sync, so not all the way at once.
            self._room = max(_LEAST_ROOM, int(count * max(0.5, limit_s / took_s)))
        elif took_s < limit_s / 2:
            self._room = min(self.settings.max_transaction_writes, self._room + self._room // 4 + 1)

    def _fold_log(self, connection: sqlite3.Connection) -> None:
        # Rows are a rough measure of the log's growth, and cost nothing; its real size is asked for when they say so.
        if self._dirty_bytes < self.settings.wal_bytes // 8:
            return
        self._dirty_bytes = 0
        try:
            size = Path(f"{self.path}-wal").stat().st_size
            if size >= self.settings.wal_bytes:
                mode = "TRUNCATE" if size >= WAL_LIMIT_FACTOR * self.settings.wal_bytes else "PASSIVE"
                connection.execute(f"PRAGMA wal_checkpoint({mode})")
        except (sqlite3.Error, OSError):
            pass  # tried again after the next writes; whoever writes next learns of a disk that is full

    # --- reading ----------------------------------------------------------------------------------------------------------

    def read(self, function: Callable[[Reader], T]) -> T:
        """Runs a function on this thread's connection."""
        try:
            return function(self._reader())
        except sqlite3.Error as error:
            raise _translated(error) from error

    async def async_read(self, function: Callable[[Reader], T]) -> T:
        """Runs a function on the connection of a reader thread."""
        executor = self._executor
        if executor is None:
            with self._opening:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(self.settings.reader_threads, "agent-memory-sqlite-reader")
                executor = self._executor
        return await asyncio.get_running_loop().run_in_executor(executor, self.read, function)

    def _reader(self) -> Reader:
        if self._state not in ("open", "closing"):
            raise MemoryStoreClosedError(f"the store is {self._state}: open() it first")
        local = self._readers
        if getattr(local, "epoch", None) is not self._epoch:
            local.reader = Reader(_schema.connect(self.path, self.settings, writer=False), self.compression)
            local.epoch = self._epoch
        reader: Reader = local.reader
        return reader

    def stats(self) -> StoreStats:
        """Counters since `open()`."""
        return StoreStats(
            engine="sqlite",
            schema_version=_schema.SCHEMA_VERSION,
            pending_writes=self._pending,
            transactions=self._transactions,
            writes=self._writes,
            longest_transaction_ms=self._longest_ns / 1e6,
            dictionaries=len(self.compression),
            details={"path": str(self.path)},
        )


def _translated(error: Exception) -> Exception:
    """Our error for one of SQLite's; others pass. SQLite's messages hold names of tables and no values."""
    if isinstance(error, sqlite3.OperationalError):
        return MemoryStoreUnavailableError(f"SQLite: {error}")
    if isinstance(error, sqlite3.Error):
        return MemoryStoreError(f"SQLite: {error}")
    return error
