# Generated from ../_async/sql_gateway.py by tools/generate_sync.py: edit that file, not this one.

"""The SQL store with what its calls have shown: calls to a store that is away or locked are refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_memory.memory._availability import Availability, Writability
from agent_memory.memory.errors import MemoryStoreError, MemoryStoreUnavailableError, StoreFault
from agent_memory.memory.stores._sync.protocol import MemoryStore
from agent_memory.memory.stores.operations import Operation, WriteResult

__all__ = ["SqlGateway"]


class SqlGateway:
    """Calls of a SQL store. Any number of threads may use one object."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.availability = Availability("SQL")
        self.writability = Writability()
        self._fault: StoreFault | None = None
        """What the last call showed, of those that were answered with an error; None: it was answered."""

    def is_away(self) -> bool:
        """Whether a call failed a moment ago, so that the next one would be refused."""
        return self.availability.is_away()

    def ask(self, function: Any, *args: Any, **options: Any) -> Any:
        """Calls a method of the store; a MemoryStoreUnavailableError that says so is remembered as its absence."""
        if self.availability.is_away():
            raise MemoryStoreUnavailableError(f"SQL was away a moment ago ({self.availability.last_error})")
        try:
            answer = function(*args, **options)
        except MemoryStoreUnavailableError as error:
            if error.fault is StoreFault.AWAY:
                self.availability.failed(error)
            else:
                self.availability.answered()
                self._fault = _lasting(error.fault)
            raise
        except MemoryStoreError as error:
            if type(error) is MemoryStoreError:  # not of one memory, nor of this object
                self._fault = _lasting(error.fault)
            raise
        self.availability.answered()
        self._fault = None
        return answer

    def change(self, function: Any, *args: Any, **options: Any) -> Any:
        """Calls a method of the store that writes; that SQL takes no writes is remembered, and concerns writes alone."""
        if self.writability.is_locked():
            raise MemoryStoreUnavailableError(
                f"SQL was locked a moment ago ({self.writability.last_error})", fault=StoreFault.LOCKED
            )
        try:
            return self.ask(function, *args, **options)
        except MemoryStoreUnavailableError as error:
            if error.fault is not StoreFault.AWAY:
                self.writability.refused(error)
            raise

    def write(self, operations: Sequence[Operation]) -> list[WriteResult]:
        """Has the store apply operations."""
        results: list[WriteResult] = self.change(self.store.write, operations)
        if self.writability.fault is not None and any(result.seq for result in results):
            self.writability.accepted()
        return results

    def known_state(self) -> str:
        """`"here"`, or the fault that the last calls have shown; asks nothing."""
        if self.availability.away_s is not None:
            return StoreFault.AWAY.value
        fault = self._fault or self.writability.fault
        return "here" if fault is None else fault.value

    def state(self) -> str:
        """`"here"`, or the fault that SQL has now; asks it, whether it takes writes too."""
        try:
            self.ask(self.store.agents, limit=1)
            self.change(self.store.check_writable)
        except MemoryStoreError as error:
            return _lasting(error.fault).value
        fault = self.writability.checked()
        return "here" if fault is None else fault.value


def _lasting(fault: StoreFault) -> StoreFault:
    """What a fault means that is raised: the repetitions of a transient one were used up."""
    return StoreFault.LOCKED if fault is StoreFault.TRANSIENT else fault
