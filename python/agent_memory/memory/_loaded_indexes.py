"""Which agents' indexes this process holds, and what it knows of memories whose index is absent. Does no I/O.

Beyond `IndexSettings.max_bytes` the least recently used agent's index becomes absent.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from agent_memory.memory._agent_index import AgentIndex, DimensionsLearnedError
from agent_memory.memory._copy import Copy
from agent_memory.memory.settings import IndexSettings
from agent_memory.memory.stores.operations import EmbeddingSpace

__all__ = ["LoadedIndexes"]

MAX_FLOORS: Final = 1_000
"""Of how many memories without a loaded index the version is remembered that SQL has told of."""


class LoadedIndexes:
    """The indexes of all agents that this process has been asked about. Any thread may use it."""

    def __init__(self, settings: IndexSettings) -> None:
        self._settings = settings
        self._mutex = threading.Lock()
        self._agents: OrderedDict[str, AgentIndex] = OrderedDict()
        self._floors: dict[str, int] = {}
        self.space: EmbeddingSpace | None = None
        self.dirty_agents: dict[str, None] = {}
        """Agents of which Redis may hold dirty copies that their index does not know."""
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._agents)

    def items(self) -> list[tuple[str, AgentIndex]]:
        """Every agent with its index."""
        return list(self._agents.items())

    def peek(self, agent_id: str) -> AgentIndex | None:
        """The agent's index if it is loaded, or about to be."""
        return self._agents.get(agent_id)

    def new(self, agent_id: str, dimensions: int | None = None) -> AgentIndex:
        """An empty index, which learns this process's own writes from now on, beside what it is filled with."""
        index = AgentIndex(self._settings, self.space)
        if dimensions is not None:
            index.dimensions = dimensions
        with self._mutex:
            self._agents[agent_id] = index
        return index

    def touch(self, agent_id: str) -> None:
        """The agent's index is used: those of others become absent first."""
        with self._mutex:
            if agent_id in self._agents:
                self._agents.move_to_end(agent_id)

    def drop(self, agent_id: str) -> None:
        """Makes an agent's index absent."""
        with self._mutex:
            self._agents.pop(agent_id, None)

    @property
    def size_bytes(self) -> int:
        """About how much memory all of them take."""
        return sum(index.size_bytes for index in list(self._agents.values()))

    def make_room(self, keep: str) -> None:
        """Makes indexes absent, the least recently used first, until the bound is kept; never that of `keep`."""
        while self.size_bytes > self._settings.max_bytes:
            with self._mutex:
                oldest = next((agent_id for agent_id in self._agents if agent_id != keep), None)
                if oldest is None:
                    return
                del self._agents[oldest]
                self.evicted += 1

    # --- what writes and answers tell ---

    def learn(self, copy: Copy, *, is_dirty: bool = False) -> None:
        """An own write. Agents whose index is absent learn of it from the feed."""
        index = self._agents.get(copy.agent_id)
        if index is not None:
            try:
                index.add(copy, is_dirty=is_dirty)
            except DimensionsLearnedError:
                self.drop(copy.agent_id)
        elif is_dirty:
            self.dirty_agents.setdefault(copy.agent_id)

    def note_hint(self, agent_id: str, hint: int) -> None:
        """Redis' hint after a put of this process; if no other process put meanwhile, it stands for nothing new."""
        index = self._agents.get(agent_id)
        if index is not None and index.hint is not None and hint == index.hint + 1:
            index.hint = hint

    def set_space(self, space: EmbeddingSpace) -> None:
        """The vectors of the database are of this space from now on; indexes of another one are made anew."""
        with self._mutex:
            before, self.space = self.space, space
            if before is not None and before.number != space.number:
                for agent_id, index in self._agents.items():
                    if index.dirty:
                        self.dirty_agents.setdefault(agent_id)
                self._agents.clear()

    def known_versions(self, agent_id: str, ids: Sequence[str]) -> dict[str, int]:
        """Versions below which a clean copy of Redis is stale; 0 where none is known."""
        index = self._agents.get(agent_id)
        if index is None:
            return {memory_id: self._floors.get(memory_id, 0) for memory_id in ids}
        return index.known_versions(ids)

    def expect(self, agent_id: str, memory_id: str, version: int) -> None:
        """SQL has told of this version: lower copies in Redis are misses from now on."""
        index = self._agents.get(agent_id)
        if index is None:
            self._floors[memory_id] = version
            while len(self._floors) > MAX_FLOORS:
                self._floors.pop(next(iter(self._floors)))
        else:
            index.expect(memory_id, version)
