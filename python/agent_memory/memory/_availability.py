"""Whether a store can be used, as the last calls to it showed.

States of a store (`Availability`)
- *here*: every call goes to it.
- *away*: a call failed less than RETRY_S ago; calls are answered without it. The next call after that tries again.

SQL may be here and take no writes (`Writability`): full, read-only or locked. Then reads go on, and writes do what they do
while SQL is away.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from agent_memory.memory.errors import MemoryStoreUnavailableError, StoreFault

__all__ = ["FULL_STAYS_S", "RETRY_S", "Availability", "Writability"]

logger = logging.getLogger(__name__)

RETRY_S: Final = 0.25
"""For how long a store that failed is not asked again."""

FULL_STAYS_S: Final = 30.0
"""For how long `check_health()` says that a database is full which has neither refused nor taken a write since: only a write
can tell, and a smaller one may fit."""


class Availability:
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
