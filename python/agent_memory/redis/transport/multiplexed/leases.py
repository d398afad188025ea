"""Connections of one call: for commands that block or change their connection, and the places that bound them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from agent_memory.errors import (
    ClientClosedError,
    ConnectionLimitError,
    Outcome,
    RedisTimeoutError,
    RedisUnavailableError,
)
from agent_memory.redis.error_outcomes import is_full
from agent_memory.redis.transport.common import FULL_PAUSE_S
from agent_memory.redis.transport.multiplexed.admission import forget

if TYPE_CHECKING:
    from agent_memory.redis.exactly_once.multiplexed import MultiplexedOnce
    from agent_memory.redis.transport.multiplexed.connection import MultiplexedConnection
    from agent_memory.redis.transport.multiplexed.opening import Opener
    from agent_memory.redis.transport.multiplexed.waits import Waits

__all__ = ["LeaseOwner", "Leases"]


class LeaseOwner(Protocol):
    """What is asked of the transport."""

    loop: asyncio.AbstractEventLoop
    endpoint: str
    timeout_s: float | None

    @property
    def is_connected(self) -> bool:
        """Whether a connection is held that calls go over."""
        ...

    def late(self, moving: bool) -> RedisTimeoutError:
        """What a command fails with that was sent and not answered in time."""
        ...


class Leases:
    """The leased connections of one event loop. The second connection takes one of their places."""

    def __init__(
        self,
        owner: LeaseOwner,
        opener: Opener,
        waits: Waits,
        once: MultiplexedOnce | None,
        places: int,
        wait_s: float | None,
    ) -> None:
        """`wait_s` is how long a call waits for one of the places; None for ever."""
        self._owner = owner
        self._opener = opener
        self._waits = waits
        self._once = once
        self._wait_s = wait_s
        self.max_places = places
        self.places = asyncio.Semaphore(places)
        self.idle: list[MultiplexedConnection] = []
        """Open and in no use; at most as many as places."""
        self._leased: set[MultiplexedConnection] = set()  # likewise

    @property
    def has_place(self) -> bool:
        """Whether another one may be opened now."""
        return not self.places.locked()

    async def call(
        self,
        packed: bytes,
        raw: bool,
        timeout_s: float | None,
        *,
        keep: bool,
        ahead: bytes | None = None,
        extra_s: float = 0.0,
    ) -> Any:
        """One command on a connection of its own.

        `timeout_s` bounds the wait for the reply (None: for ever); `keep=False` closes the connection afterwards, as does
        any interruption: a blocked command whose caller has gone must not take an element later. `ahead` is a packed
        command that is sent first; if it is refused, that is the reply and the connection is closed. While bytes arrive it may
        take `extra_s` more.
        """
        connection = await self._lease()
        self._leased.add(connection)
        done = False
        try:
            await self._fence_before(connection)
            connection.writes = True
            until_s = None if timeout_s is None else self._owner.loop.time() + timeout_s
            if ahead is not None:
                refusal = await self._answer_of(connection, connection.send(ahead), until_s, extra_s)
                if isinstance(refusal, Exception):
                    return refusal
            reply = await self._answer_of(connection, connection.send(packed, raw), until_s, extra_s)
            done = keep
            return reply
        finally:
            self._leased.discard(connection)
            reusable = done and not connection.closed and not connection.retired
            if reusable and self._opener.is_current(connection):
                self.idle.append(connection)
            else:
                closed = RedisUnavailableError("the leased connection was closed", endpoint=self._owner.endpoint)
                connection.fail(closed)
            self.places.release()

    async def _answer_of(
        self, connection: MultiplexedConnection, future: asyncio.Future[Any], until_s: float | None, extra_s: float
    ) -> Any:
        """The reply on a leased connection: until then, and while bytes arrive for `extra_s` more."""
        if until_s is None:
            return await future
        owner = self._owner
        ends_s = until_s + extra_s
        while True:
            try:
                async with asyncio.timeout_at(until_s):
                    return await asyncio.shield(future)
            except TimeoutError:
                now_s = owner.loop.time()
                silent_at_s = connection.last_moved_s + (owner.timeout_s or 0.0)
                moving = silent_at_s > now_s
                if not moving or now_s >= ends_s:
                    forget(future)
                    raise owner.late(moving) from None
                until_s = min(ends_s, silent_at_s)
            except BaseException:
                forget(future)
                raise

    async def _lease(self) -> MultiplexedConnection:
        acquired = False
        try:
            async with self._waits.until_closed(self._wait_s):
                acquired = await self.places.acquire()
        except ClientClosedError:
            if acquired:
                self.places.release()
            raise
        except TimeoutError:
            raise self._no_place() from None
        try:
            return self.take_idle() or await self._open()
        except BaseException:
            self.places.release()
            raise

    def _no_place(self) -> ConnectionLimitError:
        return ConnectionLimitError(
            f"all {self.max_places} leased connections stayed busy for {self._wait_s} s", endpoint=self._owner.endpoint
        )

    async def _open(self) -> MultiplexedConnection:
        """A new connection; where the server has no room for one, one that comes back, or a place that is left."""
        owner = self._owner
        until_s = owner.loop.time() + (owner.timeout_s or 0.0)
        while True:
            try:
                return await self._opener.open(None)
            except RedisUnavailableError as error:
                if not is_full(error) or not owner.is_connected or owner.loop.time() >= until_s:
                    raise
            await asyncio.sleep(FULL_PAUSE_S)
            connection = self.take_idle()
            if connection is not None:
                return connection

    async def _fence_before(self, connection: MultiplexedConnection) -> None:
        if self._once is None or not self._once.unfenced:
            return
        try:
            async with asyncio.timeout(self._owner.timeout_s):
                await self._once.fence_from(connection)
        except TimeoutError:
            raise RedisTimeoutError(
                "an old connection could not be fenced in time", outcome=Outcome.NOT_SENT, endpoint=self._owner.endpoint
            ) from None

    async def open_second(self) -> MultiplexedConnection:
        """The second connection, in the place of a leased one; raises where there is no place. `free_place` gives it back."""
        if not self.has_place:
            raise self._no_place()
        await self.places.acquire()
        try:
            connection = await self._opener.open(self._owner.timeout_s)
            if self._once is not None:
                try:
                    await self._once.fence_from(connection)
                except BaseException:
                    reason = "the old connection could not be fenced"
                    connection.fail(RedisUnavailableError(reason, endpoint=self._owner.endpoint))
                    raise
        except BaseException:
            self.places.release()
            raise
        return connection

    def free_place(self) -> None:
        """The second connection has given up its place."""
        self.places.release()

    def take_idle(self) -> MultiplexedConnection | None:
        """One that is open and in no use, for the caller to own."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.closed:
                return connection
        return None

    def retire(self) -> None:
        """Those in use close when they come back, those that are idle now."""
        for leased in self._leased:
            leased.retired = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close those that are in no use."""
        while self.idle:
            idle = RedisUnavailableError("the pool was disconnected", endpoint=self._owner.endpoint)
            self.idle.pop().fail(idle)
