"""The subscribers of one cluster client, which look at their slots when the topology has changed."""

from __future__ import annotations

import threading
import weakref
from typing import Any, Protocol

from agent_memory import _at_fork

__all__ = ["Subscribers"]


class _Subscriber(Protocol):
    def view_changed(self) -> None:
        """The core has accepted another view."""


class Subscribers:
    """Keeps none of them alive. Thread-safe."""

    def __init__(self) -> None:
        self._start_afresh()
        _at_fork.in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._mutex = threading.Lock()
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, subscriber: _Subscriber) -> None:
        """Notify it from now on."""
        with self._mutex:
            self._known.add(subscriber)

    def view_changed(self) -> None:
        """Notify all of them."""
        with self._mutex:
            known = list(self._known)
        for subscriber in known:
            subscriber.view_changed()
