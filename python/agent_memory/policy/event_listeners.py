"""Where changes of state go: to the log, and to the listeners of `subscribe()`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from agent_memory import _check
from agent_memory.policy.event_log import EventLog
from agent_memory.policy.events import Event, EventListener

__all__ = ["MAX_LISTENERS", "publish", "subscribe"]

MAX_LISTENERS: Final = 64
"""Bound of the listeners of a process."""

logger: Final = logging.getLogger("agent_memory.policy")

_log: Final = EventLog()
_listeners: tuple[EventListener, ...] = ()
_mutex: Final = threading.Lock()


def subscribe(listener: EventListener) -> Callable[[], None]:
    """Calls `listener(event)` after each change of state in this process, until the returned function is called.

    A listener is called where the change happens, without a lock held; it must not wait. What it raises is logged.
    Raises ValueError for what cannot be called, and beyond 64 listeners. Thread-safe.
    """
    global _listeners
    _check.function("listener", listener)
    with _mutex:
        if len(_listeners) >= MAX_LISTENERS:
            raise ValueError(f"listeners must be at most {MAX_LISTENERS}, got one more")
        _listeners = (*_listeners, listener)

    def unsubscribe() -> None:
        global _listeners
        with _mutex:
            known = list(_listeners)
            if listener in known:
                known.remove(listener)
            _listeners = tuple(known)

    return unsubscribe


def publish(event: Event) -> None:
    """Logs `event` and tells the listeners; never raises an Exception."""
    _log.add(event)
    for listener in _listeners:
        try:
            listener(event)
        except Exception:
            logger.exception("a listener of events raised")
