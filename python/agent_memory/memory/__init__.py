"""The tiers of agent memory: short-term and intermediate in Redis, long-term in SQL, one index over all of them."""

from agent_memory.memory._async_sync_service import AsyncSyncService
from agent_memory.memory._async_system import (
    AsyncIntermediateMemory,
    AsyncLongTermMemory,
    AsyncMemorySystem,
    AsyncShortTermMemory,
)
from agent_memory.memory._reports import Health, ImportReport, MaintenanceReport, SyncReport
from agent_memory.memory._sync_service import SyncService
from agent_memory.memory._system import IntermediateMemory, LongTermMemory, MemorySystem, ShortTermMemory
from agent_memory.memory.entries import Durability, MemoryEntry, MemoryId, Tier
from agent_memory.memory.errors import (
    AgentErasedError,
    CorruptMemoryError,
    DurabilityError,
    MemoryConflictError,
    MemoryDeletedError,
    MemorySchemaError,
    MemoryStoreClosedError,
    MemoryStoreError,
    MemoryStoreFullError,
    MemoryStoreUnavailableError,
    MemorySystemError,
    StoreFault,
)
from agent_memory.memory.settings import (
    AccessSettings,
    IndexSettings,
    IntermediateSettings,
    LoaderSettings,
    LongTermSettings,
    MaintenanceSettings,
    MemorySettings,
    PostgresSettings,
    ShortTermSettings,
    SqliteSettings,
    SyncSettings,
)

__all__ = [
    "AsyncIntermediateMemory",
    "AsyncLongTermMemory",
    "AsyncMemorySystem",
    "AsyncShortTermMemory",
    "AsyncSyncService",
    "Health",
    "ImportReport",
    "IntermediateMemory",
    "LongTermMemory",
    "MaintenanceReport",
    "MemorySystem",
    "ShortTermMemory",
    "SyncReport",
    "SyncService",
    "AccessSettings",
    "AgentErasedError",
    "CorruptMemoryError",
    "Durability",
    "DurabilityError",
    "IndexSettings",
    "IntermediateSettings",
    "LoaderSettings",
    "LongTermSettings",
    "MaintenanceSettings",
    "MemoryConflictError",
    "MemoryDeletedError",
    "MemoryEntry",
    "MemoryId",
    "MemorySchemaError",
    "MemorySettings",
    "MemoryStoreClosedError",
    "MemoryStoreError",
    "MemoryStoreFullError",
    "MemoryStoreUnavailableError",
    "MemorySystemError",
    "PostgresSettings",
    "ShortTermSettings",
    "SqliteSettings",
    "StoreFault",
    "SyncSettings",
    "Tier",
]
