"""The transport of the asyncio client: one connection per event loop, shared by all its tasks; a second one now and then.

Commands issued in one iteration of the loop leave in one write; replies are matched to their callers in order. Nothing is
allocated per call but a future: deadlines are swept, not armed.

A connection (`MultiplexedConnection`) is in one of three states:

- *open*: takes commands.
- *suspect*: its oldest command is past its deadline and no byte has moved for as long, in either direction. It takes no new
  commands, and one replacement is being opened. If bytes arrive first, it is open again and the replacement is dropped: a
  server that stalled for seconds costs no reconnect. If the replacement's handshake ends first, the suspect is dead: a
  black hole is found.
- *closed*: its unanswered commands have failed, NOT_SENT where they had not been handed to the socket, else UNKNOWN.

Rules
- `socket_timeout` is how long a connection may be silent. While bytes arrive or leave, commands are waited for until the
  deadline of their calls: a large value on a slow link is no outage, and no failure of the server is made of it.
- While the connection carries something large over a slow link, others may go over a second one (`second`).
- A slot (the future of one command) stays in the queue until its reply arrives, whatever became of its caller. A cancelled
  or timed-out caller leaves an orphan whose reply is dropped, so the stream stays in step and a cancellation never costs a
  reconnect. Cancelled while it waits for room, a command is never sent; afterwards it is, and may be executed.
- Slots are bounded (`MAX_IN_FLIGHT`, orphans included) and so are bytes (the socket's own high-water mark closes admission).
  Callers beyond the bound wait in the order they came, at most for their timeout.
- The transport belongs to the running loop. Its tasks and callbacks run in an empty context, so that they keep no
  contextvars of whichever caller came first alive.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from agent_memory._concurrency import AsyncEvent
from agent_memory._core import Entrance, monotonic_ns
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.cache import cache_of
from agent_memory.redis.error_outcomes import is_full
from agent_memory.redis.exactly_once.mode import mode_of
from agent_memory.redis.exactly_once.multiplexed import MultiplexedOnce
from agent_memory.redis.pool_state import pool_state_of
from agent_memory.redis.redis_py_internals.pools import waits_for_place
from agent_memory.redis.transport.common import DEFAULT_MAX_CONNECTIONS, DEMOTION_PAUSE_NS, PING, endpoint_of
from agent_memory.redis.transport.multiplexed.admission import Admission, Waiter, forget
from agent_memory.redis.transport.multiplexed.leases import Leases
from agent_memory.redis.transport.multiplexed.opening import Opener
from agent_memory.redis.transport.multiplexed.replacement import Replacement
from agent_memory.redis.transport.multiplexed.second import SecondConnection
from agent_memory.redis.transport.multiplexed.tracking import Tracking
from agent_memory.redis.transport.multiplexed.waits import Waits
from agent_memory.redis.transport.multiplexed.windows import send_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from agent_memory.redis.transport.multiplexed.connection import MultiplexedConnection

    _Send = Callable[[MultiplexedConnection], asyncio.Future[Any]]

__all__ = ["MultiplexedTransport"]

EARLY_TURN: Final = 0.1
"""The share of `socket_timeout` by which a call may exceed its deadline that had to wait for its turn, while bytes move."""


class MultiplexedTransport(Entrance):
    """The shared connection of one event loop to one endpoint, and its replacement when it fails.

    Not thread-safe: used by the tasks of its loop only. Errors are `RedisUnavailableError` and `RedisTimeoutError` with
    their outcome; error replies are returned as exception instances, not raised.
    """

    def __init__(self, pool: Any) -> None:
        arguments = pool.connection_kwargs
        self.loop = asyncio.get_running_loop()
        self.timeout_s: float | None = arguments.get("socket_timeout", 5)
        self.health_check_s: float = arguments.get("health_check_interval") or 0.0
        self.patience_s: float = 2.0 * (self.timeout_s or 0.0)
        """How long commands are waited for while bytes move: the longest deadline of the calls of this pool's clients."""
        self.endpoint = endpoint_of(arguments)
        self.protocol = int(arguments.get("protocol") or 3)
        """The protocol that was negotiated last; what the response callbacks have to follow."""
        self.reachability = pool_state_of(pool, AsyncEvent).reachability
        self.shares_turn = False
        """Whether calls go over other transports of this loop as well, as those of a cluster do."""
        self.dismissed = False
        """Whether its pool was closed. The pool's next call has a transport of its own; one that was under way must not
        open a connection beside that."""
        self.current: MultiplexedConnection | None = None
        """The shared connection; None while there is none that takes commands."""
        self.connections_opened = 0
        """Connections that became the shared one; a stall or a cancellation must not raise it."""
        self._retired_ns = -DEMOTION_PAUSE_NS
        mode = mode_of(pool, None, self.endpoint)
        self.once = None if mode is None else MultiplexedOnce(self, mode)
        """Exactly once; None where it is off."""
        cache = cache_of(pool)
        self.tracking = None if cache is None else Tracking(cache, self.loop, self.endpoint)
        """Client-side caching; None where it is off."""
        self._waits = Waits(self.endpoint, self.loop)
        self._opener = Opener(pool, self, self._waits)
        if self.once is not None:
            self._opener.greet = self.once.greet
        places = max(1, (pool.max_connections or DEFAULT_MAX_CONNECTIONS) - 1)
        lease_wait_s = pool.timeout if waits_for_place(pool) else self.timeout_s
        self._leases = Leases(self, self._opener, self._waits, self.once, places, lease_wait_s)
        self._admission = Admission(self.loop, self.timeout_s, self.endpoint, self._carriers)
        self._replacement = Replacement(self, self._opener, self._leases, self.once)
        self.second = SecondConnection(self, self._admission, self._leases)
        """The second connection, while there is one."""

    # --- sending --------------------------------------------------------------------------------------------------

    def send(self, packed: bytes, raw: bool = False) -> asyncio.Future[Any] | None:
        """The fast path: hand the command to the open connection; None when the caller has to `wait_and_send`."""
        connection = self.current
        if connection is None or not connection.accepting:
            return None
        return connection.send(packed, raw)

    async def wait_and_send(
        self, packed: bytes, raw: bool = False, until_s: float | None = None
    ) -> asyncio.Future[Any]:
        """Wait for a connection and for room in it, then send: until `until_s` of the loop's clock, or as the sweep says.

        Raises RedisTimeoutError, RedisUnavailableError or ConnectionLimitError, all with outcome NOT_SENT.
        """
        future = self.send(packed, raw)
        if future is not None:
            return future
        return await self.wait_for_turn(lambda connection: connection.send(packed, raw), packed, until_s)

    async def call_within(self, packed: bytes, _permit: int, raw: bool, timeout_s: float | None) -> Any:
        """One command with a timeout of its own, from now to the reply: what is left of a call that is retried."""
        began_s = self.loop.time()
        until_s = None if timeout_s is None else began_s + timeout_s
        future = await self.wait_and_send(packed, raw, until_s)
        try:
            async with asyncio.timeout_at(until_s):
                return await future
        except TimeoutError:
            raise self.late(self.has_moved_since(began_s)) from None
        except BaseException:
            forget(future)
            raise

    async def call_in_turn(self, packed: bytes, raw: bool, deadline_s: float) -> Any:
        """One command that has to wait for its turn first; from now to the reply it has `deadline_s`."""
        began_s = self.loop.time()
        until_s = began_s + deadline_s
        future = await self.wait_and_send(packed, raw)
        try:
            # A call that had its turn early is bounded by the sweep of the connection: no timer for it.
            early = self.timeout_s is None or self.loop.time() - began_s <= self.timeout_s * EARLY_TURN
            if early and deadline_s >= self.patience_s:
                return await future
            async with asyncio.timeout_at(until_s):
                return await future
        except TimeoutError:
            raise self.late(self.has_moved_since(began_s)) from None
        except BaseException:
            forget(future)
            raise

    def late(self, moving: bool) -> RedisTimeoutError:
        """What a command fails with that was sent and not answered in time; `moving` if the connection was not silent."""
        error = RedisTimeoutError("no answer in time", outcome=Outcome.UNKNOWN, endpoint=self.endpoint)
        error.moving = moving
        return error

    def has_moved_since(self, began_s: float) -> bool:
        """Whether bytes have arrived or left since then on a connection that takes calls."""
        return any(one is not None and one.last_moved_s > began_s for one in self._carriers())

    def _carriers(self) -> tuple[MultiplexedConnection | None, MultiplexedConnection | None]:
        return self.current, self.second.connection

    forget = staticmethod(forget)

    async def wait_for_turn(
        self, send: _Send, packed: bytes, until_s: float | None = None, behind: MultiplexedConnection | None = None
    ) -> asyncio.Future[Any]:
        """First come, first served: when the turn has come and there is room, `send` is called; returns what it returns.

        `packed` is what it is going to send. `behind` is the connection that carries what it has to follow in any case.
        """
        waiter = Waiter(self.loop.create_future(), send, self.loop.time(), packed, behind)
        sent = self.second.send(waiter) if self.second.active else None
        if sent is not None:
            return sent
        self._admission.join(waiter)
        if self.current is None:
            self._replacement.start()
        return await self._admission.result(waiter, until_s)

    async def call_many(
        self,
        windows: Iterator[tuple[bytes, int]],
        _permit: int,
        raw: frozenset[int] = frozenset(),
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Send windows (bytes, number of replies) of packed commands; returns all replies, see `send_windows`."""
        return await send_windows(self, windows, raw, timeout_s)

    async def call_leased(
        self,
        packed: bytes,
        _permit: int,
        raw: bool,
        timeout_s: float | None,
        *,
        keep: bool,
        ahead: bytes | None = None,
        extra_s: float = 0.0,
    ) -> Any:
        """One command on a connection of its own, because it may block or changes its connection, see `Leases.call`."""
        if not self._leases.has_place:
            self.second.make_room()
        return await self._leases.call(packed, raw, timeout_s, keep=keep, ahead=ahead, extra_s=extra_s)

    # --- connections ----------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether a connection is held that calls go over, so far as is known."""
        return self.current is not None and not self.current.closed

    @property
    def open_count(self) -> int:
        """Connections that are open."""
        return len(self._opener.open_connections)

    @property
    def in_flight_count(self) -> int:
        """Commands that have not been answered."""
        return sum(connection.in_flight for connection in self._opener.open_connections.copy())

    @property
    def opening(self) -> int:
        """Connections that are being opened."""
        return self._opener.opening

    def until_closed(self, timeout_s: float | None) -> AbstractAsyncContextManager[None]:
        """`asyncio.timeout` that ends when the client is closed, too: with ClientClosedError."""
        return self._waits.until_closed(timeout_s)

    def reconnect(self) -> None:
        """A connection is needed: open one unless there is one, or one being opened."""
        if self.current is None and self._replacement.suspect is None:
            self._replacement.start()

    async def ping_afresh(self) -> None:
        """PING on a new connection, for a probe; raises what the connection raises.

        An answer ends the pause before the next attempt to connect.

        Where the server has no room for one, on a connection that is held.
        """
        try:
            connection = await self._opener.open(self.timeout_s, greet=False)
        except RedisUnavailableError as error:
            held = self.current or self._leases.take_idle() if is_full(error) else None
            if held is None:
                raise
            reply = await self._ping_held(held)
        else:
            try:
                reply = await connection.send(PING)
            finally:
                connection.fail(RedisUnavailableError("the probe is over", endpoint=self.endpoint))
        if isinstance(reply, Exception):
            raise reply
        self._replacement.hurry()

    async def _ping_held(self, connection: MultiplexedConnection) -> Any:
        try:
            async with asyncio.timeout(self.timeout_s):
                reply = await connection.send(PING)
        except TimeoutError:
            raise self.late(moving=False) from None
        if connection is not self.current and not connection.retired:
            self._leases.idle.append(connection)
        return reply

    # --- what connections report ----------------------------------------------------------------------------------

    def adopt(self, connection: MultiplexedConnection) -> None:
        """A new connection stands: it is the shared one from now on."""
        self.connections_opened += 1
        self.protocol = connection.protocol
        self.current = connection
        connection.shares_turn = self.shares_turn
        connection.writes = True
        self._track(connection)
        self._replacement.fail_suspect()
        self.second.take_over(connection)
        self.admit_waiters(connection)

    def _track(self, connection: MultiplexedConnection) -> None:
        if self.tracking is not None:
            self.tracking.begin(connection)

    def connecting_failed(self, error: Exception) -> None:
        """No connection could be opened: its waiters fail."""
        self._admission.fail(error)

    def admit_waiters(self, connection: MultiplexedConnection) -> None:
        """There may be room: send for the waiters, in their order, and open the fast path when none is left."""
        if connection.retired:
            self._close_if_drained(connection)
        if self.second.active:
            self.second.settle()
        elif connection is self.current:
            self._admission.admit(connection)

    def dismiss(self, connection: MultiplexedConnection) -> None:
        """Close a connection that is not needed any more."""
        if self.once is not None:
            self.once.prepare_shutdown(connection)
        connection.fail(RedisUnavailableError("not needed any more", endpoint=self.endpoint))

    def relieve(self, connection: MultiplexedConnection) -> bool:
        """The connection is carrying something large; returns whether the second connection relieves it."""
        return self.second.relieve(connection)

    def distrust(self, connection: MultiplexedConnection) -> None:
        """The connection is silent past a deadline: no new commands, open a replacement."""
        if connection.retired:
            connection.fail(RedisUnavailableError("silent past a deadline, retired", endpoint=self.endpoint))
        if connection is self.second.connection:
            first = self.current
            if first is not None and self._lives_without(first, connection):
                connection.fail(RedisUnavailableError("silent past a deadline", endpoint=self.endpoint))
            else:
                connection.suspect = True
            return
        if connection is not self.current:
            return
        if self.second.connection is not None and self._lives_without(self.second.connection, connection):
            connection.fail(RedisUnavailableError("silent past a deadline, replaced", endpoint=self.endpoint))
            return
        if self.tracking is not None:
            self.tracking.distrust(connection)
        connection.suspect = True
        connection.accepting = False
        self.note_lost(self.late(moving=False))
        self.current = None
        self._replacement.suspect = connection
        self._replacement.start()

    def _lives_without(self, other: MultiplexedConnection, silent: MultiplexedConnection) -> bool:
        """Whether the server was heard on the other connection well after the silence of this one had begun."""
        return other.last_read_s > silent.last_moved_s + (self.timeout_s or 0.0) / 2.0

    def trust_again(self, connection: MultiplexedConnection) -> None:
        """Bytes arrived on the suspect before its replacement stood: it goes on."""
        connection.suspect = False
        if connection is not self._replacement.suspect:
            return
        self.reachability.connected(self.endpoint)
        self._replacement.suspect = None
        self.current = connection
        if self.tracking is not None:
            self.tracking.trust_again(connection)
        self._replacement.hurry()
        self._replacement.stop()
        self.admit_waiters(connection)

    def note_lost(self, error: Exception) -> None:
        """A connection broke by itself, or is silent past a deadline."""
        self.reachability.lost(self.endpoint, error)

    def connection_closed(self, connection: MultiplexedConnection) -> None:
        """A connection has failed and its slots with it; the next caller (or a waiter) connects anew."""
        self._opener.open_connections.discard(connection)
        if connection is self._replacement.suspect:
            self._replacement.suspect = None
        other = self.second.connection
        if connection is other:
            self.second.lost()
        elif connection is self.current and other is not None and not other.suspect:
            self.current = self.second.stop()
            self.connections_opened += 1
            self._track(other)
            self.admit_waiters(other)
        elif connection is self.current:
            self.current = None
            wanted = self._admission.waiters or (self.once is not None and self.once.settling)
            if wanted and not self.loop.is_closed():
                self._replacement.start()
        if connection.has_unknown and connection.writes and connection.stream is not None and self.once is not None:
            self.once.lose(connection.stream)

    # --- closing and credentials ----------------------------------------------------------------------------------

    def renew(self, authentication: bytes) -> None:
        """Authenticate anew with the packed AUTH, between the commands of the shared connection.

        Connections that are being opened do so as soon as they stand; idle leases close, and leased ones when they come back:
        the next lease asks the provider.
        """
        self._opener.renew(authentication, (self.current, self._replacement.suspect, self.second.connection))
        self._leases.close_idle()
        if self.tracking is not None:
            self.tracking.forget()

    def retire(self) -> None:
        """The server is no longer the one to ask: the next command connects anew.

        The shared connection takes no more commands and closes when it has answered those that are under way, and so does
        each leased one.
        """
        self._leases.retire()
        current, self.current = self.current, None
        for connection in (current, self.second.stop()):
            if connection is not None:
                if self.tracking is not None:
                    self.tracking.distrust(connection)
                connection.accepting = False
                connection.retired = True
                self._close_if_drained(connection)
        if self._admission.waiters:
            self._replacement.start()

    def retire_demoted(self) -> bool:
        """The same after a READONLY; returns False where that was just done: those that were under way say it one by one."""
        now_ns = monotonic_ns()
        if now_ns - self._retired_ns < DEMOTION_PAUSE_NS:
            return False
        self._retired_ns = now_ns
        self.retire()
        return True

    def _close_if_drained(self, connection: MultiplexedConnection) -> None:
        if not connection.in_flight:
            connection.fail(RedisUnavailableError("retired", endpoint=self.endpoint))

    def close(self, in_use: bool = True) -> None:
        """Close the connections and fail what is in flight; the transport may be used again afterwards.

        Without `in_use` no call fails: a connection that carries one closes when it is answered.
        """
        if not in_use:
            self.retire()
            return
        self._replacement.stop()
        self._admission.stop()
        closed = self._waits.closed()
        self.second.stop()
        self._admission.fail(closed)
        self._waits.end()
        self._leases.idle.clear()
        for connection in sorted(self._opener.open_connections, key=lambda one: one is not self.current):
            if self.once is not None:
                self.once.prepare_shutdown(connection)
            connection.fail(closed)
        if self.once is not None:
            for stream in self.once.unfenced:
                stream.end()
            self.once.left = True
        self.current = self._replacement.suspect = None
