"""Exactly once on the shared connection of an event loop: the slots of its writes, and the fence before a replacement."""

from __future__ import annotations

import asyncio
import collections
import contextvars
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent_memory._core import fence_step, next_step, pack_command
from agent_memory.errors import ClientClosedError, Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import CommandCategory
from agent_memory.redis.commands.categories import SCRIPTS
from agent_memory.redis.exactly_once._async.fencing import async_fence, async_greet, kill_at_once, note_offset
from agent_memory.redis.exactly_once.common import keeper_of
from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.exactly_once.tickets import MISSING, NextStep, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from agent_memory.redis.commands.bound_command import BoundCommand
    from agent_memory.redis.exactly_once._async.fencing import AsyncAsk
    from agent_memory.redis.exactly_once.mode import Mode
    from agent_memory.redis.exactly_once.slots import OnceSlot
    from agent_memory.redis.exactly_once.tickets import Stream, Ticket, Wrapped

    Keep = Callable[[Ticket], Awaitable[None]]
    """Keeps a ticket where a later process finds it; raises where that is not possible."""
    _Wrap = Callable[[Stream], tuple[Wrapped, Callable[[list[Any]], Any]]]
    """Makes a write resolvable on a connection; and what makes its answer of the replies."""

__all__ = ["FencedConnection", "FencedLoop", "MultiplexedOnce"]

FENCE_PAUSE_S: Final = 0.1
"""Pause before an old connection is fenced again from a connection in use, where that failed."""


class FencedConnection(Protocol):
    """What is asked of a multiplexed connection."""

    stream: Stream | None
    accepting: bool
    protocol: int

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def in_flight(self) -> int:
        """Unanswered commands, orphans included."""
        ...

    @property
    def written(self) -> int:
        """Bytes handed to the socket so far."""
        ...

    def send(self, packed: bytes, raw: bool = False) -> asyncio.Future[Any]:
        """Append one packed command to this iteration's write."""
        ...

    def send_window(self, packed: bytes, count: int, raw: Iterable[int]) -> asyncio.Future[list[Any]]:
        """Append several, packed as one."""
        ...

    def send_once(self, wrapped: Wrapped, unwrap: Callable[[list[Any]], Any], raw: bool) -> OnceSlot:
        """Append a write that can be resolved."""
        ...

    def flush(self) -> None:
        """Hand over now what would leave at the end of this iteration."""
        ...


class FencedLoop(Protocol):
    """What is asked of the transport of an event loop."""

    loop: asyncio.AbstractEventLoop
    timeout_s: float | None
    patience_s: float
    dismissed: bool

    @property
    def current(self) -> FencedConnection | None:
        """The shared connection."""
        ...

    def late(self, moving: bool) -> RedisTimeoutError:
        """What a command fails with that was sent and not answered in time."""
        ...

    def has_moved_since(self, began_s: float) -> bool:
        """Whether bytes have moved since then on a connection that takes calls."""
        ...

    def forget(self, future: asyncio.Future[Any] | None) -> None:
        """Its reply is not waited for any more."""
        ...

    async def wait_for_turn(
        self, send: Callable[[Any], asyncio.Future[Any]], packed: bytes, until_s: float | None = None
    ) -> asyncio.Future[Any]:
        """Call `send` with a connection when there is room in it; returns what it returns."""
        ...

    def reconnect(self) -> None:
        """Open a connection unless there is one, or one being opened."""
        ...

    def until_closed(self, timeout_s: float | None) -> AbstractAsyncContextManager[None]:
        """`asyncio.timeout` that ends when the client is closed, too."""
        ...


class _Place:
    """A write that has its ticket on a connection, and is not sent yet."""

    __slots__ = ("_connection", "_unwrap", "_wrapped", "ticket")

    def __init__(self, connection: FencedConnection, wrap: _Wrap) -> None:
        stream = connection.stream
        assert stream is not None
        for command in stream.fresh_marker():
            # At once: a command with a later ticket may be sent earlier.
            connection.send(command).add_done_callback(_see)
        self._connection = connection
        self._wrapped, self._unwrap = wrap(stream)
        self.ticket = self._wrapped.ticket

    def send(self, connection: FencedConnection, raw: bool, sent: list[OnceSlot]) -> Any:
        """Send it on its connection; None where that is not the one in use any more."""
        if connection is not self._connection:
            self.cancel()
            return None
        sent.append(connection.send_once(self._wrapped, self._unwrap, raw))
        return sent[0].future

    def cancel(self) -> bool:
        """It will not be sent."""
        self.ticket.conclude(Verdict.NOT_APPLIED)
        return True


class MultiplexedOnce:
    """What the mode adds to one multiplexed transport. Belongs to the transport's event loop."""

    def __init__(self, transport: FencedLoop, mode: Mode) -> None:
        self.mode = mode
        self.unfenced: collections.deque[Stream] = collections.deque()
        """Old connections that are not fenced yet: one at the most beside the leased ones, since nothing is sent meanwhile."""
        self.left = False
        """Whether the client was closed: no connection is opened until its next use."""
        self.settling = 0
        """Callers that wait for a verdict: as long as there are any, connecting goes on."""
        self._transport = transport
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- writes ---------------------------------------------------------------------------------------------------

    async def call(
        self, command: BoundCommand, packed: bytes, raw: bool, timeout_s: float | None, keep: Keep | None = None
    ) -> Any:
        """One write with what will tell whether it was executed; as `call_within`, errors carry `.ticket`.

        `keep(ticket)` is waited for before the write is sent: what it keeps is enough to resolve the write after a kill.
        """
        is_script = command.name in SCRIPTS

        def wrap(stream: Stream) -> tuple[Wrapped, Callable[[list[Any]], Any]]:
            wrapped = stream.wrap(packed, self._transport.timeout_s, is_script=is_script)
            return wrapped, wrapped.unwrap

        return await self._call(wrap, packed, raw, timeout_s, keep)

    async def call_transaction(
        self, packed: bytes, count: int, timeout_s: float | None, keep: Keep | None = None
    ) -> list[Any]:
        """A caller's MULTI … EXEC in the same way; returns its `count` replies."""

        def wrap(stream: Stream) -> tuple[Wrapped, Callable[[list[Any]], Any]]:
            wrapped = stream.wrap_transaction(packed, count)
            return wrapped, wrapped.unwrap_transaction

        replies: list[Any] = await self._call(wrap, packed, False, timeout_s, keep)
        return replies

    async def _call(self, wrap: _Wrap, packed: bytes, raw: bool, timeout_s: float | None, keep: Keep | None) -> Any:
        transport = self._transport
        sent: list[OnceSlot] = []

        def send_and_note(connection: FencedConnection) -> asyncio.Future[Any]:
            assert connection.stream is not None
            sent.append(connection.send_once(*wrap(connection.stream), raw))
            return sent[0].future

        swept = timeout_s is None or (transport.timeout_s is not None and timeout_s >= transport.patience_s)
        began_s = transport.loop.time()
        until_s = None if timeout_s is None or swept else began_s + timeout_s
        if keep is None:
            future = await self._in_turn(send_and_note, packed, until_s)
        else:
            future = await self._send_kept(wrap, packed, raw, keep, sent, until_s)
        try:
            if until_s is None:
                return await future
            async with asyncio.timeout_at(until_s):
                return await asyncio.shield(future)
        except TimeoutError:
            error = transport.late(transport.has_moved_since(began_s))
            sent[0].set_exception(error)
            transport.forget(future)
            raise error from None
        except BaseException:
            transport.forget(future)
            raise

    async def _in_turn(self, send: Callable[[FencedConnection], Any], packed: bytes, until_s: float | None) -> Any:
        connection = self._transport.current
        if connection is not None and connection.accepting:
            return send(connection)
        return await self._transport.wait_for_turn(send, packed, until_s)

    async def _send_kept(
        self, wrap: _Wrap, packed: bytes, raw: bool, keep: Keep, sent: list[OnceSlot], until_s: float | None
    ) -> asyncio.Future[Any]:
        """A ticket names its connection: what was kept for one that is gone by then is kept anew for the next."""
        while True:
            place: _Place = await self._in_turn(lambda connection: _Place(connection, wrap), packed, until_s)
            try:
                await keep(place.ticket)
                future: asyncio.Future[Any] | None = await self._in_turn(
                    lambda connection, place=place: place.send(connection, raw, sent),  # type: ignore[misc]
                    packed,
                    until_s,
                )
            except BaseException:
                if not sent:
                    place.cancel()
                raise
            if future is not None:
                return future

    async def settle(self, error: Exception, category: CommandCategory, left_s: float) -> tuple[NextStep, Any]:
        """What becomes of a command that failed with `error`, known within `left_s`; the reply, where it came after all."""
        ticket: Ticket | None = getattr(error, "ticket", None)
        if ticket is None:
            # Whatever is sent from now on is sent behind a fence, or behind the write itself on the same connection.
            level = self.mode.level
            fenced = level is not None and level not in (Level.NOTHING, Level.GATE)
            return NextStep(next_step(category, fenced, None)), MISSING
        if ticket.verdict is None:
            self._take_over(ticket.stream)
            await self._wait_for(ticket, left_s)
        if ticket.reply is not MISSING:
            return NextStep.DONE, ticket.reply
        # What has a ticket is repeated only by its verdict, also an absolute write with a condition.
        return NextStep(next_step(CommandCategory.RELATIVE_WRITE, True, ticket.verdict)), MISSING

    async def _wait_for(self, ticket: Ticket, left_s: float) -> None:
        transport = self._transport
        known: asyncio.Future[None] = transport.loop.create_future()
        ticket.watch(lambda: None if known.done() else known.set_result(None))
        self.settling += 1
        try:
            transport.reconnect()
            async with transport.until_closed(max(0.0, left_s)):
                await known
        except (TimeoutError, ClientClosedError):
            pass
        finally:
            self.settling -= 1

    # --- connections ----------------------------------------------------------------------------------------------

    async def greet(self, connection: FencedConnection) -> None:
        """Learn what has to be known of a new connection."""
        stream = await async_greet(self.mode, _asker(connection), connection.protocol)
        stream.first_byte -= connection.written
        timeout_s = self._transport.timeout_s
        stream.allowance_us = int((60.0 if timeout_s is None else timeout_s) * 1e6)
        connection.stream = stream
        if self.mode.keep is not None:
            await self.mode.keep(stream)

    async def fence_from(self, connection: FencedConnection) -> None:
        """Fence all old connections before anything else is sent on this one; raises where that cannot be done now."""
        async with self._lock:
            stream = connection.stream
            assert stream is not None
            self.left = False
            self.unfenced.extend(self.mode.called_back(stream))
            try:
                while self.unfenced:
                    await async_fence(
                        self.mode, _asker(connection), stream, self.unfenced[0], self._transport.timeout_s
                    )
                    self.unfenced.popleft()
            except (RedisUnavailableError, RedisTimeoutError) as error:
                error.outcome = Outcome.NOT_SENT  # for the commands that wait to be sent
                raise

    def sees_to(self) -> bool:
        """Whether what was lost here will be fenced from here."""
        return not self.left and not self._transport.dismissed and not self._transport.loop.is_closed()

    def _take_over(self, stream: Stream) -> None:
        """What its own transport will not fence any more, because its client or its loop was closed, is fenced from here."""
        if stream.keeper is not None and not stream.keeper() and stream not in self.unfenced:
            self.lose(stream)

    def lose(self, stream: Stream) -> None:
        """A connection has ended with unanswered commands."""
        stream.keeper = keeper_of(self)
        self.unfenced.append(stream)
        current = self._transport.current
        if current is None or current.closed or current.stream is None:
            return
        here = current.stream
        if fence_step(stream.run_id == here.run_id, stream.level, here.level, stream.client_id) == "kill":
            # Ahead of everything that will be sent on it; what is to be learnt is asked for in peace.
            kill = kill_at_once(stream)
            current.send_window(b"".join(kill), len(kill), ()).add_done_callback(_noting_offset(stream))
        task = self._transport.loop.create_task(self._fence_in_use(current), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fence_in_use(self, connection: FencedConnection) -> None:
        while not connection.closed and self.unfenced:
            try:
                await self.fence_from(connection)
            except Exception:
                await asyncio.sleep(FENCE_PAUSE_S)  # the connection fails, or the server is busy: the next one goes on

    def prepare_shutdown(self, connection: FencedConnection) -> None:
        """The connection is about to be closed in good order: its markers have served."""
        stream = connection.stream
        if stream is None or connection.closed or connection.in_flight:
            return
        keys = stream.markers(self.mode.stale_markers) + self.mode.swept()
        if keys:
            connection.send(pack_command((b"UNLINK", *keys))).add_done_callback(_see)
            connection.flush()
            connection.stream = None


def _asker(connection: FencedConnection) -> AsyncAsk:
    async def ask(commands: list[bytes]) -> list[Any]:
        if connection.closed:
            raise RedisUnavailableError("the connection was closed", outcome=Outcome.NOT_SENT)
        return await connection.send_window(b"".join(commands), len(commands), ())

    return ask


def _noting_offset(stream: Stream) -> Callable[[asyncio.Future[list[Any]]], None]:
    def note(future: asyncio.Future[list[Any]]) -> None:
        if not future.cancelled() and future.exception() is None:
            note_offset(stream, future.result())

    return note


def _see(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
