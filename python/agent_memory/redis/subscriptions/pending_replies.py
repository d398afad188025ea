"""Whose answer a reply on a subscriber's connection is: known by its place in the stream, never by its text.

Between the messages come the answers to what was sent: to subscribing (a push for each name, or one error), to PINGs and
AUTHs of the client's own, and to commands of the caller's, which may be answered with anything. A server answers in the
order in which it was asked, so the order of sending tells.
"""

from __future__ import annotations

import collections
import enum
import threading
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_AWAITED", "PendingReplies", "Asker", "is_confirmation"]

MAX_AWAITED: Final = 1_000_000
"""Bound of commands on one connection whose answers have not been read yet."""

_CONFIRMATIONS: Final[dict[Any, str]] = {
    word: text
    for text in ("subscribe", "unsubscribe", "psubscribe", "punsubscribe", "ssubscribe", "sunsubscribe")
    for word in (text, text.encode())
}
_FAMILIES: Final = {"subscribe": "", "psubscribe": "p", "ssubscribe": "s"}


def is_confirmation(word: Any) -> bool:
    """Whether a list that begins with `word` says that a subscription began or ended."""
    return word in _CONFIRMATIONS


class Asker(enum.Enum):
    """The sender of the command that a reply answers."""

    CALLER = enum.auto()
    PING = enum.auto()
    """The client's own PING."""
    AUTH = enum.auto()
    """The client's own AUTH."""


class _Names:
    """A SUBSCRIBE or UNSUBSCRIBE: one confirmation for each of `names`, or one error."""

    __slots__ = ("confirmed", "count", "kind", "names")

    def __init__(self, kind: str, names: Sequence[bytes], count: int) -> None:
        self.kind = kind
        self.names = names
        self.count = count
        self.confirmed = 0


class PendingReplies:
    """What one connection still has to answer. Thread-safe: some send while one reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._awaited: collections.deque[Asker | _Names] = collections.deque()
        self._subscribed: dict[str, set[bytes]] = {}
        self.connection_number = 0
        """Counts the connections: what was awaited from one comes from no other."""

    @property
    def are_read(self) -> bool:
        """Whether nothing is awaited."""
        return not self._awaited

    def start_afresh(self) -> None:
        """There is a new connection."""
        with self._lock:
            self.connection_number += 1
            self._awaited.clear()
            self._subscribed = {family: set() for family in _FAMILIES.values()}

    def expect(self, words: Sequence[Any], asker: Asker = Asker.CALLER) -> None:
        """The next command is about to be sent. Raises RuntimeError where too many are unanswered."""
        kind = _CONFIRMATIONS.get(words[0].lower()) if isinstance(words[0], str | bytes) else None
        with self._lock:
            if len(self._awaited) >= MAX_AWAITED:
                raise RuntimeError(f"read the answers: {MAX_AWAITED} commands of this subscriber are unanswered")
            self._awaited.append(asker if kind is None else self._names(kind, words[1:]))

    def _names(self, kind: str, names: Sequence[Any]) -> _Names:
        plain = [name.encode() if isinstance(name, str) else bytes(name) for name in names]
        if kind in _FAMILIES:
            self._subscribed.setdefault(_FAMILIES[kind], set()).update(plain)
            return _Names(kind, plain, len(plain))
        subscribed = self._subscribed.setdefault(_FAMILIES[kind.replace("un", "", 1)], set())
        count = len(plain) or max(1, len(subscribed))
        subscribed.difference_update(plain or list(subscribed))
        return _Names(kind, plain, count)

    def confirm(self, word: Any) -> bool:
        """Whether a list that begins with `word` is a confirmation; it is noted then."""
        kind = _CONFIRMATIONS.get(word) if isinstance(word, str | bytes) else None
        if kind is None:
            return False
        with self._lock:
            head = self._awaited[0] if self._awaited else None
            # Others come unasked: a shard's channels are taken away with its slot.
            if isinstance(head, _Names) and head.kind == kind:
                head.confirmed += 1
                if head.confirmed >= head.count:
                    self._awaited.popleft()
        return True

    def refused(self) -> tuple[str, Sequence[bytes]] | None:
        """An error reply that answers a SUBSCRIBE or UNSUBSCRIBE: its kind and names; None where it answers something else."""
        with self._lock:
            head = self._awaited[0] if self._awaited else None
            if not isinstance(head, _Names) or head.confirmed:
                return None
        self.answered(is_error=True)
        return head.kind, head.names

    def answered(self, *, is_error: bool) -> Asker:
        """The asker of a reply that is neither message nor confirmation. Raises InvalidResponse if unexpected."""
        with self._lock:
            while self._awaited:
                head = self._awaited.popleft()
                if isinstance(head, Asker):
                    return head
                if is_error and not head.confirmed:
                    if head.kind in _FAMILIES:
                        self._subscribed[_FAMILIES[head.kind]].difference_update(head.names)
                    return Asker.CALLER
                if not is_error and not head.confirmed:
                    raise InvalidResponse(f"{head.kind.upper()} was answered with a reply, not with a confirmation")
        raise InvalidResponse("a reply that no command asked for")
