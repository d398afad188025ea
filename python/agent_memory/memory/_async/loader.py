"""Cache misses: ids that Redis does not serve are read from SQL, each once at a time, and put into Redis."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final, cast

from agent_memory._concurrency import ASYNC, AsyncEvent
from agent_memory._interruptible import LOOK_AGAIN_S
from agent_memory.memory._async.clean_copies import AsyncCleanCopies
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._copy import Copy
from agent_memory.memory._damage import Damage
from agent_memory.memory.settings import SyncSettings

__all__ = ["AsyncDataLoader"]

_LOOK_AGAIN_S: Final = None if ASYNC else LOOK_AGAIN_S


MAX_FLIGHTS: Final = 1_024
"""The most ids being loaded that other callers can join."""

MAX_ABSENT: Final = 10_000
"""The most ids remembered as being nowhere."""


class _Flight:
    __slots__ = ("copy", "error", "is_abandoned", "is_damaged", "is_overtaken", "landed", "pilot")

    def __init__(self) -> None:
        self.copy: Copy | None = None
        self.is_damaged = False
        self.is_abandoned = False  # its caller was cancelled or interrupted: the others ask for themselves
        self.is_overtaken = False  # the id came into being while SQL was asked
        self.error: BaseException | None = None
        self.landed = AsyncEvent()
        self.pilot: weakref.ref[_Pilot] | None = None
        """Held weakly: a thread may be interrupted before it can say that it leaves."""

    @property
    def is_lost(self) -> bool:
        """Whether its pilot has gone: no load will end it."""
        return self.is_abandoned or self.pilot is None or (self.pilot() is None and not self.landed.is_set())


class _Pilot:
    """The call that reads for the others."""

    __slots__ = ("__weakref__",)


class AsyncDataLoader:
    """Reads what Redis does not serve from SQL. Any number of tasks may use one object.

    Ids that are nowhere are answered without looking again for `max_staleness_s`, at most `MAX_ABSENT` of them.
    """

    def __init__(self, sql: AsyncSqlGateway, clean: AsyncCleanCopies, damage: Damage, settings: SyncSettings) -> None:
        self._sql = sql
        self._clean = clean
        self._damage = damage
        self._settings = settings
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

    async def load(
        self, agent_id: str, ids: Sequence[str], dirty: Collection[str] = (), damaged: set[str] | None = None
    ) -> dict[str, Copy]:
        """What SQL holds of `ids` and of `dirty`, tombstones among it. Raises MemoryStoreUnavailableError.

        Ids of damaged rows are added to `damaged`. Ids that Redis has dirty copies of are never remembered as absent: they are
        about to be in SQL.
        """
        pilot: _Pilot | None = _Pilot()
        try:
            return await self._load(agent_id, ids, dirty, damaged, weakref.ref(cast(_Pilot, pilot)))
        except BaseException:
            pilot = None  # a traceback keeps this frame
            raise

    async def _load(
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
                    if flown is not None or len(self._flights) < MAX_FLIGHTS:
                        self._flights[memory_id] = flight
        if own:
            await self._fly(agent_id, own, found, dirty)
            damaged.update(memory_id for memory_id, flight in own.items() if flight.is_damaged)
        abandoned: list[str] = []
        for memory_id, flight in others.items():
            self.shared += 1
            while not await flight.landed.wait(_LOOK_AGAIN_S):
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
            found |= await self.load(
                agent_id,
                [memory_id for memory_id in abandoned if memory_id not in dirty],
                [memory_id for memory_id in abandoned if memory_id in dirty],
                damaged,
            )
        return found

    async def _fly(
        self, agent_id: str, flights: dict[str, _Flight], found: dict[str, Copy], dirty: Collection[str]
    ) -> None:
        error: BaseException | None = None
        is_abandoned = True
        ids = list(flights)
        try:
            epoch = await self._clean.epoch_for(agent_id)
            damaged: list[str] = []
            rows = await self._sql.ask(self._sql.store.get, ids, damaged=damaged)
            for memory_id in damaged:
                flights[memory_id].is_damaged = True
                self._damage.note(memory_id, "SQL")
            for memory_id, copy in zip(ids, rows, strict=True):
                if copy is not None and copy.agent_id == agent_id:
                    found[memory_id] = flights[memory_id].copy = copy
            self.loaded += len(found)
            self._clean.put_behind([copy for copy in found.values() if not copy.deleted], epoch)
            is_abandoned = False
        except Exception as failure:
            error, is_abandoned = failure, False
            raise
        finally:
            self._land(flights, error, dirty, is_abandoned)

    def _land(
        self, flights: dict[str, _Flight], error: BaseException | None, dirty: Collection[str], is_abandoned: bool
    ) -> None:
        until = time.monotonic() + self._settings.max_staleness_s
        with self._mutex:
            for memory_id, flight in flights.items():
                flight.error, flight.is_abandoned = error, is_abandoned
                is_known = self._flights.get(memory_id) is flight
                if is_known:
                    del self._flights[memory_id]
                is_absent = error is None and not is_abandoned and flight.copy is None and memory_id not in dirty
                is_absent = is_absent and not flight.is_damaged
                # A flight beyond `MAX_FLIGHTS` is not registered, so no writer could have marked it.
                is_absent = is_absent and is_known and not flight.is_overtaken
                if is_absent:
                    self._absent[memory_id] = until
            while len(self._absent) > MAX_ABSENT:
                self._absent.popitem(last=False)
        for flight in flights.values():
            flight.landed.set()
