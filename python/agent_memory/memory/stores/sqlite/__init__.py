"""The SQLite store: the standard library's sqlite3, one writer thread with group commit, a reader per thread."""

from agent_memory.memory.stores.sqlite._async.store import AsyncSqliteStore
from agent_memory.memory.stores.sqlite._sync.store import SqliteStore

__all__ = ["AsyncSqliteStore", "SqliteStore"]
