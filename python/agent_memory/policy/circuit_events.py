"""The changes of a circuit as events: what opened it, and how long it stayed open."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from agent_memory.policy.event_listeners import publish
from agent_memory.policy.events import Event, Severity

if TYPE_CHECKING:
    from agent_memory._core import Guard

__all__ = ["publish_changes_of"]

_WORDS: Final = {
    ("closed", "open"): "opened",
    ("half_open", "open"): "opened again",
    ("open", "half_open"): "is half-open, a call probes the server",
    ("half_open", "closed"): "closed",
    ("open", "closed"): "closed",
    ("closed", "half_open"): "is half-open",
}
_TOLD_AS_INFO: Final = {("half_open", "open"), ("open", "half_open"), ("closed", "half_open")}


def publish_changes_of(guard: Guard) -> None:
    """From now on each change of the guard's circuit is an event. The guard keeps the listener; it refers back weakly."""
    guard.add_listener(_Changes(guard))


class _Changes:
    """A listener of one guard."""

    __slots__ = ("_guard", "_open_since_s")

    def __init__(self, guard: Guard) -> None:
        self._guard = weakref.ref(guard)
        self._open_since_s: float | None = None

    def __call__(self, name: str, old: str, new: str) -> None:
        guard = self._guard()
        endpoint = None if guard is None else guard.endpoint
        cause = None if guard is None or new != "open" else guard.opened_by
        figures: dict[str, Any] = {}
        now_s = time.monotonic()
        since_s = self._open_since_s
        if new == "open" and since_s is None:
            self._open_since_s = now_s
        elif new == "closed" and since_s is not None:
            self._open_since_s = None
            figures["open_s"] = round(now_s - since_s, 3)
        severity: Severity = "info" if (old, new) in _TOLD_AS_INFO else "warning"
        publish(
            Event(
                source="circuit",
                name=name,
                endpoint=endpoint,
                old=old,
                new=new,
                message=_message(name, endpoint, _WORDS.get((old, new), f"is {new}"), cause, figures),
                severity=severity,
                cause=cause,
                figures=figures,
            )
        )


def _message(name: str, endpoint: str | None, word: str, cause: str | None, figures: dict[str, Any]) -> str:
    where = "" if endpoint is None else f" to {endpoint}"
    why = "" if cause is None else f" ({cause})"
    after = f" after {figures['open_s']:.1f} s" if "open_s" in figures else ""
    return f"{name}: the circuit{where} {word}{why}{after}"
