"""Dirty copies in Redis: writes that Redis accepted and SQL does not hold yet.

Room for them is bounded by `SyncSettings.max_unsynced_bytes`, as far as this process has seen, and refused on servers that
may evict them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from agent_memory.memory._async.redis_gateway import REDIS_ERRORS, AsyncRedisGateway, redis_unread
from agent_memory.memory._async.redis_tier import DamagedCopy, bucket_of
from agent_memory.memory._batching import AsyncBatcher
from agent_memory.memory._copy import Copy
from agent_memory.memory._damage import Damage
from agent_memory.memory.errors import DurabilityError
from agent_memory.memory.settings import SyncSettings
from agent_memory.memory.stores.operations import WriteStatus

__all__ = ["AsyncDirtyCopies"]

MAX_OWN_DIRTY: Final = 10_000
"""Of how many memories the version is remembered that this process had Redis accept."""

DIRTY_ENTRIES: Final = 100
"""The most dirty copies of an agent that one call puts: few enough that callers make the next while the server is at it."""

SAFE_EVICTION_POLICIES: Final = ("noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl")
"""With any other the server may drop copies that nothing else holds."""

_DIRTY_STATUS: Final = {
    "o": WriteStatus.APPLIED,
    "h": WriteStatus.STALE,
    "f": WriteStatus.STALE,
    "d": WriteStatus.DELETED,
    "c": WriteStatus.CONFLICT,
}


class AsyncDirtyCopies:
    """What this process has Redis accept for SQL. Any number of tasks may use one object.

    `on_hint` is given an agent and Redis' hint after each put.
    """

    def __init__(
        self, redis: AsyncRedisGateway, settings: SyncSettings, damage: Damage, on_hint: Callable[[str, int], None]
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._damage = damage
        self._on_hint = on_hint
        self._batches: AsyncBatcher[tuple[Copy, int | None], str] = AsyncBatcher(self._put_together, DIRTY_ENTRIES)
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._bytes: dict[int, int] = {}
        """By bucket."""
        self._evicting_policy: str | None = None
        self._policy_of: Any = None
        """The client that was asked for its server's policy."""

    # --- room ---

    async def check_room(self) -> int:
        """The server's clock in microseconds, where it has room for a dirty copy; raises DurabilityError where it has none."""
        tier = self._redis.tier
        if tier is None or self._redis.is_away():
            raise DurabilityError("redis", "there is no Redis" if tier is None else "Redis is away")
        if self._evicting_policy is None or self._policy_of is not tier.client:
            await self._ask_for_eviction_policy()
        if self._evicting_policy:
            raise DurabilityError("redis", f"the server's eviction policy {self._evicting_policy} may drop it")
        if self.size_bytes >= self._settings.max_unsynced_bytes:
            bound = self._settings.max_unsynced_bytes
            raise DurabilityError("redis", f"max_unsynced_bytes ({bound}) wait for SQL already")
        return tier.now_us()

    async def _ask_for_eviction_policy(self) -> None:
        tier = self._redis.tier
        assert tier is not None
        try:
            client = tier.client
            info = await client.info("memory")
        except REDIS_ERRORS as error:
            self._redis.failed(error)
            raise DurabilityError("redis", "Redis is away") from error
        # A cluster answers for each of its nodes.
        answers = [info] if "maxmemory_policy" in info else list(info.values())
        policies = {str(one.get("maxmemory_policy", "unknown")) for one in answers}
        self._evicting_policy = ", ".join(sorted(policies.difference(SAFE_EVICTION_POLICIES)))
        self._policy_of = client

    def note_bytes(self, agent_id: str, bucket_bytes: int) -> None:
        """Remembers how many bytes of dirty copies the agent's bucket holds."""
        self._bytes[bucket_of(agent_id)] = bucket_bytes

    def note_sizes(self, sizes: Mapping[int, int]) -> None:
        """Remembers the bytes of dirty copies of buckets."""
        self._bytes.update(sizes)

    def buckets(self) -> list[int]:
        """The buckets of which this process has seen that they hold dirty copies."""
        return [bucket for bucket, size in list(self._bytes.items()) if size]

    @property
    def size_bytes(self) -> int:
        """Bytes of dirty copies in Redis, as far as this process has seen."""
        return sum(self._bytes.values())

    # --- putting ---

    async def put(self, copy: Copy, base: int | None) -> WriteStatus:
        """Puts a copy or a tombstone made from version `base`; raises DurabilityError. The caller has checked the room."""
        return _DIRTY_STATUS[await self._batches.call(copy.agent_id, (copy, base))]

    async def holds(self, agent_id: str, memory_id: str) -> bool:
        """Whether Redis has accepted a memory that SQL does not have; raises MemoryStoreUnavailableError while it is away."""
        tier = self._redis.tier
        assert tier is not None
        reply = await self._redis.ask(tier.read, agent_id, [memory_id])
        if reply is None:
            raise redis_unread()
        copy: Copy | None = reply.copies[0]
        return memory_id in reply.damaged or (copy is not None and not copy.deleted)

    def note_version(self, memory_id: str, version: int) -> None:
        """Remembers which version this process had Redis accept."""
        self._versions[memory_id] = version
        while len(self._versions) > MAX_OWN_DIRTY:
            self._versions.popitem(last=False)

    def version_of(self, memory_id: str) -> int:
        """The version that this process had Redis accept; 0 where none is remembered."""
        return self._versions.get(memory_id, 0)

    async def _put_together(self, items: Sequence[tuple[Copy, int | None]]) -> list[str]:
        """One script for the dirty copies of one agent; ids that come twice go in rounds."""
        tier = self._redis.tier
        assert tier is not None
        letters = [""] * len(items)
        waiting = list(range(len(items)))
        while waiting:
            now: dict[str, int] = {}
            for at in waiting:
                now.setdefault(items[at][0].id, at)
            chosen = list(now.values())
            try:
                answer = await tier.put_dirty([items[at][0] for at in chosen], [items[at][1] for at in chosen])
            except REDIS_ERRORS as error:
                if not isinstance(error, ResponseError):
                    self._redis.failed(error)
                reason = "Redis refused it" if isinstance(error, ResponseError) else "Redis is away"
                raise DurabilityError("redis", f"{reason}: {type(error).__name__}") from error
            self._redis.availability.answered()
            for at, letter in zip(chosen, answer.letters, strict=True):
                letters[at] = letter
            agent_id = items[0][0].agent_id
            self.note_bytes(agent_id, answer.number)
            self._on_hint(agent_id, answer.hint)
            waiting = [at for at in waiting if at not in set(chosen)]
        return letters

    async def quarantine(self, agent_id: str, damaged: Mapping[str, DamagedCopy]) -> int:
        """Takes damaged copies of Redis, which SQL need not have, out of the way of synchronisation. They stay there."""
        tier = self._redis.tier
        assert tier is not None
        for memory_id in damaged:
            self._damage.note(memory_id, "Redis")
        return await self._redis.ask(tier.quarantine, agent_id, damaged) or 0
