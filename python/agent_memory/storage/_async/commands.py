"""The listed commands of the resilient client: one typed line each, on the unguarded `.client`, under the guard.

Arguments go on exactly as they came, so an injected mock sees the call that was written.
"""

# What the wrapped client returns is not typed: it may be any redis-py-compatible object.
# Some of its parameters have the specification's names, not redis-py's.
# mypy: disable-error-code="no-any-return, override"
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from agent_memory._concurrency import async_settle
from agent_memory._core import DirectListed
from agent_memory.redis._typing import AsyncTypedCommands, TextT
from agent_memory.storage.decorator import resilient_operation

if TYPE_CHECKING:
    from redis.typing import EncodableT, ExpiryT, FieldT, KeyT, PatternT, ZScoreBoundT

    from agent_memory.redis._typing import (
        ExpireOptions,
        HsetOptions,
        ScanIterOptions,
        SetOptions,
        ZaddOptions,
        ZrangebyscoreOptions,
        ZrangeOptions,
    )

__all__ = ["AsyncListedCommands"]


class AsyncListedCommands(DirectListed, AsyncTypedCommands[TextT]):
    """Commands by name. Replies are `str` unless the client was made with `decode_responses=False`.

    Each raises CircuitOpenError, RedisUnavailableError, RedisTimeoutError, or what the server answered.
    """

    client: Any
    """The wrapped client; commands on it are not guarded."""

    @resilient_operation("ping")
    def ping(self) -> Coroutine[Any, Any, bool]:
        """PING: whether the server answers."""
        return self.client.ping()

    @resilient_operation("get")
    def get(self, key: KeyT) -> Coroutine[Any, Any, TextT | None]:
        """GET: the value of `key`, None if there is none."""
        return self.client.get(key)

    @resilient_operation("set")
    def set(
        self, key: KeyT, value: EncodableT, *args: ExpiryT | None, **options: Unpack[SetOptions]
    ) -> Coroutine[Any, Any, bool | TextT | None]:
        """SET `key` to `value`: True, or None if a condition kept it from being set.

        `args` and `options` are redis-py's: ex, px, nx, xx, keepttl, get.
        """
        return self.client.set(key, value, *args, **options)

    @resilient_operation("delete")
    def delete(self, *keys: KeyT) -> Coroutine[Any, Any, int]:
        """DEL: how many of `keys` were deleted."""
        return self.client.delete(*keys)

    @resilient_operation("exists")
    def exists(self, *keys: KeyT) -> Coroutine[Any, Any, int]:
        """EXISTS: how many of `keys` exist."""
        return self.client.exists(*keys)

    @resilient_operation("expire")
    def expire(self, key: KeyT, time: ExpiryT, **options: Unpack[ExpireOptions]) -> Coroutine[Any, Any, bool]:
        """EXPIRE: whether `key` now expires in `time` seconds; `options` are redis-py's: nx, xx, gt, lt."""
        return self.client.expire(key, time, **options)

    @resilient_operation("hset")
    def hset(
        self, name: KeyT, key: FieldT | None = None, value: EncodableT | None = None, **options: Unpack[HsetOptions]
    ) -> Coroutine[Any, Any, int]:
        """HSET of `key` to `value` in the hash `name`: how many fields are new; `options` are redis-py's: mapping, items."""
        return self.client.hset(name, key, value, **options)

    @resilient_operation("hget")
    def hget(self, name: KeyT, key: FieldT) -> Coroutine[Any, Any, TextT | None]:
        """HGET: the value of the field `key` of the hash `name`, None if there is none."""
        return self.client.hget(name, key)

    @resilient_operation("hgetall")
    def hgetall(self, name: KeyT) -> Coroutine[Any, Any, dict[TextT, TextT]]:
        """HGETALL: all fields and values of the hash `name`, empty if there is no such hash."""
        return self.client.hgetall(name)

    @resilient_operation("hset_dict")
    def hset_dict(self, name: KeyT, mapping: Mapping[Any, Any]) -> Coroutine[Any, Any, int]:
        """HSET of the fields of `mapping` in the hash `name`: how many of them are new."""
        return self.client.hset(name, mapping=mapping)

    async def hmset(self, name: KeyT, mapping: Mapping[Any, Any]) -> int:
        """As `hset_dict(name, mapping)`, under its deprecated name."""
        warnings.warn("hmset is deprecated, use hset_dict", DeprecationWarning, stacklevel=2)
        return await self._hmset(name, mapping)

    @resilient_operation("hmset")
    def _hmset(self, name: KeyT, mapping: Mapping[Any, Any]) -> Coroutine[Any, Any, int]:
        return self.client.hset(name, mapping=mapping)

    @resilient_operation("hdel")
    def hdel(self, name: KeyT, *keys: FieldT) -> Coroutine[Any, Any, int]:
        """HDEL: how many of the fields `keys` of the hash `name` were deleted."""
        return self.client.hdel(name, *keys)

    @resilient_operation("zadd")
    def zadd(
        self, name: KeyT, mapping: Mapping[Any, Any], **options: Unpack[ZaddOptions]
    ) -> Coroutine[Any, Any, int | float | None]:
        """ZADD of `mapping` (member to score) to the sorted set `name`: how many members are new.

        `options` are redis-py's: nx, xx, ch, incr, gt, lt.
        """
        return self.client.zadd(name, mapping, **options)

    @resilient_operation("zrange")
    def zrange(
        self, name: KeyT, start: int, end: int, *args: Any, **options: Unpack[ZrangeOptions]
    ) -> Coroutine[Any, Any, list[Any]]:
        """ZRANGE: the members of the sorted set `name` from rank `start` to `end`.

        `args` and `options` are redis-py's: desc, withscores, score_cast_func, byscore, …
        """
        return self.client.zrange(name, start, end, *args, **options)

    @resilient_operation("zrangebyscore")
    def zrangebyscore(
        self, name: KeyT, min: ZScoreBoundT, max: ZScoreBoundT, *args: Any, **options: Unpack[ZrangebyscoreOptions]
    ) -> Coroutine[Any, Any, list[Any]]:
        """ZRANGEBYSCORE: the members of the sorted set `name` with scores from `min` to `max`.

        `args` and `options` are redis-py's: start, num, withscores, score_cast_func.
        """
        return self.client.zrangebyscore(name, min, max, *args, **options)

    @resilient_operation("zrem")
    def zrem(self, name: KeyT, *values: EncodableT) -> Coroutine[Any, Any, int]:
        """ZREM: how many of the members `values` of the sorted set `name` were removed."""
        return self.client.zrem(name, *values)

    @resilient_operation("zcard")
    def zcard(self, name: KeyT) -> Coroutine[Any, Any, int]:
        """ZCARD: how many members the sorted set `name` has."""
        return self.client.zcard(name)

    async def scan_iter(
        self, match: PatternT | None = None, count: int | None = None, **options: Unpack[ScanIterOptions]
    ) -> AsyncIterator[TextT]:
        """SCAN: all keys that match, each page one guarded call; a key may come twice, as Redis says.

        `match` (None, all keys) is a pattern, `count` (None, the server's) the size of a page; `options` are redis-py's.
        An injected client's own `scan_iter` is collected in one guarded call instead; of a cluster all primaries are asked.
        """
        of_cluster = self._keys_of_cluster(match, count, options)
        if of_cluster is not None:
            async for key in of_cluster:
                yield key
            return
        if self._is_injected():
            for key in await async_settle(self._scan_all(match, count, **options)):
                yield key
            return
        cursor: Any = 0
        while True:
            cursor, keys = await async_settle(self._scan(cursor, match, count, **options))
            for key in keys:
                yield key
            if not cursor:
                return

    @resilient_operation("scan")
    def _scan(self, cursor: int, match: Any, count: int | None, **options: Any) -> Coroutine[Any, Any, Any]:
        return self.client.scan(cursor, match=match, count=count, **options)

    @resilient_operation("scan")
    async def _scan_all(self, match: Any, count: int | None, **options: Any) -> Any:
        return [key async for key in self.client.scan_iter(match=match, count=count, **options)]

    def _is_injected(self) -> bool:
        raise NotImplementedError

    def _keys_of_cluster(self, match: Any, count: int | None, options: Any) -> AsyncIterator[TextT] | None:
        raise NotImplementedError
