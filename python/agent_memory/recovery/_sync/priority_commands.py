# Generated from ../_async/priority_commands.py by tools/generate_sync.py: edit that file, not this one.

"""`client.with_priority(…)`: write commands that do not raise when the server is away, but say what became of them.

What a failure leads to is the same as for `store_with_retry`; what is repeated is the command itself, so it can be kept in the
journal, coalesced, and sent with others in one piece. Rules are in docs/reference/recovery.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from redis.commands import CoreCommands, RedisModuleCommands

from agent_memory.policy import Priority
from agent_memory.recovery._sync.command_store import CommandStore, RetryingClient
from agent_memory.recovery._sync.queued_writes import StoreResult
from agent_memory.redis._typing import TypedPipeline, TypedResults
from agent_memory.redis.commands.keys import check_queueable, name_of

if TYPE_CHECKING:
    from agent_memory.recovery._sync.packing import Command
    from agent_memory.recovery._sync.storing import Storing

__all__ = ["PriorityCommands", "PriorityPipeline"]


class PriorityCommands(TypedResults[StoreResult], CoreCommands, RedisModuleCommands):  # type: ignore[misc]
    """Every write command of redis-py, with a priority; each gives an `StoreResult` in place of the reply.

    None raises for a server that cannot be reached; what the server answers (WRONGTYPE, …) is raised. Raises ValueError for
    what is not a write of keys. Threads and threads may share it as they share the client. A call that is cancelled leaves a
    write that may have been sent to the queue.
    """

    # What redis-py's command classes want of a client and have no use for here; and what its own bases disagree on.
    _event_dispatcher: Any = None
    command_info: Any = CoreCommands.command_info

    def __init__(self, storing: Storing, client: RetryingClient, priority: Priority) -> None:
        """Made by `client.with_priority(priority)`, of the client's `storing`."""
        self._storing = storing
        self._client = client
        self._priority = priority

    def execute_command(self, *args: Any, **options: Any) -> StoreResult:
        """One command; its result's `value` is the reply."""
        store = CommandStore(self._storing, self._client, self._priority, [(args, options)])
        return store.run()

    def pipeline(self, transaction: bool = True) -> PriorityPipeline:
        """Several commands as one write: in order, together, as MULTI … EXEC if `transaction`."""
        return PriorityPipeline(self._storing, self._client, self._priority, transaction)

    def hset_dict(self, name: Any, mapping: Mapping[Any, Any]) -> StoreResult:
        """HSET of several fields: those of `mapping`, in the hash `name`."""
        fields = [word for pair in mapping.items() for word in pair]
        return self.execute_command("HSET", name, *fields)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._priority.name} of {self._client!r}>"


class PriorityPipeline(TypedPipeline, CoreCommands, RedisModuleCommands):  # type: ignore[misc]
    """Commands that are collected, and stored by `execute()` as one write with a priority. Not to be shared."""

    _event_dispatcher: Any = None
    command_info: Any = CoreCommands.command_info

    def __init__(self, storing: Storing, client: RetryingClient, priority: Priority, transaction: bool) -> None:
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

    def execute(self) -> StoreResult:
        """Stores what was collected; the result's `value` is the list of replies. The pipeline is empty afterwards."""
        commands, self._commands = self._commands, []
        store = CommandStore(
            self._storing, self._client, self._priority, commands, is_pipeline=True, is_transaction=self._transaction
        )
        return store.run()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands = []
