"""The engine of a journal, which keeps records; `agent_memory._core.Journal` is the one on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["JournalEngine"]


class JournalEngine(Protocol):
    """Keeps records and notes. Each request gives a ticket, which is done when the request is kept."""

    def take_recovered(self) -> list[tuple[int, bytes | None, bytes]]:
        """What was there, as (record, how it was being sent or None, body)."""
        ...

    def uncertain(self) -> list[int]:
        """Recovered records of which damage may have hidden that they were removed or replaced."""
        ...

    def recovered_notes(self) -> list[tuple[int, str, bytes]]:
        """The notes that were there, as (segment, name, body)."""
        ...

    def append(self, body: bytes) -> tuple[int, int]:
        """Asks for a record; its number and the ticket."""
        ...

    def replace(self, id: int, body: bytes) -> int:
        """Asks for a record to be replaced."""
        ...

    def remove(self, ids: Sequence[int]) -> int:
        """Asks for records to be removed."""
        ...

    def mark_sent(self, ids: Sequence[int], how: bytes) -> int:
        """Asks to remember that these records, and no others, are being sent."""
        ...

    def note(self, name: str, body: bytes) -> int:
        """Asks for a note."""
        ...

    def done(self) -> int:
        """The last ticket that is done."""
        ...

    def stats(self) -> dict[str, Any]:
        """Figures, those of what was found when it was opened included."""
        ...

    def close(self) -> None:
        """Keeps what has been asked for and gives the segments free."""
        ...

    def abandon(self) -> None:
        """In a child of fork(): leaves the segments to the parent."""
        ...
