"""What a traced call notes of itself beside its reply: its retries. Nothing is noted where no tracer asks."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

__all__ = ["CALL_NOTES", "CallNotes", "note_retry"]


class CallNotes:
    """The notes of one call."""

    __slots__ = ("retries",)

    def __init__(self) -> None:
        self.retries = 0


CALL_NOTES: Final[ContextVar[CallNotes | None]] = ContextVar("agent_memory.call_notes", default=None)
"""The notes of the traced call that is under way in this context."""


def note_retry() -> None:
    """Another attempt follows a failed one."""
    notes = CALL_NOTES.get()
    if notes is not None:
        notes.retries += 1
