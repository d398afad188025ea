"""The PostgreSQL store, on psycopg 3 (the extra `postgres`)."""

from importlib.util import find_spec

from agent_memory import _check

if find_spec("psycopg") is None:
    raise _check.missing_extra("a store in PostgreSQL", "psycopg", "postgres")

from agent_memory.memory.stores.postgres._async.store import AsyncPostgresStore
from agent_memory.memory.stores.postgres._sync.store import PostgresStore

__all__ = ["AsyncPostgresStore", "PostgresStore"]
