"""The pipeline of the drop-in client: one guarded call, sent and answered on our transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, cast

from redis.asyncio.client import Pipeline as RedisPyPipeline
from redis.exceptions import ReadOnlyError, ResponseError

from agent_memory._concurrency import ASYNC
from agent_memory.errors import ClientClosedError, Outcome
from agent_memory.policy import CommandCategory
from agent_memory.redis._typing import TypedPipeline
from agent_memory.redis.commands.prepared_pipeline import (
    PreparedPipeline,
    pipeline_operation,
    pipeline_results,
    prepare_pipeline,
    refusal_of,
)
from agent_memory.redis.error_outcomes import as_ours, classify
from agent_memory.redis.redis_py_internals.features import is_open
from agent_memory.redis.redis_py_internals.leases import drop_idle
from agent_memory.redis.redis_py_internals.patches import OwnFunction, StandIn
from agent_memory.redis.redis_py_internals.replies import lost_while_watching
from agent_memory.redis.transport.failures import connect_failure

if TYPE_CHECKING:
    from agent_memory.redis._async.guarded import AsyncGuardedCalls, AsyncKeep

__all__ = ["Pipeline"]

STOCK_EXECUTE: Final = OwnFunction(RedisPyPipeline, "execute")
"""Elsewise something was put in its place, and has to see what is executed."""


class Pipeline(TypedPipeline, RedisPyPipeline):  # type: ignore[misc]
    """redis-py's pipeline; its execution is one guarded call that is as risky as its riskiest command.

    It is retried by itself only where nothing can have been executed, or where it only reads. With WATCH it is bound to its
    connection, travels redis-py's way and is never retried.

    For one task, or thread, at a time. A cancelled `execute()` may have been executed in part, or as a whole; with MULTI as a
    whole or not at all.
    """

    if TYPE_CHECKING:  # redis-py types its own as giving redis-py's class

        async def __aenter__(self) -> Self: ...

    def __init__(self, client: AsyncGuardedCalls, transaction: bool, shard_hint: str | None) -> None:
        """Made by `client.pipeline()`."""
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client
        self.keep: AsyncKeep | None = None
        """Waited for before each attempt is sent; see `AsyncGuardedCalls.execute_kept`."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Collect a command, or send it at once where WATCH has begun and MULTI has not."""
        if (self.watching or args[0] == "WATCH") and not self.explicit_transaction:
            return self.immediate_execute_command(*args, **options)
        self.command_stack.append((args, options))
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the collected commands; results in their order.

        Raises the first error among the results unless `raise_on_error` is false.
        """
        commands: Any = self.command_stack
        if not commands and not self.watching:
            return []
        client = self._client
        queue = client.ordering_queue() if client._takes_slow_path else None
        if queue is not None:
            writes = [args for args, _ in commands if not client.bound_commands[args[0]].only_reads]
            async with queue.admit(writes, client._deadline_s):
                return await self._execute_noted(raise_on_error)
        return await self._execute_noted(raise_on_error)

    async def _execute_noted(self, raise_on_error: bool) -> list[Any]:
        """Execute; whatever becomes of it, the client's cache forgets what the commands write."""
        cache = self._client._pool_cache
        if cache is None:
            return await self._execute_now(raise_on_error)
        commands: Any = self.command_stack
        commands = list(commands)
        try:
            return await self._execute_now(raise_on_error)
        finally:
            for args, _ in commands:
                cache.core.wrote(tuple(args))

    async def _execute_now(self, raise_on_error: bool) -> list[Any]:
        commands: Any = self.command_stack
        client = self._client
        transport = client.transport_here()
        if transport is not None and self.connection is None:
            wanted: Any = self.is_transaction if ASYNC else self.transaction
            prepared = prepare_pipeline(client.bound_commands, commands, bool(wanted or self.explicit_transaction))
            if prepared is not None:
                try:
                    if STOCK_EXECUTE.stands():
                        return await self._execute_shared(transport, prepared, raise_on_error)
                    return await self._execute_patched(transport, prepared, raise_on_error)
                finally:
                    await cast(Any, self).reset()
        return await self._execute_leased(raise_on_error)

    async def _execute_patched(self, transport: Any, prepared: PreparedPipeline, raise_on_error: bool) -> list[Any]:
        """The same within what was put in the place of redis-py's `execute`."""

        async def run() -> list[Any]:
            return await self._execute_shared(transport, prepared, raise_on_error)

        mine: Any = self
        mine.connection = standing_in = StandIn(self, run)
        try:
            return await RedisPyPipeline.execute(self, raise_on_error)
        finally:
            if mine.connection is standing_in:
                mine.connection = None

    # What redis-py's `execute` calls in the end.

    async def load_scripts(self) -> None:
        """As in redis-py."""
        if not isinstance(self.connection, StandIn):
            await cast(Any, super()).load_scripts()

    async def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        if isinstance(connection, StandIn):
            return await self._run_within(connection)
        return await cast(Any, super())._execute_pipeline(connection, commands, raise_on_error)

    async def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        if isinstance(connection, StandIn):
            return await self._run_within(connection)
        return await cast(Any, super())._execute_transaction(connection, commands, raise_on_error)

    async def _run_within(self, connection: StandIn) -> Any:
        mine: Any = self
        mine.connection = None
        return await connection.run()

    async def _execute_shared(self, transport: Any, prepared: PreparedPipeline, raise_on_error: bool) -> list[Any]:
        """Send the commands on the shared connection and shape the replies."""
        client = self._client
        if self.scripts:
            await self._load_scripts()
        command = client.bound_commands[prepared.operation]
        # A transaction happens as a whole, so a lost answer can be resolved as that of one write can.
        once = transport.once if prepared.transaction and command.category is not CommandCategory.READ else None

        refused: list[list[Any]] = []  # the replies of the last attempt, where a demoted server refused all of it

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            if once is None and self.keep is not None:
                await self.keep(None)
            if once is None:
                replies = await transport.call_many(prepared.windows(), permit, prepared.raw, timeout_s)
            else:
                replies = await once.call_transaction(*next(prepared.windows()), timeout_s, self.keep)
            refusal = refusal_of(prepared, replies)
            if refusal is not None:
                refused[:] = [replies]
                return refusal
            refused.clear()
            return await self._shape(transport, prepared, replies, raise_on_error)

        try:
            return cast("list[Any]", await client.guarded(command, attempt, client.settler(transport, command)))
        except ReadOnlyError:
            if not refused:
                raise
        return await self._shape(transport, prepared, refused[0], raise_on_error)

    async def _shape(
        self, transport: Any, prepared: PreparedPipeline, replies: list[Any], raise_on_error: bool
    ) -> list[Any]:
        callbacks = self._client.callbacks_for(transport.protocol)
        if ASYNC:
            shaped = pipeline_results(self, callbacks, prepared, replies, raise_on_error)
            return [await one if hasattr(one, "__await__") else one for one in shaped]
        return pipeline_results(self, callbacks, prepared, replies, raise_on_error)

    async def _load_scripts(self) -> None:
        """Make sure that the server has the scripts that the pipeline is about to call."""
        scripts = list(self.scripts)
        known = await self._client.execute_command("SCRIPT EXISTS", *(script.sha for script in scripts))
        for script, is_known in zip(scripts, known, strict=True):
            if not is_known:
                script.sha = await self._client.execute_command("SCRIPT LOAD", script.script)

    async def _execute_leased(self, raise_on_error: bool) -> list[Any]:
        """redis-py's own way on a connection of the pool, guarded."""
        commands, scripts = list(self.command_stack), set(self.scripts)
        client = self._client
        watching = self.watching
        command = client.bound_commands[pipeline_operation(client.bound_commands, commands, watching)]

        async def attempt(permit: int, timeout_s: float | None) -> list[Any]:
            del timeout_s  # the connection's own timeouts bound it
            # Executing empties the pipeline, also when it fails.
            self.command_stack, self.scripts = list(commands), set(scripts)
            if self.keep is not None:
                await self.keep(None)
            await self._lease()
            try:
                return await RedisPyPipeline.execute(self, raise_on_error)
            except Exception as error:
                if watching and isinstance(error, ResponseError):
                    # Its WATCH is over: sent again, it would overwrite what has changed since.
                    error.outcome, error.failure_kind = classify(error)[1], None  # type: ignore[attr-defined]
                raise self._as_ours(error, permit) from error

        return cast("list[Any]", await client.guarded(command, attempt))

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """WATCH and what follows it until MULTI: sent at once on the pipeline's connection."""
        client = self._client

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            del timeout_s
            await self._lease()
            try:
                return await RedisPyPipeline.immediate_execute_command(self, *args, **options)
            except ReadOnlyError:
                connection: Any = self.connection
                connection.mark_for_reconnect()  # once it is given back: it still has what WATCH has begun
                raise
            except Exception as error:
                raise self._as_ours(error, permit) from error

        return await client.guarded(client.bound_commands[args[0]], attempt)

    def _as_ours(self, error: Exception, started_ns: int) -> Exception:
        client = self._client
        if lost_while_watching(error) and client._shared.was_closed_since(started_ns):
            # A WatchError would have the caller begin again.
            return ClientClosedError(outcome=Outcome.UNKNOWN, endpoint=client.endpoint)
        return as_ours(error, client.endpoint)

    async def reset(self) -> None:  # type: ignore[override]  # the command of that name is not a pipeline's
        """Empty the pipeline and give its connection back."""
        connection: Any = self.connection
        if connection is not None and not is_open(connection):
            self.watching = False  # it ended with its connection: nothing is to be undone on a new one
        await cast(Any, super()).reset()

    async def _lease(self) -> None:
        if self.connection is None:
            try:
                # No call between the two: an interruption there would lose the connection.
                connection: Any = await self.connection_pool.get_connection()
                self.connection = connection
            except Exception as error:
                failure = connect_failure(error, self._client.endpoint)
                if failure is error:
                    raise
                raise failure from error
            except BaseException:
                if not ASYNC:
                    drop_idle(self.connection_pool)
                raise
