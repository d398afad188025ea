"""What a predecessor left for functions that have not been registered yet."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Iterator

from agent_memory.recovery.records import Record

__all__ = ["OVERTAKEN", "Unregistered"]

OVERTAKEN = "overtaken"
"""Why a write is given up whose agent was stored anew before its function was registered."""


class Unregistered:
    """Records of the journal by the name of their function, in the order in which they were written.

    There are as many as the journal brought. Threads may use it at the same time.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: dict[str, collections.deque[tuple[int, Record]]] = {}

    def __len__(self) -> int:
        with self._mutex:
            return sum(map(len, self._waiting.values()))

    def add(self, record: int, entry: Record) -> None:
        """Keeps a record until its function is known."""
        with self._mutex:
            self._waiting.setdefault(entry.parts[0].decode(), collections.deque()).append((record, entry))

    def put_back(self, record: int, entry: Record) -> None:
        """Keeps a record that was taken before all others of its function."""
        with self._mutex:
            self._waiting.setdefault(entry.parts[0].decode(), collections.deque()).appendleft((record, entry))

    def take(self, name: str) -> Iterator[tuple[int, Record]]:
        """The records of a function that are here now, one by one: whoever stops leaves the rest."""
        with self._mutex:
            waiting = self._waiting.get(name, collections.deque())
            count = len(waiting)
        for _ in range(count):
            with self._mutex:
                if not waiting:
                    return  # another thread registers the same name
                taken = waiting.popleft()
            yield taken

    def overtake(self, agent_id: str) -> list[tuple[int, Record]]:
        """Marks the records of an agent that has been stored anew, and gives those that were marked by this."""
        if not self._waiting:
            return []
        agent = agent_id.encode("utf-8", "surrogatepass")
        marked = []
        with self._mutex:
            for waiting in self._waiting.values():
                for place, (record, entry) in enumerate(waiting):
                    if entry.parts[1] == agent and not entry.reason:
                        waiting[place] = (record, dataclasses.replace(entry, reason=OVERTAKEN))
                        marked.append(waiting[place])
        return marked

    def clear(self) -> None:
        """Forgets them; they stay in the journal."""
        with self._mutex:
            self._waiting.clear()
