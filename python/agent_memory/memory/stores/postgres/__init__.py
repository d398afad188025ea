"""The PostgreSQL store, on psycopg 3 (the extra `postgres`)."""

from agent_memory.memory.stores.postgres.async_store import AsyncPostgresStore
from agent_memory.memory.stores.postgres.store import PostgresStore

__all__ = ["AsyncPostgresStore", "PostgresStore"]
