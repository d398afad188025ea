"""What the clients promised: the expected end of every key and counter, kept by the worker that owns it.

One worker owns a key and writes it one call at a time, so "the last accepted write" has a meaning. A write is
- accepted: the server acknowledged it, or the client took it into its recovery queue;
- unknown: the call raised, and whether the server ran it cannot be known (`Outcome.UNKNOWN`);
- refused: the call raised, and the client says that it was not executed.

At the end a key must hold its last accepted write, or a later unknown one; never a refused one. A counter must stand at no
less than its acknowledged increments and at no more than these plus the unknown ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["CounterLedger", "KeyLedger", "QueuedWrite", "foreign_reply", "parse_value", "render_value"]

_PADDING: Final = "." * 96
"""Makes values about as long as a small memory entry."""


def render_value(key: str, sequence: int) -> str:
    """The value of write number `sequence` of `key`: it names both, so a reply given to the wrong caller is noticed."""
    return f"{key}|{sequence}|{_PADDING}"


def parse_value(key: str, value: str) -> int | None:
    """The number of the write that `value` of `key` comes from; None if no write of this key looked like it."""
    head, _, rest = value.partition("|")
    sequence, _, padding = rest.partition("|")
    if head != key or padding != _PADDING or not sequence.isdigit():
        return None
    return int(sequence)


def foreign_reply(key: str, value: object) -> bool:
    """Whether what a read of `key` returned is something that was never written there."""
    return value is not None and (not isinstance(value, str) or parse_value(key, value) is None)


@dataclass(slots=True)
class KeyLedger:
    """What `key` may hold. A hash (`is_hash`) is written as a whole, both fields at once."""

    key: str
    is_hash: bool = False
    attempted: int = 0
    accepted: int = 0
    """Number of the last accepted write; 0 for none yet."""
    accepted_count: int = 0
    unknown: set[int] = field(default_factory=set)
    """Unknown writes that are later than the last accepted one."""

    def begin(self) -> int:
        """The number of a new write."""
        self.attempted += 1
        return self.attempted

    def accept(self, sequence: int) -> None:
        """The write is promised."""
        self.accepted = sequence
        self.accepted_count += 1
        self.unknown.clear()

    def note_unknown(self, sequence: int) -> None:
        """The write may have been executed or not."""
        self.unknown.add(sequence)

    def allows(self, sequence: int) -> bool:
        """Whether the database may hold write number `sequence` at the end (0: nothing at all)."""
        return sequence == self.accepted or sequence in self.unknown


@dataclass(slots=True)
class CounterLedger:
    """What a counter may stand at."""

    key: str
    attempted: int = 0
    acknowledged: int = 0
    unknown: int = 0

    def allows(self, value: int) -> bool:
        """Whether the counter may stand at `value` at the end."""
        return self.acknowledged <= value <= self.acknowledged + self.unknown


@dataclass(frozen=True, slots=True)
class QueuedWrite:
    """A write that went to the recovery queue, and the client's word for what became of it."""

    key: str
    sequence: int
    result: Any
    """A StoreResult or AsyncStoreResult; they have `status` in common."""
