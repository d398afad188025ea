# Generated from ../_async/copies.py by tools/generate_sync.py: edit that file, not this one.

"""Where copies are written to and read from: SQL, Redis, and what is done when one of them is away.

States of each of the two stores, as this process sees them (`Presence`)
- *here*: every call goes there.
- *away*: a call failed less than RETRY_S ago; calls are answered without it. The next one after that tries again: coming
  back needs nobody.
SQL may be here and take no writes (`Writability`): full, read-only or locked. Then reads go on, and writes do what they do
while it is away.

Rules
- A write is acknowledged at one level: SQL committed it, or Redis accepted it as a dirty copy. It goes to SQL unless Redis
  was asked for; to Redis instead only where the caller lets it degrade.
- Where both are away, or both refuse, the journal takes what may degrade or asked for no more, if there is one. It is read
  over what the stores say, and brought into SQL by the first call that finds it back.
- A clean copy is put with the epoch known before the SQL statement (R4). New memories are put behind the caller's back
  (`MAX_BEHIND`, beyond which they are simply not cached); updates and deletes before the caller goes on, so that
  no other process is served the old one.
- A read takes a valid clean copy of at least the version it knows; dirty copies are compared with SQL while it is here;
  the rest is loaded from SQL, each id once at a time, and put.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, cast

from redis.exceptions import RedisError, ResponseError

from agent_memory._concurrency import (
    Event,
    KeyedLocks,
    Task,
    spawn,
)
from agent_memory._interruptible import LOOK_AGAIN_S
from agent_memory.memory._agent_index import DELETED
from agent_memory.memory._availability import Damage, Found, Presence, Writability, Written
from agent_memory.memory._batching import Batcher, Turns
from agent_memory.memory._copy import Copy, accepted, new_writer, tombstone_of
from agent_memory.memory._copy_rules import is_expired, next_version
from agent_memory.memory._redis_scripts import MAX_ENTRIES
from agent_memory.memory._sync.journal import MemoryJournal
from agent_memory.memory._sync.redis_tier import RedisTier, bucket_of
from agent_memory.memory.entries import Durability, Tier
from agent_memory.memory.errors import (
    CorruptMemoryError,
    DurabilityError,
    MemoryStoreError,
    MemoryStoreUnavailableError,
    StoreFault,
)
from agent_memory.memory.settings import MemorySettings
from agent_memory.memory.stores._sync.protocol import MemoryStore
from agent_memory.memory.stores.operations import Delete, Operation, Put, WriteResult, WriteStatus

__all__ = ["Copies", "DataLoader"]

logger = logging.getLogger(__name__)

MAX_BEHIND: Final = 10_000
"""The most clean copies that wait to be put into Redis; beyond it the oldest are dropped: they will be cache misses."""

MAX_OWN_DIRTY: Final = 10_000
"""Of how many memories the version is remembered that this process had Redis accept."""

DIRTY_ENTRIES: Final = 100
"""The most dirty copies of an agent that one call puts: few enough that callers make the next while the server is at it."""

SAFE_EVICTION_POLICIES: Final = ("noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl")
"""With any other the server may drop copies that nothing else holds."""

REOPEN_INTERVAL_S: Final = 1.0
"""Between two looks for the embedded server, while it is away."""

REDIS_ERRORS: Final = (RedisError, OSError)


def _reason(error: MemoryStoreUnavailableError) -> str:
    return f"SQL is {error.fault.value}: {error}"


def _redis_unread() -> MemoryStoreUnavailableError:
    """SQL does not have it, or not in the version that is known, and Redis cannot be asked."""
    return MemoryStoreUnavailableError("Redis is away, which alone may have this memory until SQL gets it")


_LOOK_AGAIN_S: Final = LOOK_AGAIN_S


class _Flight:
    __slots__ = ("copy", "error", "is_abandoned", "is_damaged", "is_overtaken", "landed", "pilot")

    def __init__(self) -> None:
        self.copy: Copy | None = None
        self.is_damaged = False
        self.is_abandoned = False  # its caller was cancelled or interrupted: the others ask for themselves
        self.is_overtaken = False  # the id came into being while SQL was asked
        self.error: BaseException | None = None
        self.landed = Event()
        self.pilot: weakref.ref[_Pilot] | None = None
        """Held weakly: a thread may be interrupted before it can say that it leaves."""

    @property
    def is_lost(self) -> bool:
        """Whether its pilot has gone: no load will end it."""
        return self.is_abandoned or self.pilot is None or (self.pilot() is None and not self.landed.is_set())


class _Pilot:
    """The call that reads for the others."""

    __slots__ = ("__weakref__",)


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


class DataLoader:
    """Cache misses: ids that Redis does not serve are read from SQL, each once at a time, and put into Redis.

    Ids that are nowhere are remembered for `absent_ttl_s`, at most `max_absent` of them.
    """

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._settings = copies.settings.loader
        self._mutex = threading.Lock()
        self._flights: dict[str, _Flight] = {}
        self._absent: OrderedDict[str, float] = OrderedDict()
        self.loaded = 0
        self.shared = 0
        self.absent_hits = 0

    def forget_absent(self, memory_id: str) -> None:
        """An id came into being in SQL; what is being asked there now may not have seen it."""
        if self._absent or self._flights:
            with self._mutex:
                self._absent.pop(memory_id, None)
                flight = self._flights.get(memory_id)
                if flight is not None:
                    flight.is_overtaken = True

    def _is_absent(self, memory_id: str, now: float) -> bool:
        until = self._absent.get(memory_id)
        if until is None:
            return False
        if until > now:
            return True
        del self._absent[memory_id]
        return False

    def load(
        self, agent_id: str, ids: Sequence[str], dirty: Collection[str] = (), damaged: set[str] | None = None
    ) -> dict[str, Copy]:
        """What SQL holds of `ids` and of `dirty`, tombstones among it. Raises MemoryStoreUnavailableError.

        Ids of damaged rows are added to `damaged`. Ids that Redis has dirty copies of are never remembered as absent: they are
        about to be in SQL.
        """
        pilot: _Pilot | None = _Pilot()
        try:
            return self._load(agent_id, ids, dirty, damaged, weakref.ref(cast(_Pilot, pilot)))
        except BaseException:
            pilot = None  # a traceback keeps this frame
            raise

    def _load(
        self,
        agent_id: str,
        ids: Sequence[str],
        dirty: Collection[str],
        damaged: set[str] | None,
        pilot: weakref.ref[_Pilot],
    ) -> dict[str, Copy]:
        found: dict[str, Copy] = {}
        damaged = set() if damaged is None else damaged
        own: dict[str, _Flight] = {}
        others: dict[str, _Flight] = {}
        now = time.monotonic()
        with self._mutex:
            for memory_id in (*ids, *dirty):
                if self._absent and memory_id not in dirty and self._is_absent(memory_id, now):
                    self.absent_hits += 1
                elif (flown := self._flights.get(memory_id)) is not None and not flown.is_lost:
                    others[memory_id] = flown
                else:
                    flight = own[memory_id] = _Flight()
                    flight.pilot = pilot
                    if flown is not None or len(self._flights) < self._settings.max_flights:
                        self._flights[memory_id] = flight
        if own:
            self._fly(agent_id, own, found, dirty)
            damaged.update(memory_id for memory_id, flight in own.items() if flight.is_damaged)
        abandoned: list[str] = []
        for memory_id, flight in others.items():
            self.shared += 1
            while not flight.landed.wait(_LOOK_AGAIN_S):
                if flight.is_lost:
                    break
            if flight.is_lost:
                abandoned.append(memory_id)
                continue
            if flight.error is not None:
                raise flight.error
            if flight.is_damaged:
                damaged.add(memory_id)
            if flight.copy is not None:
                found[memory_id] = flight.copy
        if abandoned:
            found |= self.load(
                agent_id,
                [memory_id for memory_id in abandoned if memory_id not in dirty],
                [memory_id for memory_id in abandoned if memory_id in dirty],
                damaged,
            )
        return found

    def _fly(self, agent_id: str, flights: dict[str, _Flight], found: dict[str, Copy], dirty: Collection[str]) -> None:
        error: BaseException | None = None
        is_abandoned = True
        ids = list(flights)
        try:
            epoch = self._copies.epoch_for(agent_id)
            damaged: list[str] = []
            rows = self._copies.ask_sql(self._copies.store.get, ids, damaged=damaged)
            for memory_id in damaged:
                flights[memory_id].is_damaged = True
                self._copies.damage.note(memory_id, "SQL")
            for memory_id, copy in zip(ids, rows, strict=True):
                if copy is not None and copy.agent_id == agent_id:
                    found[memory_id] = flights[memory_id].copy = copy
            self.loaded += len(found)
            self._copies.put_behind([copy for copy in found.values() if not copy.deleted], epoch)
            is_abandoned = False
        except Exception as failure:
            error, is_abandoned = failure, False
            raise
        finally:
            self._land(flights, error, dirty, is_abandoned)

    def _land(
        self, flights: dict[str, _Flight], error: BaseException | None, dirty: Collection[str], is_abandoned: bool
    ) -> None:
        until = time.monotonic() + self._settings.absent_ttl_s
        with self._mutex:
            for memory_id, flight in flights.items():
                flight.error, flight.is_abandoned = error, is_abandoned
                is_known = self._flights.get(memory_id) is flight
                if is_known:
                    del self._flights[memory_id]
                is_absent = error is None and not is_abandoned and flight.copy is None and memory_id not in dirty
                is_absent = is_absent and not flight.is_damaged
                # A flight beyond `max_flights` is not in the books, so nobody could have told it.
                is_absent = is_absent and is_known and not flight.is_overtaken
                if is_absent and self._settings.absent_ttl_s > 0:
                    self._absent[memory_id] = until
            while len(self._absent) > self._settings.max_absent:
                self._absent.popitem(last=False)
        for flight in flights.values():
            flight.landed.set()


class Copies:
    """Copies of memories in SQL and Redis. Any number of threads may use one object.

    `tier` is None for a system without Redis.
    """

    def __init__(
        self,
        store: MemoryStore,
        tier: RedisTier | None,
        settings: MemorySettings,
        journal: MemoryJournal | None = None,
    ) -> None:
        self.store = store
        self.tier = tier
        self.journal = journal
        self.settings = settings
        self.sql = Presence("SQL")
        self.sql_writes = Writability()
        self.damage = Damage()
        self._own_dirty: OrderedDict[str, int] = OrderedDict()
        self.redis = Presence("Redis")
        self.loader = DataLoader(self)
        # The last two bits say which store's clock a version is of, so that equal versions have unequal writers.
        self._writer = new_writer() >> 2 << 2
        self._opening = KeyedLocks()
        self._behind: deque[tuple[Copy, str]] = deque(maxlen=MAX_BEHIND)
        self._behind_mutex = threading.Lock()
        self._behind_task: Task[None] | None = None
        self._behind_runs = False
        self._dirty_batches: Batcher[tuple[Copy, int | None], str] = Batcher(self._put_dirty, DIRTY_ENTRIES)
        self._sql_turns: Turns[tuple[Put, str | None], WriteResult] = Turns(self._write_together)
        self._dirty_bytes: dict[int, int] = {}
        self.dirty_agents: dict[str, None] = {}
        self.evicts_dirty: str | None = None
        self.on_hint: Callable[[str, int], None] | None = None
        self.on_sql: Callable[[], Any] | None = None
        self._replay_task: Task[Any] | None = None
        self.on_redis_lost: Callable[[], Any] | None = None
        self._reopen_task: Task[Any] | None = None
        self._reopen_at = 0.0
        self.put_count = 0
        self.put_failures = 0

    @property
    def writer(self) -> int:
        """Who writes with versions that SQL assigns."""
        return self._writer

    # --- asking the stores ---

    def ask_sql(self, function: Any, *args: Any, **options: Any) -> Any:
        """Calls a method of the store; a MemoryStoreUnavailableError that says so is remembered as its absence."""
        if self.sql.is_away():
            raise MemoryStoreUnavailableError(f"SQL was away a moment ago ({self.sql.last_error})")
        try:
            answer = function(*args, **options)
        except MemoryStoreUnavailableError as error:
            if error.fault is StoreFault.AWAY:
                self.sql.failed(error)
            else:
                self.sql.answered()
            raise
        self.sql.answered()
        return answer

    def change_sql(self, function: Any, *args: Any, **options: Any) -> Any:
        """Calls a method of the store that writes; that SQL takes no writes is remembered, and concerns writes alone."""
        if self.sql_writes.is_locked():
            raise MemoryStoreUnavailableError(
                f"SQL was locked a moment ago ({self.sql_writes.last_error})", fault=StoreFault.LOCKED
            )
        try:
            return self.ask_sql(function, *args, **options)
        except MemoryStoreUnavailableError as error:
            if error.fault is not StoreFault.AWAY:
                self.sql_writes.refused(error)
            raise

    def write_sql(self, operations: Sequence[Operation]) -> list[WriteResult]:
        """Has the store apply operations."""
        results: list[WriteResult] = self.change_sql(self.store.write, operations)
        if self.sql_writes.fault is not None and any(result.seq for result in results):
            self.sql_writes.accepted()
        return results

    def sql_state(self) -> str:
        """`"here"`, or the fault that SQL has now; asks it, whether it takes writes too."""
        try:
            self.ask_sql(self.store.agents, limit=1)
            self.change_sql(self.store.check_writable)
        except MemoryStoreError as error:
            is_locked = error.fault is StoreFault.TRANSIENT
            return (StoreFault.LOCKED if is_locked else error.fault).value
        fault = self.sql_writes.checked()
        return "here" if fault is None else fault.value

    def ask_redis(self, function: Any, *args: Any, **options: Any) -> Any:
        """Calls a method of the tier; returns None where Redis is away, or there is none."""
        if self.tier is None or self.redis.is_away():
            return None
        try:
            answer = function(*args, **options)
        except REDIS_ERRORS as error:
            self._redis_failed(error)
            return None
        self.redis.answered()
        return answer

    def _redis_failed(self, error: BaseException) -> None:
        self.redis.failed(error)
        self._reopen_behind()

    def _reopen_behind(self) -> None:
        """The embedded server may have ended with the process that owned it: somebody else has to start one."""
        if self.on_redis_lost is None or time.monotonic() < self._reopen_at:
            return
        with self._behind_mutex:
            if self._reopen_task is None or self._reopen_task.is_done():
                self._reopen_at = time.monotonic() + REOPEN_INTERVAL_S
                self._reopen_task = spawn(self.on_redis_lost, name="agent-memory-server")

    def epoch_for(self, agent_id: str) -> str | None:
        """The agent's epoch in Redis, opened where this process does not know it; None where Redis is away."""
        tier = self.tier
        if tier is None or self.redis.is_away():
            return None
        epoch = tier.known_epoch(agent_id)
        if epoch is not None:
            return epoch
        with self._opening.hold(agent_id):
            epoch = tier.known_epoch(agent_id)
            if epoch is None:
                # Before the epoch begins: Redis follows the feed from here.
                state = self.ask_sql(self.store.agent, agent_id)
                opened = self.ask_redis(tier.open_epoch, agent_id, 0 if state is None else state.seq)
                epoch = None if opened is None else str(opened)
        return epoch

    # --- clean copies ---

    def residency_s(self, tier: int) -> float:
        """For how long a copy of a tier stays in Redis."""
        if tier == Tier.STM:
            # Until maintenance has put the next tier's label on it: a copy that left before would be missed there.
            return self.settings.short_term.ttl_s + 2 * self.settings.maintenance.interval_s
        return self.settings.intermediate.ttl_s if tier == Tier.IM else self.settings.short_term.ttl_s

    def put_behind(self, copies: Sequence[Copy], epoch: str | None) -> None:
        """Puts clean copies soon; drops them where Redis is away."""
        if epoch is not None:
            self._put_all_behind([(copy, epoch) for copy in copies])

    def _put_all_behind(self, copies: Sequence[tuple[Copy, str]]) -> None:
        if not copies or self.tier is None or self.redis.is_away():
            return
        self._behind.extend(copies)
        with self._behind_mutex:
            if not self._behind_runs or self._behind_task is None or self._behind_task.is_done():
                self._behind_runs = True
                self._behind_task = spawn(self._work_behind, name="agent-memory-put")

    def _work_behind(self) -> None:
        while self._has_work_behind():
            batches: dict[tuple[str, str, int], dict[str, Copy]] = {}
            for _ in range(MAX_ENTRIES):
                try:
                    copy, epoch = self._behind.popleft()
                except IndexError:
                    break
                batches.setdefault((copy.agent_id, epoch, copy.tier), {})[copy.id] = copy
            for (_, epoch, _), batch in batches.items():
                self.put_clean(list(batch.values()), epoch)

    def _has_work_behind(self) -> bool:
        with self._behind_mutex:
            self._behind_runs = bool(self._behind)
            return self._behind_runs

    def put_clean(self, copies: Sequence[Copy], epoch: str) -> bool:
        """Puts clean copies of one agent and tier; returns whether Redis has seen them."""
        tier = self.tier
        assert tier is not None
        answer = self.ask_redis(tier.put_clean, copies, epoch, self.residency_s(copies[0].tier))
        if answer is None:
            self.put_failures += len(copies)
            return False
        self.put_count += len(copies)
        agent_id = copies[0].agent_id
        if self.on_hint is not None:
            self.on_hint(agent_id, answer.hint)
        limit = self.settings.short_term.max_entries + self.settings.intermediate.max_entries
        if answer.number > limit:
            oldest = self.ask_redis(tier.oldest_ids, agent_id, min(answer.number - limit, MAX_ENTRIES))
            if oldest:
                self.ask_redis(tier.evict, agent_id, oldest)
        return "e" not in answer.letters

    def flush(self) -> None:
        """Waits until the copies that wait to be put have been tried."""
        while (task := self._behind_task) is not None and not task.is_done():
            task.join()

    # --- writing ---

    def put(self, put: Put, durability: Durability, degrade: bool, known_version: int = 0) -> Written:
        """Stores a copy without a version of its own; see the module. Raises DurabilityError where nothing may be reached."""
        if durability == "redis" and self.tier is not None and not self.redis.is_away():
            try:
                return self._put_as_dirty(put, known_version)
            except DurabilityError:
                if self.sql.is_away():
                    raise  # otherwise SQL promises more than was asked for
        try:
            written = self._put_in_sql(put)
        except MemoryStoreUnavailableError as error:
            if not (degrade or durability != "sql"):
                raise DurabilityError(durability, None, _reason(error), fault=error.fault) from error
            failure = error
        else:
            self._replay_behind()
            return written
        # What the journal has stays there until SQL has it: Redis knows nothing of it.
        is_journalled = self.journal is not None and bool(self.journal.find([put.copy.id]))
        if not is_journalled:
            try:
                return self._put_as_dirty(put, known_version)
            except DurabilityError as error:
                if self.journal is None or not (degrade or durability == "journal"):
                    raise self._both_refused(durability, failure, error) from failure
        return self._put_in_journal(put, known_version)

    @staticmethod
    def _both_refused(durability: str, failure: MemoryStoreUnavailableError, error: DurabilityError) -> DurabilityError:
        return DurabilityError(durability, None, f"{_reason(failure)}; {error.reason}", fault=failure.fault)

    def _put_in_journal(self, put: Put, known_version: int) -> Written:
        journal = self.journal
        assert journal is not None
        copy = put.copy
        version = next_version(known_version, time.time_ns() // 1_000)
        copy = accepted(copy, version, self._writer | 2, copy.created_us or version, 0, copy.generation)
        journal.keep(copy)
        self.loader.forget_absent(copy.id)
        existed = put.if_version is not None or known_version > 0
        return Written(WriteResult(WriteStatus.APPLIED, copy.id, version, 0, existed, copy.created_us), "journal", copy)

    def _replay_behind(self) -> None:
        """SQL is here: what the journal holds goes there soon."""
        if not self.journal or self.on_sql is None:
            return
        with self._behind_mutex:
            if self._replay_task is None or self._replay_task.is_done():
                self._replay_task = spawn(self.on_sql, name="agent-memory-journal")

    def _put_in_sql(self, put: Put) -> Written:
        agent_id = put.copy.agent_id
        epoch = None if self.tier is None else self.tier.known_epoch(agent_id)
        if epoch is None:
            epoch = self.epoch_for(agent_id)
        result = self._sql_turns.call((put, epoch))
        copy = result.copy
        if copy is not None and result.existed and epoch is not None:
            self.put_clean([copy], epoch)
        return Written(result, "sql", copy)

    def _write_together(self, items: Sequence[tuple[Put, str | None]]) -> Sequence[WriteResult | Exception]:
        """Writes what the threads of one turn have asked for; new memories are put into Redis behind their backs."""
        puts = [put for put, _ in items]
        results: Sequence[WriteResult | Exception]
        try:
            results = self.write_sql(puts)
        except Exception as error:
            is_away = isinstance(error, MemoryStoreUnavailableError) and error.fault is not StoreFault.FULL
            if len(puts) == 1 or is_away:
                raise
            logger.debug("%d writes are tried one by one, because of %s", len(puts), type(error).__name__)
            results = [self._write_alone(put) for put in puts]
        created: list[tuple[Copy, str]] = []
        forget_absent = self.loader.forget_absent
        for (_, epoch), result in zip(items, results, strict=True):
            if isinstance(result, Exception) or result.copy is None:
                continue
            forget_absent(result.id)
            if epoch is not None and not result.existed:
                created.append((result.copy, epoch))
        self._put_all_behind(created)
        return results

    def _write_alone(self, put: Put) -> WriteResult | Exception:
        try:
            results = self.write_sql([put])
        except Exception as error:
            return error
        return results[0]

    def put_many(self, puts: Sequence[Put]) -> list[Written]:
        """Stores copies in SQL, in one call of the store."""
        epochs = {agent_id: self.epoch_for(agent_id) for agent_id in {put.copy.agent_id for put in puts}}
        results = self.write_sql(puts)
        written = []
        for result in results:
            written.append(Written(result, "sql", result.copy))
            if result.copy is not None:
                self.loader.forget_absent(result.copy.id)
        by_agent: dict[str, dict[str, Copy]] = {}
        for one in written:
            if one.copy is not None:
                by_agent.setdefault(one.copy.agent_id, {})[one.copy.id] = one.copy
        replaced = {one.copy.id for one in written if one.copy is not None and one.result.existed}
        for agent_id, copies in by_agent.items():
            self.put_behind([copy for copy in copies.values() if copy.id not in replaced], epochs[agent_id])
            urgent = [copy for copy in copies.values() if copy.id in replaced]
            epoch = epochs[agent_id]
            for start in range(0, len(urgent) if epoch else 0, MAX_ENTRIES):
                self.put_clean(urgent[start : start + MAX_ENTRIES], epoch or "")
        return written

    def _put_as_dirty(self, put: Put, known_version: int) -> Written:
        tier = self.tier
        if tier is None or self.redis.is_away():
            raise DurabilityError("redis", None, "there is no Redis" if tier is None else "Redis is away")
        self.check_dirty_room()
        copy = put.copy
        clock_us = tier.now_us()
        version = next_version(known_version, clock_us)
        copy = accepted(copy, version, self._writer | 1, copy.created_us or version, 0, copy.generation)
        base = put.if_version if put.if_version is not None else (known_version or None)
        letter = self._dirty_batches.call(copy.agent_id, (copy, base))
        status = _DIRTY_STATUS[letter]
        self.loader.forget_absent(copy.id)
        existed = base is not None
        if letter == "o":
            self._note_own_dirty(copy.id, version)
        result = WriteResult(status, copy.id, version if letter == "o" else 0, 0, existed, copy.created_us)
        return Written(result, "redis", copy if letter == "o" else None)

    def _note_own_dirty(self, memory_id: str, version: int) -> None:
        self._own_dirty[memory_id] = version
        while len(self._own_dirty) > MAX_OWN_DIRTY:
            self._own_dirty.popitem(last=False)

    def _put_dirty(self, items: Sequence[tuple[Copy, int | None]]) -> list[str]:
        """One script for the dirty copies of one agent; ids that come twice go in rounds."""
        tier = self.tier
        assert tier is not None
        letters = [""] * len(items)
        waiting = list(range(len(items)))
        while waiting:
            now: dict[str, int] = {}
            for at in waiting:
                now.setdefault(items[at][0].id, at)
            chosen = list(now.values())
            try:
                answer = tier.put_dirty([items[at][0] for at in chosen], [items[at][1] for at in chosen])
            except REDIS_ERRORS as error:
                if not isinstance(error, ResponseError):
                    self._redis_failed(error)
                reason = "Redis refused it" if isinstance(error, ResponseError) else "Redis is away"
                raise DurabilityError("redis", None, f"{reason}: {type(error).__name__}") from error
            self.redis.answered()
            for at, letter in zip(chosen, answer.letters, strict=True):
                letters[at] = letter
            agent_id = items[0][0].agent_id
            self.note_dirty(agent_id, answer.number)
            if self.on_hint is not None:
                self.on_hint(agent_id, answer.hint)
            waiting = [at for at in waiting if at not in set(chosen)]
        return letters

    def note_dirty(self, agent_id: str, bucket_bytes: int) -> None:
        """Remembers how many bytes of dirty copies the agent's bucket holds."""
        self._dirty_bytes[bucket_of(agent_id)] = bucket_bytes

    def note_sizes(self, sizes: Mapping[int, int]) -> None:
        """Remembers the bytes of dirty copies of buckets."""
        self._dirty_bytes.update(sizes)

    def dirty_buckets(self) -> list[int]:
        """The buckets of which this process has seen that they hold dirty copies."""
        return [bucket for bucket, size in list(self._dirty_bytes.items()) if size]

    @property
    def dirty_bytes(self) -> int:
        """Bytes of dirty copies in Redis, as far as this process has seen."""
        return sum(self._dirty_bytes.values())

    def check_dirty_room(self) -> None:
        """Refuses what the server might evict, and what does not fit into `max_unsynced_bytes`."""
        if self.evicts_dirty is None:
            self._ask_for_eviction_policy()
        if self.evicts_dirty:
            raise DurabilityError("redis", None, f"the server's eviction policy {self.evicts_dirty} may drop it")
        if self.dirty_bytes >= self.settings.sync.max_unsynced_bytes:
            raise DurabilityError(
                "redis", None, f"max_unsynced_bytes ({self.settings.sync.max_unsynced_bytes}) wait for SQL already"
            )

    def _ask_for_eviction_policy(self) -> None:
        tier = self.tier
        assert tier is not None
        try:
            info = tier.client.info("memory")
        except REDIS_ERRORS as error:
            self._redis_failed(error)
            raise DurabilityError("redis", None, "Redis is away") from error
        # A cluster answers for each of its nodes.
        answers = [info] if "maxmemory_policy" in info else list(info.values())
        policies = {str(one.get("maxmemory_policy", "unknown")) for one in answers}
        self.evicts_dirty = ", ".join(sorted(policies.difference(SAFE_EVICTION_POLICIES)))

    def delete(
        self,
        agent_id: str,
        memory_id: str,
        if_version: int | None,
        degrade: bool,
        known_version: int,
        *,
        is_synced: bool = False,
    ) -> Written:
        """Leaves a tombstone. `ABSENT`: only Redis has the memory, which is to be brought into SQL first, unless `is_synced`.

        Raises MemoryStoreUnavailableError, having done nothing, where Redis may have it but cannot be asked.
        """
        operation = Delete(memory_id, agent_id, writer=self._writer, if_version=if_version)
        try:
            epoch = self.epoch_for(agent_id)
            (result,) = self.write_sql([operation._replace(held_only=self.tier is not None)])
        except MemoryStoreUnavailableError as error:
            if not degrade:
                raise DurabilityError("sql", None, _reason(error), fault=error.fault) from error
            failure = error
        else:
            if result.status is WriteStatus.ABSENT and self.tier is not None:
                is_in_redis = self._is_in_redis(agent_id, memory_id)
                if if_version is not None or (is_in_redis and not is_synced):
                    return Written(result._replace(existed=is_in_redis), "sql", None)
                (result,) = self.write_sql([operation])
                result = result._replace(existed=result.existed or is_in_redis)
            tombstone = None
            if result.status is WriteStatus.APPLIED:
                tombstone = tombstone_of(memory_id, agent_id, result.version, self._writer, seq=result.seq)
                if epoch is not None:
                    self.put_clean([tombstone], epoch)
            return Written(result, "sql", tombstone)
        if self.journal is None or not self.journal.find([memory_id]):
            try:
                return self._delete_as_dirty(agent_id, memory_id, if_version, known_version)
            except DurabilityError as error:
                if self.journal is None:
                    raise self._both_refused("sql", failure, error) from failure
        version = next_version(known_version, time.time_ns() // 1_000)
        tombstone = tombstone_of(memory_id, agent_id, version, self._writer | 2)
        self.journal.keep(tombstone)
        return Written(WriteResult(WriteStatus.APPLIED, memory_id, version, existed=True), "journal", tombstone)

    def delete_many(self, agent_id: str, ids: Sequence[str]) -> list[Written]:
        """Leaves tombstones in SQL, in one call of the store."""
        try:
            epoch = self.epoch_for(agent_id)
            results = self.write_sql([Delete(memory_id, agent_id, writer=self._writer) for memory_id in ids])
        except MemoryStoreUnavailableError as error:
            raise DurabilityError("sql", None, _reason(error), fault=error.fault) from error
        written = []
        for memory_id, result in zip(ids, results, strict=True):
            tombstone = None
            if result.status is WriteStatus.APPLIED:
                tombstone = tombstone_of(memory_id, agent_id, result.version, self._writer, seq=result.seq)
            written.append(Written(result, "sql", tombstone))
        tombstones = [one.copy for one in written if one.copy is not None]
        for start in range(0, len(tombstones) if epoch is not None else 0, MAX_ENTRIES):
            self.put_clean(tombstones[start : start + MAX_ENTRIES], epoch or "")
        return written

    def _is_in_redis(self, agent_id: str, memory_id: str) -> bool:
        """Whether Redis has accepted a memory that SQL does not have."""
        assert self.tier is not None
        reply = self.ask_redis(self.tier.read, agent_id, [memory_id])
        if reply is None:
            raise _redis_unread()
        copy: Copy | None = reply.copies[0]
        return memory_id in reply.damaged or (copy is not None and not copy.deleted)

    def _delete_as_dirty(self, agent_id: str, memory_id: str, if_version: int | None, known_version: int) -> Written:
        tier = self.tier
        if tier is None:
            raise DurabilityError("redis", None, "there is no Redis")
        if self.redis.is_away():
            raise DurabilityError("redis", None, "Redis is away")
        self.check_dirty_room()
        version = next_version(known_version, tier.now_us())
        tombstone = tombstone_of(memory_id, agent_id, version, self._writer | 1)
        letter = self._dirty_batches.call(agent_id, (tombstone, if_version))
        status = _DIRTY_STATUS[letter]
        existed = letter == "o"
        if existed:
            self._note_own_dirty(memory_id, version + DELETED)
        result = WriteResult(status, memory_id, version if existed else 0, existed=existed)
        return Written(result, "redis", tombstone if existed else None)

    # --- reading ---

    def read(self, agent_id: str, ids: Sequence[str], known: Mapping[str, int], *, partial: bool = False) -> Found:
        """The copies of `ids`.

        `known`: versions of ids below which a copy in Redis is a miss. With `partial` what cannot be read now, and what is
        damaged, is left out and named; otherwise MemoryStoreUnavailableError or CorruptMemoryError is raised.
        """
        found: dict[str, Copy] = {}
        journalled = self.journal.find(ids) if self.journal is not None else []
        if journalled and self.journal is not None and self.on_sql is not None and not self.sql.is_away():
            # SQL may have got something greater since, or an erasure.
            self.on_sql()
            journalled = self.journal.find(ids)
        seen = self._read_redis(agent_id, ids, known, found)
        unread = set(seen.unread)
        corrupt: set[str] = set()
        if seen.missing or seen.dirty or seen.damaged:
            try:
                rows = self.loader.load(agent_id, seen.missing, [*seen.dirty, *seen.damaged], corrupt)
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
                self.damage.note(memory_id, error.where)
        if not partial and unknown:
            raise _redis_unread()
        if not partial and damaged:
            raise next(iter(damaged.values()))
        for memory_id in unread:
            if memory_id in unknown or max(known.get(memory_id, 0), self._own_dirty.get(memory_id, 0)) >= DELETED:
                found.pop(memory_id, None)
        now = time.time()
        living = {
            memory_id: copy
            for memory_id, copy in found.items()
            if not copy.deleted and not (copy.expires_at is not None and is_expired(copy.expires_at, now))
        }
        return Found(living, seen.hint, unknown, damaged)

    def _read_redis(
        self, agent_id: str, ids: Sequence[str], known: Mapping[str, int], found: dict[str, Copy]
    ) -> _SeenInRedis:
        """Adds valid clean copies to `found`; returns what is to be asked of SQL."""
        seen = _SeenInRedis()
        for start in range(0, len(ids), MAX_ENTRIES):
            part = ids[start : start + MAX_ENTRIES]
            reply = None if self.tier is None else self.ask_redis(self.tier.read, agent_id, part)
            if reply is None:
                seen.missing += part
                if self.tier is not None:
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
        """The ids whose newest copy is damaged, as far as that can be told; they leave `found`."""
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
        least = max(known.get(memory_id, 0), self._own_dirty.get(memory_id, 0))
        if copy is None:
            return memory_id not in damaged and least < DELETED
        return not copy.deleted and copy.version < least < DELETED

    def close(self) -> None:
        """Finishes what waits for Redis; what the journal holds stays in it."""
        self.flush()
        for task in (self._replay_task, self._reopen_task):
            if task is not None:
                task.join()


_DIRTY_STATUS: Final = {
    "o": WriteStatus.APPLIED,
    "h": WriteStatus.STALE,
    "f": WriteStatus.STALE,
    "d": WriteStatus.DELETED,
    "c": WriteStatus.CONFLICT,
}
