"""The copies of memories in Redis: what is put there, kept there and read from there.

Every method is one script on one slot (`_redis_scripts.py` says which keys there are), sent through a redis-py compatible
client: ours, or a RedisCluster. The methods raise what the client raises: `redis.exceptions.ConnectionError`, `TimeoutError`
and the like mean that Redis is away, and the caller goes on without it.

An *epoch* is 40 characters: the first 24 of the server's run_id and a nonce. It has to be asked for (`open_epoch`) before the
SQL statement whose result is put (R4); a copy put under another epoch is refused, and the epoch known here is forgotten.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

from redis.exceptions import NoScriptError, ResponseError

from agent_memory._concurrency import async_sleep
from agent_memory.memory import _redis_scripts
from agent_memory.memory._copy import Copy
from agent_memory.memory._copy_rules import MAX_VERSION, REPLAY_LIFETIME_US, Stamp
from agent_memory.memory._redis_codec import decode_copy, decode_dirty_copies, encode_copy
from agent_memory.memory._redis_scripts import MAX_ENTRIES, Script, parse_answers
from agent_memory.memory.entries import Tier
from agent_memory.memory.errors import CorruptMemoryError

__all__ = [
    "BUCKETS",
    "AsyncRedisTier",
    "DamagedCopy",
    "DirtyReply",
    "ReadReply",
    "RedisAnswer",
    "Synced",
    "bucket_of",
    "order_text",
]

logger = logging.getLogger(__name__)

BUCKETS: Final = 1_024
"""Into how many hash tags agents are spread."""

MAX_EPOCHS: Final = 100_000
"""Of how many agents the epoch is remembered; beyond that all are asked for again."""

REWRITE_TIMEOUT_S: Final = 30.0
"""How long a rewrite of the append-only file is waited for; after that maintenance tries again."""

REWRITE_POLL_S: Final = 0.01
"""Seconds between two looks at a rewrite."""

_SHAS: Final = {
    script.name: hashlib.sha1(script.text.encode(), usedforsecurity=False).hexdigest()
    for script in vars(_redis_scripts).values()
    if isinstance(script, Script)
}


class RedisAnswer(NamedTuple):
    """What a script did with its copies: a letter each, as `_redis_scripts.py` says, the agent's hint, and a number."""

    letters: str
    hint: int
    number: int
    """Of `put_clean` the agent's clean copies, of `put_dirty` and `mark` the bucket's dirty bytes."""


class DamagedCopy(NamedTuple):
    """A copy in Redis that does not match its checksum and need not be anywhere else."""

    version: int
    """As far as it can be read; else greater than every version."""
    digest: str
    """The SHA-1 of its bytes."""


class Synced(NamedTuple):
    """Dirty copies that went to SQL, and what SQL holds now."""

    ids: Sequence[str]
    orders: str
    """Of what went to SQL, as `order_text` gives them, one after the other."""
    greater: Mapping[int, Stamp]
    """By their places: what SQL holds of those of which it holds another copy."""
    seqs: Sequence[int]
    """The places in SQL's feed that this write gave to copies that it holds now."""


class ReadReply(NamedTuple):
    """Copies read from Redis; None where there is no valid one."""

    epoch: str
    hint: int
    cursor: int
    copies: list[Copy | None]
    dirty: list[bool]
    damaged: dict[str, DamagedCopy]
    """Of ids without a valid copy: those with a damaged one that SQL need not have."""


class DirtyReply(NamedTuple):
    """Dirty copies read from Redis."""

    copies: list[Copy]
    orders: str
    """Of the copies, as `order_text` gives them, one after the other."""
    damaged: dict[str, DamagedCopy]
    """As in `ReadReply`."""


def bucket_of(agent_id: str) -> int:
    """The bucket of an agent: which hash tag its keys have."""
    return zlib.crc32(agent_id.encode()) % BUCKETS


@lru_cache(maxsize=10_000)
def _agent_keys(agent_id: str) -> tuple[str, list[str]]:
    """The prefix of the agent's copies, and the six keys that every script is given first."""
    tag = f"{{b{bucket_of(agent_id):04d}}}"
    agent = quote(agent_id, safe="")
    return f"{tag}:m:{agent}:", [
        f"{tag}:a:{agent}",
        f"{tag}:v:{agent}",
        f"{tag}:t:{agent}",
        f"{tag}:dirty",
        f"{tag}:due",
        f"{tag}:bytes",
    ]


def _bucket_key(bucket: int, name: str) -> str:
    return f"{{b{bucket:04d}}}:{name}"


def _quote_id(memory_id: str) -> str:
    return memory_id if memory_id.isalnum() and memory_id.isascii() else quote(memory_id, safe="")


def order_text(stamp: Stamp) -> str:
    """A stamp as the scripts compare it: 33 characters, greater as text where it is greater."""
    return f"{int(stamp.deleted)}{stamp.version:016d}{stamp.writer:016x}"


class AsyncRedisTier:
    """Copies in Redis. Any number of tasks may use one object.

    `client` is a redis-py compatible asyncio client without `decode_responses`. `clock_us` and `lifetime_us` replace the
    server's clock and REPLAY_LIFETIME_S in tests.
    """

    def __init__(self, client: Any, *, clock_us: int | None = None, lifetime_us: int = REPLAY_LIFETIME_US) -> None:
        self.client = client
        self.clock_us = clock_us
        self._lifetime = str(lifetime_us)
        self._epochs: dict[str, str] = {}
        self._ahead_us = 0
        self.spoilt = 0

    # --- calling scripts ---

    async def _call(
        self, script: Script, agent_id: str, ids: Iterable[str], arguments: Sequence[Any], epoch: str = ""
    ) -> Any:
        prefix, keys = _agent_keys(agent_id)
        names = [*keys, *(prefix + _quote_id(memory_id) for memory_id in ids)]
        return await self._evaluate(script, names, arguments, epoch)

    async def _evaluate(self, script: Script, names: Sequence[str], arguments: Sequence[Any], epoch: str = "") -> Any:
        clock = "" if self.clock_us is None else str(self.clock_us)
        words = (len(names), *names, epoch, clock, self._lifetime, *arguments)
        try:
            return await self.client.execute_command("EVALSHA", _SHAS[script.name], *words)
        except NoScriptError:
            return await self.client.execute_command("EVAL", script.text, *words)

    async def _apply(
        self, script: Script, agent_id: str, ids: Sequence[str], arguments: Sequence[Any], epoch: str = ""
    ) -> RedisAnswer:
        if len(ids) > MAX_ENTRIES:
            raise ValueError(f"ids must be at most {MAX_ENTRIES}, got {len(ids)}")
        answer = RedisAnswer(*parse_answers(await self._call(script, agent_id, ids, arguments, epoch)))
        if "e" in answer.letters:
            self._epochs.pop(agent_id, None)
        return answer

    # --- epochs ---

    def known_epoch(self, agent_id: str) -> str | None:
        """The agent's epoch as this process knows it, without asking."""
        return self._epochs.get(agent_id)

    async def open_epoch(self, agent_id: str, cursor: int) -> str:
        """The agent's epoch on this server; begins one where there is none.

        `cursor` is the place of SQL's change feed, read before this call: Redis follows the feed from there.
        """
        epoch, _, _, clock = await self._call(_redis_scripts.OPEN, agent_id, (), (secrets.token_hex(8), str(cursor)))
        self._remember(agent_id, epoch.decode(), int(clock))
        return self._epochs[agent_id]

    def _remember(self, agent_id: str, epoch: str, clock_us: int) -> None:
        self._ahead_us = clock_us - time.time_ns() // 1_000
        if not epoch:
            self._epochs.pop(agent_id, None)
            return
        if len(self._epochs) >= MAX_EPOCHS:
            self._epochs.clear()
        self._epochs[agent_id] = epoch

    def now_us(self) -> int:
        """The server's clock in microseconds since the epoch, as far as this process knows."""
        return time.time_ns() // 1_000 + self._ahead_us

    # --- writing ---

    async def put_clean(self, copies: Sequence[Copy], epoch: str, residency_s: float) -> RedisAnswer:
        """Puts copies that SQL holds (tombstones too): at most MAX_ENTRIES, of one agent, with distinct ids.

        Copies that are the next rows of SQL's feed need not be followed any more.
        """
        values = [encode_copy(copy, epoch) for copy in copies]
        return await self._apply(
            _redis_scripts.PUT_CLEAN,
            copies[0].agent_id,
            [copy.id for copy in copies],
            [_microseconds(residency_s), *_part_of_feed([copy.seq for copy in copies]), *values],
            epoch,
        )

    async def put_dirty(self, copies: Sequence[Copy], bases: Sequence[int | None]) -> RedisAnswer:
        """Puts copies that SQL does not hold. `bases`: the version each was made from; None of a new one or a tombstone."""
        arguments: list[Any] = []
        for copy, base in zip(copies, bases, strict=True):
            arguments += (encode_copy(copy, dirty=True), "" if base is None else f"{base:016d}")
        return await self._apply(_redis_scripts.PUT_DIRTY, copies[0].agent_id, [copy.id for copy in copies], arguments)

    async def mark(self, agent_id: str, synced: Synced, epoch: str, residency_s: float) -> RedisAnswer:
        """After a sync of at most MAX_ENTRIES dirty copies: those that are unchanged are clean now, or gone."""
        arguments: list[Any] = [_microseconds(residency_s), *_part_of_feed(synced.seqs), synced.orders]
        for at, stamp in synced.greater.items():
            arguments += (at + 1, order_text(stamp))
        return await self._apply(_redis_scripts.MARK, agent_id, synced.ids, arguments, epoch)

    async def follow(self, agent_id: str, stamps: Sequence[tuple[str, Stamp]], cursor: int, epoch: str) -> RedisAnswer:
        """Rows of SQL's feed up to `cursor`: lower copies go, floors rise."""
        arguments = [str(cursor), *(order_text(stamp) for _, stamp in stamps)]
        ids = [memory_id for memory_id, _ in stamps]
        return await self._apply(_redis_scripts.FOLLOW, agent_id, ids, arguments, epoch)

    async def evict(self, agent_id: str, ids: Sequence[str], due_us: int | None = None) -> RedisAnswer:
        """Lets clean copies go: all of `ids`, or those whose residency was over at `due_us`."""
        return await self._apply(_redis_scripts.EVICT, agent_id, ids, ["" if due_us is None else str(due_us)])

    async def relabel(self, agent_id: str, ids: Sequence[str], tier: Tier, residency_s: float) -> RedisAnswer:
        """Puts the label of a tier on copies that are here. A label is advice: SQL's counts."""
        arguments = ["sil"[tier], _microseconds(residency_s)]
        return await self._apply(_redis_scripts.RELABEL, agent_id, ids, arguments)

    # --- reading ---

    async def read(self, agent_id: str, ids: Sequence[str]) -> ReadReply:
        """The valid copies of at most MAX_ENTRIES ids.

        A clean one that does not match its checksum is taken out and a miss, since SQL has it; any other stays.
        """
        reply = await self._call(_redis_scripts.READ, agent_id, ids, ())
        epoch = reply[0].decode()
        self._remember(agent_id, epoch, int(reply[3]))
        copies: list[Copy | None] = []
        dirty: list[bool] = []
        damaged: dict[str, DamagedCopy] = {}
        spoilt: list[str] = []
        for memory_id, value in zip(ids, reply[4:], strict=True):
            copy, is_dirty = None, False
            if value is not None:
                try:
                    copy, header = decode_copy(value, memory_id, agent_id)
                    is_dirty = header.state != "c"
                except CorruptMemoryError:
                    if value[1:2] == b"c":
                        spoilt.append(memory_id)
                    else:
                        damaged[memory_id] = _damaged(value)
            copies.append(copy)
            dirty.append(is_dirty)
        if spoilt:
            self.spoilt += len(spoilt)
            logger.warning("%d cached copies in Redis were damaged, and are read from SQL", len(spoilt))
            await self.evict(agent_id, spoilt)
        return ReadReply(epoch, int(reply[1]), int(reply[2]), copies, dirty, damaged)

    async def read_dirty(self, agent_id: str, ids: list[str]) -> DirtyReply:
        """The dirty copies among at most MAX_ENTRIES ids. Damaged clean ones are taken out, as `read` does."""
        prefix, _ = _agent_keys(agent_id)
        # Without a script: what is dirty is valid in every epoch, and a script would copy each value once more.
        values = await self.client.execute_command("MGET", *[prefix + _quote_id(memory_id) for memory_id in ids])
        copies, orders, places = decode_dirty_copies(values, ids, agent_id)
        damaged: dict[str, DamagedCopy] = {}
        if places:
            damaged = (await self.read(agent_id, [ids[at] for at in places])).damaged
        return DirtyReply(copies, orders, damaged)

    async def quarantine(self, agent_id: str, damaged: Mapping[str, DamagedCopy]) -> int:
        """Takes damaged copies out of the way of synchronisation, unless they were replaced; returns how many."""
        prefix, keys = _agent_keys(agent_id)
        names = [*keys, *(prefix + _quote_id(memory_id) for memory_id in damaged)]
        names.append(_bucket_key(bucket_of(agent_id), "damaged"))
        digests = [one.digest for one in damaged.values()]
        letters = parse_answers(await self._evaluate(_redis_scripts.QUARANTINE, names, digests))[0]
        return letters.count("o")

    async def damaged_members(self, bucket: int, *, limit: int = MAX_ENTRIES) -> list[tuple[str, str]]:
        """(agent, id) of a bucket's damaged copies, at most `limit`."""
        found = await self.client.zrange(_bucket_key(bucket, "damaged"), 0, limit - 1)
        return [_member(member) for member in found]

    async def forget_damaged(self, agent_id: str, ids: Sequence[str]) -> None:
        """Takes ids out of the set of damaged copies."""
        if ids:
            agent = quote(agent_id, safe="")
            members = [f"{agent}:{_quote_id(memory_id)}" for memory_id in ids]
            await self.client.zrem(_bucket_key(bucket_of(agent_id), "damaged"), *members)

    async def dirty_members(self, bucket: int, *, limit: int = MAX_ENTRIES) -> list[tuple[str, str]]:
        """(agent, id) of a bucket's dirty copies, at most `limit`."""
        found = await self.client.zrange(_bucket_key(bucket, "dirty"), 0, limit - 1)
        return [_member(member) for member in found]

    async def dirty_ids(self, agent_id: str, *, limit: int = MAX_ENTRIES) -> list[str]:
        """The ids of an agent's dirty copies, at most `limit`."""
        return await self._ids_in("dirty", agent_id, limit)

    async def damaged_ids(self, agent_id: str, *, limit: int = MAX_ENTRIES) -> list[str]:
        """The ids of an agent's damaged copies, at most `limit`."""
        return await self._ids_in("damaged", agent_id, limit)

    async def _ids_in(self, name: str, agent_id: str, limit: int) -> list[str]:
        agent = quote(agent_id, safe="")
        key = _bucket_key(bucket_of(agent_id), name)
        found = await self.client.zrangebylex(key, f"[{agent}:", f"({agent};", start=0, num=limit)
        return [_member(member)[1] for member in found]

    async def due_members(self, bucket: int, due_us: int, *, limit: int = MAX_ENTRIES) -> list[tuple[str, str]]:
        """(agent, id) of a bucket's copies whose residency is over, at most `limit`."""
        found = await self.client.zrangebyscore(_bucket_key(bucket, "due"), "-inf", due_us, start=0, num=limit)
        return [_member(member) for member in found]

    async def oldest_ids(self, agent_id: str, count: int) -> list[str]:
        """The clean copies of an agent that were put first."""
        found = await self.client.zrange(_agent_keys(agent_id)[1][2], 0, count - 1)
        return [unquote(one.decode()) for one in found]

    async def sizes(self, buckets: Sequence[int]) -> list[tuple[int, int, int]]:
        """(dirty copies, bytes of them, clean copies) of buckets."""
        answers = []
        for start in range(0, len(buckets), 128):
            pipeline = self.client.pipeline(transaction=False)
            for bucket in buckets[start : start + 128]:
                pipeline.zcard(_bucket_key(bucket, "dirty"))
                pipeline.get(_bucket_key(bucket, "bytes"))
                pipeline.zcard(_bucket_key(bucket, "due"))
            found = await pipeline.execute()
            answers += [(int(found[at]), int(found[at + 1] or 0), int(found[at + 2])) for at in range(0, len(found), 3)]
        return answers

    async def end_epoch(self, agent_id: str) -> None:
        """Makes all clean copies of an agent misses, at once."""
        self._epochs.pop(agent_id, None)
        await self.client.unlink(_agent_keys(agent_id)[1][0])

    async def erase_clean(self, agent_id: str) -> int:
        """Takes all of an agent's clean copies out, in slices; returns how many. Ends its epoch."""
        await self.end_epoch(agent_id)
        erased = 0
        while ids := await self.oldest_ids(agent_id, MAX_ENTRIES):
            answer = await self.evict(agent_id, ids)
            evicted = answer.letters.count("o")
            erased += evicted
            if not evicted:
                break
        return erased

    async def erase(self, agent_id: str) -> int:
        """Takes all of an agent's copies out of Redis, dirty ones too, in slices; returns how many. Ends its epoch."""
        _, keys = _agent_keys(agent_id)
        await self.end_epoch(agent_id)
        erased = 0
        while True:
            damaged = await self.damaged_ids(agent_id)
            ids = [*damaged, *await self.dirty_ids(agent_id), *await self.oldest_ids(agent_id, MAX_ENTRIES)]
            if not ids:
                break
            answer = await self._apply(_redis_scripts.EVICT, agent_id, list(dict.fromkeys(ids))[:MAX_ENTRIES], ["all"])
            await self.forget_damaged(agent_id, damaged)
            erased += answer.letters.count("o")
        await self.client.unlink(keys[1], keys[2])
        return erased

    async def rewrite_append_file(self) -> bool:
        """Has the server write its append-only file anew, without what was taken out; returns whether that is done.

        A rewrite that is under way has begun before: it is waited for, and followed by another one.
        """
        deadline = time.monotonic() + REWRITE_TIMEOUT_S
        is_asked = False
        while time.monotonic() < deadline:
            info = await self.client.info("persistence")
            if not info.get("aof_enabled"):
                return True
            if info.get("aof_rewrite_in_progress") or info.get("aof_rewrite_scheduled"):
                await async_sleep(REWRITE_POLL_S)
            elif is_asked:
                return bool(info.get("aof_last_bgrewrite_status") == "ok")
            else:
                try:
                    await self.client.execute_command("BGREWRITEAOF")
                    is_asked = True
                except ResponseError:
                    await async_sleep(REWRITE_POLL_S)  # another process was faster by a moment
        return False


def _damaged(value: bytes) -> DamagedCopy:
    digits = value[4:20]
    version = int(digits) if len(digits) == 16 and digits.isdigit() else MAX_VERSION
    return DamagedCopy(version, hashlib.sha1(value, usedforsecurity=False).hexdigest())


def _member(member: bytes) -> tuple[str, str]:
    agent, _, memory_id = member.decode().partition(":")
    return (unquote(agent), unquote(memory_id)) if b"%" in member else (agent, memory_id)


def _part_of_feed(seqs: Sequence[int]) -> tuple[str, str]:
    """Where the feed stood before rows of different memories, and after them; "" where they are no unbroken part of it."""
    if not seqs:
        return "", ""
    first, last = min(seqs), max(seqs)
    is_unbroken = first > 0 and last - first == len(seqs) - 1
    return (str(first - 1), str(last)) if is_unbroken else ("", "")


def _microseconds(seconds: float) -> str:
    return str(int(seconds * 1e6))
