"""Whether a store is here, and what became of a write: shared by the asyncio sources and their sync twins."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import Final, NamedTuple

from agent_memory.memory._copy import Copy
from agent_memory.memory.entries import Durability
from agent_memory.memory.errors import CorruptMemoryError, MemoryStoreUnavailableError, StoreFault
from agent_memory.memory.stores.operations import WriteResult

__all__ = ["FULL_STAYS_S", "RETRY_S", "Damage", "Found", "Presence", "Writability", "Written"]

logger = logging.getLogger(__name__)

MAX_DAMAGED: Final = 1_000
"""Of how many damaged memories the names are kept; each is told of once in the log."""

RETRY_S: Final = 0.25
"""For how long a store that failed is not asked again."""


FULL_STAYS_S: Final = 30.0
"""For how long `health()` says that a database is full which has neither refused nor taken a write since: only a write can
tell, and a smaller one may fit."""


class Written(NamedTuple):
    """What became of a write: the SQL store's answer, or one made up for a dirty copy, and the level that was reached."""

    result: WriteResult
    durability: Durability
    copy: Copy | None
    """The copy as it stands now, where it is known."""


class Found(NamedTuple):
    """What was read."""

    copies: dict[str, Copy]
    """Without tombstones, what has expired and what is nowhere."""
    hint: int | None
    """Redis' hint; None: it is away."""
    unknown: frozenset[str]
    """Ids that a store which is away may have."""
    damaged: dict[str, CorruptMemoryError]
    """Ids of which no intact copy was found."""


class Presence:
    """Whether a store is here, as its last calls showed. Any thread may use it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures = 0
        self.last_error = ""
        self._retry_at = 0.0
        self._away_since: float | None = None

    def is_away(self) -> bool:
        """Whether it failed less than RETRY_S ago."""
        return self._retry_at > time.monotonic()

    @property
    def away_s(self) -> float | None:
        """Seconds since it went away; None while it is here."""
        since = self._away_since
        return None if since is None else time.monotonic() - since

    def failed(self, error: BaseException) -> None:
        """A call failed as calls to a store that is away do."""
        self.failures += 1
        self.last_error = type(error).__name__
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            logger.warning("%s is away (%s)", self.name, self.last_error)
        self._retry_at = now + RETRY_S

    def answered(self) -> None:
        """A call succeeded."""
        if self._away_since is not None:
            since, self._away_since, self._retry_at = self._away_since, None, 0.0
            if since is not None:
                logger.warning("%s is back after %.1f s", self.name, time.monotonic() - since)


class Writability:
    """Whether SQL takes writes, as its last ones showed. Any thread may use it."""

    def __init__(self) -> None:
        self.refusals = 0
        self.fault: StoreFault | None = None
        """Why it refused the last write; None: it took it."""
        self.last_error = ""
        self._refused_at = 0.0

    def is_locked(self) -> bool:
        """Whether a write has just waited in vain for a lock: the next one would do so, too. Other refusals come at once."""
        return self.fault is StoreFault.LOCKED and time.monotonic() - self._refused_at < RETRY_S

    def refused(self, error: MemoryStoreUnavailableError) -> None:
        """A write was refused; reads go on."""
        self.refusals += 1
        fault = StoreFault.LOCKED if error.fault is StoreFault.TRANSIENT else error.fault
        self._refused_at = time.monotonic()
        self.last_error = str(error)
        if fault is not self.fault:
            logger.warning("SQL takes no writes, it is %s (%s)", fault.value, error.code)
            self.fault = fault

    def accepted(self) -> None:
        """A write was taken."""
        if self.fault is not None:
            before, self.fault = self.fault, None
            logger.warning("SQL takes writes again, it was %s", before.value)

    def checked(self) -> StoreFault | None:
        """The database says that it takes writes: what is left of an earlier refusal."""
        if self.fault is not StoreFault.FULL or time.monotonic() - self._refused_at > FULL_STAYS_S:
            self.accepted()
        return self.fault


class Damage:
    """The damaged memories that this process has met. Any thread may use it."""

    def __init__(self) -> None:
        self.met = 0
        """How often one was met: read by id, or left out of a list."""
        self._known: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def note(self, memory_id: str, where: str) -> None:
        """One was met; the log says so the first time."""
        self.met += 1
        if memory_id not in self._known:
            logger.error("the copy of memory %s in %s is damaged", memory_id, where)
            self._known[memory_id] = where
            while len(self._known) > MAX_DAMAGED:
                self._known.popitem(last=False)
