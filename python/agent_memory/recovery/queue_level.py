"""How full a recovery queue is, in four levels; a change of level is an event."""

from __future__ import annotations

import threading
import time
from typing import Any, Final, Literal

from agent_memory.policy.event_listeners import publish
from agent_memory.policy.events import Event, Severity

__all__ = ["NEARLY_FULL", "QueueLevel"]

NEARLY_FULL: Final = 0.8
"""The share of a bound, entries or bytes, from which on the queue is nearly full."""
_EASED: Final = 0.5
"""The share under which a queue that was nearly full only holds writes again."""

Level = Literal["empty", "waiting", "nearly_full", "full"]


class QueueLevel:
    """The level of one client's queue. Thread-safe."""

    __slots__ = ("_began", "_mutex", "_name", "level")

    def __init__(self, client_name: str) -> None:
        self._name = client_name
        self._mutex = threading.Lock()
        self._began = (0.0, 0, 0)  # the time and the totals when writes began to wait
        self.level: Level = "empty"

    def now(self, entries: int, size_bytes: int, share: float, stored: int, given_up: int) -> None:
        """The queue holds so much; `share` is that of its tighter bound, `stored` and `given_up` are totals."""
        with self._mutex:
            old = self.level
            if entries == 0:
                new: Level = "empty"
            elif share >= NEARLY_FULL and old != "full":
                new = "nearly_full"
            elif old in ("nearly_full", "full") and share >= _EASED:
                new = old
            else:
                new = "waiting"
            if new == old:
                return
            self.level = new
            if old == "empty":
                self._began = (time.monotonic(), stored, given_up)
            since_s, stored_before, given_up_before = self._began
        figures: dict[str, Any] = {"queued": entries, "queued_bytes": size_bytes}
        if new == "empty":
            figures.update(
                waited_s=round(time.monotonic() - since_s, 3),
                stored=stored - stored_before,
                given_up=given_up - given_up_before,
            )
            done = f"{figures['stored']} stored, {figures['given_up']} given up"
            self._tell(old, new, f"no write waits any more, after {figures['waited_s']:.1f} s: {done}", figures)
        elif new == "nearly_full":
            self._tell(old, new, f"the recovery queue is {share:.0%} full ({entries} writes)", figures)
        elif old == "empty":
            self._tell(old, new, "writes wait in the recovery queue", figures)
        else:
            self._tell(old, new, f"the recovery queue has room again ({entries} writes)", figures, "info")

    def refused(self, entries: int) -> None:
        """A write found no place."""
        with self._mutex:
            old = self.level
            self.level = "full"
        if old != "full":
            message = f"the recovery queue is full ({entries} writes): further writes are refused"
            self._tell(old, "full", message, {"queued": entries}, "error")

    def _tell(self, old: str, new: str, what: str, figures: dict[str, Any], severity: Severity = "warning") -> None:
        publish(
            Event(
                source="queue",
                name=self._name,
                endpoint=None,
                old=old,
                new=new,
                message=f"{self._name}: {what}",
                severity=severity,
                figures=figures,
            )
        )
