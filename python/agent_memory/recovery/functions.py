"""Functions that are registered by name, and the journal's records of functions that have not been registered yet."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

from agent_memory import _check
from agent_memory.recovery.records import Record

__all__ = ["OVERTAKEN", "FunctionRegistry", "RegisteredFunction", "UnregisteredRecords"]

OVERTAKEN = "overtaken"
"""Why a write is given up whose agent was stored anew before its function was registered."""


class RegisteredFunction:
    """A function that is registered by name, and how its data becomes bytes and back."""

    __slots__ = ("dumps", "function", "loads", "name")

    def __init__(
        self,
        name: str,
        function: Callable[[str, Any], Any],
        dumps: Callable[[Any], str | bytes],
        loads: Callable[[bytes], Any],
    ) -> None:
        self.name = name
        self.function = function
        self.dumps = dumps
        self.loads = loads

    def encoded(self, state: Any) -> bytes:
        """Data as bytes. Raises whatever `dumps` raises, TypeError where it gives neither str nor bytes."""
        data = self.dumps(state)
        if isinstance(data, str):
            return data.encode()
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"dumps must return str or bytes, got {type(data).__name__}")
        return bytes(data)


class FunctionRegistry:
    """The registered functions of one client, by name: as many as its user registers."""

    def __init__(self) -> None:
        self._functions: dict[str, RegisteredFunction] = {}

    def add(
        self,
        name: str,
        function: Callable[[str, Any], Any],
        dumps: Callable[[Any], str | bytes],
        loads: Callable[[bytes], Any],
    ) -> None:
        """Registers a function, in the place of an older one of this name.

        Raises ValueError for an empty name and for what cannot be called.
        """
        _check.text("name", name)
        for parameter, value in (("function", function), ("dumps", dumps), ("loads", loads)):
            _check.function(parameter, value)
        self._functions[name] = RegisteredFunction(name, function, dumps, loads)

    def get(self, name: str | None) -> RegisteredFunction | None:
        """The function of a name; None if there is none."""
        return None if name is None else self._functions.get(name)

    def find(self, store: Callable[[str, Any], Any] | str) -> tuple[str | None, Callable[[str, Any], Any]]:
        """The name (None if there is none) and the function of a `store_func`.

        Raises ValueError for an unknown name and for what cannot be called.
        """
        if isinstance(store, str):
            known = self._functions.get(store)
            if known is None:
                raise ValueError(f"store_func must be a function or a registered name, got {store!r}")
            return store, known.function
        _check.function("store_func", store)
        for name, known in list(self._functions.items()):
            if known.function == store:
                return name, store
        return None, store


class UnregisteredRecords:
    """Records of the journal whose function is not registered, by its name, in the order in which they were written.

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
        """The records of a function that are here now, one by one: a caller that stops leaves the rest."""
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
