# Generated from ../_async/recovery.py by tools/generate_sync.py: edit that file, not this one.

"""`client.recovery`: what users ask of the recovery queue."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent_memory import _check
from agent_memory.policy import Priority
from agent_memory.recovery._sync.queued_writes import FunctionWrite, StoreResult, as_dead_letter, shown_as
from agent_memory.recovery.results import DeadLetter, PendingWrite

if TYPE_CHECKING:
    from agent_memory.recovery._sync.engine import RecoveryEngine

__all__ = ["Recovery"]


class Recovery:
    """Writes that wait for the server to come back, and those that were given up.

    Bounded by RecoveryConfig. Safe to use from any thread and thread. A `flush()` that is cancelled leaves the queue as it is.
    """

    __slots__ = ("_engine",)

    def __init__(self, engine: RecoveryEngine) -> None:
        """Made by the client, of its `engine`."""
        self._engine = engine

    def register(
        self,
        name: str,
        function: Callable[[str, Any], Any],
        *,
        dumps: Callable[[Any], str | bytes] = json.dumps,
        loads: Callable[[bytes], Any] = json.loads,
    ) -> None:
        """Gives `function`, a `store_func`, a `name`: the journal can then keep writes by it, and another process repeat them.

        Pass the function itself, or its name, to `store_with_retry`. `dumps` and `loads` make bytes of the data and back
        (default: JSON). Data that `dumps` cannot encode is queued in memory only (`StoreResult.durable` is False). What a
        predecessor left for this name is queued now; what `loads` cannot read stays in the journal, counted in
        `stats()["unregistered"]`. Registering a name again replaces its function.
        Raises ValueError for an empty name and for what cannot be called.
        """
        engine = self._engine
        engine.keeper.functions.add(name, function, dumps, loads)
        found = False
        for record, entry in engine.keeper.take_unregistered(name):
            engine.queue.restore(record, entry)
            found = True
        if found:
            engine.worker.start()

    def stats(self) -> dict[str, Any]:
        """Figures: queued (and queued_bytes, oldest_age_s), dead_letters, paused, and totals: stored, given_up, refused,
        superseded.

        With a journal also "journal", its own figures, and "unregistered", the writes found in it whose functions have not
        been registered yet.
        """
        queue, keeper = self._engine.queue, self._engine.keeper
        figures = {} if queue.core is None else queue.core.stats()
        return {
            "queued": figures.get("entries", 0),
            "queued_bytes": figures.get("size_bytes", 0),
            "oldest_age_s": figures.get("oldest_age_s", 0.0),
            "dead_letters": figures.get("dead_letters", 0),
            "paused": self._engine.worker.is_paused,
            "stored": queue.stored,
            "given_up": queue.given_up + keeper.overtaken,
            "refused": figures.get("refused", 0),
            "superseded": figures.get("superseded", 0),
            **keeper.stats(),
        }

    @property
    def damaged_records(self) -> int:
        """Records that were lost, or found in an older state, when the journal was opened; at least 1 if it was damaged."""
        return self._engine.keeper.damaged_records

    def pending(self) -> list[PendingWrite]:
        """The writes that wait, those being retried included, oldest first; a snapshot."""
        queue = self._engine.queue.core
        pending = []
        for entry in [] if queue is None else queue.entries():
            write = entry.payload
            operation, shown = shown_as(write, entry.keys)
            attempts = write.attempts if isinstance(write, FunctionWrite) else entry.attempts
            durable = write.record is not None
            pending.append(PendingWrite(shown, Priority(entry.priority), attempts, entry.age_s, operation, durable))
        return pending

    def dead_letters(self) -> list[DeadLetter]:
        """The writes that were given up and are kept, oldest first; a snapshot."""
        queue = self._engine.queue.core
        entries = [] if queue is None else queue.dead_letters()
        return [as_dead_letter(entry.payload, entry) for entry in entries]

    def retry(self, dead: DeadLetter) -> StoreResult:
        """Queues the dead letter `dead` again, behind the queued writes of its key, and returns its result.

        A write of unknown outcome is sent as if it had not been executed, so it may be executed twice. Raises ValueError if
        the dead letter is no longer kept, RecoveryQueueFullError if the queue is full.
        """
        try:
            return self._engine.queue.retry_dead(getattr(dead, "id", None)).result
        except KeyError:
            raise ValueError(f"dead must be one of dead_letters(), got {dead!r}, which is not kept") from None

    def pause(self) -> None:
        """Stops retrying after the batch under way; what fails is queued all the same."""
        self._engine.worker.is_paused = True

    def resume(self) -> None:
        """Goes on after `pause()`."""
        self._engine.worker.is_paused = False
        self._engine.worker.wake_up()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until no write waits any more, at most `timeout_s` seconds (None: for ever); returns whether that came.

        Raises ValueError for a `timeout_s` that is not a number >= 0.
        """
        if timeout_s is not None:
            _check.at_least("timeout_s", timeout_s, 0)
        return self._engine.flush(timeout_s)
