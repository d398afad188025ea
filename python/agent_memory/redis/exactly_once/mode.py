"""What all connections of one pool share of exactly once: the settings, the level in force, the figures."""

from __future__ import annotations

import collections
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from agent_memory.redis.exactly_once.settings import ExactlyOnce, Level
from agent_memory.redis.exactly_once.tickets import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.redis.exactly_once.tickets import Stream, Ticket

__all__ = ["Mode", "mode_of"]

logger: Final = logging.getLogger("agent_memory.redis")

MAX_AWAY: Final = 64
"""Old connections to other server processes that are remembered, in case that process comes back; the oldest go first."""
MAX_STALE_MARKERS: Final = 1_024
"""Keys of markers that wait to be deleted; what is beyond expires by itself."""


class Mode:
    """The state of exactly once of one pool. Thread-safe."""

    def __init__(self, settings: ExactlyOnce, endpoint: str) -> None:
        self.settings = settings
        self.level: Level | None = None
        """The level in force; None before the first connection."""
        self.away: collections.deque[Stream] = collections.deque(maxlen=MAX_AWAY)
        self.inherited: collections.deque[Stream] = collections.deque()
        """Connections of a process that has died, as many as it had: fenced before anything is sent, if they lead here."""
        self.stale_markers: collections.deque[bytes] = collections.deque(maxlen=MAX_STALE_MARKERS)
        """Keys of stale markers, to be deleted."""
        self.keep: Callable[[Stream], Any] | None = None
        """Keeps for a successor where a connection goes, before anything is written on it."""
        self._endpoint = endpoint
        self._eviction: str | None = None
        self._lock = threading.Lock()
        self._tables: list[weakref.ref[Any]] = []  # one for each client and view of the pool that is alive
        self._fences = 0
        self._verdicts = dict.fromkeys(Verdict, 0)

    def bind(self, table: Any) -> None:
        """`table` (of bound commands) depends on the level: clear it when that changes."""
        with self._lock:
            self._tables = [known for known in self._tables if known() is not None]
            self._tables.append(weakref.ref(table))

    def learn(self, level: Level, eviction: str | None) -> None:
        """A connection was greeted: this is the level it offers and the server's maxmemory-policy, None if it kept it."""
        with self._lock:
            news = level is not self.level
            warn = eviction not in (None, "noeviction", self._eviction) and level in (Level.MARKER, Level.GATE)
            self.level, self._eviction = level, eviction
            tables = [known() for known in self._tables] if news else []
        for table in tables:
            if table is not None:
                table.clear()
        if news and level in (Level.NOTHING, Level.FENCE):
            logger.warning("%s: exactly once has only the level %r here", self._endpoint, level.name.lower())
        if warn:
            logger.warning(
                "%s: maxmemory-policy is %s, so markers may be evicted and writes become unresolvable; use noeviction",
                self._endpoint,
                eviction,
            )

    def swept(self) -> list[bytes]:
        """Keys that are to be deleted now."""
        keys = []
        while self.stale_markers:
            keys.append(self.stale_markers.popleft())
        return keys

    def called_back(self, here: Stream) -> list[Stream]:
        """Old connections that may reach the server process that `here` goes to: predecessors', and those that were away."""
        unfenced = []
        for waiting in (self.inherited, self.away):
            for _ in range(len(waiting)):
                try:
                    old = waiting.popleft()
                except IndexError:
                    break  # another thread, or loop, has taken it
                if old.run_id == here.run_id:
                    if waiting is self.inherited:
                        old.has_been_left(here)
                    old.fenced = False
                    unfenced.append(old)
                else:
                    self.away.append(old)
        return unfenced

    def count_fence(self) -> None:
        """One old connection was fenced."""
        with self._lock:
            self._fences += 1

    def count_verdicts(self, tickets: list[Ticket]) -> None:
        """These were resolved."""
        with self._lock:
            for ticket in tickets:
                if ticket.verdict is not None:
                    self._verdicts[ticket.verdict] += 1

    def stats(self) -> dict[str, Any]:
        """The level in force (None before the first connection), the server's maxmemory-policy, fences, verdicts."""
        with self._lock:
            return {
                "level": None if self.level is None else self.level.name.lower(),
                "maxmemory_policy": self._eviction,
                "fences": self._fences,
                **{verdict.name.lower(): count for verdict, count in self._verdicts.items()},
            }


def mode_of(pool: Any, settings: ExactlyOnce | None, endpoint: str) -> Mode | None:
    """The mode of a pool: made of `settings` when first asked for with any, None while none was.

    Raises ValueError where the pool's clients do not agree: they share its connections.
    """
    mode: Mode | None = pool.__dict__.get("_agent_memory_exactly_once")
    if settings is None:
        return mode
    if mode is None:
        if "_agent_memory_transport" in pool.__dict__ or "_agent_memory_transports" in pool.__dict__:
            raise ValueError(
                "exactly_once must be asked for by the first client of a pool, got a pool in use without it"
            )
        made: Mode = pool.__dict__.setdefault("_agent_memory_exactly_once", Mode(settings, endpoint))
        mode = made
    if mode.settings != settings:
        raise ValueError(f"exactly_once must be the same for all clients of a pool, got {settings} and {mode.settings}")
    return mode
