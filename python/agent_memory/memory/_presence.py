"""Whether a store is here, and what became of a write: shared by the asyncio sources and their sync twins."""

from __future__ import annotations

import logging
import time
from typing import Final, NamedTuple

from agent_memory.memory.entries import Copy, Durability
from agent_memory.memory.stores.operations import WriteResult

__all__ = ["RETRY_S", "Presence", "Written"]

logger = logging.getLogger(__name__)

RETRY_S: Final = 0.25
"""For how long a store that failed is not asked again."""


class Written(NamedTuple):
    """What became of a write: the SQL store's answer, or one made up for a dirty copy, and the level that was reached."""

    result: WriteResult
    durability: Durability
    copy: Copy | None
    """The copy as it stands now, where it is known."""


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
