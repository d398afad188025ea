"""The tiers of agent memory: short-term and intermediate in Redis, long-term in SQL, one index over all of them."""

from agent_memory.memory._async.sync_service import AsyncSyncService
from agent_memory.memory._async.system import AsyncMemorySystem
from agent_memory.memory._async.tiers import AsyncIntermediateMemory, AsyncLongTermMemory, AsyncShortTermMemory
from agent_memory.memory._conditions import QueryConditions, RetrievalConditions, TierConditions
from agent_memory.memory._sync.sync_service import SyncService
from agent_memory.memory._sync.system import MemorySystem
from agent_memory.memory._sync.tiers import IntermediateMemory, LongTermMemory, ShortTermMemory
from agent_memory.memory.attributes import MemoryAttributes, MemoryChanges, NewMemory
from agent_memory.memory.entries import Durability, MemoryEntry, MemoryId, Tier
from agent_memory.memory.errors import (
    AgentErasedError,
    CorruptMemoryError,
    DurabilityError,
    EmbeddingSpaceError,
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
from agent_memory.memory.ranking import Ranking
from agent_memory.memory.reports import (
    CheckReport,
    DamagedMemory,
    ImportReport,
    MaintenanceReport,
    MemoryHealth,
    ReembedReport,
    SyncReport,
)
from agent_memory.memory.settings import (
    IndexSettings,
    IntermediateSettings,
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
    "CheckReport",
    "DamagedMemory",
    "ImportReport",
    "IntermediateMemory",
    "LongTermMemory",
    "MaintenanceReport",
    "ReembedReport",
    "MemorySystem",
    "ShortTermMemory",
    "SyncReport",
    "SyncService",
    "AgentErasedError",
    "CorruptMemoryError",
    "Durability",
    "DurabilityError",
    "EmbeddingSpaceError",
    "IndexSettings",
    "IntermediateSettings",
    "LongTermSettings",
    "MaintenanceSettings",
    "MemoryAttributes",
    "MemoryChanges",
    "MemoryConflictError",
    "MemoryDeletedError",
    "MemoryEntry",
    "MemoryHealth",
    "MemoryId",
    "MemorySchemaError",
    "MemorySettings",
    "MemoryStoreClosedError",
    "MemoryStoreError",
    "MemoryStoreFullError",
    "MemoryStoreUnavailableError",
    "MemorySystemError",
    "NewMemory",
    "PostgresSettings",
    "QueryConditions",
    "Ranking",
    "RetrievalConditions",
    "ShortTermSettings",
    "SqliteSettings",
    "StoreFault",
    "SyncSettings",
    "Tier",
    "TierConditions",
]
