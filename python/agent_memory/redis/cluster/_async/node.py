"""One node of a cluster as a client: its attempts at commands; what follows a failure is the cluster's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from agent_memory._concurrency import ASYNC
from agent_memory._core import ASKING, monotonic_ns
from agent_memory.errors import ConnectionStateError
from agent_memory.redis.commands.bound_command import BoundCommand, Route
from agent_memory.redis.commands.callbacks import call_back, callback_named
from agent_memory.redis.commands.categories import COVER_WRITES
from agent_memory.redis.commands.deadlines import read_timeout_s
from agent_memory.redis.commands.packing import pack_command, refused_words
from agent_memory.redis.redis_py_internals.replies import NEVER_DECODE

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AsyncNodeCalls"]

_QUESTION: Final = pack_command(("CLUSTER", "SLOTS")) + pack_command(("CLUSTER", "INFO"))
_SHORT_QUESTION: Final = pack_command(("CLUSTER", "INFO"))


class AsyncNodeCalls:
    """What the routing of a cluster asks of the client of one node."""

    bound_commands: Any
    guard: Any
    number: int
    """The node's number in the core."""
    _timeout_s: float | None
    _deadline_s: float

    if TYPE_CHECKING:

        def transport_here(self) -> Any:
            """See the client."""

        def callbacks_for(self, protocol: int) -> Mapping[Any, Any]:
            """See the client."""
            raise NotImplementedError

        def barrier(self) -> bytes | None:
            """A packed write that leaves nothing, for WAIT to cover; see `AsyncRouter.barrier_of`."""

    async def attempt(
        self,
        command: BoundCommand,
        args: tuple[Any, ...],
        options: dict[str, Any],
        permit: int,
        timeout_s: float,
        asking: bool,
    ) -> Any:
        """One attempt, admitted with `permit`, within `timeout_s`; an error reply is returned, not raised.

        With `asking` the command follows ASKING on the same connection, in the same buffer.
        """
        transport = self.transport_here()
        raw = NEVER_DECODE in options
        packed = pack_words(command, args)
        if not command.route or len(args) <= command.plain:
            if not asking:
                return await transport.call_within(packed, permit, raw, timeout_s)
            window = iter([(ASKING + packed, 2)])
            marked = frozenset({1}) if raw else frozenset()
            return (await transport.call_many(window, permit, marked, timeout_s))[1]
        if command.refusal is not None:
            raise ConnectionStateError(command.name, command.refusal)
        keep = command.route is not Route.STATE
        read_s = read_timeout_s(command, args, self._timeout_s)
        extra_s = max(0.0, self._deadline_s - (self._timeout_s or self._deadline_s))
        ahead = ASKING if asking else self.barrier() if command.name in COVER_WRITES else None
        return await transport.call_leased(packed, permit, raw, read_s, keep=keep, ahead=ahead, extra_s=extra_s)

    def is_connected(self) -> bool:
        """Whether it holds a connection here."""
        return bool(self.transport_here().is_connected)

    async def send_many(self, packed: bytes, count: int, raw: Iterable[int], timeout_s: float) -> list[Any]:
        """The replies to packed commands that leave in one buffer."""
        transport = self.transport_here()
        replies: list[Any] = await transport.call_many(
            iter([(packed, count)]), monotonic_ns(), frozenset(raw), timeout_s
        )
        return replies

    async def send_transaction(
        self, packed: bytes, count: int, raw: frozenset[int], timeout_s: float, asking: bool
    ) -> list[Any]:
        """The same for a transaction; with `asking` ASKING stands before its MULTI."""
        if not asking:
            return await self.send_many(packed, count, raw, timeout_s)
        return (await self.send_many(ASKING + packed, count + 1, [place + 1 for place in raw], timeout_s))[1:]

    async def shape(self, name: Any, reply: Any, options: dict[str, Any]) -> Any:
        """The reply as redis-py's node would show it."""
        callback = callback_named(self.callbacks_for(self.transport_here().protocol), name)
        if callback is None:
            return reply
        shaped = call_back(callback, reply, options)
        if ASYNC and hasattr(shaped, "__await__"):
            return await shaped
        return shaped

    async def ask_view(self, full: bool, timeout_s: float) -> tuple[Any, Any]:
        """CLUSTER SLOTS (None unless `full`) and CLUSTER INFO, outside the guard; raises what is answered instead."""
        packed, count = (_QUESTION, 2) if full else (_SHORT_QUESTION, 1)
        replies = await self.send_many(packed, count, (), timeout_s)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return (replies[0], replies[1]) if full else (None, replies[0])


def pack_words(command: BoundCommand, args: tuple[Any, ...]) -> bytes:
    """The command as it is sent. Raises redis-py's DataError for words that cannot be."""
    try:
        return pack_command(args) if command.head is None else pack_command((*command.head, *args[1:]))
    except TypeError as error:
        raise refused_words(error) from None
