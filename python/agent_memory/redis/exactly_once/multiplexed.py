"""Exactly once on the shared connection of an event loop: the slots of its writes, and the fence before a replacement."""

from __future__ import annotations

import asyncio
import collections
import contextvars
from typing import TYPE_CHECKING, Any, Final

from agent_memory._core import fence_step, next_step, pack_command
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import CommandCategory
from agent_memory.redis.commands import SCRIPTS
from agent_memory.redis.exactly_once._async_fencing import async_fence, async_greet
from agent_memory.redis.exactly_once.settings import Level
from agent_memory.redis.exactly_once.tickets import MISSING, Next, Verdict, adopt

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory.redis.exactly_once._async_fencing import AsyncAsk
    from agent_memory.redis.exactly_once.mode import Mode
    from agent_memory.redis.exactly_once.tickets import Stream, Ticket, Wrapped
    from agent_memory.redis.plans import Plan
    from agent_memory.redis.transport.multiplexed import MultiplexedConnection, MultiplexedTransport

__all__ = ["MultiplexedOnce", "OnceSlot"]

FENCE_PAUSE_S: Final = 0.1
"""Pause before an old connection is fenced again from a connection in use, where that failed."""


class OnceSlot:
    """The slot of one write: stands in the queue once for each of its replies, takes them also when its caller has gone."""

    __slots__ = ("_missing", "_replies", "_unwrap", "future", "ticket")

    def __init__(self, future: asyncio.Future[Any], wrapped: Wrapped, unwrap: Callable[[list[Any]], Any]) -> None:
        self.future = future
        self.ticket = wrapped.ticket
        self._unwrap = unwrap
        self._replies: list[Any] = []
        self._missing = wrapped.count

    def done(self) -> bool:
        """Never before its replies are here: a caller that gave up may still ask what became of the write."""
        return False

    def set_result(self, reply: Any) -> None:
        """One more of its replies has arrived."""
        self._replies.append(reply)
        self._missing -= 1
        if self._missing:
            return
        value = self._unwrap(self._replies)
        conclude_by_reply(self.ticket, value)
        if not self.future.done():
            self.future.set_result(value)

    def set_exception(self, error: Exception) -> None:
        """Its caller shall wait no longer."""
        if not self.future.done():
            error.ticket = self.ticket  # type: ignore[attr-defined]
            self.future.set_exception(error)


def conclude_by_reply(ticket: Ticket, reply: Any) -> None:
    """The answer came after all."""
    outcome = getattr(reply, "outcome", None) if isinstance(reply, Exception) else None
    refused = outcome in (Outcome.NOT_SENT, Outcome.REJECTED)
    ticket.conclude(Verdict.NOT_APPLIED if refused else Verdict.APPLIED, reply)


class MultiplexedOnce:
    """What the mode adds to one multiplexed transport. Belongs to the transport's event loop."""

    def __init__(self, transport: MultiplexedTransport, mode: Mode) -> None:
        self.mode = mode
        self.loose: collections.deque[Stream] = collections.deque()
        """Old connections that are not fenced yet: one at the most beside the leased ones, since nothing is sent meanwhile."""
        self.settling = 0
        """Callers that wait for a verdict: as long as there are any, connecting goes on."""
        self._transport = transport
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- writes ---------------------------------------------------------------------------------------------------

    async def call(self, plan: Plan, packed: bytes, raw: bool, timeout_s: float | None) -> Any:
        """One write with what will tell whether it was executed; as `call_within`, errors carry `.ticket`."""
        is_script = plan.name in SCRIPTS

        def send(connection: MultiplexedConnection) -> OnceSlot:
            assert connection.stream is not None
            wrapped = connection.stream.wrap(packed, self._transport.timeout_s, is_script=is_script)
            return connection.send_once(wrapped, wrapped.unwrap, raw)

        return await self._call(send, timeout_s)

    async def call_transaction(self, packed: bytes, count: int, timeout_s: float | None) -> list[Any]:
        """A caller's MULTI … EXEC in the same way; returns its `count` replies."""

        def send(connection: MultiplexedConnection) -> OnceSlot:
            assert connection.stream is not None
            wrapped = connection.stream.wrap_transaction(packed, count)
            return connection.send_once(wrapped, wrapped.unwrap_transaction, False)

        replies: list[Any] = await self._call(send, timeout_s)
        return replies

    async def _call(self, send: Callable[[MultiplexedConnection], OnceSlot], timeout_s: float | None) -> Any:
        transport = self._transport
        sent: list[OnceSlot] = []

        def send_and_note(connection: MultiplexedConnection) -> asyncio.Future[Any]:
            sent.append(send(connection))
            return sent[0].future

        swept = timeout_s is None or (transport.timeout_s is not None and timeout_s >= transport.timeout_s)
        until_s = None if timeout_s is None or swept else transport.loop.time() + timeout_s
        connection = transport.current
        if connection is not None and connection.accepting:
            future = send_and_note(connection)
        else:
            future = await transport.wait_for_turn(send_and_note, until_s)
        try:
            if until_s is None:
                return await future
            async with asyncio.timeout_at(until_s):
                return await asyncio.shield(future)
        except TimeoutError:
            error = RedisTimeoutError("no answer in time", outcome=Outcome.UNKNOWN, endpoint=transport.endpoint)
            sent[0].set_exception(error)
            transport.forget(future)
            raise error from None
        except BaseException:
            transport.forget(future)
            raise

    async def settle(self, error: Exception, category: CommandCategory, left_s: float) -> tuple[Next, Any]:
        """What becomes of a command that failed with `error`, known within `left_s`; the reply, where it came after all."""
        ticket: Ticket | None = getattr(error, "ticket", None)
        if ticket is None:
            # Whatever is sent from now on is sent behind a fence, or behind the write itself on the same connection.
            level = self.mode.level
            fenced = level is not None and level not in (Level.NOTHING, Level.GATE)
            return Next(next_step(category, fenced, None)), MISSING
        if ticket.verdict is None:
            await self._wait_for(ticket, left_s)
        if ticket.reply is not MISSING:
            return Next.DONE, ticket.reply
        # What has a ticket is repeated only by its verdict, also an absolute write with a condition.
        return Next(next_step(CommandCategory.RELATIVE_WRITE, True, ticket.verdict)), MISSING

    async def _wait_for(self, ticket: Ticket, left_s: float) -> None:
        transport = self._transport
        known: asyncio.Future[None] = transport.loop.create_future()
        ticket.watch(lambda: None if known.done() else known.set_result(None))
        self.settling += 1
        try:
            transport.reconnect()
            async with asyncio.timeout(max(0.0, left_s)):
                await known
        except TimeoutError:
            pass
        finally:
            self.settling -= 1

    # --- connections ----------------------------------------------------------------------------------------------

    async def greet(self, connection: MultiplexedConnection) -> None:
        """Learn what has to be known of a new connection."""
        stream = await async_greet(self.mode, _asker(connection), connection.protocol)
        stream.first_byte -= connection.written
        connection.stream = stream

    async def fence_from(self, connection: MultiplexedConnection) -> None:
        """Fence all old connections before anything else is sent on this one; raises where that cannot be done now."""
        async with self._lock:
            stream = connection.stream
            assert stream is not None
            self._call_back(stream)
            try:
                while self.loose:
                    await async_fence(self.mode, _asker(connection), stream, self.loose[0], self._transport.timeout_s)
                    self.loose.popleft()
            except (RedisUnavailableError, RedisTimeoutError) as error:
                error.outcome = Outcome.NOT_SENT  # of those who wait to be sent
                raise

    def _call_back(self, here: Stream) -> None:
        """Old connections to this server process, which was away, may reach it again."""
        away = self.mode.away
        for _ in range(len(away)):
            old = away.popleft()
            if old.run_id == here.run_id:
                old.fenced = False
                self.loose.append(old)
            else:
                away.append(old)

    def adopt(self, records: list[dict[str, Any]]) -> list[Ticket]:
        """The writes of a process that has ended, as if this one had lost them."""
        streams, tickets = adopt(records)
        for stream in streams:
            self.lose(stream)
        return tickets

    def lose(self, stream: Stream) -> None:
        """A connection has ended with unanswered commands."""
        self.loose.append(stream)
        current = self._transport.current
        if current is None or current.closed or current.stream is None:
            return
        here = current.stream
        if fence_step(stream.run_id == here.run_id, stream.level, here.level) == "kill":
            # Ahead of everything that will be sent on it; what is to be learnt is asked for in peace.
            kill = current.send(pack_command(("CLIENT", "KILL", "ID", stream.client_id)))
            kill.add_done_callback(_see)
        task = self._transport.loop.create_task(self._fence_in_use(current), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fence_in_use(self, connection: MultiplexedConnection) -> None:
        while not connection.closed and self.loose:
            try:
                await self.fence_from(connection)
            except Exception:
                await asyncio.sleep(FENCE_PAUSE_S)  # the connection fails, or the server is busy: the next one goes on

    def bid_farewell(self, connection: MultiplexedConnection) -> None:
        """The connection is about to be closed in good order: its markers have served."""
        stream = connection.stream
        if stream is not None and not connection.closed and not connection.in_flight and stream.markers():
            connection.send(pack_command((b"UNLINK", *stream.markers()))).add_done_callback(_see)
            connection.flush()
            connection.stream = None


def _asker(connection: MultiplexedConnection) -> AsyncAsk:
    async def ask(commands: list[bytes]) -> list[Any]:
        if connection.closed:
            raise RedisUnavailableError("the connection was closed", outcome=Outcome.NOT_SENT)
        return await connection.send_window(b"".join(commands), len(commands), ())

    return ask


def _see(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
