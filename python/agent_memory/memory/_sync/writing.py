# Generated from ../_async/writing.py by tools/generate_sync.py: edit that file, not this one.

"""Where a write goes: SQL, Redis as a dirty copy, or the journal.

A write is acknowledged at one level: SQL committed it, Redis accepted it as a dirty copy, or the journal keeps it. It goes to
SQL first unless `durability` is "redis", and to a weaker level only where `minimum` allows that level.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

from agent_memory.memory._agent_index import DELETED
from agent_memory.memory._batching import Turns
from agent_memory.memory._copy import Copy, accepted, new_writer, tombstone_of
from agent_memory.memory._copy_rules import next_version
from agent_memory.memory._outcomes import Written
from agent_memory.memory._redis_scripts import MAX_ENTRIES
from agent_memory.memory._sync.clean_copies import CleanCopies
from agent_memory.memory._sync.dirty_copies import DirtyCopies
from agent_memory.memory._sync.journal import MemoryJournal
from agent_memory.memory._sync.journal_replay import JournalReplay
from agent_memory.memory._sync.loader import DataLoader
from agent_memory.memory._sync.redis_gateway import RedisGateway
from agent_memory.memory._sync.sql_gateway import SqlGateway
from agent_memory.memory.entries import Durability
from agent_memory.memory.errors import DurabilityError, MemoryStoreUnavailableError, StoreFault
from agent_memory.memory.stores.operations import Delete, Put, WriteResult, WriteStatus

__all__ = ["Writer"]

logger = logging.getLogger(__name__)


class Writer:
    """Writes copies where they may go. Any number of threads may use one object."""

    def __init__(
        self,
        sql: SqlGateway,
        redis: RedisGateway,
        clean: CleanCopies,
        dirty: DirtyCopies,
        loader: DataLoader,
        journal: MemoryJournal | None,
        replay: JournalReplay,
    ) -> None:
        self._sql = sql
        self._redis = redis
        self._clean = clean
        self._dirty = dirty
        self._loader = loader
        self._journal = journal
        self._replay = replay
        # The last two bits say which store's clock a version is of, so that equal versions have unequal writers.
        self._number = new_writer() >> 2 << 2
        self._turns: Turns[tuple[Put, str | None], WriteResult] = Turns(self._write_together)

    @property
    def number(self) -> int:
        """The writer of versions that SQL assigns: its number breaks ties."""
        return self._number

    # --- storing ---

    def put(self, put: Put, durability: Durability, minimum: Durability, known_version: int = 0) -> Written:
        """Stores a copy without a version of its own; see the module. Raises DurabilityError where nothing may be reached."""
        if durability == "redis" and self._redis.tier is not None and not self._redis.is_away():
            try:
                return self._put_as_dirty(put, known_version)
            except DurabilityError:
                if self._sql.is_away() and minimum != "journal":
                    raise  # otherwise SQL promises more than was asked for
        try:
            written = self._put_in_sql(put)
        except MemoryStoreUnavailableError as error:
            if minimum == "sql":
                raise DurabilityError(durability, _reason(error), fault=error.fault) from error
            failure = error
        else:
            self._replay.begin()
            return written
        # What the journal has stays there until SQL has it: Redis knows nothing of it.
        is_journalled = self._journal is not None and bool(self._journal.find([put.copy.id]))
        if not is_journalled:
            try:
                return self._put_as_dirty(put, known_version)
            except DurabilityError as error:
                if minimum != "journal":
                    raise self._both_refused(durability, failure, error) from failure
        elif minimum != "journal":
            raise DurabilityError(durability, f"{_reason(failure)}; {_JOURNALLED}", fault=failure.fault) from failure
        return self._put_in_journal(put, known_version)

    @staticmethod
    def _both_refused(durability: str, failure: MemoryStoreUnavailableError, error: DurabilityError) -> DurabilityError:
        return DurabilityError(durability, f"{_reason(failure)}; {error.reason}", fault=failure.fault)

    def _put_in_journal(self, put: Put, known_version: int) -> Written:
        journal = self._journal
        assert journal is not None
        copy = put.copy
        version = next_version(known_version, time.time_ns() // 1_000)
        copy = accepted(copy, version, self._number | 2, copy.created_us or version, 0, copy.generation)
        journal.keep(copy)
        self._loader.forget_absent(copy.id)
        existed = put.if_version is not None or known_version > 0
        return Written(WriteResult(WriteStatus.APPLIED, copy.id, version, 0, existed, copy.created_us), "journal", copy)

    def _put_in_sql(self, put: Put) -> Written:
        agent_id = put.copy.agent_id
        epoch = self._clean.known_epoch(agent_id)
        if epoch is None:
            epoch = self._clean.epoch_for(agent_id)
        result = self._turns.call((put, epoch))
        copy = result.copy
        if copy is not None and result.existed and epoch is not None:
            self._clean.put([copy], epoch)
        return Written(result, "sql", copy)

    def _write_together(self, items: Sequence[tuple[Put, str | None]]) -> Sequence[WriteResult | Exception]:
        """Writes what the threads of one turn have asked for; new memories are put into Redis behind their backs."""
        puts = [put for put, _ in items]
        results: Sequence[WriteResult | Exception]
        try:
            results = self._sql.write(puts)
        except Exception as error:
            is_away = isinstance(error, MemoryStoreUnavailableError) and error.fault is not StoreFault.FULL
            if len(puts) == 1 or is_away:
                raise
            logger.debug("%d writes are tried one by one, because of %s", len(puts), type(error).__name__)
            results = [self._write_alone(put) for put in puts]
        created: list[tuple[Copy, str]] = []
        forget_absent = self._loader.forget_absent
        for (_, epoch), result in zip(items, results, strict=True):
            if isinstance(result, Exception) or result.copy is None:
                continue
            forget_absent(result.id)
            if epoch is not None and not result.existed:
                created.append((result.copy, epoch))
        self._clean.put_all_behind(created)
        return results

    def _write_alone(self, put: Put) -> WriteResult | Exception:
        try:
            results = self._sql.write([put])
        except Exception as error:
            return error
        return results[0]

    def put_many(self, puts: Sequence[Put]) -> list[Written]:
        """Stores copies in SQL, in one call of the store."""
        epochs = {agent_id: self._clean.epoch_for(agent_id) for agent_id in {put.copy.agent_id for put in puts}}
        results = self._sql.write(puts)
        written = []
        for result in results:
            written.append(Written(result, "sql", result.copy))
            if result.copy is not None:
                self._loader.forget_absent(result.copy.id)
        by_agent: dict[str, dict[str, Copy]] = {}
        for one in written:
            if one.copy is not None:
                by_agent.setdefault(one.copy.agent_id, {})[one.copy.id] = one.copy
        replaced = {one.copy.id for one in written if one.copy is not None and one.result.existed}
        for agent_id, copies in by_agent.items():
            self._clean.put_behind([copy for copy in copies.values() if copy.id not in replaced], epochs[agent_id])
            urgent = [copy for copy in copies.values() if copy.id in replaced]
            epoch = epochs[agent_id]
            for start in range(0, len(urgent) if epoch else 0, MAX_ENTRIES):
                self._clean.put(urgent[start : start + MAX_ENTRIES], epoch or "")
        return written

    def _put_as_dirty(self, put: Put, known_version: int) -> Written:
        clock_us = self._dirty.check_room()
        copy = put.copy
        version = next_version(known_version, clock_us)
        copy = accepted(copy, version, self._number | 1, copy.created_us or version, 0, copy.generation)
        base = put.if_version if put.if_version is not None else (known_version or None)
        status = self._dirty.put(copy, base)
        self._loader.forget_absent(copy.id)
        is_applied = status is WriteStatus.APPLIED
        if is_applied:
            self._dirty.note_version(copy.id, version)
        result = WriteResult(status, copy.id, version if is_applied else 0, 0, base is not None, copy.created_us)
        return Written(result, "redis", copy if is_applied else None)

    # --- deleting ---

    def delete(
        self,
        agent_id: str,
        memory_id: str,
        if_version: int | None,
        minimum: Durability,
        known_version: int,
        *,
        is_synced: bool = False,
    ) -> Written:
        """Leaves a tombstone. `ABSENT`: only Redis has the memory, which is to be brought into SQL first, unless `is_synced`.

        Raises MemoryStoreUnavailableError, having done nothing, where Redis may have it but cannot be asked.
        """
        operation = Delete(memory_id, agent_id, writer=self._number, if_version=if_version)
        try:
            epoch = self._clean.epoch_for(agent_id)
            (result,) = self._sql.write([operation._replace(held_only=self._redis.tier is not None)])
        except MemoryStoreUnavailableError as error:
            if minimum == "sql":
                raise DurabilityError("sql", _reason(error), fault=error.fault) from error
            failure = error
        else:
            if result.status is WriteStatus.ABSENT and self._redis.tier is not None:
                is_in_redis = self._dirty.holds(agent_id, memory_id)
                if if_version is not None or (is_in_redis and not is_synced):
                    return Written(result._replace(existed=is_in_redis), "sql", None)
                (result,) = self._sql.write([operation])
                result = result._replace(existed=result.existed or is_in_redis)
            tombstone = None
            if result.status is WriteStatus.APPLIED:
                tombstone = tombstone_of(memory_id, agent_id, result.version, self._number, seq=result.seq)
                if epoch is not None:
                    self._clean.put([tombstone], epoch)
            return Written(result, "sql", tombstone)
        if self._journal is None or not self._journal.find([memory_id]):
            try:
                return self._delete_as_dirty(agent_id, memory_id, if_version, known_version)
            except DurabilityError as error:
                if minimum != "journal":
                    raise self._both_refused("sql", failure, error) from failure
        elif minimum != "journal":
            raise DurabilityError("sql", f"{_reason(failure)}; {_JOURNALLED}", fault=failure.fault) from failure
        assert self._journal is not None
        version = next_version(known_version, time.time_ns() // 1_000)
        tombstone = tombstone_of(memory_id, agent_id, version, self._number | 2)
        self._journal.keep(tombstone)
        return Written(WriteResult(WriteStatus.APPLIED, memory_id, version, existed=True), "journal", tombstone)

    def delete_many(self, agent_id: str, ids: Sequence[str]) -> list[Written]:
        """Leaves tombstones in SQL, in one call of the store."""
        try:
            epoch = self._clean.epoch_for(agent_id)
            results = self._sql.write([Delete(memory_id, agent_id, writer=self._number) for memory_id in ids])
        except MemoryStoreUnavailableError as error:
            raise DurabilityError("sql", _reason(error), fault=error.fault) from error
        written = []
        for memory_id, result in zip(ids, results, strict=True):
            tombstone = None
            if result.status is WriteStatus.APPLIED:
                tombstone = tombstone_of(memory_id, agent_id, result.version, self._number, seq=result.seq)
            written.append(Written(result, "sql", tombstone))
        tombstones = [one.copy for one in written if one.copy is not None]
        for start in range(0, len(tombstones) if epoch is not None else 0, MAX_ENTRIES):
            self._clean.put(tombstones[start : start + MAX_ENTRIES], epoch or "")
        return written

    def _delete_as_dirty(self, agent_id: str, memory_id: str, if_version: int | None, known_version: int) -> Written:
        version = next_version(known_version, self._dirty.check_room())
        tombstone = tombstone_of(memory_id, agent_id, version, self._number | 1)
        status = self._dirty.put(tombstone, if_version)
        existed = status is WriteStatus.APPLIED
        if existed:
            self._dirty.note_version(memory_id, version + DELETED)
        result = WriteResult(status, memory_id, version if existed else 0, existed=existed)
        return Written(result, "redis", tombstone if existed else None)


_JOURNALLED: Final = "the journal alone holds this memory"


def _reason(error: MemoryStoreUnavailableError) -> str:
    return f"SQL is {error.fault.value}: {error}"
