"""What keeps commands in order on two connections: which keys have unanswered commands on each.

A server executes what comes over one connection in its order, and over two in any. So a command may take another connection
than those before it only where it touches none of their keys, or where neither it nor they write. Where the keys do not follow
from the words (FLUSHDB, a script without keys), a command touches all.

Commands are looked at as they are packed, and only while there are two connections to choose from.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final, NamedTuple

from agent_memory.policy import CommandCategory
from agent_memory.redis.commands.categories import category_of
from agent_memory.redis.commands.keys import name_of, touched_keys

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ANYTHING", "KEPT_BYTES", "Touch", "Unanswered", "touch_of"]

KEPT_BYTES: Final = 4_096
"""So much of an unanswered command is kept, on the average of those that left together: enough to see its keys."""
MAX_LARGE_KEYS: Final = 1_000
"""Bound of keys remembered to have large values, while there is a second connection to choose."""
_WORD_BYTES: Final = 1_024
"""Longer words are compared by their beginning."""
_TRANSACTION: Final = frozenset({"EXEC", "MULTI"})


class Touch(NamedTuple):
    """The effects of commands that are sent together: the keys they touch (None: all, or unknown), and whether any writes."""

    keys: frozenset[bytes] | None
    writes: bool


ANYTHING: Final = Touch(None, True)


def touch_of(packed: bytes) -> Touch:
    """The effects of packed commands. If the last command is cut off, its beginning decides where it suffices."""
    keys: set[bytes] = set()
    known, writes = True, False
    at = 0
    try:
        while at < len(packed):
            words, at = _words_of(packed, at)
            name = name_of(words[0])
            if name in _TRANSACTION:
                continue
            writes = writes or not _only_reads(name, words)
            touched = touched_keys(words, whole=at <= len(packed))
            if touched is None:
                known = False
            elif known:
                keys.update(touched)
    except (ValueError, IndexError):
        return ANYTHING
    return Touch(frozenset(keys) if known else None, writes)


def _only_reads(name: str, words: list[bytes]) -> bool:
    if category_of(name) is CommandCategory.READ:
        return True
    return (
        len(words) > 1 and category_of(f"{name} {words[1].decode('ascii', 'replace').upper()}") is CommandCategory.READ
    )


def _words_of(packed: bytes, at: int) -> tuple[list[bytes], int]:
    """The words of the command at `at` that are there, and where it ends, which may be behind the end of what is."""
    end = packed.index(b"\r\n", at)
    count = int(packed[at + 1 : end])
    at = end + 2
    words: list[bytes] = []
    for _ in range(count):
        end = packed.find(b"\r\n", at)
        if end < 0:
            return words, len(packed) + 1
        start, size = end + 2, int(packed[at + 1 : end])
        at = start + size + 2
        if start + min(size, _WORD_BYTES) > len(packed):
            return words, len(packed) + 1
        words.append(packed[start : start + min(size, _WORD_BYTES)])
    return words, at


class Unanswered:
    """The unanswered commands of one connection, by what they touch. Commands are numbered as its slots are."""

    __slots__ = ("_entries", "_large", "_read", "_unknown_reads", "_unknown_writes", "_writes", "_written")

    def __init__(self) -> None:
        self._entries: collections.deque[tuple[int, Touch]] = collections.deque()
        self._read: collections.Counter[bytes] = collections.Counter()
        self._written: collections.Counter[bytes] = collections.Counter()
        self._large: set[bytes] = set()
        self._writes = 0
        self._unknown_reads = 0
        self._unknown_writes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, upto: int, touch: Touch) -> None:
        """Commands have been sent, the last of which has the number before `upto`."""
        self._entries.append((upto, touch))
        self._count(touch, 1)

    def add_all(self, first: int, parts: Iterable[bytes]) -> None:
        """The same for the parts of a flush, one slot each, the first of which has the number `first`."""
        packed, upto = b"", first
        for part in parts:
            if part and packed:
                self.add(upto, touch_of(packed))
            packed = part or packed
            upto += 1
        if packed:
            self.add(upto, touch_of(packed))

    def answer(self, upto: int) -> None:
        """Everything before the number `upto` has been answered."""
        while self._entries and self._entries[0][0] <= upto:
            self._count(self._entries.popleft()[1], -1)

    def _count(self, touch: Touch, step: int) -> None:
        keys, writes = touch
        if writes:
            self._writes += step
        if keys is None:
            if writes:
                self._unknown_writes += step
            else:
                self._unknown_reads += step
            return
        counter = self._written if writes else self._read
        for key in keys:
            counter[key] += step
            if not counter[key]:
                del counter[key]

    def hold_up(self, touch: Touch, executed_upto: int = 0) -> bool:
        """Whether a command that does this has to come behind one of these.

        Two reads need no order, but where one is of a large value (`note_large`), another of the same key stays behind it. A
        command whose reply has begun has been executed, and holds up those of its own keys only: `executed_upto` is the
        number behind it.
        """
        keys, writes = touch
        if keys is not None and not keys:
            return False
        entries, all_writes, unknown_reads, unknown_writes = (
            len(self._entries), self._writes, self._unknown_reads, self._unknown_writes,
        )  # fmt: skip
        if entries and self._entries[0][0] == executed_upto:
            head = self._entries[0][1]
            entries -= 1
            all_writes -= head.writes
            unknown_writes -= head.keys is None and head.writes
            unknown_reads -= head.keys is None and not head.writes
        if unknown_writes or (writes and unknown_reads):
            return True
        if keys is None:
            return bool(entries if writes else all_writes)
        if any(key in self._written for key in keys):
            return True
        return any(key in self._read and (writes or key in self._large) for key in keys)

    def note_large(self, executed_upto: int) -> None:
        """The command whose reply is arriving is one with a large reply."""
        if self._entries and self._entries[0][0] == executed_upto and len(self._large) < MAX_LARGE_KEYS:
            self._large.update(self._entries[0][1].keys or ())
