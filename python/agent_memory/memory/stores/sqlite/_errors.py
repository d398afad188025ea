"""What SQLite's errors mean: one table, by extended code.

SQLite waits for another connection's lock inside the call (`busy_timeout_s`), so what comes as BUSY has used up its attempts.
Of input and output errors those of writing leave the reads alone: a quota and a limit on the size of files come as such, a
full disk as FULL.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from agent_memory.memory.errors import MemoryStoreError, MemoryStoreUnavailableError, StoreFault

__all__ = ["FAULTS", "fault_of", "translated"]

FAULTS: Final = {
    # Primary codes; an extended code that is not here means what its primary one does.
    "SQLITE_PERM": StoreFault.AWAY,
    "SQLITE_BUSY": StoreFault.LOCKED,
    "SQLITE_LOCKED": StoreFault.LOCKED,
    "SQLITE_NOMEM": StoreFault.FULL,
    "SQLITE_READONLY": StoreFault.READ_ONLY,
    "SQLITE_INTERRUPT": StoreFault.LOCKED,
    "SQLITE_IOERR": StoreFault.AWAY,
    "SQLITE_CORRUPT": StoreFault.DAMAGED,
    "SQLITE_FULL": StoreFault.FULL,
    "SQLITE_CANTOPEN": StoreFault.AWAY,
    "SQLITE_PROTOCOL": StoreFault.LOCKED,
    "SQLITE_NOLFS": StoreFault.FULL,
    "SQLITE_NOTADB": StoreFault.DAMAGED,
    # Extended codes that mean something else.
    "SQLITE_IOERR_WRITE": StoreFault.FULL,
    "SQLITE_IOERR_FSYNC": StoreFault.FULL,
    "SQLITE_IOERR_DIR_FSYNC": StoreFault.FULL,
    "SQLITE_IOERR_TRUNCATE": StoreFault.FULL,
    "SQLITE_IOERR_SHMSIZE": StoreFault.FULL,
    "SQLITE_IOERR_NOMEM": StoreFault.FULL,
    "SQLITE_IOERR_BLOCKED": StoreFault.LOCKED,
    "SQLITE_IOERR_LOCK": StoreFault.LOCKED,
    "SQLITE_IOERR_DATA": StoreFault.DAMAGED,
    "SQLITE_IOERR_CORRUPTFS": StoreFault.DAMAGED,
}
"""By name. Everything else is WRONG: SQLITE_ERROR, CONSTRAINT, MISMATCH, TOOBIG, MISUSE, AUTH, ..."""

_NAMES: Final[dict[int, str]] = {getattr(sqlite3, name): name for name in FAULTS}


def name_of(code: int) -> str:
    """The name of an extended code; of one that the table does not have its number, with the name of its primary code."""
    primary = _NAMES.get(code & 0xFF, "SQLITE")
    return _NAMES.get(code) or f"{primary}/{code}"


def fault_of(code: int) -> StoreFault:
    """What an extended code means."""
    name = _NAMES.get(code) or _NAMES.get(code & 0xFF)
    return StoreFault.WRONG if name is None else FAULTS[name]


def translated(error: Exception) -> Exception:
    """Our error for one of SQLite's; others pass. SQLite's messages hold names of tables and no values."""
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # Of the module itself, which may quote a text that it could not decode.
        return MemoryStoreError(f"SQLite: {type(error).__name__} of the module sqlite3")
    fault, name = fault_of(code), name_of(code)
    message = f"SQLite: {error} ({name})"
    if fault in (StoreFault.WRONG, StoreFault.DAMAGED):
        return MemoryStoreError(message, fault=fault, code=name)
    return MemoryStoreUnavailableError(message, fault=fault, code=name)
