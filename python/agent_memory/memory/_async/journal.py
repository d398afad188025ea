"""Writes that neither SQL nor Redis took: kept in a journal on this machine until SQL has them.

States of a copy here
- *asked for*: a record was appended and not acknowledged yet.
- *held*: the record is synced to disk, and the write was acknowledged. It is read from here, over what Redis and SQL say, if
  it is greater.
- *gone*: SQL holds it, or something greater, or refused it; the record is removed.

Rules
- One copy of an id: a greater one replaces it, and the record of the lower one is removed after the greater one is kept.
- Records are absolute writes with a version of their own, so that repeating one is harmless (R1): a process that dies
  between SQL's commit and the removal of the record leaves it to a successor, which repeats it.
- What a process leaves behind is adopted by the next one that opens the journal of the same database.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from agent_memory import _core
from agent_memory._commits import AsyncJournalCommits
from agent_memory.errors import RecoveryJournalError
from agent_memory.memory._copy import Copy
from agent_memory.memory._redis_codec import decode_copy, encode_copy
from agent_memory.memory.errors import CorruptMemoryError, DurabilityError
from agent_memory.recovery.journal_damage import report_damage

__all__ = ["AsyncMemoryJournal"]

logger = logging.getLogger(__name__)

_LENGTHS: Final = struct.Struct("<HH")


class AsyncMemoryJournal:
    """The journal of one memory system. Opening blocks for the disk. Any number of tasks may use one object.

    `identity` names the database: records that were meant for another one stay where they are. `max_bytes` bounds what is
    held.
    """

    def __init__(self, path: Path, identity: str, max_bytes: int) -> None:
        self._core = _core.Journal(path, identity, fsync="always")
        self._commits = AsyncJournalCommits(self._core)
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()
        self._held: dict[str, tuple[int, Copy, int]] = {}
        self._bytes = 0
        self._holds_removed = True
        self.recovered = 0
        report_damage(logger, "memory", self._core.stats())
        for record, _, body in self._core.take_recovered():
            copy = _decoded(body)
            if copy is not None:
                self._hold(record, copy, len(body))
                self.recovered += 1

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size_bytes(self) -> int:
        """Bytes of the copies held."""
        return self._bytes

    # --- writing ---

    async def keep(self, copy: Copy) -> None:
        """Keeps a copy; returns when it is on disk. Raises DurabilityError where it cannot be kept."""
        body = _encoded(copy)
        if self._bytes + len(body) > self._max_bytes:
            raise DurabilityError("journal", f"max_unsynced_bytes ({self._max_bytes}) wait for SQL already")
        try:
            record, ticket = self._core.append(body)
            await self._commits.wait(ticket)
        except RecoveryJournalError as error:
            raise DurabilityError("journal", f"the journal failed: {error}") from error
        self._hold(record, copy, len(body))

    def _hold(self, record: int, copy: Copy, size: int) -> None:
        with self._mutex:
            before = self._held.get(copy.id)
            outdated: int | None = record
            if before is None or copy.stamp > before[1].stamp:
                outdated = None if before is None else before[0]
                self._bytes += size - (0 if before is None else before[2])
                self._held[copy.id] = (record, copy, size)
        if outdated is not None:
            self._remove([outdated])

    def erase(self, fence_version: int, *, agent_id: str | None = None, user_id: str | None = None) -> None:
        """Lets the copies of an agent or a user go that are not above an erasure's fence."""
        with self._mutex:
            erased = [
                copy
                for _, copy, _ in self._held.values()
                if copy.version <= fence_version
                and (copy.agent_id == agent_id if user_id is None else copy.user_id == user_id)
            ]
        self.settle(erased)

    async def scrub(self) -> bool:
        """Has the files written anew, without the removed records; returns whether that was done."""
        if not self._holds_removed:
            return True
        self._holds_removed = False
        try:
            await self._commits.wait(self._core.rewrite())
        except RecoveryJournalError as error:
            logger.warning("the journal could not be written anew: %s", error)
            self._holds_removed = True
            return False
        return True

    def settle(self, copies: Iterable[Copy]) -> None:
        """Lets copies go that SQL has answered for; those that were replaced meanwhile stay."""
        records = []
        with self._mutex:
            for copy in copies:
                held = self._held.get(copy.id)
                if held is not None and held[1].stamp == copy.stamp:
                    del self._held[copy.id]
                    self._bytes -= held[2]
                    records.append(held[0])
        if records:
            self._remove(records)

    def _remove(self, records: list[int]) -> None:
        self._holds_removed = True
        try:
            self._core.remove(records)
        except RecoveryJournalError as error:
            # They will be repeated, and do nothing.
            logger.warning("records could not be removed from the journal: %s", error)

    # --- reading ---

    def find(self, ids: Sequence[str]) -> list[Copy]:
        """The copies held of `ids`, tombstones among them."""
        held = self._held
        return [held[memory_id][1] for memory_id in ids if memory_id in held] if held else []

    def of_agent(self, agent_id: str) -> list[Copy]:
        """All copies held of an agent."""
        if not self._held:
            return []
        with self._mutex:
            return [copy for _, copy, _ in self._held.values() if copy.agent_id == agent_id]

    def oldest(self, count: int) -> list[Copy]:
        """The copies to be synchronised next, at most `count`."""
        with self._mutex:
            return [copy for _, copy, _ in list(self._held.values())[:count]]

    # --- life ---

    def close(self) -> None:
        """Writes what is asked for; what is held stays for the next process that opens it. Blocks for the disk."""
        self._core.close()
        self._commits.close()

    def abandon(self) -> None:
        """In a child of fork(): the parent's records stay his."""
        self._core.abandon()


def _encoded(copy: Copy) -> bytes:
    agent, memory_id = copy.agent_id.encode(), copy.id.encode()
    return b"".join((_LENGTHS.pack(len(agent), len(memory_id)), agent, memory_id, encode_copy(copy, dirty=True)))


def _decoded(body: bytes) -> Copy | None:
    try:
        agent_length, id_length = _LENGTHS.unpack_from(body)
        start = _LENGTHS.size + agent_length
        agent_id, memory_id = body[_LENGTHS.size : start].decode(), body[start : start + id_length].decode()
        return decode_copy(body[start + id_length :], memory_id, agent_id)[0]
    except (struct.error, UnicodeDecodeError, CorruptMemoryError) as error:
        # The journal's own checksum is right: it was written by another version, and stays for that one.
        logger.error("a record of the journal was passed over: %s", type(error).__name__)
        return None
