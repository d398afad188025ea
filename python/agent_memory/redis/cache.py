"""Client-side caching: its settings, and what a client shows of its cache."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final, cast

from agent_memory import _check
from agent_memory._core import ClientCache

__all__ = [
    "CACHEABLE",
    "MISSING",
    "Cache",
    "CacheHandle",
    "Missing",
    "PoolCache",
    "cache_of",
    "check_cache",
    "refuse_cache",
]

MIN_BYTES: Final = 65_536
CACHEABLE: Final = tuple(
    """
    BITCOUNT BITFIELD_RO BITPOS EXISTS GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET
    GETBIT GETRANGE HEXISTS HGET HGETALL HKEYS HLEN HMGET HSTRLEN HVALS LINDEX LLEN LPOS LRANGE MGET SCARD
    SISMEMBER SMEMBERS SMISMEMBER STRLEN SUBSTR TYPE XLEN XRANGE XREVRANGE ZCARD ZCOUNT ZLEXCOUNT ZMSCORE ZRANGE
    ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCORE
    """.split()
)
"""The names of the commands whose replies may be cached, as the core has them."""


class Missing(enum.Enum):
    """The class of `MISSING`."""

    MISSING = "MISSING"

    def __repr__(self) -> str:
        return self.value


MISSING: Final = Missing.MISSING
"""What `peek()` returns for a key that is not cached; None is a cached nil."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Settings of client-side caching, for `agent_memory.redis.asyncio.Redis(cache=Cache())`.

    - `max_bytes` (64 MiB): bound of the cached replies in bytes, of each event loop; >= 65,536. A reply of more than a 64th
      of it is not cached.
    - `max_staleness_s` (1.0): seconds; no hit is older than this, also while the network or the server is silent; >= 0.01.
    - `ttl_s` (60.0): seconds that a reply is cached at the most; the expiry of its key may end it earlier; > 0.
    - `prefixes` (None): must be None: broadcasting by prefix is not there yet.

    Raises TypeError for what is no number, ValueError for a value outside its rule.
    """

    max_bytes: int = 64 << 20
    max_staleness_s: float = field(default=1.0, kw_only=True)
    ttl_s: float = field(default=60.0, kw_only=True)
    prefixes: None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check.whole("max_bytes", self.max_bytes, MIN_BYTES)
        _check.at_least("max_staleness_s", self.max_staleness_s, 0.01)
        _check.above("ttl_s", self.ttl_s, 0)
        if self.prefixes is not None:
            raise ValueError(f"prefixes must be None, broadcasting is not there yet, got {self.prefixes!r}")


class CacheHandle:
    """What is cached for the clients of one pool. Thread-safe; nothing here asks the server."""

    __slots__ = ("_cache", "settings")

    def __init__(self, cache: ClientCache, settings: Cache) -> None:
        """Made by the client."""
        self._cache = cache
        self.settings = settings
        """The `Cache` that the client was given."""

    def peek(self, key: Any, *, stale: bool = False) -> Any:
        """The cached reply of GET; `MISSING` if there is none that may be served now.

        With `stale` the reply may be older than `max_staleness_s`, also while there is no connection: the explicit way to go
        on with old values in an outage. The next connection begins empty.
        """
        return self._cache.peek(key, MISSING, stale)

    def clear(self) -> None:
        """Forget all replies, of every event loop; reads that are under way are not cached."""
        self._cache.clear()

    def stats(self) -> dict[str, Any]:
        """Figures since the pool was made, and what is cached now.

        `hits`, `misses`, `joined` (reads that waited for another's miss), `invalidations_by_server`,
        `invalidations_by_own_writes`, `invalidations_of_all`, `flights_killed` (misses whose key changed meanwhile, so that
        their reply was not cached), `evictions`, `expired`, `lease_refusals` (entries that could not be proven to be fresh),
        `not_kept` (replies that were too large), `epochs` (connections that tracked), `entries`, `bytes`, `max_bytes`,
        `is_connected`, and `off_because`: None, or why the server does not track.
        """
        return self._cache.stats()


class PoolCache:
    """The cache of a pool, and its settings."""

    __slots__ = ("core", "handle", "settings")

    def __init__(self, settings: Cache) -> None:
        self.settings = settings
        self.core = ClientCache(settings.max_bytes, settings.max_staleness_s, settings.ttl_s)
        self.handle = CacheHandle(self.core, settings)


def cache_of(pool: Any, settings: Cache | None = None) -> PoolCache | None:
    """The cache of a pool, made now where `settings` are given; None without one.

    Raises ValueError where the pool has one with other settings, or is in use without one.
    """
    known = cast("PoolCache | None", pool.__dict__.get("_agent_memory_cache"))
    if settings is None:
        return known
    if known is None:
        if pool.__dict__.get("_agent_memory_transports"):
            raise ValueError("cache must be given to the first client of a pool, got a pool that is in use without it")
        known = pool.__dict__.setdefault("_agent_memory_cache", PoolCache(settings))
    if known.settings != settings:
        raise ValueError(f"cache must be that of the pool's other clients, {known.settings}, got {settings}")
    return known


def check_cache(cache: object) -> None:
    """Raises ValueError unless `cache` is a `Cache` or None."""
    if cache is not None and not isinstance(cache, Cache):
        raise ValueError(f"cache must be an agent_memory.redis.Cache or None, got {type(cache).__name__}")


def refuse_cache(cache: object, client: str) -> None:
    """Raises ValueError for a `Cache` that is given to a client that cannot use it yet."""
    if isinstance(cache, Cache):
        raise ValueError(
            f"cache must be None or a redis.CacheInterface for {client}, got a Cache, which is for asyncio"
        )
