"""Bringing a database to the schema of this version, under a lock that all processes share.

The number stands in the table `schema_version`; each migration file raises it by one, all in one transaction.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from psycopg import sql

from agent_memory.memory.errors import MemorySchemaError
from agent_memory.memory.stores.postgres._async.connections import AsyncSession

__all__ = ["SCHEMA_VERSION", "async_migrate"]

ADVISORY_LOCK: Final = 0x41674D656D6F7279
"""The number of the lock; "AgMemory"."""


def migrations() -> list[str]:
    """The migration files' texts, in their order."""
    folder = resources.files("agent_memory.memory.stores.postgres").joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [folder.joinpath(name).read_text(encoding="utf-8") for name in names]


SCHEMA_VERSION: Final = len(migrations())


async def async_migrate(connection: AsyncSession, schema: str) -> None:
    """Brings `schema` to SCHEMA_VERSION; raises MemorySchemaError, having changed nothing, where it must not."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        version = await _version(connection, schema)
        if version > SCHEMA_VERSION:
            raise MemorySchemaError(
                f"schema {schema!r} has version {version}, this version of agent_memory knows up to {SCHEMA_VERSION}:"
                " it needs a newer one"
            )
        if version == SCHEMA_VERSION:
            return
        if version == 0:
            await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            await connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
            await connection.execute("INSERT INTO schema_version VALUES (0)")
        for script in migrations()[version:]:
            await connection.execute(script.encode())
        await connection.execute("UPDATE schema_version SET version = %s", (SCHEMA_VERSION,))


async def _version(connection: AsyncSession, schema: str) -> int:
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
    names = {name for (name,) in await (await connection.execute(tables, (schema,))).fetchall()}
    if "schema_version" in names:
        row = await (await connection.execute("SELECT max(version) FROM schema_version")).fetchone()
        return int(row[0]) if row and row[0] is not None else 0
    if names:
        raise MemorySchemaError(f"schema {schema!r} holds tables of another application")
    return 0
