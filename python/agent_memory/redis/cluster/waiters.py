"""Calls that wait for a node of a cluster, and what wakes them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from agent_memory import _at_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Waiters"]


class Waiters:
    """One event for each node that is waited for; the core bounds the waiting calls. Thread-safe."""

    def __init__(self, make_event: Callable[[], Any]) -> None:
        self._make_event = make_event
        self._start_afresh()
        _at_fork.in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._mutex = threading.Lock()
        self._events: dict[int, Any] = {}

    def wait(self, number: int, timeout_s: float) -> Any:
        """Wait until node `number` wakes its calls, at most `timeout_s`; with events of asyncio an awaitable."""
        with self._mutex:
            event = self._events.get(number)
            if event is None:
                event = self._events[number] = self._make_event()
        return event.wait(timeout_s)

    def wake(self, numbers: Iterable[int]) -> None:
        """Calls that wait for these nodes look again."""
        with self._mutex:
            events = [event for number in numbers if (event := self._events.pop(number, None)) is not None]
        for event in events:
            event.set()

    def wake_all(self) -> None:
        """All waiting calls look again."""
        with self._mutex:
            numbers = list(self._events)
        self.wake(numbers)
