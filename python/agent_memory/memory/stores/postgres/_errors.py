"""What PostgreSQL's errors mean: one table, by SQLSTATE, the most exact entry first.

A TRANSIENT failure has undone its transaction, which is repeated inside the call. A connection that breaks is AWAY; where it
came from the pool and broke before its COMMIT, the call is repeated on another one.
"""

from __future__ import annotations

from typing import Final

import psycopg

from agent_memory.memory.errors import MemoryStoreError, MemoryStoreUnavailableError, StoreFault

__all__ = ["FAULTS", "fault_of", "translated"]

FAULTS: Final = {
    # Whole classes, by their first two characters.
    "08": StoreFault.AWAY,  # connection exceptions
    "53": StoreFault.FULL,  # insufficient resources: disk, memory, limits of the configuration
    "57P": StoreFault.AWAY,  # shutting down, starting up, ended by an administrator or for being idle
    "58": StoreFault.AWAY,  # errors of the system under it: input and output, files
    # Single states.
    "25006": StoreFault.READ_ONLY,  # read_only_sql_transaction: a standby, or default_transaction_read_only
    "25P03": StoreFault.AWAY,  # idle_in_transaction_session_timeout
    "25P04": StoreFault.LOCKED,  # transaction_timeout
    "28000": StoreFault.AWAY,  # invalid_authorization_specification: while it connects
    "28P01": StoreFault.AWAY,  # invalid_password
    "3D000": StoreFault.AWAY,  # invalid_catalog_name: the database is not there
    "40001": StoreFault.TRANSIENT,  # serialization_failure
    "40003": StoreFault.AWAY,  # statement_completion_unknown
    "40P01": StoreFault.TRANSIENT,  # deadlock_detected
    "53300": StoreFault.AWAY,  # too_many_connections: none can be had
    "55006": StoreFault.LOCKED,  # object_in_use
    "55P03": StoreFault.LOCKED,  # lock_not_available
    "57014": StoreFault.LOCKED,  # query_canceled: statement_timeout
    "XX001": StoreFault.DAMAGED,  # data_corrupted
    "XX002": StoreFault.DAMAGED,  # index_corrupted
}
"""Everything else is WRONG: rights (42501), constraints (23), syntax and tables (42), data (22), internal (XX000), ..."""


def fault_of(sqlstate: str | None) -> StoreFault:
    """What a SQLSTATE means; None: the connection broke, or there was none."""
    if sqlstate is None:
        return StoreFault.AWAY
    for length in (5, 3, 2):
        found = FAULTS.get(sqlstate[:length])
        if found is not None:
            return found
    return StoreFault.WRONG


def translated(error: psycopg.Error) -> MemoryStoreError:
    """Our error for one of psycopg's, without the detail, which may hold values."""
    code = error.sqlstate
    is_server_error = code is not None or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    fault = fault_of(code) if is_server_error else StoreFault.WRONG
    message = error.diag.message_primary or (str(error).splitlines() or ["no reason given"])[0]
    if isinstance(error, psycopg.DataError):
        message = type(error).__name__  # its message quotes what was refused
    told = f"PostgreSQL: {message} (SQLSTATE {code})" if code else f"PostgreSQL: {message}"
    if fault in (StoreFault.WRONG, StoreFault.DAMAGED):
        return MemoryStoreError(told, fault=fault, code=code or "")
    return MemoryStoreUnavailableError(told, fault=fault, code=code or "")
