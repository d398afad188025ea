# Generated from ../_async/engine.py by tools/generate_sync.py: edit that file, not this one.

"""The recovery of one client, put together: what belongs to it, and its life from opening to closing, fork() included."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from agent_memory import _at_fork
from agent_memory._concurrency import in_thread
from agent_memory.recovery._sync.drain import Drain
from agent_memory.recovery._sync.record_keeper import RecordKeeper
from agent_memory.recovery._sync.resolver import Resolver
from agent_memory.recovery._sync.sender import Sender
from agent_memory.recovery._sync.worker import Worker
from agent_memory.recovery._sync.write_order import WriteOrder
from agent_memory.recovery._sync.write_queue import WriteQueue
from agent_memory.redis._sync.guarded import GuardedCalls

if TYPE_CHECKING:
    from agent_memory._core import Guard
    from agent_memory.policy import RecoveryConfig

__all__ = ["RecoveryEngine"]

logger: Final = logging.getLogger("agent_memory.storage")

STOP_TIMEOUT_S: Final = 1.0
"""How long closing waits for the write that the worker is trying at that moment, beyond the drain."""


class RecoveryEngine:
    """Makes the parts of a client's recovery and holds them; opens, closes and forks them together.

    Each part knows those above it only: worker, keeper (records), queue, order (of keys), sender, resolver, drain.
    """

    def __init__(
        self, guard: Guard, settings: RecoveryConfig | None, client_name: str, identity: str, commands: Any
    ) -> None:
        self._guard = guard
        self._settings = settings
        self._client_name = client_name
        self.worker = Worker(weakref.ref(self), guard, client_name)
        self.keeper = RecordKeeper(settings, client_name, identity)
        self.queue = WriteQueue(settings, client_name, self.keeper, self.worker)
        self.order = WriteOrder(self.queue, self.keeper, self.worker, guard)
        self.sender = Sender(commands)
        self._resolver = Resolver()
        self._drain = self._new_drain()
        self.queue.open_journal()
        self.bind(commands)
        listener = _listener_of(weakref.ref(self.worker))
        guard.add_listener(listener)
        # The guard may be shared and live longer.
        weakref.finalize(self, guard.remove_listener, listener).atexit = False
        # A worker that waits when this client is abandoned has to wake up, to find no client and to end.
        weakref.finalize(self, self.worker.wake_up).atexit = False
        _at_fork.in_child(self._start_afresh)
        if self.queue.is_waiting():
            self.worker.start()

    def _start_afresh(self) -> None:
        self.keeper.start_afresh()
        self.worker.start_afresh()
        self.queue.start_afresh()
        self.order.start_afresh()
        self._drain = self._new_drain()

    def _new_drain(self) -> Drain | None:
        if self._settings is None:
            return None
        return Drain(
            self.queue,
            self.order,
            self.keeper,
            self.sender,
            self._resolver,
            self.worker,
            self._guard,
            self._settings,
        )

    @property
    def commands(self) -> Any:
        """The guarded commands of the client, by which queued writes are sent."""
        return self.sender.commands

    def bind(self, commands: Any) -> None:
        """These are the client's guarded commands now; plain writes of a drop-in are kept in order from here."""
        self.sender.commands = commands
        once = commands._once if isinstance(commands, GuardedCalls) and self._settings is not None else None
        self.keeper.resolves = once is not None
        if isinstance(commands, GuardedCalls):
            commands._ordering = weakref.ref(self.order)
            if once is not None:
                self._resolver.bind(commands)
                self.keeper.bind(once)
            self.queue.bind(commands)

    # --- the worker's -------------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """A worker begins: what its predecessor held is released."""
        if self._drain is not None:
            self._drain.take_over()

    def drain(self) -> float | None:
        """Sends what is due, as long as the circuit lets it; returns the seconds until there is more to do, or None."""
        drain = self._drain
        return None if drain is None else drain.run()

    def is_waiting(self) -> bool:
        """Whether anything is queued."""
        return self.queue.is_waiting()

    # --- life ---------------------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """The client was opened (again): the running thread is where the worker lives."""
        self.worker.settle()
        self.queue.open_journal()
        self.bind(self.commands)
        if self.queue.is_waiting():
            self.worker.start()

    def flush(self, timeout_s: float | None) -> bool:
        """Waits until nothing is queued, at most `timeout_s` (None: for ever); returns whether that came."""
        if self.queue.is_waiting():
            self.worker.start()  # where this client was made outside of any thread
        return self.queue.wait_until_empty(timeout_s)

    def close(self) -> None:
        """Drains for at most `close_timeout_s` seconds and ends the worker.

        What is left stays in the journal, for the next client of this name and server; what is not in the journal becomes dead
        letters.
        """
        settings = self._settings
        if settings is None:
            return
        if self.queue.is_waiting():
            self.flush(settings.close_timeout_s)
        self.worker.stop()
        self.worker.join(STOP_TIMEOUT_S)
        self.order.wait_for_replacing(STOP_TIMEOUT_S)
        given_up, kept = self.queue.bury_unkept()
        if given_up:
            logger.warning("%s: closed with %d queued writes that were not stored", self._client_name, given_up)
        if kept:
            logger.warning("%s: closed with %d queued writes left in the journal", self._client_name, kept)
        self._leave_to_journal()

    def _leave_to_journal(self) -> None:
        """Closes the journal; what is in it is another's from now on, so it is not kept here as well.

        A worker that is at work still, because closing waits only so long for it, sends nothing any more.
        """
        journal = self.keeper.detach()
        if self._drain is not None:
            self._drain.end(leaves=journal is not None and self.queue.is_waiting())
        if journal is not None:
            self.queue.begin_anew()
        self._drain = self._new_drain()
        if journal is not None:
            in_thread(journal.close)
            journal.close_tickets()


def _listener_of(worker: weakref.ref[Worker]) -> Callable[..., None]:
    def on_change(*_: Any) -> None:
        owner = worker()
        if owner is not None:
            owner.wake_up()

    return on_change
