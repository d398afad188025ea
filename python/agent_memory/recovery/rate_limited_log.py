"""Warnings that come by the thousand in an outage, told in one line a second."""

from __future__ import annotations

import collections
import logging
import threading
import time
from typing import Final

__all__ = ["INTERVAL_S", "RateLimitedWarnings"]

INTERVAL_S: Final = 1.0
"""The shortest time between two lines."""


class RateLimitedWarnings:
    """Logs the first event at once; those that follow are counted and told together, at most one line a second.

    Safe to use from any thread. Events that nothing follows stay uncounted in the log; `stats()` of the client has them.
    """

    def __init__(self, logger: logging.Logger, client_name: str) -> None:
        self._logger = logger
        self._client_name = client_name
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()
        self._next_s = 0.0

    def add(self, event: str) -> None:
        """Notes one event, such as "a HIGH write queued"; the words are from a small set of our own."""
        with self._lock:
            self._counts[event] += 1
            now_s = time.monotonic()
            if now_s < self._next_s:
                return
            self._next_s = now_s + INTERVAL_S
            counts, self._counts = self._counts, collections.Counter()
        told = ", ".join(f"{event} ({count} times)" if count > 1 else event for event, count in counts.items())
        self._logger.warning("%s: %s", self._client_name, told)
