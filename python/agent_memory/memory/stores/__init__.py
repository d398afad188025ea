"""The SQL stores: the truth about every memory. `_async/protocol.py` says what each of them does."""

from agent_memory.memory.stores._async.protocol import AsyncMemoryStore
from agent_memory.memory.stores._sync.protocol import MemoryStore
from agent_memory.memory.stores.operations import (
    Access,
    AgentState,
    Candidate,
    ChangePage,
    Cursor,
    Delete,
    Erasure,
    MemoryQuery,
    Move,
    NamespaceCount,
    Operation,
    Put,
    QueryPage,
    StoreStats,
    WriteResult,
    WriteStatus,
)

__all__ = [
    "Access",
    "AgentState",
    "AsyncMemoryStore",
    "Candidate",
    "ChangePage",
    "Cursor",
    "Delete",
    "Erasure",
    "MemoryQuery",
    "MemoryStore",
    "Move",
    "NamespaceCount",
    "Operation",
    "Put",
    "QueryPage",
    "StoreStats",
    "WriteResult",
    "WriteStatus",
]
