"""Where a connection is opened: connect, handshake, greeting, renewed credentials; and which are open."""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent_memory.errors import RedisUnavailableError
from agent_memory.redis.redis_py_internals.handshake import async_connect, new_async_connection
from agent_memory.redis.transport.failures import connect_failure
from agent_memory.redis.transport.multiplexed.connection import ConnectionOwner, MultiplexedConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from agent_memory.redis.reachability import Reachability
    from agent_memory.redis.transport.multiplexed.waits import Waits

__all__ = ["Opener", "OpenerOwner"]

_LOGGER: Final = logging.getLogger("agent_memory.redis")


class OpenerOwner(ConnectionOwner, Protocol):
    """The transport: owns the connections that are opened."""

    timeout_s: float | None
    dismissed: bool

    @property
    def reachability(self) -> Reachability:
        """What the pool's connections have shown of the server."""
        ...


class Opener:
    """Opens the connections of one event loop. Callers own what they are given."""

    def __init__(self, pool: Any, owner: OpenerOwner, waits: Waits) -> None:
        # Weakly: the loop holds the connections and through them this, but a pool that is dropped is to be collected.
        self._pool = weakref.ref(pool)
        self._owner = owner
        self._waits = waits
        self._renewal: bytes | None = None
        self.greet: Callable[[MultiplexedConnection], Awaitable[None]] | None = None
        """What exactly once adds to the handshake; None without it."""
        self.open_connections: set[MultiplexedConnection] = set()
        """All that are not closed: the shared one, the second, leases, a probe's. Bounded by the leases and one probe."""
        self.opening = 0
        """Connections that are being opened."""

    async def open(self, timeout_s: float | None, *, greet: bool = True) -> MultiplexedConnection:
        """Connect and handshake one connection (names are resolved anew) whose commands may take `timeout_s`.

        Has `socket_timeout` for it, however small the pieces in which the handshake comes. With exactly once the handshake
        ends with the greeting, unless `greet` is false because nothing will be written.
        Raises with outcome NOT_SENT.
        """
        owner = self._owner
        if owner.dismissed:
            raise self._waits.closed()
        connection = await self._connect(timeout_s)
        if self.greet is None or not greet:
            owner.reachability.connected(owner.endpoint)
            return connection
        try:
            async with self._waits.until_closed(owner.timeout_s):
                await self.greet(connection)
        except BaseException as error:
            connection.fail(RedisUnavailableError("the greeting failed", endpoint=owner.endpoint))
            failure = connect_failure(error, owner.endpoint)
            if failure is error:
                raise
            raise failure from error
        owner.reachability.connected(owner.endpoint)
        return connection

    async def _connect(self, timeout_s: float | None) -> MultiplexedConnection:
        owner = self._owner
        renewal = self._renewal
        pool = self._pool()
        if pool is None:
            raise self._waits.closed()
        connection = new_async_connection(pool)
        del pool
        self.opening += 1
        task = asyncio.current_task()
        cancellations = task.cancelling() if task is not None else 0
        try:
            async with self._waits.until_closed(owner.timeout_s):
                await async_connect(connection)
            if task is not None and task.cancelling() > cancellations:
                # redis-py's handshake goes through asyncio.wait_for, which before Python 3.12 loses a cancellation that
                # arrives as the awaited result does. Continuing would keep a cancelled caller waiting.
                raise asyncio.CancelledError
            made = MultiplexedConnection(owner, connection, timeout_s)
            self.open_connections.add(made)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            failure = connect_failure(error, owner.endpoint)
            if isinstance(failure, Exception):
                owner.reachability.lost(owner.endpoint, failure)
            if failure is error:
                raise
            raise failure from error
        finally:
            self.opening -= 1
        made.renewal = renewal
        if self._renewal is not renewal:
            self._authenticate(made)  # what it has just told the server was renewed meanwhile
        return made

    # --- renewed credentials --------------------------------------------------------------------------------------

    def renew(self, authentication: bytes, connections: Iterable[MultiplexedConnection | None]) -> None:
        """Send the packed AUTH on these connections, between their commands, and on later ones as soon as they stand."""
        self._renewal = authentication
        for connection in connections:
            if connection is not None and not connection.closed:
                self._authenticate(connection)

    def is_current(self, connection: MultiplexedConnection) -> bool:
        """Whether it was last sent the credentials that were renewed last."""
        return connection.renewal is self._renewal

    def _authenticate(self, connection: MultiplexedConnection) -> None:
        assert self._renewal is not None
        connection.renewal = self._renewal
        connection.append(_Authentication(self._owner.endpoint), self._renewal)


class _Authentication:
    """The slot of renewed credentials: a refusal is logged as it arrives, before any command behind it goes on."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def done(self) -> bool:
        """Its answer is always looked at."""
        return False

    def set_result(self, reply: Any) -> None:
        """The server has answered."""
        if isinstance(reply, Exception):
            _LOGGER.warning("%s refused renewed credentials: %s", self._endpoint, type(reply).__name__)

    def set_exception(self, _error: Exception) -> None:
        """The connection failed: the next one asks the provider."""
