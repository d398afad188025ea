"""Events as log records: one record per change of state, with its facts as attributes, at a bounded rate.

The bound is a token bucket for each thing that changes. Records beyond it are held back; when the bucket has a token again the
latest of them is logged, with the number of those that were left out. So the last record always says the present state.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from agent_memory import _at_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.policy.events import Event

__all__ = ["BURST", "MAX_SOURCES", "REFILL_S", "EventLog"]

BURST: Final = 20
"""The records of one source that are logged without a pause."""
REFILL_S: Final = 5.0
"""Seconds until another record of a source is logged beyond the burst."""
MAX_SOURCES: Final = 1_024
"""Bound of the sources whose rate is known; the one that changed longest ago is forgotten first."""

_LOGGERS: Final = {
    "circuit": logging.getLogger("agent_memory.policy"),
    "connection": logging.getLogger("agent_memory.redis"),
    "queue": logging.getLogger("agent_memory.storage"),
    "journal": logging.getLogger("agent_memory.storage"),
    "store": logging.getLogger("agent_memory.memory"),
    "server": logging.getLogger("agent_memory.redis"),
}
# Silent, as a library's records are, where the application has not configured logging.
logging.getLogger("agent_memory").addHandler(logging.NullHandler())
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class EventLog:
    """Logs events. Safe to use from any thread and in children of fork(). `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_afresh()
        _at_fork.in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._mutex = threading.Lock()
        self._rates: OrderedDict[tuple[str, str, str | None], _Rate] = OrderedDict()
        self._timer: threading.Timer | None = None

    def add(self, event: Event) -> None:
        """Logs one event now, or later where its source has changed too often."""
        if not _LOGGERS[event.source].isEnabledFor(_LEVELS[event.severity]):
            return
        key = (event.source, event.name, event.endpoint)
        with self._mutex:
            rate = self._rates.get(key)
            if rate is None:
                rate = self._rates[key] = _Rate(self._clock())
                if len(self._rates) > MAX_SOURCES:
                    self._rates.popitem(last=False)
            self._rates.move_to_end(key)
            if not rate.take(self._clock()):
                if rate.held_back is not None:
                    rate.left_out += 1
                rate.held_back = event
                self._wake_later()
                return
            left_out, rate.left_out = rate.left_out + (rate.held_back is not None), 0
            rate.held_back = None
        _log(event, left_out)

    def _wake_later(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(REFILL_S, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def flush(self) -> None:
        """Logs what was held back and has its turn now."""
        due = []
        with self._mutex:
            self._timer = None
            for rate in self._rates.values():
                if rate.held_back is not None and rate.take(self._clock()):
                    due.append((rate.held_back, rate.left_out))
                    rate.held_back, rate.left_out = None, 0
            if any(rate.held_back is not None for rate in self._rates.values()):
                self._wake_later()
        for event, left_out in due:
            _log(event, left_out)


class _Rate:
    """The token bucket of one source, and what it holds back."""

    __slots__ = ("_at_s", "_tokens", "held_back", "left_out")

    def __init__(self, now_s: float) -> None:
        self._tokens, self._at_s = float(BURST), now_s
        self.held_back: Event | None = None
        self.left_out = 0
        """How many were dropped beside `held_back`."""

    def take(self, now_s: float) -> bool:
        """Whether a record may be logged now."""
        self._tokens = min(float(BURST), self._tokens + (now_s - self._at_s) / REFILL_S)
        self._at_s = now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def _log(event: Event, left_out: int) -> None:
    facts = {
        "event": f"{event.source}.{event.new}",
        "event_source": event.source,
        "client": event.name,
        "endpoint": event.endpoint,
        "state_before": event.old,
        "state": event.new,
        "cause": event.cause,
        "figures": dict(event.figures),
        "records_left_out": left_out,
    }
    rest = f" ({left_out} records of it left out)" if left_out else ""
    _LOGGERS[event.source].log(_LEVELS[event.severity], "%s%s", event.message, rest, extra=facts)
