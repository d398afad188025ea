"""The connection's part in client-side caching: it asks the server to track, and renews the proof that the cache is fresh.

`ClientCache` of the extension decides what may be served. This tells it which connection tracks, and when that is no longer so.
"""

from __future__ import annotations

import contextvars
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final

from agent_memory.redis.transport.common import PING

if TYPE_CHECKING:
    import asyncio

    from agent_memory.redis.cache import PoolCache
    from agent_memory.redis.transport.multiplexed.connection import MultiplexedConnection

__all__ = ["Tracking"]

_LOGGER: Final = logging.getLogger("agent_memory.redis")
_TRACKING_ON: Final = b"*4\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n$5\r\nOPTIN\r\n"
PROOFS_IN_BOUND: Final = 4
"""An idle connection proves so many times within `max_staleness_s` that it is alive."""


class Tracking:
    """The lane of one event loop in the cache of its pool."""

    __slots__ = (
        "__weakref__",
        "_cache",
        "_connection",
        "_context",
        "_endpoint",
        "_interval_s",
        "_lane",
        "_loop",
        "_timer",
    )

    def __init__(self, cache: PoolCache, loop: asyncio.AbstractEventLoop, endpoint: str) -> None:
        self._cache = cache.core
        self._lane = cache.core.add_lane()
        self._interval_s = cache.settings.max_staleness_s / PROOFS_IN_BOUND
        self._loop = loop
        self._endpoint = endpoint
        self._context = contextvars.Context()
        self._connection: MultiplexedConnection | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connection: MultiplexedConnection) -> None:
        """The connection is the shared one from now on: what is read there is tracked as soon as the server agrees."""
        if self._cache.off_because is not None:
            return
        if connection.protocol < 3:
            self._turn_off("the connection does not speak RESP3")
            return
        self._connection = connection
        if connection._track(self._cache, self._lane):
            connection.append(_Agreement(self, connection), _TRACKING_ON)
            if self._timer is None:
                self._arm()

    def distrust(self, connection: MultiplexedConnection) -> None:
        """The connection is silent, or the server is no longer the one to ask."""
        connection._set_tracked(False)

    def trust_again(self, connection: MultiplexedConnection) -> None:
        """It has been heard again."""
        if connection is self._connection:
            self.begin(connection)

    def forget(self) -> None:
        """What was read as another user is not served any more."""
        self._cache.clear()

    def drop(self) -> None:
        """The event loop has ended."""
        self._cache.drop_lane(self._lane)

    def agreed(self, connection: MultiplexedConnection, reply: Any) -> None:
        """The server has answered whether it tracks."""
        if connection.closed or connection is not self._connection or connection.suspect or connection.retired:
            return
        if not isinstance(reply, Exception):
            connection._set_tracked(True)
            return
        self._turn_off(f"{type(reply).__name__}: the server refused CLIENT TRACKING")

    def _turn_off(self, reason: str) -> None:
        self._cache.turn_off(reason)
        _LOGGER.warning("client-side cache of %s is off: %s", self._endpoint, reason)

    # --- proofs ---------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        weak = weakref.ref(self)

        def tick() -> None:
            tracking = weak()
            if tracking is not None:
                tracking._prove()

        self._timer = self._loop.call_later(self._interval_s, tick, context=self._context)

    def _prove(self) -> None:
        """What travels proves by its reply that everything before it was seen; where nothing does, a PING."""
        self._timer = None
        connection = self._connection
        if connection is None or connection.closed:
            return
        if connection.accepting and not connection.in_flight and self._cache.wants_proof(self._lane):
            connection.append(_PROOF, PING)
        self._arm()


class _Agreement:
    """The slot of CLIENT TRACKING."""

    __slots__ = ("_connection", "_tracking")

    def __init__(self, tracking: Tracking, connection: MultiplexedConnection) -> None:
        self._tracking = tracking
        self._connection = connection

    def done(self) -> bool:
        """Its answer is always looked at."""
        return False

    def set_result(self, reply: Any) -> None:
        """The server has answered."""
        self._tracking.agreed(self._connection, reply)

    def set_exception(self, _error: Exception) -> None:
        """The connection failed, or was late: there is no cache meanwhile."""


class _Proof:
    """The slot of a PING that only has to be answered."""

    __slots__ = ()

    def done(self) -> bool:
        """Its answer says enough by coming."""
        return True


_PROOF: Final = _Proof()
