"""One circuit for each server of this process: guards by endpoint, for policies with `circuit_scope="endpoint"`.

Some frameworks make a pool for each thread, channel or call. A circuit for each pool then never sees a second failure, so
these guards outlive their clients and pools.

A guard of an endpoint has its own probe: a thread with a blocking connection of its own, for clients of both worlds. It asks
while the circuit is open and calls are being rejected; the last pool that asked says how to connect.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _at_fork
from agent_memory._core import monotonic_ns
from agent_memory.redis._sync.probe import Prober
from agent_memory.redis.redis_py_internals.settings import blocking_pool_like
from agent_memory.redis.transport.blocking.transport import BlockingTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from agent_memory._core import Guard
    from agent_memory.policy.resilience import ResiliencePolicy

__all__ = ["ENDPOINT_GUARDS", "MAX_ENDPOINT_GUARDS", "PROBING_ENDS_S", "EndpointGuards"]

MAX_ENDPOINT_GUARDS: Final = 256
"""Bound of guards kept. Beyond it the one that was asked for longest ago is dropped; clients that have it keep it."""
PROBING_ENDS_S: Final = 60.0
"""The probe of an open circuit ends when no call was rejected for this long; the next rejected call starts it again."""


class EndpointProbe:
    """The background probe of one endpoint. Thread-safe; no client stops it."""

    def __init__(self, guard: Guard, make_pool: Callable[[], Any], interval_s: float, name: str) -> None:
        self.make_pool = make_pool
        """Makes a blocking pool for one connection to the server; replaced by that of the latest client."""
        self._asked_ns = monotonic_ns()
        self._prober = Prober(guard, self._ping, interval_s=interval_s, name=name, is_wanted=self._is_wanted)

    def ensure_running(self) -> None:
        """A call was rejected: makes sure that the server is asked."""
        self._asked_ns = monotonic_ns()
        self._prober.ensure_running(again=True)

    def _is_wanted(self) -> bool:
        return monotonic_ns() - self._asked_ns < PROBING_ENDS_S * 1e9

    def _ping(self) -> None:
        pool = self.make_pool()
        try:
            BlockingTransport(pool).ping_afresh()
        finally:
            pool.disconnect()


class EndpointGuards:
    """Guards by endpoint, name and policy; the least recently used is dropped beyond MAX_ENDPOINT_GUARDS. Thread-safe."""

    def __init__(self) -> None:
        self._start_afresh()
        _at_fork.in_child(self._forget_lock)

    def _start_afresh(self) -> None:
        self._mutex = threading.Lock()
        self._guards: OrderedDict[Hashable, tuple[Guard, EndpointProbe | None]] = OrderedDict()

    def _forget_lock(self) -> None:
        self._mutex = threading.Lock()  # another thread of the parent may have held it

    def guard_of(
        self, pool: Any, name: str, resilience: ResiliencePolicy, endpoint: str
    ) -> tuple[Guard, EndpointProbe | None] | None:
        """The guard and the probe of the pool's server; None where the pool has no fixed address (Sentinel, other classes)."""
        likeness = blocking_pool_like(pool)
        if likeness is None:
            return None
        kind, make_pool = likeness
        key = (kind, endpoint, name, resilience)
        with self._mutex:
            known = self._guards.get(key)
            if known is None:
                guard = resilience.make_guard(name, endpoint)
                interval_s = resilience.probe_interval_s
                probe = None if interval_s is None else EndpointProbe(guard, make_pool, interval_s, name)
                known = self._guards[key] = (guard, probe)
                while len(self._guards) > MAX_ENDPOINT_GUARDS:
                    self._guards.popitem(last=False)
            else:
                self._guards.move_to_end(key)
                if known[1] is not None:
                    known[1].make_pool = make_pool
        return known


ENDPOINT_GUARDS: Final = EndpointGuards()
"""Those of this process."""
