"""What the clients of one pool share beside its connections: guards with their probes, and when the pool was closed.

Frameworks make a client per call on one pool. A circuit breaker per client would then never see a second failure, so guards
belong to the pool: one for each configuration. A client with a pool of its own has a guard of its own.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, cast

from agent_memory import _at_fork
from agent_memory._core import monotonic_ns
from agent_memory.redis.reachability import Reachability
from agent_memory.redis.redis_py_internals.pools import on_close

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory._core import Guard
    from agent_memory.policy.resilience import ResiliencePolicy

__all__ = ["MAX_GUARDS", "PoolState", "pool_state_of"]

MAX_GUARDS: Final = 64
"""The most guards of one pool. Beyond it the pool forgets the oldest; its clients keep using it."""


class PoolState:
    """The shared state of one pool. Thread-safe. Refers to its pool by nothing, and lives as long as it."""

    def __init__(self, make_event: Callable[[], Any]) -> None:
        self._make_event = make_event
        self._guards: list[tuple[str, ResiliencePolicy, Guard, Any]] = []
        self._closed_ns = self._ended_ns = -1
        self.reachability = Reachability()
        """What its connections have shown of the server."""
        self._start_afresh()
        _at_fork.in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        # Another thread of the parent may have held a lock when it forked.
        self._mutex = threading.Lock()
        self._closing = self._make_event()

    def guard_of(
        self, name: str, resilience: ResiliencePolicy, endpoint: str, make_prober: Callable[[Guard], Any]
    ) -> tuple[Guard, Any]:
        """The guard of this configuration and its prober (None without one), made when first asked for."""
        with self._mutex:
            for known_name, known, guard, prober in self._guards:
                if known_name == name and (known is resilience or known == resilience):
                    return guard, prober
            guard = resilience.make_guard(name, endpoint)
            prober = None if resilience.probe_interval_s is None else make_prober(guard)
            self._guards.append((name, resilience, guard, prober))
            del self._guards[:-MAX_GUARDS]
            return guard, prober

    def close(self) -> None:
        """The pool is being closed: calls under way must not go on with another attempt. New calls may."""
        self._closed_ns = monotonic_ns()
        closing, self._closing = self._closing, self._make_event()
        closing.set()

    def end(self) -> None:
        """The same, and not for a fresh start of the connections: what lasts beyond a call, a subscriber, ends too."""
        self._ended_ns = monotonic_ns()
        self.close()

    def was_ended_since(self, started_ns: int) -> bool:
        """Whether the client or the pool was closed, not only disconnected, since `started_ns`."""
        return self._ended_ns >= started_ns

    def was_closed_since(self, started_ns: int) -> bool:
        """Whether the pool was closed since `started_ns` of the monotonic clock."""
        return self._closed_ns >= started_ns

    def pause(self, started_ns: int, delay_s: float) -> Any:
        """Wait for `delay_s`, or until the pool is closed; gives whether it was closed since `started_ns`.

        With events of asyncio it is an awaitable that gives that.
        """
        closing = self._closing  # before the look: a closing behind it sets this event
        if self.was_closed_since(started_ns):
            delay_s = 0.0
            closing = self._make_event()
            closing.set()
        return closing.wait(delay_s)


def pool_state_of(pool: Any, make_event: Callable[[], Any]) -> PoolState:
    """The shared state of a pool; `make_event` gives events that its clients can wait for."""
    shared = pool.__dict__.get("_agent_memory_shared")
    if shared is None:
        made = PoolState(make_event)
        # setdefault is atomic: of two threads' states both use the same.
        shared = pool.__dict__.setdefault("_agent_memory_shared", made)
        if shared is made:
            on_close(pool, made.end)
    return cast(PoolState, shared)
