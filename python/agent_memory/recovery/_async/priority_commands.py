"""`client.with_priority(…)`: write commands that do not raise when the server is away, but say what became of them.

What a failure leads to is the same as for `store_with_retry`; what is repeated is the command itself, so it can be kept in the
journal, coalesced, and sent with others in one piece. Rules are in docs/reference/recovery.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from redis.commands import AsyncCoreCommands, AsyncRedisModuleCommands

from agent_memory.policy import Priority
from agent_memory.recovery._async.command_store import AsyncCommandStore, AsyncRetryingClient
from agent_memory.recovery._async.queued_writes import AsyncStoreResult
from agent_memory.redis._typing import AsyncTypedResults, TypedPipeline
from agent_memory.redis.commands.keys import check_queueable, name_of

if TYPE_CHECKING:
    from agent_memory.recovery._async.packing import Command
    from agent_memory.recovery._async.storing import AsyncStoring

__all__ = ["AsyncPriorityCommands", "AsyncPriorityPipeline"]


class AsyncPriorityCommands(AsyncTypedResults[AsyncStoreResult], AsyncCoreCommands, AsyncRedisModuleCommands):  # type: ignore[misc]
    """Every write command of redis-py, with a priority; each gives an `AsyncStoreResult` in place of the reply.

    None raises for a server that cannot be reached; what the server answers (WRONGTYPE, …) is raised. Raises ValueError for
    what is not a write of keys. Threads and tasks may share it as they share the client. A call that is cancelled leaves a
    write that may have been sent to the queue.
    """

    # What redis-py's command classes want of a client and have no use for here; and what its own bases disagree on.
    _event_dispatcher: Any = None
    command_info: Any = AsyncCoreCommands.command_info

    def __init__(self, storing: AsyncStoring, client: AsyncRetryingClient, priority: Priority) -> None:
        """Made by `client.with_priority(priority)`, of the client's `storing`."""
        self._storing = storing
        self._client = client
        self._priority = priority

    async def execute_command(self, *args: Any, **options: Any) -> AsyncStoreResult:
        """One command; its result's `value` is the reply."""
        store = AsyncCommandStore(self._storing, self._client, self._priority, [(args, options)])
        return await store.run()

    def pipeline(self, transaction: bool = True) -> AsyncPriorityPipeline:
        """Several commands as one write: in order, together, as MULTI … EXEC if `transaction`."""
        return AsyncPriorityPipeline(self._storing, self._client, self._priority, transaction)

    async def hset_dict(self, name: Any, mapping: Mapping[Any, Any]) -> AsyncStoreResult:
        """HSET of several fields: those of `mapping`, in the hash `name`."""
        fields = [word for pair in mapping.items() for word in pair]
        return await self.execute_command("HSET", name, *fields)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._priority.name} of {self._client!r}>"


class AsyncPriorityPipeline(TypedPipeline, AsyncCoreCommands, AsyncRedisModuleCommands):  # type: ignore[misc]
    """Commands that are collected, and stored by `execute()` as one write with a priority. Not to be shared."""

    _event_dispatcher: Any = None
    command_info: Any = AsyncCoreCommands.command_info

    def __init__(
        self, storing: AsyncStoring, client: AsyncRetryingClient, priority: Priority, transaction: bool
    ) -> None:
        self._storing = storing
        self._client = client
        self._priority = priority
        self._transaction = transaction
        self._commands: list[Command] = []

    def execute_command(self, *args: Any, **options: Any) -> Self:
        """Collects a command. Raises ValueError for what is not a write of keys."""
        check_queueable(name_of(args[0] if args else ""))
        self._commands.append((args, options))
        return self

    def __len__(self) -> int:
        return len(self._commands)

    async def execute(self) -> AsyncStoreResult:
        """Stores what was collected; the result's `value` is the list of replies. The pipeline is empty afterwards."""
        commands, self._commands = self._commands, []
        store = AsyncCommandStore(
            self._storing, self._client, self._priority, commands, is_pipeline=True, is_transaction=self._transaction
        )
        return await store.run()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands = []
