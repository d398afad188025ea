"""Where a connection is replaced: connecting with pauses, and the suspect that waits for its replacement.

A connection that is silent past a deadline is a suspect. If the replacement's handshake ends first, the suspect is dead. If
bytes arrive on it first, it goes on and the replacement is dropped: a server that stalls costs no reconnect.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from typing import TYPE_CHECKING, Final, Protocol

from agent_memory.errors import RedisUnavailableError
from agent_memory.redis.error_outcomes import is_full

if TYPE_CHECKING:
    from agent_memory.redis.exactly_once.multiplexed import MultiplexedOnce
    from agent_memory.redis.transport.multiplexed.connection import MultiplexedConnection
    from agent_memory.redis.transport.multiplexed.leases import Leases
    from agent_memory.redis.transport.multiplexed.opening import Opener

__all__ = ["Replacement", "ReplacementOwner"]

MAX_RECONNECT_DELAY_S: Final = 0.5
"""Longest pause between two attempts to connect; short, because a refused attempt costs next to nothing."""
FIRST_RECONNECT_DELAY_S: Final = 0.02


class ReplacementOwner(Protocol):
    """The part of the transport that is used here."""

    loop: asyncio.AbstractEventLoop
    endpoint: str
    timeout_s: float | None

    def adopt(self, connection: MultiplexedConnection) -> None:
        """It is the shared connection from now on."""
        ...

    def connecting_failed(self, error: Exception) -> None:
        """An attempt to connect has failed."""
        ...


class Replacement:
    """Opens the shared connection of one event loop, one at a time."""

    def __init__(self, owner: ReplacementOwner, opener: Opener, leases: Leases, once: MultiplexedOnce | None) -> None:
        self._owner = owner
        self._opener = opener
        self._leases = leases
        self._once = once
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before_s = 0.0
        self._random = random.Random(random.getrandbits(64))  # so that random.seed() makes a simulation repeatable
        self.suspect: MultiplexedConnection | None = None
        """The connection that is silent past a deadline, until its replacement stands."""

    def start(self) -> None:
        """Connect, unless that is under way."""
        if self._task is None:
            self._task = self._owner.loop.create_task(self._connect(), context=contextvars.Context())

    def stop(self) -> None:
        """No connection is needed."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def hurry(self) -> None:
        """The server is known to be there: no pause before the next attempt."""
        self._failures = 0
        self._not_before_s = 0.0

    def fail_suspect(self) -> None:
        """The server answers a new connection and not the old one: the old one is dead."""
        suspect, self.suspect = self.suspect, None
        if suspect is not None:
            suspect.fail(RedisUnavailableError("silent past a deadline, replaced", endpoint=self._owner.endpoint))

    async def _connect(self) -> None:
        """Connect; on failure tell the owner, and go on as long as a suspect needs a replacement."""
        loop = self._owner.loop
        try:
            while True:
                pause_s = self._not_before_s - loop.time()
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                try:
                    connection = await self._open_fenced()
                except Exception as error:
                    self._failures += 1
                    self._not_before_s = loop.time() + self._delay_s()
                    self._owner.connecting_failed(error)
                    if self.suspect is None and not (self._once is not None and self._once.settling):
                        return
                    continue
                self.hurry()
                self._owner.adopt(connection)
                return
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    async def _open_fenced(self) -> MultiplexedConnection:
        """A new connection that may be written to: with exactly once, only when nothing old can be executed any more."""
        owner = self._owner
        try:
            connection = await self._opener.open(owner.timeout_s)
        except RedisUnavailableError as error:
            lease = self._leases.take_idle() if is_full(error) else None
            if lease is None:
                raise
            lease.share(owner.timeout_s)
            connection = lease
        if self._once is None:
            return connection
        self.fail_suspect()  # its writes are resolved now
        try:
            await self._once.fence_from(connection)
        except BaseException:
            connection.fail(RedisUnavailableError("the old connection could not be fenced", endpoint=owner.endpoint))
            raise
        return connection

    def _delay_s(self) -> float:
        """Full jitter under a cap that doubles: clients that lost a server together do not come back together."""
        cap_s = min(MAX_RECONNECT_DELAY_S, FIRST_RECONNECT_DELAY_S * 2.0 ** min(self._failures, 16))
        return self._random.uniform(0.0, cap_s)
