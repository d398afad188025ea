"""The PostgreSQL store, on psycopg 3 (the extra `postgres`)."""

from agent_memory.memory.stores.postgres._async.store import AsyncPostgresStore
from agent_memory.memory.stores.postgres._sync.store import PostgresStore

__all__ = ["AsyncPostgresStore", "PostgresStore"]
