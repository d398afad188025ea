"""Where a read goes: Redis, then SQL, with the journal over both.

A read takes a valid clean copy of at least the version it knows; dirty copies are compared with SQL while it is here; the rest
is loaded from SQL. The journal is read over what the stores say. What a store that is away may have is unknown: an error, or
named as such.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from agent_memory.memory._agent_index import DELETED
from agent_memory.memory._async.dirty_copies import AsyncDirtyCopies
from agent_memory.memory._async.journal import AsyncMemoryJournal
from agent_memory.memory._async.journal_replay import AsyncJournalReplay
from agent_memory.memory._async.loader import AsyncDataLoader
from agent_memory.memory._async.redis_gateway import AsyncRedisGateway, redis_unread
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._copy import Copy
from agent_memory.memory._copy_rules import is_expired
from agent_memory.memory._damage import Damage
from agent_memory.memory._loaded_indexes import LoadedIndexes
from agent_memory.memory._outcomes import Found
from agent_memory.memory._redis_scripts import MAX_ENTRIES
from agent_memory.memory.errors import CorruptMemoryError, MemoryStoreUnavailableError

__all__ = ["AsyncReader"]


class _SeenInRedis:
    """What Redis says of some ids, beside its valid clean copies."""

    def __init__(self) -> None:
        self.hint: int | None = None
        self.dirty: dict[str, Copy] = {}
        self.damaged: dict[str, int] = {}
        """Damaged copies that SQL need not have, and their versions."""
        self.missing: list[str] = []
        self.unread: list[str] = []
        """Of those that are missing: which Redis could not be asked for."""


class AsyncReader:
    """Reads memories by their ids. Any number of tasks may use one object."""

    def __init__(
        self,
        sql: AsyncSqlGateway,
        redis: AsyncRedisGateway,
        dirty: AsyncDirtyCopies,
        loader: AsyncDataLoader,
        journal: AsyncMemoryJournal | None,
        replay: AsyncJournalReplay,
        loaded: LoadedIndexes,
        damage: Damage,
    ) -> None:
        self._sql = sql
        self._redis = redis
        self._dirty = dirty
        self._loader = loader
        self._journal = journal
        self._replay = replay
        self._loaded = loaded
        self._damage = damage

    async def read_one(self, agent_id: str, memory_id: str) -> Copy | None:
        """The copy of one id, of at least the version that this process knows of; None where it is nowhere."""
        known = self._loaded.known_versions(agent_id, [memory_id])
        return (await self.read(agent_id, [memory_id], known)).copies.get(memory_id)

    async def read(
        self, agent_id: str, ids: Sequence[str], known: Mapping[str, int], *, partial: bool = False
    ) -> Found:
        """The copies of `ids`.

        `known`: versions of ids below which a copy in Redis is a miss. With `partial` what cannot be read now, and what is
        damaged, is left out and named; otherwise MemoryStoreUnavailableError or CorruptMemoryError is raised.
        """
        found: dict[str, Copy] = {}
        journalled = self._journal.find(ids) if self._journal is not None else []
        if journalled and self._journal is not None and not self._sql.is_away():
            # SQL may have got something greater since, or an erasure.
            await self._replay.run()
            journalled = self._journal.find(ids)
        seen = await self._read_redis(agent_id, ids, known, found)
        unread = set(seen.unread)
        corrupt: set[str] = set()
        if seen.missing or seen.dirty or seen.damaged:
            try:
                rows = await self._loader.load(agent_id, seen.missing, [*seen.dirty, *seen.damaged], corrupt)
            except MemoryStoreUnavailableError:
                needed = {*seen.missing, *seen.damaged}
                if not partial and not {copy.id for copy in journalled}.issuperset(needed):
                    raise
                rows = {}
                unread.update(needed)
            found.update(rows)
            for memory_id, copy in seen.dirty.items():
                row = rows.get(memory_id)
                if row is None or copy.stamp > row.stamp:
                    found[memory_id] = copy
        damaged = self._damaged(found, seen.damaged, corrupt)
        for copy in journalled:
            other = found.get(copy.id)
            if copy.agent_id == agent_id and (other is None or copy.stamp > other.stamp):
                found[copy.id] = copy
                damaged.pop(copy.id, None)
        unknown = frozenset(memory_id for memory_id in unread if self._is_unknown(memory_id, found, damaged, known))
        for memory_id, error in damaged.items():
            if error.where != "SQL":  # which the loader has noted
                self._damage.note(memory_id, error.where)
        if not partial and unknown:
            raise redis_unread()
        if not partial and damaged:
            raise next(iter(damaged.values()))
        for memory_id in unread:
            if memory_id in unknown or max(known.get(memory_id, 0), self._dirty.version_of(memory_id)) >= DELETED:
                found.pop(memory_id, None)
        now = time.time()
        living = {
            memory_id: copy
            for memory_id, copy in found.items()
            if not copy.deleted and not (copy.expires_at is not None and is_expired(copy.expires_at, now))
        }
        return Found(living, seen.hint, unknown, damaged)

    async def _read_redis(
        self, agent_id: str, ids: Sequence[str], known: Mapping[str, int], found: dict[str, Copy]
    ) -> _SeenInRedis:
        """Adds valid clean copies to `found`; returns what is to be asked of SQL."""
        seen = _SeenInRedis()
        for start in range(0, len(ids), MAX_ENTRIES):
            part = ids[start : start + MAX_ENTRIES]
            reply = None if self._redis.tier is None else await self._redis.ask(self._redis.tier.read, agent_id, part)
            if reply is None:
                seen.missing += part
                if self._redis.tier is not None:
                    seen.unread += part
                continue
            seen.hint = reply.hint
            seen.damaged |= {memory_id: one.version for memory_id, one in reply.damaged.items()}
            for memory_id, copy, is_dirty in zip(part, reply.copies, reply.dirty, strict=True):
                if memory_id in reply.damaged:
                    continue
                if copy is None or (not is_dirty and copy.version < known.get(memory_id, 0)):
                    seen.missing.append(memory_id)
                elif is_dirty:
                    seen.dirty[memory_id] = copy
                else:
                    found[memory_id] = copy
        return seen

    @staticmethod
    def _damaged(
        found: dict[str, Copy], in_redis: Mapping[str, int], in_sql: Collection[str]
    ) -> dict[str, CorruptMemoryError]:
        """The ids whose newest copy is damaged, as far as that is known; they leave `found`."""
        damaged = {memory_id: CorruptMemoryError(memory_id, "SQL") for memory_id in in_sql if memory_id not in found}
        for memory_id, version in in_redis.items():
            copy = found.get(memory_id)
            if copy is None or (not copy.deleted and copy.version < version):
                found.pop(memory_id, None)
                damaged[memory_id] = CorruptMemoryError(memory_id, "Redis")
        return damaged

    def _is_unknown(
        self, memory_id: str, found: Mapping[str, Copy], damaged: Collection[str], known: Mapping[str, int]
    ) -> bool:
        """Whether a store that could not be asked may have this memory, or the version of it that this process knows of."""
        copy = found.get(memory_id)
        least = max(known.get(memory_id, 0), self._dirty.version_of(memory_id))
        if copy is None:
            return memory_id not in damaged and least < DELETED
        return not copy.deleted and copy.version < least < DELETED
