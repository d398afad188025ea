# Generated from ../_async/storing.py by tools/generate_sync.py: edit that file, not this one.

"""What every write with a priority needs of its client's recovery, and `store_with_retry` itself.

CRITICAL writes are tried again at once, then queued; HIGH and NORMAL ones are queued, LOW ones dropped. The rules are in
docs/reference/recovery.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from agent_memory._concurrency import sleep
from agent_memory.policy import Priority, exponential_backoff
from agent_memory.recovery._sync.queued_writes import FunctionWrite, StoreResult
from agent_memory.recovery.rate_limited_log import RateLimitedWarnings
from agent_memory.recovery.results import StoreStatus

if TYPE_CHECKING:
    from agent_memory._core import Guard
    from agent_memory.recovery._sync.engine import RecoveryEngine

__all__ = ["Storing"]

logger: Final = logging.getLogger("agent_memory.storage")


class Storing:
    """Stores writes with a priority, in the order of their keys; what cannot be stored now is queued, dropped or has failed.

    `deadline_s` is how long a call may take; `note_rejection` is called for a write that is not tried since the circuit is
    open, and makes sure of the probe.
    """

    def __init__(
        self,
        engine: RecoveryEngine,
        guard: Guard,
        client_name: str,
        deadline_s: float,
        note_rejection: Callable[[], object],
    ) -> None:
        self._sender = engine.sender
        self._client_name = client_name
        self._deadline_s = deadline_s
        self.guard = guard
        self.keeper = engine.keeper
        self.queue = engine.queue
        self.order = engine.order
        self.note_rejection = note_rejection
        self.warnings = RateLimitedWarnings(logger, client_name)

    @property
    def commands(self) -> Any:
        """The guarded commands of the client."""
        return self._sender.commands

    def note_unkept(self, priority: Priority, error: Exception) -> None:
        """A write was not sent, since the journal could not keep it first."""
        logger.error(
            "%s: a %s write could not be kept, so it was not sent: %s", self._client_name, priority.name, error
        )

    def wait_for_backlog(self, result: StoreResult) -> None:
        """Waits, as long as a call may take, for a write that joined earlier ones, where nothing but those is in the way."""
        if self.guard.state == "closed":
            result.wait(self._deadline_s)

    def store(
        self,
        agent_id: str,
        state_data: Any,
        store_func: Callable[[str, Any], Any] | str,
        priority: Priority,
        attempts: int,
        base_delay_s: float,
        max_delay_s: float,
    ) -> StoreResult:
        """`store_with_retry`, its arguments checked but for `store_func`."""
        name, function = self.keeper.functions.find(store_func)
        write = FunctionWrite(self._client_name, agent_id, state_data, function, priority)
        write.name = name
        with self.order.turn(agent_id) as joins:
            stored = not joins and self._try_now(write, attempts, base_delay_s, max_delay_s)
            if not stored:
                self._defer(write)
            if stored or write.result.status is StoreStatus.QUEUED:
                self.keeper.overtake(agent_id)
            if stored:
                return write.result
        if joins:
            self.wait_for_backlog(write.result)
        return write.result

    def _try_now(self, write: FunctionWrite, attempts: int, base_delay_s: float, max_delay_s: float) -> bool:
        for attempt in range(1 + (attempts if write.priority is Priority.CRITICAL else 0)):
            if attempt:
                sleep(exponential_backoff(attempt - 1, base_delay_s, max_delay_s))
            if write.attempt():
                write.result._settle(StoreStatus.STORED)
                return True
        return False

    def _defer(self, write: FunctionWrite) -> None:
        """What becomes of a write that could not be stored now."""
        if write.priority is Priority.LOW:
            write.result._settle(StoreStatus.DROPPED)
        else:
            self.queue.put(write)
        self.warnings.add(f"a {write.priority.name} write {write.result.status}")
