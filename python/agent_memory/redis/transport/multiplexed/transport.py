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
import collections
import contextlib
import contextvars
import logging
import random
import weakref
from typing import TYPE_CHECKING, Any, Final

from agent_memory._core import monotonic_ns
from agent_memory.errors import (
    ClientClosedError,
    ConnectionLimitError,
    Outcome,
    RedisTimeoutError,
    RedisUnavailableError,
)
from agent_memory.redis import private
from agent_memory.redis.error_outcomes import is_full
from agent_memory.redis.exactly_once.mode import mode_of
from agent_memory.redis.exactly_once.multiplexed import MultiplexedOnce
from agent_memory.redis.transport.common import (
    DEFAULT_MAX_CONNECTIONS,
    DEMOTION_PAUSE_NS,
    FULL_PAUSE_S,
    PING,
    endpoint_of,
)
from agent_memory.redis.transport.failures import connect_failure
from agent_memory.redis.transport.multiplexed.admission import Waiter
from agent_memory.redis.transport.multiplexed.connection import MAX_IN_FLIGHT, MultiplexedConnection
from agent_memory.redis.transport.multiplexed.second import SecondConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    _Send = Callable[[MultiplexedConnection], asyncio.Future[Any]]

__all__ = ["MultiplexedTransport"]

MAX_RECONNECT_DELAY_S: Final = 0.5
"""Longest pause between two attempts to connect; short, because a refused attempt costs next to nothing."""
FIRST_RECONNECT_DELAY_S: Final = 0.02
EARLY_TURN: Final = 0.1
"""The share of `socket_timeout` by which a call may exceed its deadline that had to wait for its turn, while bytes move."""

_LOGGER: Final = logging.getLogger("agent_memory.redis")


class MultiplexedTransport:
    """The shared connection of one event loop to one endpoint, and its replacement when it fails.

    Not thread-safe: used by the tasks of its loop only. Errors are `RedisUnavailableError` and `RedisTimeoutError` with
    their outcome; error replies are returned as exception instances, not raised.
    """

    def __init__(self, pool: Any) -> None:
        arguments = pool.connection_kwargs
        # Weakly: the loop holds the connections and through them the transport, but a pool that is dropped is to be collected.
        self._pool = weakref.ref(pool)
        self.loop = asyncio.get_running_loop()
        self.timeout_s: float | None = arguments.get("socket_timeout", 5)
        self.health_check_s: float = arguments.get("health_check_interval") or 0.0
        self.patience_s: float = 2.0 * (self.timeout_s or 0.0)
        """How long commands are waited for while bytes move: the longest deadline of the calls of this pool's clients."""
        self.endpoint = endpoint_of(arguments)
        self.protocol = int(arguments.get("protocol") or 3)
        """The protocol that was negotiated last; what the response callbacks have to follow."""
        self.current: MultiplexedConnection | None = None
        self._suspect: MultiplexedConnection | None = None
        self.second = SecondConnection(self)
        """The second connection, while there is one."""
        # In the order they came. When there is room for somebody his command leaves before he wakes, so that nobody who comes
        # later can overtake it. As many as there are tasks that wait: each holds one place.
        self._waiters: collections.deque[Waiter] = collections.deque()
        self._waiters_sweeper: asyncio.TimerHandle | None = None
        self._progress: tuple[Any, ...] | None = None  # what the last sweep of the waiters saw
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before_s = 0.0
        self._random = random.Random(random.getrandbits(64))  # so that random.seed() makes a simulation repeatable
        self._max_leases = max(1, (pool.max_connections or DEFAULT_MAX_CONNECTIONS) - 1)
        self._lease_wait_s = pool.timeout if private.waits_for_place(pool) else self.timeout_s
        """How long a call waits for a connection to lease; None for ever."""
        self._leases = asyncio.Semaphore(self._max_leases)
        self._idle_leases: list[MultiplexedConnection] = []  # at most _max_leases, by the semaphore
        self._leased: set[MultiplexedConnection] = set()  # likewise
        self._open: set[MultiplexedConnection] = set()  # all that are not closed: the shared one, leases, a probe's
        self._waits: set[asyncio.Timeout] = set()  # of callers and probes that wait for a connection of their own
        self.opening = 0
        """Connections that are being opened."""
        self._retired_ns = -DEMOTION_PAUSE_NS
        self.dismissed = False
        """Whether its pool was closed. The pool's next call has a transport of its own; one that was under way must not
        open a connection beside that."""
        self._renewal: bytes | None = None  # the AUTH of the credentials that were renewed last
        mode = mode_of(pool, None, self.endpoint)
        self.once = None if mode is None else MultiplexedOnce(self, mode)
        """Exactly once; None where it is off."""
        self.connections_opened = 0
        """Connections that became the shared one; a stall or a cancellation must not raise it."""

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
            self.forget(future)
            raise

    async def call_in_turn(self, packed: bytes, raw: bool, deadline_s: float) -> Any:
        """One command that has to wait for its turn first; from now to the reply it has `deadline_s`."""
        began_s = self.loop.time()
        until_s = began_s + deadline_s
        future = await self.wait_and_send(packed, raw)
        try:
            # Whoever had his turn early is bounded by the sweep of the connection: no timer for him.
            early = self.timeout_s is None or self.loop.time() - began_s <= self.timeout_s * EARLY_TURN
            if early and deadline_s >= self.patience_s:
                return await future
            async with asyncio.timeout_at(until_s):
                return await future
        except TimeoutError:
            raise self.late(self.has_moved_since(began_s)) from None
        except BaseException:
            self.forget(future)
            raise

    def late(self, moving: bool) -> RedisTimeoutError:
        """What a command fails with that was sent and not answered in time; `moving` if the connection was not silent."""
        error = RedisTimeoutError("no answer in time", outcome=Outcome.UNKNOWN, endpoint=self.endpoint)
        error.moving = moving
        return error

    def has_moved_since(self, began_s: float) -> bool:
        """Whether bytes have arrived or left since then on a connection that takes calls."""
        both = (self.current, self.second.connection)
        return any(connection is not None and connection.last_moved_s > began_s for connection in both)

    @staticmethod
    def forget(future: asyncio.Future[Any] | None) -> None:
        """Nobody waits for this reply any more: make its slot an orphan, or its error one that was seen."""
        if future is not None and not future.cancel() and not future.cancelled():
            future.exception()

    async def wait_for_turn(
        self, send: _Send, packed: bytes, until_s: float | None = None, behind: MultiplexedConnection | None = None
    ) -> asyncio.Future[Any]:
        """First come, first served: when the turn has come and there is room, `send` is called; returns what it returns.

        `packed` is what it is going to send. `behind` is the connection that carries what it has to follow in any case.
        """
        waiter: asyncio.Future[asyncio.Future[Any]] = self.loop.create_future()
        one = Waiter(waiter, send, self.loop.time(), packed, behind)
        sent = self.second.send(one) if self.second.active else None
        if sent is not None:
            return sent
        self._waiters.append(one)
        if self._waiters_sweeper is None and self.timeout_s is not None:
            self._arm_waiters_sweep(self.timeout_s)
        if self.current is None and self._connecting is None:
            self._start_connecting()
        try:
            if until_s is None:
                return await waiter
            async with asyncio.timeout_at(until_s):
                return await waiter
        except TimeoutError:
            if not waiter.cancelled():
                return waiter.result()  # it was sent at the last moment: the reply has a deadline of its own
            raise self._no_turn(one.since_s) from None
        except BaseException:
            if not waiter.cancel() and not waiter.cancelled() and waiter.exception() is None:
                self.forget(waiter.result())  # it was sent at the last moment
            raise

    def _arm_waiters_sweep(self, delay_s: float) -> None:
        self._waiters_sweeper = self.loop.call_later(delay_s, self._sweep_waiters, context=contextvars.Context())

    def _sweep_waiters(self) -> None:
        """Fail the waiters whose time is over: `socket_timeout` without a connection or progress, else twice that."""
        self._waiters_sweeper = None
        timeout_s = self.timeout_s
        if timeout_s is None:
            return
        both = (self.current, self.second.connection)
        progress = (
            None if self.current is None else tuple(one and (id(one), one.answered, one.last_moved_s) for one in both)
        )
        moving = progress is not None and progress != self._progress
        self._progress = progress
        waiters = self._waiters
        due_s = self.loop.time() - timeout_s * (2.0 if moving else 1.0)
        while waiters and waiters[0].since_s <= due_s:
            waiter = waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(self._no_turn(waiter.since_s))
        if waiters:
            self._arm_waiters_sweep(timeout_s / 4)

    def _no_turn(self, since_s: float) -> Exception:
        """What somebody fails with who has waited for his turn since then."""
        recently_s = self.loop.time() - (self.timeout_s or 0.0) / 2.0
        both = (self.current, self.second.connection)
        if any(one and (one.last_read_s > since_s or one.last_moved_s > recently_s) for one in both):
            # The server answers, only not as fast as it is asked: that says nothing against it.
            bound = f"{MAX_IN_FLIGHT} commands in flight, or others of the same keys,"
            return ConnectionLimitError(f"{bound} left no room in time", endpoint=self.endpoint)
        return RedisTimeoutError("no connection in time", outcome=Outcome.NOT_SENT, endpoint=self.endpoint)

    def admit_waiters(self, connection: MultiplexedConnection) -> None:
        """There may be room: send for the waiters, in their order, and open the fast path when none is left."""
        if connection.retired:
            self._close_if_drained(connection)
        if self.second.active:
            self.second.settle()
            return
        if connection is not self.current:
            return
        waiters = self._waiters
        while waiters and connection.has_room():
            one = waiters.popleft()
            if not one.future.done():
                one.future.set_result(one.send(connection))
        connection.accepting = connection.has_room() > 0

    @property
    def has_waiters(self) -> bool:
        """Whether anybody waits for his turn."""
        return bool(self._waiters)

    def take_waiters(self) -> collections.deque[Waiter]:
        """All who wait for their turn, in their order: for whoever sends for them one by one."""
        waiters, self._waiters = self._waiters, collections.deque()
        return waiters

    def put_back_waiters(self, waiters: collections.deque[Waiter]) -> None:
        """Those of them whose turn has not come; others may have come meanwhile."""
        waiters.extend(self._waiters)
        self._waiters = waiters

    # --- connecting -----------------------------------------------------------------------------------------------

    def _start_connecting(self) -> None:
        self._connecting = self.loop.create_task(self._connect(), context=contextvars.Context())

    async def _connect(self) -> None:
        """Connect; on failure tell the waiters, and go on as long as a suspect needs a replacement."""
        try:
            while True:
                pause_s = self._not_before_s - self.loop.time()
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                try:
                    connection = await self._open_fenced()
                except Exception as error:
                    self._failures += 1
                    self._not_before_s = self.loop.time() + self._reconnect_delay_s()
                    self._fail_waiters(error)
                    if self._suspect is None and not (self.once is not None and self.once.settling):
                        return
                    continue
                self._adopt(connection)
                return
        finally:
            if self._connecting is asyncio.current_task():
                self._connecting = None

    async def _open_fenced(self) -> MultiplexedConnection:
        """A new connection that may be written to: with exactly once, only when nothing old can be executed any more."""
        try:
            connection = await self.open_connection(self.timeout_s)
        except RedisUnavailableError as error:
            lease = self._idle_lease() if is_full(error) else None
            if lease is None:
                raise
            lease.share(self.timeout_s)
            connection = lease
        if self.once is None:
            return connection
        if self._suspect is not None:
            # The server answers a new connection and not the old one: the old one is dead. Its writes are resolved now.
            suspect, self._suspect = self._suspect, None
            suspect.fail(RedisUnavailableError("silent past a deadline, replaced", endpoint=self.endpoint))
        try:
            await self.once.fence_from(connection)
        except BaseException:
            connection.fail(RedisUnavailableError("the old connection could not be fenced", endpoint=self.endpoint))
            raise
        return connection

    def reconnect(self) -> None:
        """Somebody needs a connection: open one unless there is one, or one being opened."""
        if self.current is None and self._connecting is None and self._suspect is None:
            self._start_connecting()

    def _reconnect_delay_s(self) -> float:
        """Full jitter under a cap that doubles: clients that lost a server together do not come back together."""
        cap_s = min(MAX_RECONNECT_DELAY_S, FIRST_RECONNECT_DELAY_S * 2.0 ** min(self._failures, 16))
        return self._random.uniform(0.0, cap_s)

    async def open_connection(self, timeout_s: float | None, *, greet: bool = True) -> MultiplexedConnection:
        """Connect and handshake one connection (names are resolved anew) whose commands may take `timeout_s`.

        Has `socket_timeout` for it, however small the pieces in which the handshake comes. With exactly once the handshake
        ends with the greeting, unless `greet` is false because nothing will be written.
        Raises with outcome NOT_SENT. The caller owns the connection.
        """
        if self.dismissed:
            raise self._closed()
        if self.once is None or not greet:
            return await self._open_connection(timeout_s)
        connection = await self._open_connection(timeout_s)
        try:
            async with self.until_closed(self.timeout_s):
                await self.once.greet(connection)
        except BaseException as error:
            connection.fail(RedisUnavailableError("the greeting failed", endpoint=self.endpoint))
            failure = connect_failure(error, self.endpoint)
            if failure is error:
                raise
            raise failure from error
        return connection

    async def _open_connection(self, timeout_s: float | None) -> MultiplexedConnection:
        renewal = self._renewal
        pool = self._pool()
        if pool is None:
            raise self._closed()
        connection = private.new_async_connection(pool)
        del pool
        self.opening += 1
        task = asyncio.current_task()
        cancellations = task.cancelling() if task is not None else 0
        try:
            async with self.until_closed(self.timeout_s):
                await private.async_connect(connection)
            if task is not None and task.cancelling() > cancellations:
                # redis-py's handshake goes through asyncio.wait_for, which before Python 3.12 loses a cancellation that
                # comes as what it waits for is done. Going on would keep a caller waiting that has been told to stop.
                raise asyncio.CancelledError
            made = MultiplexedConnection(self, connection, timeout_s)
            self._open.add(made)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            failure = connect_failure(error, self.endpoint)
            if failure is error:
                raise
            raise failure from error
        finally:
            self.opening -= 1
        made.renewal = renewal
        if self._renewal is not renewal:
            self._authenticate(made)  # what it has just told the server was renewed meanwhile
        return made

    def _adopt(self, connection: MultiplexedConnection) -> None:
        self._failures = 0
        self._not_before_s = 0.0
        self.connections_opened += 1
        self.protocol = connection.protocol
        suspect, self._suspect = self._suspect, None
        self.current = connection
        connection.writes = True
        if suspect is not None:
            # The server answers a new connection and not the old one: the old one is dead.
            suspect.fail(RedisUnavailableError("silent past a deadline, replaced", endpoint=self.endpoint))
        self.second.take_over(connection)
        self.admit_waiters(connection)

    async def open_second(self) -> MultiplexedConnection:
        """A connection beside the shared one, in the place of a leased one; raises where there is no place."""
        if not self.has_free_lease:
            raise self._no_lease()
        await self._leases.acquire()
        try:
            connection = await self.open_connection(self.timeout_s)
            if self.once is not None:
                try:
                    await self.once.fence_from(connection)
                except BaseException:
                    unfenced = RedisUnavailableError("the old connection could not be fenced", endpoint=self.endpoint)
                    connection.fail(unfenced)
                    raise
        except BaseException:
            self._leases.release()
            raise
        return connection

    @property
    def has_free_lease(self) -> bool:
        """Whether another leased connection may be opened now."""
        return not self._leases.locked()

    def free_lease(self) -> None:
        """The second connection has given up its place."""
        self._leases.release()

    def dismiss(self, connection: MultiplexedConnection) -> None:
        """Close a connection that nobody needs any more."""
        if self.once is not None:
            self.once.bid_farewell(connection)
        connection.fail(RedisUnavailableError("not needed any more", endpoint=self.endpoint))

    def _fail_waiters(self, error: Exception) -> None:
        waiters, self._waiters = self._waiters, collections.deque()
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_exception(_another(error))

    async def ping_afresh(self) -> None:
        """PING on a new connection, for a probe; raises what the connection raises. On an answer nobody waits to connect.

        Where the server has no room for one, on a connection that is held.
        """
        try:
            connection = await self.open_connection(self.timeout_s, greet=False)
        except RedisUnavailableError as error:
            held = self.current or self._idle_lease() if is_full(error) else None
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
        self.hurry()

    async def _ping_held(self, connection: MultiplexedConnection) -> Any:
        try:
            async with asyncio.timeout(self.timeout_s):
                reply = await connection.send(PING)
        except TimeoutError:
            raise self.late(moving=False) from None
        if connection is not self.current and not connection.retired:
            self._idle_leases.append(connection)
        return reply

    def hurry(self) -> None:
        """Somebody knows that the server is back: forget the pause before the next attempt."""
        self._failures = 0
        self._not_before_s = 0.0

    # --- pipelines ------------------------------------------------------------------------------------------------

    async def call_many(
        self,
        windows: Iterator[tuple[bytes, int]],
        _permit: int,
        raw: frozenset[int] = frozenset(),
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Send windows of packed commands and return all replies; error replies as exception instances.

        A window is its bytes and the number of its replies. It leaves in one piece; at most two of them are under way, and
        other tasks' commands go between them. `raw` numbers the replies that stay undecoded. Each window has what a command
        has, and all of them `timeout_s` where that is less.
        """
        replies: list[Any] = []
        under_way: collections.deque[asyncio.Future[list[Any]]] = collections.deque()
        sent = first = 0
        carrier: MultiplexedConnection | None = None
        in_a_hurry = timeout_s is not None and (self.timeout_s is None or timeout_s < self.patience_s)
        began_s = self.loop.time()
        try:
            async with asyncio.timeout(timeout_s if in_a_hurry else None):
                for packed, count in windows:
                    raw_here = [number - first for number in raw if first <= number < first + count] if raw else ()
                    future, carrier = await self._send_window(packed, count, raw_here, carrier)
                    under_way.append(future)
                    sent += 1
                    first += count
                    if len(under_way) > 1:
                        replies += await under_way[0]
                        under_way.popleft()
                if under_way:
                    replies += await under_way[0]
        except TimeoutError:
            late = self.late(bool(sent) and self.has_moved_since(began_s))
            late.outcome = Outcome.UNKNOWN if sent else Outcome.NOT_SENT
            raise late from None
        except (RedisUnavailableError, RedisTimeoutError) as error:
            # What is proven of a window holds for the pipeline only where it was the only one that left.
            if sent > 1 or (sent and not (under_way[0].done() and under_way[0].exception())):
                error.outcome = Outcome.UNKNOWN
            raise
        finally:
            for future in under_way:
                self.forget(future)
        return replies

    async def _send_window(
        self, packed: bytes, count: int, raw: Iterable[int], behind: MultiplexedConnection | None
    ) -> tuple[asyncio.Future[list[Any]], MultiplexedConnection]:
        """Send it, and say over which connection; it follows the window before it, which that one carries."""
        connection = self.current
        if connection is not None and connection.accepting:
            return connection.send_window(packed, count, raw), connection
        carriers: list[MultiplexedConnection] = []

        def send(connection: MultiplexedConnection) -> asyncio.Future[list[Any]]:
            carriers.append(connection)
            return connection.send_window(packed, count, raw)

        future = await self.wait_for_turn(send, packed, behind=behind)
        return future, carriers[0]

    # --- leased connections ---------------------------------------------------------------------------------------

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
        """One command on a connection of its own, because it may block or changes its connection.

        `timeout_s` bounds the wait for the reply (None: for ever); `keep=False` closes the connection afterwards, as does
        any interruption: a blocked command that nobody waits for must not take an element later. `ahead` is a packed
        command that is sent first; if it is refused, that is the reply and the connection is closed. While bytes arrive it may
        take `extra_s` more.
        """
        connection = await self._lease()
        self._leased.add(connection)
        done = False
        try:
            await self._fence_before_lease(connection)
            connection.writes = True
            until_s = None if timeout_s is None else self.loop.time() + timeout_s
            if ahead is not None:
                refusal = await self._answer_of(connection, connection.send(ahead), until_s, extra_s)
                if isinstance(refusal, Exception):
                    return refusal
            reply = await self._answer_of(connection, connection.send(packed, raw), until_s, extra_s)
            done = keep
            return reply
        finally:
            self._leased.discard(connection)
            if done and not connection.closed and not connection.retired and connection.renewal is self._renewal:
                self._idle_leases.append(connection)
            else:
                connection.fail(RedisUnavailableError("the leased connection was closed", endpoint=self.endpoint))
            self._leases.release()

    async def _answer_of(
        self, connection: MultiplexedConnection, future: asyncio.Future[Any], until_s: float | None, extra_s: float
    ) -> Any:
        """The reply on a leased connection: until then, and while bytes arrive for `extra_s` more."""
        if until_s is None:
            return await future
        ends_s = until_s + extra_s
        while True:
            try:
                async with asyncio.timeout_at(until_s):
                    return await asyncio.shield(future)
            except TimeoutError:
                now_s = self.loop.time()
                silent_at_s = connection.last_moved_s + (self.timeout_s or 0.0)
                moving = silent_at_s > now_s
                if not moving or now_s >= ends_s:
                    self.forget(future)
                    raise self.late(moving) from None
                until_s = min(ends_s, silent_at_s)
            except BaseException:
                self.forget(future)
                raise

    async def _lease(self) -> MultiplexedConnection:
        acquired = False
        if not self.has_free_lease:
            self.second.make_room()
        try:
            async with self.until_closed(self._lease_wait_s):
                acquired = await self._leases.acquire()
        except ClientClosedError:
            if acquired:
                self._leases.release()
            raise
        except TimeoutError:
            raise self._no_lease() from None
        try:
            return self._idle_lease() or await self._open_lease()
        except BaseException:
            self._leases.release()
            raise

    def _no_lease(self) -> ConnectionLimitError:
        return ConnectionLimitError(
            f"all {self._max_leases} leased connections stayed busy for {self._lease_wait_s} s", endpoint=self.endpoint
        )

    def _idle_lease(self) -> MultiplexedConnection | None:
        while self._idle_leases:
            connection = self._idle_leases.pop()
            if not connection.closed:
                return connection
        return None

    async def _open_lease(self) -> MultiplexedConnection:
        """A new connection to lease; where the server has no room for one, one that comes back, or a place that is left."""
        until_s = self.loop.time() + (self.timeout_s or 0.0)
        while True:
            try:
                return await self.open_connection(None)
            except RedisUnavailableError as error:
                if not is_full(error) or not self.is_connected or self.loop.time() >= until_s:
                    raise
            await asyncio.sleep(FULL_PAUSE_S)
            connection = self._idle_lease()
            if connection is not None:
                return connection

    @property
    def is_connected(self) -> bool:
        """Whether a connection is held that calls go over, so far as is known."""
        return self.current is not None and not self.current.closed

    async def _fence_before_lease(self, connection: MultiplexedConnection) -> None:
        if self.once is None or not self.once.loose:
            return
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.once.fence_from(connection)
        except TimeoutError:
            raise RedisTimeoutError(
                "an old connection could not be fenced in time", outcome=Outcome.NOT_SENT, endpoint=self.endpoint
            ) from None

    # --- what connections report ----------------------------------------------------------------------------------

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
        connection.suspect = True
        connection.accepting = False
        self.current = None
        self._suspect = connection
        if self._connecting is None:
            self._start_connecting()

    def _lives_without(self, other: MultiplexedConnection, silent: MultiplexedConnection) -> bool:
        """Whether the server was heard on the other connection well after the silence of this one had begun."""
        return other.last_read_s > silent.last_moved_s + (self.timeout_s or 0.0) / 2.0

    def trust_again(self, connection: MultiplexedConnection) -> None:
        """Bytes arrived on the suspect before its replacement stood: it goes on."""
        connection.suspect = False
        if connection is not self._suspect:
            return
        self._suspect = None
        self.current = connection
        self._failures = 0
        self._not_before_s = 0.0
        self._stop_connecting()
        self.admit_waiters(connection)

    def _stop_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    def connection_closed(self, connection: MultiplexedConnection) -> None:
        """A connection has failed and its slots with it; the next caller (or a waiter) connects anew."""
        self._open.discard(connection)
        if connection is self._suspect:
            self._suspect = None
        other = self.second.connection
        if connection is other:
            self.second.lost()
        elif connection is self.current and other is not None and not other.suspect:
            self.current = self.second.stop()
            self.connections_opened += 1
            self.admit_waiters(other)
        elif connection is self.current:
            self.current = None
            wanted = self._waiters or (self.once is not None and self.once.settling)
            if wanted and self._connecting is None and not self.loop.is_closed():
                self._start_connecting()
        if connection.in_doubt and connection.writes and connection.stream is not None and self.once is not None:
            self.once.lose(connection.stream)

    def renew(self, authentication: bytes) -> None:
        """Authenticate anew with the packed AUTH, between the commands of the shared connection.

        Connections that are being opened do so as soon as they stand; idle leases close, and leased ones when they come back:
        the next lease asks the provider.
        """
        self._renewal = authentication
        for connection in (self.current, self._suspect, self.second.connection):
            if connection is not None and not connection.closed:
                self._authenticate(connection)
        self._close_idle_leases()

    def _authenticate(self, connection: MultiplexedConnection) -> None:
        assert self._renewal is not None
        connection.renewal = self._renewal
        connection.send(self._renewal).add_done_callback(self._authenticated)

    def _authenticated(self, future: asyncio.Future[Any]) -> None:
        if future.exception() is not None:
            return  # the connection failed: the next one asks the provider
        reply = future.result()
        if isinstance(reply, Exception):
            _LOGGER.warning("%s refused renewed credentials: %s", self.endpoint, type(reply).__name__)

    def retire(self) -> None:
        """The server is no longer the one to ask: the next command connects anew.

        The shared connection takes no more commands and closes when it has answered those that are under way, and so does
        each leased one.
        """
        for leased in self._leased:
            leased.retired = True
        current, self.current = self.current, None
        for connection in (current, self.second.stop()):
            if connection is not None:
                connection.accepting = False
                connection.retired = True
                self._close_if_drained(connection)
        if self._waiters and self._connecting is None:
            self._start_connecting()
        self._close_idle_leases()

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

    def _close_idle_leases(self) -> None:
        while self._idle_leases:
            idle = RedisUnavailableError("the pool was disconnected", endpoint=self.endpoint)
            self._idle_leases.pop().fail(idle)

    def close(self, in_use: bool = True) -> None:
        """Close the connections and fail what is in flight; the transport may be used again afterwards.

        Without `in_use` no call fails: a connection that carries one closes when it is answered.
        """
        if not in_use:
            self.retire()
            return
        self._stop_connecting()
        if self._waiters_sweeper is not None:
            self._waiters_sweeper.cancel()
            self._waiters_sweeper = None
        closed = self._closed()
        self.second.stop()
        self._fail_waiters(closed)
        waits, self._waits = self._waits, set()
        for wait in waits:
            if not wait.expired():
                wait.reschedule(self.loop.time())
        self._idle_leases.clear()
        for connection in sorted(self._open, key=lambda one: one is not self.current):
            if self.once is not None:
                self.once.bid_farewell(connection)
            connection.fail(closed)
        if self.once is not None:
            for stream in self.once.loose:
                stream.end()
            self.once.left = True
        self.current = self._suspect = None

    def _closed(self) -> ClientClosedError:
        return ClientClosedError("the client was closed", outcome=Outcome.NOT_SENT, endpoint=self.endpoint)

    @contextlib.asynccontextmanager
    async def until_closed(self, timeout_s: float | None) -> AsyncIterator[None]:
        """`asyncio.timeout` that ends when the client is closed, too: with ClientClosedError."""
        wait = asyncio.timeout(timeout_s)
        self._waits.add(wait)
        try:
            async with wait:
                yield
            if wait not in self._waits:
                raise self._closed()  # what it waited for came in the very turn of the closing
        except TimeoutError:
            if wait not in self._waits:
                raise self._closed() from None
            raise
        finally:
            self._waits.discard(wait)


def _another(error: Exception) -> Exception:
    """An equal exception for the next waiter: one instance raised by many tasks would grow its traceback."""
    if isinstance(error, RedisUnavailableError | RedisTimeoutError):
        twin = type(error)(*error.args, outcome=error.outcome, endpoint=error.endpoint)
        twin.__cause__ = error.__cause__
        return twin
    return error
