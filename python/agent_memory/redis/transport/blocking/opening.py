"""Where a channel is opened, and which connections are open or being opened."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from agent_memory._core import monotonic_ns
from agent_memory._interruptible import LiveSet
from agent_memory.errors import ClientClosedError, Outcome
from agent_memory.redis.redis_py_internals.handshake import blocking_connect, new_connection
from agent_memory.redis.transport.blocking.channel import Channel
from agent_memory.redis.transport.blocking.exchange import NS_PER_S
from agent_memory.redis.transport.failures import connect_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.redis.reachability import Reachability

__all__ = ["ChannelOpener"]


class ChannelOpener:
    """Connects and handshakes the channels of one pool. Thread-safe; callers own what they are given."""

    def __init__(self, pool: Any, timeout_s: float | None, endpoint: str, reachability: Reachability) -> None:
        # Weakly: a pool that is dropped goes at once, with its connections.
        self._pool = weakref.ref(pool)
        self._timeout_s = timeout_s
        self._endpoint = endpoint
        self._reachability = reachability
        self.start_afresh()

    def start_afresh(self) -> None:
        """In a child of fork(): the connections are the parent's."""
        self._lock = threading.Lock()
        self._connections: LiveSet[Any] = LiveSet()  # redis-py's: of channels, and of what will be one

    def open(self, deadline_ns: int | None, greet: Callable[[Channel], None] | None) -> Channel:
        """A connected channel, until `deadline_ns` of `monotonic_ns()`; None: within `socket_timeout`.

        The handshake ends with `greet`.
        """
        if deadline_ns is None and self._timeout_s is not None:
            deadline_ns = monotonic_ns() + int(self._timeout_s * NS_PER_S)
        pool = self._pool()
        if pool is None:
            raise self.closed()
        connection = new_connection(pool)
        with self._lock:
            self._connections.add(connection)
        try:
            blocking_connect(connection, deadline_ns)
            channel = Channel(connection, self._timeout_s, monotonic_ns())
            if greet is not None:
                greet(channel)
        except BaseException as error:
            connection.disconnect()
            self._connections.discard(connection)
            failure = connect_failure(error, self._endpoint)
            if isinstance(failure, Exception) and self._pool() is not None:
                self._reachability.lost(self._endpoint, failure)
            try:
                if failure is error:
                    raise
                raise failure from error
            finally:
                del failure  # an error that this frame holds would hold the frame, and the connection, in a circle
        self._reachability.connected(self._endpoint)
        return channel

    def close(self, channel: Channel) -> None:
        """Close a channel for good; never raises."""
        channel.close()
        self._connections.discard(channel.connection)

    def connections(self) -> set[Any]:
        """All of redis-py's connections that are open or being opened, a probe's too."""
        return set(self._connections)

    def closed(self) -> ClientClosedError:
        """What a call fails with whose client was closed meanwhile."""
        return ClientClosedError(outcome=Outcome.NOT_SENT, endpoint=self._endpoint)
