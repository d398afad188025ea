"""The SQLite engine: one thread writes, any thread reads.

States: new, open, closing, closed; `open()` again from closed. In a child of fork() it is new: connections never cross a
fork.

Rules
- Writes wait in one queue (`MemoryWriter` of the core), in the order in which they came. The writer takes as many as are
  there, up to `MAX_TRANSACTION_WRITES` operations (fewer where so many took longer than `MAX_TRANSACTION_S`), into one
  transaction, and answers all of them once it is committed and synced: under load many callers share one sync. A longer
  list of operations goes through several transactions.
- Operations are read, decided and written by the core, without the interpreter, so that an event loop goes on meanwhile.
  Where a content that is in the database has to be compressed, nothing is written there, and they come again: then they are
  read and written here, through `sqlite3`, and decided by the same plan. So is everything where the core cannot get at the
  SQLite library of `sqlite3`.
- If a transaction fails, nothing of it is there. Where the database is not to blame, its jobs are tried again one by one,
  so that one bad write does not fail its neighbours.
- Reads have a connection per thread, closed with the thread or the store. Tasks read in `reader_threads` threads.
- The writer checkpoints the WAL after its callers have been answered.
"""

from __future__ import annotations

import _sqlite3
import asyncio
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from agent_memory import _at_fork
from agent_memory._commits import AsyncCommits
from agent_memory._core import MemoryWriter, PendingWrites
from agent_memory.memory._copy import new_writer
from agent_memory.memory.errors import (
    MemoryStoreClosedError,
    MemoryStoreFullError,
    MemoryStoreUnavailableError,
    StoreFault,
)
from agent_memory.memory.settings import LongTermSettings, SqliteSettings
from agent_memory.memory.stores._compression import Compression
from agent_memory.memory.stores._planned import CLASSES
from agent_memory.memory.stores.operations import Operation, StoreStats, WriteResult
from agent_memory.memory.stores.sqlite import _schema
from agent_memory.memory.stores.sqlite._errors import translated
from agent_memory.memory.stores.sqlite._reading import Reader
from agent_memory.memory.stores.sqlite._waiters import AsyncWaiter, Waiter, deliver_all
from agent_memory.memory.stores.sqlite._writing import apply_operations, load_dictionaries

__all__ = ["SqliteEngine"]

T = TypeVar("T")

MAX_TRANSACTION_WRITES: Final = 1_000
"""The most writes of one transaction."""

MAX_TRANSACTION_S: Final = 0.05
"""Seconds that a transaction should hold the database at the most: it takes fewer writes where the last one took longer, and
more again, up to `MAX_TRANSACTION_WRITES`, where it took less than half."""

WAL_BYTES: Final = 16 * 1024 * 1024
"""The size at which the WAL is checkpointed, while writes wait."""

WAL_LIMIT_FACTOR: Final = 16
"""A WAL that readers let grow to this many times `WAL_BYTES` is checkpointed with waiting."""

_ROW_BYTES: Final = 1_024
"""What a change of a row adds to the log, roughly."""


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

    @property
    def size(self) -> int:
        """How many writes it counts as."""
        return 1 if self.function is not None else len(self.operations)


class SqliteEngine:
    """The part of the SQLite store that both of its faces share. Thread-safe.

    Unless it `writes_directly`, everything is written through `sqlite3`, as where the core cannot get at its library.
    """

    def __init__(
        self,
        path: str | Path,
        settings: SqliteSettings,
        long_term: LongTermSettings,
        clock_us: Callable[[], int],
        *,
        writes_directly: bool = True,
    ) -> None:
        self._writes_directly = writes_directly
        self.path = Path(path)
        self.settings = settings
        self.long_term = long_term
        self.clock_us = clock_us
        self.writer_number = new_writer()
        self.compression = Compression(long_term)
        self._forget()
        _at_fork.in_child(self._after_fork)

    def _forget(self) -> None:
        self._state = "new"
        self._opening = threading.Lock()
        self._registering = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._writer: MemoryWriter | None = None
        self._commits: AsyncCommits | None = None
        self._readers = threading.local()
        self._opened_readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._epoch = object()
        self._executor: ThreadPoolExecutor | None = None
        self._transactions = 0
        self._writes = 0
        self._longest_ns = 0
        self._checkpoint_pages = WAL_BYTES // _schema.PAGE_BYTES
        self._folded_changes = 0

    def _after_fork(self) -> None:
        # What is the parent's is neither used nor freed here: a thread of his may have been inside of SQLite or of the queue,
        # with locks that are never released.
        writer = self._writer
        if writer is not None:
            kept = list(self._opened_readers)
            writer.abandon([writer, self._commits, self._connection, self._readers, self._executor, kept])
        self._forget()

    # --- opening and closing -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens the database and starts the writer; does nothing when open."""
        with self._opening:
            if self._state == "open":
                return
            try:
                connection, writer = self._connect()
                try:
                    _schema.migrate(connection, self.path, self.settings.busy_timeout_s)
                    load_dictionaries(connection, self.compression)
                except BaseException:
                    writer.release()
                    connection.close()
                    raise
            except sqlite3.Error as error:
                raise translated(error) from error
            self._connection, self._writer, self._commits = connection, writer, AsyncCommits(writer)
            self._folded_changes = connection.total_changes
            self._transactions = self._writes = self._longest_ns = 0
            self._epoch = object()
            self._state = "open"
            self._thread = threading.Thread(
                target=self._work, args=(connection, writer), name="agent-memory-sqlite-writer", daemon=True
            )
            self._thread.start()

    def _connect(self) -> tuple[sqlite3.Connection, MemoryWriter]:
        settings = self.settings

        def connect() -> sqlite3.Connection:
            return _schema.connect(self.path, settings, writer=True)

        return MemoryWriter.open(
            connect,
            getattr(_sqlite3, "__file__", None),  # none where it is a part of the interpreter
            CLASSES,
            (settings.max_pending_writes, MAX_TRANSACTION_WRITES, MAX_TRANSACTION_S),
            self._writes_directly,
        )

    def close(self) -> None:
        """Writes what waits, then closes; does nothing unless open."""
        with self._opening:
            if self._state != "open":
                return
            self._state = "closing"
            writer, thread, progress = self._writer, self._thread, self._commits
            assert writer is not None
            assert thread is not None
            assert progress is not None
            writer.close()
            thread.join()
            progress.close()
            executor, self._executor = self._executor, None
            if executor is not None:
                executor.shutdown(wait=True)
            self._readers = threading.local()
            self._state = "closed"
            with self._registering:
                readers = list(self._opened_readers)
            for reader in readers:
                reader.close()

    # --- writing --------------------------------------------------------------------------------------------------------

    def submit_direct(self, operations: Sequence[Operation], start: int) -> PendingWrites | None:
        """Hands the core as many as one transaction takes, from `start` on; None: they are to be written through `sqlite3`."""
        writer = self._open_writer()
        if not writer.is_direct:
            return None
        compression = self.compression
        # To round its vector gives a memory another checksum: that is done here.
        pack = compression.pack_content if compression.keeps_vectors else None
        part = list(operations[start : start + writer.room])
        with self._refusals():
            return writer.submit_direct(part, self.clock_us(), pack, compression.least_bytes, compression.newest)

    def results(self, pending: PendingWrites) -> list[WriteResult] | None:
        """Waits until they are committed and synced; None: they are to be written through `sqlite3` after all."""
        assert self._writer is not None
        self._writer.wait(pending.ticket)
        return self._landed(pending)

    async def async_results(self, pending: PendingWrites) -> list[WriteResult] | None:
        """As `results`, for tasks. Cancelled, it leaves; what it waited for is done all the same."""
        assert self._commits is not None
        await self._commits.wait(pending.ticket)
        return self._landed(pending)

    @staticmethod
    def _landed(pending: PendingWrites) -> list[WriteResult] | None:
        try:
            return pending.results()
        except sqlite3.Error as error:
            raise translated(error) from error

    def submit(self, waiter: Waiter | AsyncWaiter, operations: Sequence[Operation]) -> None:
        """Queues operations to be written through `sqlite3`; `waiter` gets their results, or the error."""
        with self._refusals():
            self._open_writer().submit(_Job(waiter, operations), len(operations), False)

    def submit_function(self, waiter: Waiter | AsyncWaiter, function: Callable[[sqlite3.Connection], Any]) -> None:
        """Queues a function to be run in a transaction; `waiter` gets what it returns."""
        with self._refusals():
            self._open_writer().submit(_Job(waiter, (), function), 1, True)

    def _open_writer(self) -> MemoryWriter:
        writer = self._writer
        if self._state != "open" or writer is None:
            raise MemoryStoreClosedError(f"the store is {self._state}: open() it first")
        return writer

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """The errors of a queue that takes nothing more, as ours."""
        try:
            yield
        except BufferError:
            most = self.settings.max_pending_writes
            raise MemoryStoreFullError(f"max_pending_writes ({most}) writes wait already") from None
        except RuntimeError:
            self._open_writer()  # it was closed meanwhile
            raise

    def _work(self, connection: sqlite3.Connection, writer: MemoryWriter) -> None:
        try:
            while (jobs := writer.work(self._checkpoint_pages)) is not None:
                if jobs:
                    self._run(connection, writer, jobs)
                self._fold_log(connection, writer)
        finally:
            self._connection = None
            writer.release()
            connection.close()

    def _run(self, connection: sqlite3.Connection, writer: MemoryWriter, jobs: list[_Job]) -> None:
        try:
            answers = self._transact(connection, writer.room, jobs)
        except Exception as error:  # whatever it is, its callers must learn of it
            failure = translated(error)
            if len(jobs) > 1 and _is_of_one(failure):
                for job in jobs:
                    self._run(connection, writer, [job])
                return
            answers = [(job, None, failure) for job in jobs]
        for job, _, failed in reversed(answers):
            left = len(job.operations) - len(job.results)
            if failed is None and left:
                writer.give_back(job, left)
            else:
                writer.finish(job.size)
        deliver_all(
            (job.waiter, result, failed)
            for job, result, failed in answers
            if failed is not None or len(job.results) == len(job.operations)
        )

    def _transact(
        self, connection: sqlite3.Connection, room: int, jobs: list[_Job]
    ) -> list[tuple[_Job, Any, BaseException | None]]:
        began_ns = time.perf_counter_ns()
        parts = [job.operations[len(job.results) : len(job.results) + room] for job in jobs]
        operations = [operation for part in parts for operation in part]
        function = jobs[0].function
        result: Any = None
        results: list[WriteResult] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            if function is not None:
                result = function(connection)
            else:
                results = apply_operations(connection, operations, self.compression, self.clock_us())
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._transactions += 1
        self._writes += len(operations)
        took_ns = time.perf_counter_ns() - began_ns
        self._longest_ns = max(self._longest_ns, took_ns)
        assert self._writer is not None
        self._writer.fit_room(took_ns / 1e9, len(operations))
        start = 0
        for job, part in zip(jobs, parts, strict=True):
            job.results += results[start : start + len(part)]
            start += len(part)
        return [(job, result if job.function is not None else job.results, None) for job in jobs]

    def _fold_log(self, connection: sqlite3.Connection, writer: MemoryWriter) -> None:
        limit = WAL_BYTES // _schema.PAGE_BYTES
        try:
            size = self._log_bytes(connection, writer)
            if size < WAL_BYTES:
                return
            mode = "TRUNCATE" if size >= WAL_LIMIT_FACTOR * WAL_BYTES else "PASSIVE"
            _, pages, folded = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except (sqlite3.Error, OSError):
            pages, folded = writer.log_pages or 0, None  # the next write reports a full disk
        # All of it: the log begins anew with the next write. Not all: a reader still needs what is left, and an attempt that
        # waits for it keeps all writers waiting, so the next one has time.
        self._checkpoint_pages = limit if folded == pages else pages + limit

    def scrub(self) -> bool:
        """Takes what is erased out of the files: a database of up to `vacuum_bytes` is written anew, and the log is emptied.

        On a connection of its own. False where a reader or writer is in the way, or the disk is full or takes no writes.
        """
        if self._state != "open":
            raise MemoryStoreClosedError(f"the store is {self._state}: open() it first")
        try:
            with closing(_schema.connect(self.path, self.settings, writer=True)) as connection:
                if _schema.size_bytes(connection) <= self.settings.vacuum_bytes:
                    connection.execute("PRAGMA temp_store = DEFAULT")  # the copy goes to a file
                    connection.execute("VACUUM")
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            failure = translated(error)
            if isinstance(failure, MemoryStoreUnavailableError) and failure.fault is not StoreFault.AWAY:
                return False
            raise failure from error
        return not busy

    def _log_bytes(self, connection: sqlite3.Connection, writer: MemoryWriter) -> int:
        """The size of the write-ahead log; 0 where it has grown too little since the last look."""
        pages = writer.log_pages
        if pages is not None:
            return pages * _schema.PAGE_BYTES if pages >= self._checkpoint_pages else 0
        # Rows are a rough measure of the log's growth, and cost nothing; the file's size is asked for when they say so.
        changes = connection.total_changes
        if (changes - self._folded_changes) * _ROW_BYTES < WAL_BYTES // 8:
            return 0
        self._folded_changes = changes
        return Path(f"{self.path}-wal").stat().st_size

    # --- reading ----------------------------------------------------------------------------------------------------------

    def read(self, function: Callable[[Reader], T]) -> T:
        """Runs a function on this thread's connection."""
        try:
            reader = self._reader()
            with reader.in_use:
                return function(reader)
        except sqlite3.Error as error:
            raise translated(error) from error

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
            reader = Reader(_schema.connect(self.path, self.settings, writer=False), self.compression)
            with self._registering:
                self._opened_readers.add(reader)
            if self._state == "closed":  # meanwhile, and it has closed those that it knew of
                reader.close()
                raise MemoryStoreClosedError("the store is closed: open() it first")
            local.reader, local.epoch = reader, self._epoch
            return reader
        known: Reader = local.reader
        return known

    def stats(self) -> StoreStats:
        """Counters since `open()`."""
        writer = self._writer
        transactions, writes, longest_ns = (0, 0, 0) if writer is None else writer.stats()
        return StoreStats(
            engine="sqlite",
            schema_version=_schema.SCHEMA_VERSION,
            pending_writes=0 if writer is None else writer.pending,
            transactions=self._transactions + transactions,
            writes=self._writes + writes,
            longest_transaction_ms=max(self._longest_ns, longest_ns) / 1e6,
            dictionaries=len(self.compression),
            details={"path": str(self.path)},
        )


def _is_of_one(failure: Exception) -> bool:
    """Whether the others of a transaction may succeed without the one that it failed for. A smaller write may fit."""
    return not isinstance(failure, MemoryStoreUnavailableError) or failure.fault is StoreFault.FULL
