"""What the memory system raises by itself. None of these errors carries a content, a vector or a password."""

from __future__ import annotations

import enum

__all__ = [
    "AgentErasedError",
    "CorruptMemoryError",
    "DurabilityError",
    "EmbeddingSpaceError",
    "MemoryConflictError",
    "MemoryDeletedError",
    "MemorySchemaError",
    "MemoryStoreClosedError",
    "MemoryStoreError",
    "MemoryStoreFullError",
    "MemoryStoreUnavailableError",
    "MemorySystemError",
    "StoreFault",
]


class StoreFault(enum.StrEnum):
    """What an error of the database means. `docs/reference/memory.md` has the tables of codes."""

    AWAY = "away"
    """It cannot be reached or does not answer: reads and writes go on without it, and it is asked again soon."""
    TRANSIENT = "transient"
    """The same again will do, and was done, until the attempts were used up: as LOCKED from there on."""
    FULL = "full"
    """It takes no more: disk, quota or memory. Reads go on."""
    READ_ONLY = "read-only"
    """It takes no writes: a standby, a file or a file system without the right to write. Reads go on."""
    LOCKED = "locked"
    """Another process held what was needed for too long. Reads go on."""
    DAMAGED = "damaged"
    """The database itself is damaged; raised, and nothing else is tried."""
    WRONG = "wrong"
    """The statement, the rights or the schema are wrong; raised, and nothing else is tried."""


class MemorySystemError(Exception):
    """The base of everything below."""


class MemoryStoreError(MemorySystemError):
    """The SQL store could not do what it was asked for.

    `fault` says what that means, `code` is the SQLSTATE or the name of SQLite's extended code ("": the database has sent none).
    """

    default_fault = StoreFault.WRONG

    def __init__(self, message: str, *, fault: StoreFault | None = None, code: str = "") -> None:
        super().__init__(message)
        self.fault = self.default_fault if fault is None else fault
        self.code = code


class MemoryStoreUnavailableError(MemoryStoreError):
    """The store cannot do it now: the reason to go on without it and to come back later.

    `fault` is "away" (reads and writes fail), or "full", "read-only" or "locked" (reads go on).

    A write that raised it with `fault` "away" may have been committed. Repeating it is safe: copies with a version are applied
    once, and a create is repeated under the same id.
    """

    default_fault = StoreFault.AWAY


class MemoryStoreClosedError(MemoryStoreError):
    """The store was used before `open()` or after `close()`."""


class MemoryStoreFullError(MemoryStoreError):
    """`max_pending_writes` writes wait for the store already; this one was refused and nothing of it was done."""


class MemorySchemaError(MemoryStoreError):
    """The database belongs to another program, or to a newer version of this package. Nothing in it was changed."""


class CorruptMemoryError(MemoryStoreError):
    """A copy of a memory does not match its checksum. `memory_id` names it."""

    def __init__(self, memory_id: str, where: str) -> None:
        super().__init__(
            f"the copy of memory {memory_id!r} in {where} does not match its checksum", fault=StoreFault.DAMAGED
        )
        self.memory_id = memory_id
        self.where = where


class MemoryConflictError(MemorySystemError):
    """`if_version` names another version than the store holds. `memory_id` and `held_version` tell which."""

    def __init__(self, memory_id: str, expected_version: int, held_version: int) -> None:
        super().__init__(
            f"if_version must be the version of memory {memory_id!r}, {held_version}, got {expected_version}"
        )
        self.memory_id = memory_id
        self.expected_version = expected_version
        self.held_version = held_version


class AgentErasedError(MemorySystemError):
    """The write belongs to a time before its agent or user was erased, and was refused."""


class MemoryDeletedError(MemorySystemError):
    """The `idempotency_key` belongs to a memory that was deleted or has expired; nothing was stored. `memory_id` names it.

    The key is free again once the tombstone is forgotten (`MaintenanceSettings.tombstone_ttl_s`).
    """

    def __init__(self, memory_id: str) -> None:
        super().__init__(
            f"idempotency_key must be a new one: its memory {memory_id!r} was deleted or has expired, nothing was stored"
        )
        self.memory_id = memory_id


class EmbeddingSpaceError(MemorySystemError, ValueError):
    """A vector, or the model of `embed`, is of another kind than the vectors of the database; nothing was stored.

    `reembed()` makes all vectors anew with the model of this system.
    """


class DurabilityError(MemorySystemError):
    """No level that the `minimum` of a write accepts has confirmed it. `asked` is the level that refused it, `reason` says why.

    `fault` says what SQL's error meant, where it was SQL's. If SQL or Redis stopped answering during the write, it may have
    been stored all the same: a `store` with an `idempotency_key` can be repeated.
    """

    def __init__(self, asked: str, reason: str, *, fault: StoreFault | None = None) -> None:
        super().__init__(f"durability {asked!r} was not reached: {reason}")
        self.asked = asked
        self.reason = reason
        self.fault = fault
