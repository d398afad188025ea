# Generated from ../_async/group.py by tools/generate_sync.py: edit that file, not this one.

"""Group commit on the client's side: writes that wait for a connection go together.

Rules
- A caller that finds no commit running takes all waiting writes, up to `MAX_TRANSACTION_WRITES`, into one transaction. Calls
  that arrive meanwhile wait for the next one. One call's operations keep their order, and calls the order in which they came.
- If a transaction fails, nothing of it is there. Where the server is not to blame, its writes are tried again call by call.
- A caller that is cancelled leaves; its writes are done all the same, and no other call's suffer.
- A thread that is interrupted (KeyboardInterrupt) while it commits for others leaves with its own writes; theirs are still in
  the line, and the next commit group takes them. Only if the interruption hit the COMMIT is their outcome
  unknown: then MemoryStoreUnavailableError is raised to them, and nothing is repeated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from agent_memory._concurrency import ASYNC, Lock, Task
from agent_memory.memory.errors import MemoryStoreFullError, MemoryStoreUnavailableError, StoreFault
from agent_memory.memory.settings import PostgresSettings
from agent_memory.memory.stores.operations import Operation, WriteResult

__all__ = ["GroupCommit"]

MAX_TRANSACTION_WRITES: Final = 500
"""The most writes of one transaction; a call of more goes through several."""

_UNKNOWN: Final = "the thread that committed this write was interrupted: its outcome is unknown"


class _Call:
    """The operations of one caller."""

    __slots__ = ("error", "has_left", "is_committing", "is_done", "operations", "results", "run")

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.results: list[WriteResult] = []
        self.error: Exception | None = None
        self.is_done = False
        self.has_left = False
        self.is_committing = False  # whether its COMMIT is under way
        self.run: Task[None] | None = None


class GroupCommit:
    """Turns many small writes into few transactions. `apply` runs operations in one transaction."""

    def __init__(
        self,
        settings: PostgresSettings,
        apply: Callable[[Sequence[Operation]], list[WriteResult]],
    ) -> None:
        self._settings = settings
        self._apply = apply
        self._turn = Lock()
        self._mutex = threading.Lock()
        # In the order in which they came. A call stays here until it is done, whichever thread works on it.
        self._waiting: dict[_Call, None] = {}
        self._at_work: list[_Call] = []
        self.pending = 0
        self.transactions = 0
        self.writes = 0
        self.longest_ns = 0

    def write(self, operations: Sequence[Operation]) -> list[WriteResult]:
        """The results of these operations, committed; raises MemoryStoreFullError, or what the transaction raised."""
        call = _Call(operations)
        try:
            with self._mutex:
                if self.pending >= self._settings.max_pending_writes:
                    raise MemoryStoreFullError(
                        f"max_pending_writes ({self._settings.max_pending_writes}) writes wait already"
                    )
                self._waiting[call] = None
                self.pending += len(operations)
            with self._turn:
                # Whose turn it is need not be whose call came first, and what fits into one transaction may end before his own.
                while not call.is_done and call.run is None:
                    calls = self._take()
                    self._commit(calls)
                if ASYNC and call.run is not None:
                    call.run.join()
        except BaseException:
            call.has_left = True
            raise
        if call.error is not None:
            raise call.error
        if not call.is_done:  # its thread is ending
            raise MemoryStoreUnavailableError(_UNKNOWN)
        return call.results

    def begins(self) -> None:
        """Called by the thread that runs it: a transaction of the calls at work begins."""
        for call in self._at_work:
            call.is_committing = False

    def ends(self) -> None:
        """It is about to be committed."""
        for call in self._at_work:
            call.is_committing = True

    def _take(self) -> list[_Call]:
        """The next calls that fit into one transaction; a call that fits into none comes alone."""
        room = MAX_TRANSACTION_WRITES
        calls: list[_Call] = []
        with self._mutex:
            for call in list(self._waiting):
                if call.run is not None:
                    continue
                if call.is_committing and not call.is_done:
                    call.error = MemoryStoreUnavailableError(_UNKNOWN)
                    call.is_done = True
                if call.has_left or call.is_done:
                    self._forget(call)
                    continue
                if calls and len(call.operations) > room:
                    break
                room -= len(call.operations)
                calls.append(call)
        return calls

    def _forget(self, call: _Call) -> None:
        self.pending -= len(call.operations)
        self._waiting.pop(call, None)
        if not self._waiting:
            self.pending = 0  # also where an interruption came between

    def _commit(self, calls: list[_Call]) -> None:
        try:
            self._run(calls)
        finally:
            with self._mutex:
                for call in calls:
                    if (call.is_done or call.run is not None) and call in self._waiting:
                        self._forget(call)

    def _run(self, calls: list[_Call]) -> None:
        try:
            if len(calls) <= 1:
                for call in calls:
                    self._run_long(call)
                return
            results = self._transact(calls, [operation for call in calls for operation in call.operations])
        except Exception as error:
            is_away = isinstance(error, MemoryStoreUnavailableError) and error.fault is not StoreFault.FULL
            if len(calls) > 1 and not is_away:  # a smaller write may fit
                for call in calls:
                    call.is_committing = False
                for call in calls:
                    self._run([call])
                return
            for call in calls:
                call.error, call.is_done = error, True
            return
        start = 0
        for call in calls:
            call.results = results[start : start + len(call.operations)]
            call.is_done = True
            start += len(call.operations)

    def _run_long(self, call: _Call) -> None:
        step = MAX_TRANSACTION_WRITES
        # A thread that takes over from an interrupted one goes on where it stopped.
        for start in range(len(call.results), len(call.operations), step):
            call.results += self._transact([call], call.operations[start : start + step])
            call.is_committing = False
        call.is_done = True

    def _transact(self, calls: list[_Call], operations: Sequence[Operation]) -> list[WriteResult]:
        self._at_work = calls
        began_ns = time.perf_counter_ns()
        results: Any = self._apply(operations)
        self.transactions += 1
        self.writes += len(operations)
        self.longest_ns = max(self.longest_ns, time.perf_counter_ns() - began_ns)
        found: list[WriteResult] = results
        return found
