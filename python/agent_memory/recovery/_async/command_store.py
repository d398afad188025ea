"""One write with a priority by commands: an attempt, perhaps more, and what becomes of it when they fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent_memory import _wall_clock
from agent_memory._concurrency import async_settle, async_sleep
from agent_memory.errors import Outcome, RecoveryJournalError
from agent_memory.policy import Priority, exponential_backoff
from agent_memory.recovery._async.packing import Command, pipeline_of, write_of
from agent_memory.recovery._async.queued_writes import AsyncCommandWrite, AsyncStoreResult, is_outage
from agent_memory.recovery.results import StoreStatus
from agent_memory.redis._async.guarded import AsyncGuardedCalls
from agent_memory.redis.commands.keys import check_queueable, keys_of, name_of, overwrites
from agent_memory.redis.error_outcomes import classify

if TYPE_CHECKING:
    from agent_memory.recovery._async.storing import AsyncStoring
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["AsyncCommandStore", "AsyncRetryingClient"]

_TOLD: Final = {
    (priority, status): f"a {priority.name} write {status}" for priority in Priority for status in StoreStatus
}
_NOT_SENT_YET: Final = (Outcome.NOT_SENT, Outcome.REJECTED)


class AsyncRetryingClient(Protocol):
    """What is asked of the client at each write: how CRITICAL ones are retried at once, in seconds."""

    critical_retry_attempts: int
    retry_base_delay: float
    retry_max_delay: float


class AsyncCommandStore:
    """One write with a priority: an attempt, perhaps more, and what becomes of it when they fail."""

    def __init__(
        self,
        storing: AsyncStoring,
        client: AsyncRetryingClient,
        priority: Priority,
        commands: Sequence[Command],
        *,
        is_pipeline: bool = False,
        is_transaction: bool = False,
    ) -> None:
        for args, _ in commands:
            check_queueable(name_of(args[0] if args else ""))
        self._storing = storing
        self._client = client
        self._queue = storing.queue
        self._priority = priority
        self._commands = commands
        self._is_pipeline = is_pipeline
        self._is_transaction = is_transaction
        self._called_ms = _wall_clock.now_ns() // 1_000_000
        self._keys = [key for args, _ in commands for key in keys_of(args)]
        self._write: AsyncCommandWrite | None = None

    async def run(self) -> AsyncStoreResult:
        """Stores, queues, drops or fails; raises what the server answered."""
        result = AsyncStoreResult()
        if not self._commands:
            result.status, result.value = StoreStatus.STORED, []
            return result
        async with self._storing.order.turns(self._keys):
            joins = self._queue.are_queued(self._keys)
            if not joins and await self._try_now(result):
                return result
            result = await self._defer(result)
        if joins:
            await self._storing.wait_for_backlog(result)
        return result

    async def _try_now(self, result: AsyncStoreResult) -> bool:
        """Attempts at once; returns whether there is nothing left to do."""
        storing = self._storing
        critical = self._priority is Priority.CRITICAL
        if storing.guard.state == "open" and not critical:
            storing.note_rejection()  # it would be rejected: an exception says no more
            return False
        try:
            if storing.keeper.writes_ahead and not self._keeps_attempts:
                write = self._prepared()
                await self._queue.keep(write, self._keys, self._priority, coalesce=self._coalesces(), ahead=True)
            return await self._try(result, critical)
        except RecoveryJournalError as error:
            storing.note_unkept(self._priority, error)
            result.error = error
            return True

    @property
    def _keeps_attempts(self) -> bool:
        """Whether each attempt is written ahead, with what will resolve it."""
        keeper = self._storing.keeper
        return keeper.writes_ahead and keeper.resolves and isinstance(self._storing.commands, AsyncGuardedCalls)

    async def _keep_attempt(self, ticket: Ticket | None) -> None:
        await self._queue.keep_attempt(self._prepared(), self._keys, self._priority, ticket, coalesce=self._coalesces())

    async def _try(self, result: AsyncStoreResult, critical: bool) -> bool:
        client = self._client
        for attempt in range(1 + (client.critical_retry_attempts if critical else 0)):
            if attempt:
                await async_sleep(exponential_backoff(attempt - 1, client.retry_base_delay, client.retry_max_delay))
            if await self._attempt(result):
                return True
            if result.error is not None and classify(result.error)[1] is Outcome.APPLIED:
                result._settle(StoreStatus.STORED)  # only its answer is lost
                self._forget()
                return True
            if self._is_unknown(result) and not self._prepared().shape.is_absolute:
                break
        return False

    async def _attempt(self, result: AsyncStoreResult) -> bool:
        try:
            result.value = await self._send()
        except Exception as error:
            result.error = error
            if is_outage(error):
                return False
            self._forget()
            raise
        except BaseException:
            self._leave_to_worker()
            raise
        result.error = None
        result._settle(StoreStatus.STORED)
        self._forget()
        return True

    async def _send(self) -> Any:
        commands: Any = self._storing.commands
        if not self._is_pipeline:
            ((args, options),) = self._commands
            if self._keeps_attempts:
                return await commands.execute_kept(args, options, self._keep_attempt)
            return await async_settle(commands.execute_command(*args, **options))
        pipeline = commands.pipeline(transaction=self._is_transaction)
        if self._keeps_attempts:
            pipeline.keep = self._keep_attempt
        for args, options in self._commands:
            pipeline.execute_command(*args, **options)
        return await async_settle(pipeline.execute())

    async def _defer(self, result: AsyncStoreResult) -> AsyncStoreResult:
        """What becomes of a write that could not be stored now."""
        if self._priority is Priority.LOW:
            self._prepared()  # what cannot be packed is refused, whether the server is up or away
            self._forget()
            result._settle(StoreStatus.DROPPED)
        else:
            write = self._prepared()
            write.result.error = result.error
            if result.error is not None and self._is_unknown(result):
                write.note_unknown(result.error)
            if not write.shape.is_absolute and write.unknown_token is not None and not self._storing.keeper.resolves:
                await self._queue.put_unknown(write, self._keys, self._priority)
            else:
                await self._queue.put_commands(write, self._keys, self._priority, coalesce=self._coalesces())
            result = write.result
        self._storing.warnings.add(_TOLD[self._priority, result.status])
        return result

    def _is_unknown(self, result: AsyncStoreResult) -> bool:
        return result.error is not None and classify(result.error)[1] not in _NOT_SENT_YET

    def _coalesces(self) -> bool:
        return len(self._commands) == 1 and overwrites(self._commands[0][0])

    def _prepared(self) -> AsyncCommandWrite:
        """The write as it is queued: packed, with the moment of expiry in the place of a duration."""
        if self._write is None:
            if self._is_pipeline:
                self._write = pipeline_of(self._commands, self._called_ms, self._is_transaction)
            else:
                ((args, options),) = self._commands
                self._write = write_of(args, self._called_ms, options)
        return self._write

    def _forget(self) -> None:
        if self._write is not None:
            self._storing.keeper.forget(self._write)

    def _leave_to_worker(self) -> None:
        """The caller went away; what was written ahead may have been executed, and stays promised."""
        write = self._write
        if write is not None and write.record is not None:
            write.unknown_token = b"" if write.ticket is None else write.ticket.token
            self._queue.push(write, self._keys, self._priority, write.size_bytes, self._coalesces())
