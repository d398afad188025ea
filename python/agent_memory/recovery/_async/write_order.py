"""The order of writes of one key: whose turn it is, and what a plain write has to wait for.

- Calls with a priority for one key take turns; while a key has queued writes, a new one joins them.
- A plain write of such a key waits for them to drain. If it decides all of the key it takes the place of the one that waits.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _wall_clock
from agent_memory._concurrency import AsyncEvent, AsyncKeyedLocks
from agent_memory._core import monotonic_ns
from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.recovery._async.packing import write_of
from agent_memory.recovery._async.queued_writes import is_outage
from agent_memory.recovery.results import StoreStatus
from agent_memory.redis.commands.keys import keys_of, overwrites
from agent_memory.redis.error_outcomes import classify

if TYPE_CHECKING:
    from agent_memory._core import Guard, RecoveryEntry, RecoveryQueue
    from agent_memory.recovery._async.record_keeper import AsyncRecordKeeper
    from agent_memory.recovery._async.worker import AsyncWorker
    from agent_memory.recovery._async.write_queue import AsyncWriteQueue

__all__ = ["AsyncWriteOrder", "in_drain"]

_turns_held: ContextVar[frozenset[tuple[int, str]]] = ContextVar("agent_memory_turns_held", default=frozenset())

in_drain: Final[ContextVar[bool]] = ContextVar("agent_memory_in_drain", default=False)
"""Whether the running code is the worker's: its own plain writes must not wait for what it would have to drain."""


class AsyncWriteOrder:
    """Which write may touch a key now. A drop-in client asks it before each plain write while anything is queued."""

    def __init__(self, queue: AsyncWriteQueue, keeper: AsyncRecordKeeper, worker: AsyncWorker, guard: Guard) -> None:
        self._queue = queue
        self._keeper = keeper
        self._worker = worker
        self._guard = guard
        self._calls = itertools.count()
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forgets all holders of keys: in a child of fork() they do not exist."""
        self._turns = AsyncKeyedLocks()
        self._replaced = AsyncEvent()  # a plain write that was to take the place of a queued one has ended

    # --- writes with a priority ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def turn(self, agent_id: str) -> AsyncIterator[bool]:
        """The right to write `agent_id`: one call at a time, so that writes of one key do not overtake each other.

        Gives whether earlier writes of `agent_id` wait (the one being retried included), so that a new one has to join
        them. A store within a store of the same key has its turn already and stands behind nothing.
        """
        place = (id(self), agent_id)
        held = _turns_held.get()
        if place in held:
            yield False
            return
        async with self._turns.hold(agent_id):
            token = _turns_held.set(held | {place})
            try:
                yield self._queue.are_queued([b"agent_memory:agent:" + agent_id.encode("utf-8", "surrogatepass")])
            finally:
                _turns_held.reset(token)

    def turns(self, keys: Sequence[bytes]) -> AbstractAsyncContextManager[None]:
        """The same for the keys of commands: their right to be written with a priority, taken in the order of the keys."""
        return self._turns.hold(*keys) if len(keys) < 2 else self._turns.hold(*sorted(set(keys)))

    @asynccontextmanager
    async def retrying(self, agent_id: str) -> AsyncIterator[None]:
        """Marks the worker's retry: a store of the same agent within it stands behind nothing."""
        token = _turns_held.set(frozenset({(id(self), agent_id)}))
        try:
            yield
        finally:
            _turns_held.reset(token)

    # --- plain writes -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def admit(self, commands: Sequence[tuple[Any, ...]], deadline_s: float) -> AsyncIterator[None]:
        """The right of plain writes to be sent: not before the queued writes of their keys.

        Waits for those at most `deadline_s`, then raises RedisUnavailableError (NOT_SENT). A write that decides all of its key
        takes the place of the one that waits if it succeeds, or if nothing tells whether it was executed: then it is sent
        again by the worker, since the older one must not follow it.
        """
        queue = self._queue.core
        keys = [key for command in commands for key in keys_of(command)] if queue is not None else []
        if queue is None or not self._queue.are_queued(keys):
            yield
            return
        called_ms, call = _wall_clock.now_ns() // 1_000_000, next(self._calls) & 0xFFFF_FFFF
        decides = len(commands) == 1 and overwrites(commands[0])
        leased: RecoveryEntry | None = None
        is_executed = False
        try:
            if decides:
                leased = self._lease_superseded(queue, keys[0], call)
            if leased is None and self._guard.state != "open":  # else it will be rejected
                await self._wait_for_keys(keys, deadline_s)
            yield
            is_executed = True
            if leased is not None:
                await self._leave_replaced(queue, leased)
        except BaseException as error:
            if leased is not None and (is_executed or _may_be_executed(error)):
                self._queue.put_in_place(queue, leased, write_of(commands[0], called_ms))
            elif leased is not None:
                _release(queue, leased)
            elif decides:
                queue.release_call(call)  # where an interrupt came between the lease and its name
            raise
        finally:
            if decides:
                self._worker.wake_up()
                self._replaced.set()

    def _lease_superseded(self, queue: RecoveryQueue, key: bytes, call: int) -> RecoveryEntry | None:
        entry = queue.lease_superseded(key, call)
        if entry is not None and entry.payload.unknown_token is not None:
            # Its first attempt may still be executed: the worker sees to that.
            queue.release(entry.id, lease=entry.lease)
            return None
        return entry

    async def _leave_replaced(self, queue: RecoveryQueue, leased: RecoveryEntry) -> None:
        """A plain write has taken the place of a queued one: that leaves the journal, then the queue."""
        write = leased.payload
        if self._keeper.has_left(write):
            raise RedisUnavailableError(
                "the client was closed meanwhile, and an older queued write of the key is left to a successor",
                outcome=Outcome.UNKNOWN,
            )
        if write.record is not None:
            await self._keeper.finish([write])
        (completed,) = queue.complete_many([(leased.id, leased.lease)])
        if completed is not None:  # else given up meanwhile, by closing
            if write.record is not None:
                write.release()
            write.result._settle(StoreStatus.STORED)
            self._queue.note_progress(leased.keys)

    async def wait_for_replacing(self, timeout_s: float) -> None:
        """Waits for plain writes that are about to take the place of queued ones: else those would be left to a successor."""
        queue, ends_ns = self._queue.core, monotonic_ns() + int(timeout_s * 1e9)
        while queue is not None and queue.is_leased_to_calls():
            self._replaced.clear()
            left_s = (ends_ns - monotonic_ns()) / 1e9
            if queue.is_leased_to_calls() and (left_s <= 0 or not await self._replaced.wait(left_s)):
                return

    async def _wait_for_keys(self, keys: Sequence[bytes], deadline_s: float) -> None:
        ends_ns = monotonic_ns() + int(deadline_s * 1e9)
        self._worker.start()
        for key in keys:
            while self._queue.are_queued([key]):
                left_s = (ends_ns - monotonic_ns()) / 1e9
                if in_drain.get() or left_s <= 0 or not await self._queue.wait_for_key(key, left_s):
                    raise RedisUnavailableError(
                        "earlier writes of its key wait in the recovery queue", outcome=Outcome.NOT_SENT
                    )


def _release(queue: RecoveryQueue, leased: RecoveryEntry) -> None:
    try:
        queue.release(leased.id, lease=leased.lease)
    except KeyError:
        pass  # given up meanwhile


def _may_be_executed(error: BaseException) -> bool:
    """Whether a command that ended with this error may have been executed, as far as is known."""
    if not isinstance(error, Exception):
        return True  # its caller went away
    return is_outage(error) and classify(error)[1] not in (Outcome.NOT_SENT, Outcome.REJECTED)
