"""The damaged memories that this process has met."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final

__all__ = ["Damage"]

logger = logging.getLogger(__name__)

MAX_DAMAGED: Final = 1_000
"""Of how many damaged memories the names are kept; each is logged once."""


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
