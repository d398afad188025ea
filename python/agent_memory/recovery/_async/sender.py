"""How queued commands reach the server: together where they can, each by itself where its outcome has to be resolved.

Commands leave in batches, each one guarded call in one piece. Where exactly once is on, the relative ones are one transaction,
which can be resolved as a whole; at the level of the gate each is sent alone. An injected client's own methods send one command
after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import ResponseError

from agent_memory._concurrency import async_settle
from agent_memory.errors import Outcome
from agent_memory.recovery._async.announcing import AsyncAnnouncer
from agent_memory.recovery._async.queued_writes import AsyncCommandWrite
from agent_memory.recovery.records import words_of
from agent_memory.redis._async.guarded import AsyncGuardedCalls
from agent_memory.redis.commands.callbacks import call_back, callback_of
from agent_memory.redis.commands.packing import pack_command
from agent_memory.redis.exactly_once.settings import Level

if TYPE_CHECKING:
    from agent_memory.redis.exactly_once.mode import Mode
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["AsyncSender", "has_failed"]

_MULTI: Final = pack_command((b"MULTI",))
_EXEC: Final = pack_command((b"EXEC",))


class AsyncSender:
    """How the entries of a drain reach the server; one guarded call for all of them where the client is a drop-in."""

    def __init__(self, commands: Any) -> None:
        self.commands = commands

    async def send(self, writes: Sequence[AsyncCommandWrite], announcer: AsyncAnnouncer) -> list[Any]:
        """The replies of all, one after the other, errors among them as instances.

        Raises what broke the connection, with the replies that had come by then as `.replies`, if any, and as `.sent` the
        number of writes that had been sent, if not all.
        """
        client = self.commands
        transport = client.transport_here() if isinstance(client, AsyncGuardedCalls) else None
        if transport is not None and transport.once is not None:
            level = await self._level(client, transport.once.mode)
            if level is Level.GATE:
                return await self._send_alone(transport, writes, announcer)
            if not all(write.shape.is_absolute for write in writes):
                return await self._send_once(transport, writes, announcer)
        await announcer.together(writes, None)
        if transport is None:
            return await self._send_singly(writes, announcer)
        window = b"".join(map(_joined, writes))
        count = sum(write.count for write in writes)

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            announcer.check()
            return await transport.call_many(iter([(window, count)]), permit, frozenset(), timeout_s)

        replies: list[Any] = await client.guarded(client.bound_commands["PIPELINE"], attempt)
        return replies

    async def _level(self, client: AsyncGuardedCalls, mode: Mode) -> Level | None:
        """How lost writes are resolved here, which the first connection finds out."""
        if mode.level is None:
            try:
                await cast(Any, client).execute_command("PING")
            except Exception as error:
                error.outcome = Outcome.NOT_SENT  # type: ignore[attr-defined]  # of the writes
                raise
        return mode.level

    async def _send_once(
        self, transport: Any, writes: Sequence[AsyncCommandWrite], announcer: AsyncAnnouncer
    ) -> list[Any]:
        """As one transaction, which can be resolved as a whole; a refused one is repeated write by write."""

        async def keep(ticket: Ticket) -> None:
            await announcer.together(writes, ticket)

        commands = [packed for write in writes for packed in write.packed]
        try:
            executed = await self._transaction(transport, commands, keep, announcer)
        except ResponseError:
            # A command that the server would not even queue has aborted the transaction: nothing of it ran.
            return await self._send_alone(transport, writes, announcer)
        return _as_sent(writes, executed)

    async def _send_alone(
        self, transport: Any, writes: Sequence[AsyncCommandWrite], announcer: AsyncAnnouncer
    ) -> list[Any]:
        """Write by write, each resolvable by itself."""
        await announcer.nothing()
        replies: list[Any] = []
        for place, write in enumerate(writes):
            try:
                replies += await self._send_one(transport, write, announcer)
            except Exception as error:
                error.replies = replies  # type: ignore[attr-defined]
                error.sent = place + 1  # type: ignore[attr-defined]
                raise
        return replies

    async def _send_one(self, transport: Any, write: AsyncCommandWrite, announcer: AsyncAnnouncer) -> list[Any]:
        async def keep(ticket: Ticket) -> None:
            await announcer.alone(write, ticket)

        try:
            if transport.once.mode.level is not Level.GATE or write.shape.is_transaction or len(write.packed) > 1:
                return _as_sent([write], await self._transaction(transport, list(write.packed), keep, announcer))
            client = self.commands
            command = client.bound_commands[write.shape.names[0]]

            async def attempt(permit: int, timeout_s: float | None) -> Any:
                del permit
                announcer.check()
                return await transport.once.call(command, write.packed[0], False, timeout_s, keep)

            return [await client.guarded(command, attempt, client.settler(transport, command))]
        except ResponseError as refused:
            return [refused] * write.count

    async def _transaction(
        self, transport: Any, commands: list[bytes], keep: Callable[..., Any], announcer: AsyncAnnouncer
    ) -> list[Any]:
        client = self.commands
        packed = b"".join((_MULTI, *commands, _EXEC))

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            del permit
            announcer.check()
            return await transport.once.call_transaction(packed, len(commands) + 2, timeout_s, keep)

        command = client.bound_commands["PIPELINE"]
        replies = await client.guarded(command, attempt, client.settler(transport, command))
        executed = replies[-1]
        if isinstance(executed, Exception):
            # EXEC only says that something was wrong; what it was stands with the command.
            raise next(reply for reply in replies if isinstance(reply, Exception))
        return cast("list[Any]", executed)

    async def _send_singly(self, writes: Sequence[AsyncCommandWrite], announcer: AsyncAnnouncer) -> list[Any]:
        """By an injected client's own methods, one command after the other."""
        replies: list[Any] = []
        try:
            for write in writes:
                announcer.check()
                for command in _packed(write):
                    try:
                        replies.append(await async_settle(self.commands.execute_command(*words_of(command))))
                    except ResponseError as error:
                        replies.append(error)
        except Exception as error:
            error.replies = replies  # type: ignore[attr-defined]
            raise
        return replies

    def shaped(self, write: AsyncCommandWrite, replies: Sequence[Any]) -> list[Any]:
        """The replies of a write as the client's own methods would return them."""
        client = self.commands
        transport = client.transport_here() if isinstance(client, AsyncGuardedCalls) else None
        if transport is None:
            return list(replies)
        callbacks = client.callbacks_for(transport.protocol)
        values = []
        for place, (name, reply) in enumerate(zip(write.shape.names, replies, strict=True)):
            callback = callback_of(callbacks, name)
            options = {} if write.shape.options is None else dict(write.shape.options[place])
            values.append(reply if callback is None or has_failed(reply) else call_back(callback, reply, options))
        return values


def _as_sent(writes: Sequence[AsyncCommandWrite], executed: Sequence[Any]) -> list[Any]:
    """The replies of a transaction's commands as those of the writes it was made of."""
    replies: list[Any] = []
    first = 0
    for write in writes:
        own = list(executed[first : first + len(write.shape.names)])
        first += len(write.shape.names)
        replies += [b"OK", *[b"QUEUED"] * len(own), own] if write.shape.is_transaction else own
    return replies


def _packed(write: AsyncCommandWrite) -> Sequence[bytes]:
    return (_MULTI, *write.packed, _EXEC) if write.shape.is_transaction else write.packed


def _joined(write: AsyncCommandWrite) -> bytes:
    return b"".join((_MULTI, write.joined, _EXEC)) if write.shape.is_transaction else write.joined


def has_failed(reply: Any) -> bool:
    return isinstance(reply, Exception)
