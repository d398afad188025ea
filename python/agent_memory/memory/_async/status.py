"""How a memory system goes: its counters, and its health."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agent_memory.memory._async.parts import AsyncParts
from agent_memory.memory.reports import MemoryHealth

__all__ = ["async_checked_health_of", "async_health_of", "async_stats_of"]


def async_stats_of(parts: AsyncParts | None) -> dict[str, Any]:
    """Presence of SQL and Redis, counters of loader, index, synchronisation and store, as this process knows them."""
    if parts is None:
        return {"open": False}
    return {
        "open": True,
        "sql": {
            "here": parts.sql.availability.away_s is None,
            "away_s": parts.sql.availability.away_s,
            "failures": parts.sql.availability.failures,
            "refuses_writes": None if parts.sql.writability.fault is None else parts.sql.writability.fault.value,
            "refused_writes": parts.sql.writability.refusals,
        },
        "redis": {
            "here": parts.redis.tier is not None and parts.redis.availability.away_s is None,
            "away_s": parts.redis.availability.away_s,
            "failures": parts.redis.availability.failures,
            "puts": parts.clean.put_count,
            "dirty_entries": parts.synchronisation.dirty_entries,
            "dirty_bytes": parts.dirty.size_bytes,
        },
        "journal": {
            "entries": 0 if parts.journal is None else len(parts.journal),
            "bytes": 0 if parts.journal is None else parts.journal.size_bytes,
        },
        "loader": {
            "loaded": parts.loader.loaded,
            "shared": parts.loader.shared,
            "absent_hits": parts.loader.absent_hits,
        },
        "damaged": {"memories": len(parts.damage), "met": parts.damage.met},
        "index": dict(parts.indexes.stats()),
        "embedding": parts.embedding.stats(),
        "service": {
            "running": parts.service.is_running,
            "rounds": parts.synchronisation.rounds,
            "failures": parts.service.failures,
            "dropped_accesses": parts.accesses.dropped,
        },
        "store": asdict(parts.sql.store.stats()),
    }


def async_health_of(parts: AsyncParts | None) -> MemoryHealth:
    """What the last calls have shown of SQL and Redis."""
    if parts is None:
        return MemoryHealth.of("unknown", "unknown")
    if parts.redis.tier is None:
        return MemoryHealth.of(parts.sql.known_state(), "none")
    return MemoryHealth.of(parts.sql.known_state(), "here" if parts.redis.availability.away_s is None else "away")


async def async_checked_health_of(parts: AsyncParts) -> MemoryHealth:
    """Asks SQL and Redis, and says which of them answers."""
    await parts.embedding.refresh()
    sql, tier = await parts.sql.state(), parts.redis.tier
    if tier is None:
        return MemoryHealth.of(sql, "none")
    return MemoryHealth.of(sql, "here" if await parts.redis.ask(tier.client.ping) else "away")
