"""Changes of state of clients and memory systems. `event_listeners.py` hands them on, `event_log.py` logs them.

An event says what changed, never with which data: names of clients, addresses and figures, no keys, values, passwords or
texts of servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["Event", "EventListener", "EventSource", "Severity"]

EventSource = Literal["circuit", "connection", "queue", "store", "journal", "server"]
"""What changed: a client's circuit, its connections, its recovery queue, a store of a memory system, a journal, or what a
server says of itself."""
Severity = Literal["info", "warning", "error"]
"""How the change is logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of state.

    - `source`: what changed.
    - `name`: the name of the client or the memory system.
    - `endpoint`: the address of the server, or the name of the store; None where there is none.
    - `old`, `new`: the states.
    - `message`: the same in words, as it is logged.
    - `severity` ("warning"): how it is logged.
    - `cause` (None): the kind of failure behind it, such as "timeout".
    - `figures` ({}): numbers that belong to it, with their units in their names.
    """

    source: EventSource
    name: str
    endpoint: str | None
    old: str
    new: str
    message: str
    severity: Severity = "warning"
    cause: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


EventListener: TypeAlias = Callable[[Event], object]
"""Called in the thread in which the change happened, which may be that of an event loop: it must not wait."""
