"""The SQLite store: the standard library's sqlite3, one writer thread with group commit, a reader per thread."""

from agent_memory.memory.stores.sqlite.async_store import AsyncSqliteStore
from agent_memory.memory.stores.sqlite.store import SqliteStore

__all__ = ["AsyncSqliteStore", "SqliteStore"]
