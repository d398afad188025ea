# Generated from _async_recovery.py by tools/generate_sync.py: edit that file, not this one.

"""The recovery queue of a resilient client, and the worker that drains it.

The queue itself (bounds, order, due times) is the core's `RecoveryQueue`; this file runs what it hands out. One worker per
client, started by the first write that is queued: a thread, or a daemon thread in the sync client.

Rules
- The worker waits for events (a write was queued, the circuit changed, resume, close), for the next due time, or for the
  time the guard names while the circuit is open. It works while the circuit is not open; half-open, its first write is
  the probe where no background probe is.
- Writes of one key keep their order: a later one stays behind the one that is being retried.
- A retry that fails while the circuit is not closed does not count against the write: it says nothing about the write.
- What cannot succeed (an error that is not the connection's, too many attempts, too old) goes to the dead letters.
- A child of fork() starts with an empty queue: what waits is its parent's.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import AuthenticationError, AuthorizationError

from agent_memory import _at_fork
from agent_memory._compat import Event, Home, KeyedLocks, Task, settle, spawn
from agent_memory._core import RecoveryQueue, monotonic_ns
from agent_memory.errors import RecoveryQueueFullError
from agent_memory.policy import Priority, exponential_backoff
from agent_memory.redis.outcomes import classify
from agent_memory.storage._data import copy_of, estimate_bytes
from agent_memory.storage.results import DeadLetter, PendingWrite, StoreStatus

if TYPE_CHECKING:
    from agent_memory._core import Guard
    from agent_memory.policy import RecoveryConfig

__all__ = ["Recovery", "StoreResult", "Write"]

logger: Final = logging.getLogger("agent_memory.storage")

SHORTEST_WAIT_S: Final = 0.01
"""At least this long between two looks at an open circuit whose time is up."""
HALF_OPEN_WAIT_S: Final = 1.0
"""How long the worker waits at most for the end of somebody else's probe before it looks again."""
STOP_TIMEOUT_S: Final = 1.0
"""How long closing waits for the write that the worker is trying at that moment, beyond the drain."""

_turns_held: ContextVar[frozenset[tuple[int, str]]] = ContextVar("agent_memory_turns_held", default=frozenset())


class StoreResult:
    """What became of a write by `store_with_retry`: true only when it is stored.

    A queued write's result changes when the write is done with; `wait()` waits for that. Safe to read from any thread.
    """

    __slots__ = ("_settled", "error", "status", "value")

    def __init__(self) -> None:
        self.status: StoreStatus = StoreStatus.FAILED
        """Stored, queued, dropped or failed; equal to these words as str."""
        self.value: Any = None
        """What `store_func` returned, once stored."""
        self.error: Exception | None = None
        """The last error met, if any."""
        self._settled: Event | None = None

    def __bool__(self) -> bool:
        return self.status is StoreStatus.STORED

    def __repr__(self) -> str:
        error = f", error={type(self.error).__name__}" if self.error is not None else ""
        return f"<{type(self).__name__} {self.status}{error}>"

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until a queued write is stored or given up, at most `timeout` seconds (None: for ever).

        Returns whether it is stored. Returns at once if it does not wait in the queue.
        """
        settled = self._settled
        if settled is not None:
            settled.wait(timeout)
        return bool(self)

    def _queue(self) -> None:
        self._settled = Event()
        self.status = StoreStatus.QUEUED

    def _settle(self, status: StoreStatus) -> None:
        self.status = status
        if self._settled is not None:
            self._settled.set()


class Write:
    """One call of `store_with_retry`: what to store and how, and its result."""

    __slots__ = ("_client_name", "agent_id", "attempts", "counted", "priority", "queued_ns", "result", "state", "store")

    def __init__(
        self,
        client_name: str,
        agent_id: str,
        state: Any,
        store: Callable[[str, Any], Any],
        priority: Priority,
    ) -> None:
        self._client_name = client_name
        self.agent_id = agent_id
        self.state = state
        self.store = store
        self.priority = priority
        self.attempts = 0
        self.counted = 0
        """Failed retries that count against the write."""
        self.queued_ns = 0
        self.result = StoreResult()

    def attempt(self) -> bool:
        """Tries to store; False for a false value and for an error of the connection, raises any other error."""
        self.attempts += 1
        try:
            value = settle(self.store(self.agent_id, self.state))
        except Exception as error:
            self.result.error = error
            if _is_outage(error):
                return False
            logger.error("%s: store_with_retry failed: %s", self._client_name, type(error).__name__)
            raise
        if not value:
            return False
        self.result.value = value
        self.result._settle(StoreStatus.STORED)
        return True

    def start_waiting(self) -> None:
        """It has been queued, or is about to be."""
        self.queued_ns = monotonic_ns()
        self.result._queue()

    def as_dead_letter(self, place: int, reason: str | None) -> DeadLetter:
        """Itself as it is shown when it was given up."""
        error = self.result.error
        name = None if error is None else type(error).__name__
        return DeadLetter(place, self.agent_id, self.priority, self.attempts, reason or "", name)

    def drop(self) -> None:
        """Gives it up, as a write of low priority."""
        self.result._settle(StoreStatus.DROPPED)

    def fail(self, error: Exception | None = None) -> None:
        """Gives it up for good."""
        if error is not None:
            self.result.error = error
        self.result._settle(StoreStatus.FAILED)


class Recovery:
    """`client.recovery`: writes that wait for the server to come back, and those that were given up.

    Bounded by RecoveryConfig; safe to use from any thread.
    """

    def __init__(self, guard: Guard, settings: RecoveryConfig | None, client_name: str) -> None:
        self._guard = guard
        self._settings = settings
        self._client_name = client_name
        self._home = Home()
        self._paused = False
        self._stored = 0
        self._given_up = 0
        self._start_afresh()
        listener = _listener_of(weakref.ref(self))
        guard.add_listener(listener)
        # The guard may be shared and live longer.
        weakref.finalize(self, guard.remove_listener, listener).atexit = False
        _at_fork.in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._turns = KeyedLocks()
        self._stopped = Event()
        self._wake = Event()
        # A worker that waits when this client is abandoned has to wake up, to find nobody and to end.
        weakref.finalize(self, self._wake.set).atexit = False
        self._drained = Event()
        self._worker: Task[None] | None = None
        settings = self._settings
        self._queue: RecoveryQueue | None = None
        if settings is not None:
            self._queue = RecoveryQueue(
                max_entries=settings.max_entries,
                max_bytes=settings.max_bytes,
                max_dead_letters=settings.max_dead_letters,
            )
        # What waits, by its id in the queue and oldest first. A write that grows too old is given up here and not in the
        # queue, because somebody may wait for its result. The mutex keeps table and queue in step.
        self._mutex = threading.Lock()
        self._writes: dict[int, Write] = {}

    # --- for the client -----------------------------------------------------------------------------------------------

    @contextmanager
    def turn(self, agent_id: str) -> Iterator[bool]:
        """The right to write `agent_id`: one call at a time, so that writes of one key do not overtake each other.

        Gives whether earlier writes of `agent_id` wait (the one being retried included), so that a new one has to join
        them. A store within a store of the same key has its turn already and stands behind nothing.
        """
        place = (id(self), agent_id)
        held = _turns_held.get()
        if place in held:
            yield False
            return
        with self._turns.hold(agent_id):
            token = _turns_held.set(held | {place})
            try:
                yield self._queue is not None and self._queue.keys_queued(agent_id)
            finally:
                _turns_held.reset(token)

    def put(self, write: Write) -> None:
        """Queues a write; one that finds no place has failed."""
        queue = self._queue
        if queue is None:
            write.fail()
            return
        # The caller may go on changing what he passed.
        write.state = copy_of(write.state)
        size_bytes = estimate_bytes(write.state)
        write.start_waiting()
        try:
            with self._mutex:
                place = queue.push(write.agent_id, write, priority=write.priority, size_bytes=size_bytes)
                self._writes[place] = write
        except RecoveryQueueFullError as error:
            write.fail(error)
            return
        self._start_working()

    def _start_working(self) -> None:
        self._stopped.clear()
        self._home.post(self._ensure_worker)
        self._wake.set()

    # --- for everybody ------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Figures: queued (and queued_bytes), dead_letters, paused, and the totals stored, given_up and refused."""
        queue = self._queue
        figures = {} if queue is None else queue.stats()
        return {
            "queued": figures.get("entries", 0),
            "queued_bytes": figures.get("size_bytes", 0),
            "dead_letters": figures.get("dead_letters", 0),
            "paused": self._paused,
            "stored": self._stored,
            "given_up": self._given_up,
            "refused": figures.get("refused", 0),
        }

    def pending(self) -> list[PendingWrite]:
        """The writes that wait, the one being retried included, oldest first; a snapshot."""
        with self._mutex:
            writes = list(self._writes.values())
        now_ns = monotonic_ns()
        return [
            PendingWrite(write.agent_id, write.priority, write.attempts, (now_ns - write.queued_ns) / 1e9)
            for write in writes
        ]

    def dead_letters(self) -> list[DeadLetter]:
        """The writes that were given up and are kept, oldest first; a snapshot."""
        entries = [] if self._queue is None else self._queue.dead_letters()
        return [entry.payload.as_dead_letter(entry.id, entry.reason) for entry in entries]

    def retry(self, dead: DeadLetter) -> StoreResult:
        """Queues a dead letter once more, behind what waits of its key, and returns its result.

        Raises ValueError if it is not kept (any more), RecoveryQueueFullError if there is no place for it.
        """
        queue = self._queue
        found = [entry for entry in queue.dead_letters() if entry.id == dead.id] if queue is not None else []
        if queue is None or not found:
            raise ValueError(f"dead must be one of dead_letters(), got {dead!r}, which is not kept")
        write: Write = found[0].payload
        with self._mutex:
            try:
                place = queue.retry_dead(dead.id)
            except KeyError:
                raise ValueError(f"dead must be one of dead_letters(), got {dead!r}, which is not kept") from None
            write.counted = 0
            write.start_waiting()
            self._writes[place] = write
        self._start_working()
        return write.result

    def pause(self) -> None:
        """Stops retrying after the write under way; what fails is queued all the same."""
        self._paused = True

    def resume(self) -> None:
        """Goes on after `pause()`."""
        self._paused = False
        self._wake.set()

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until no write waits any more, at most `timeout` seconds (None: for ever); returns whether that came."""
        deadline_ns = None if timeout is None else monotonic_ns() + int(timeout * 1e9)
        while self._writes:
            self._drained.clear()
            if not self._writes:  # drained between the two lines above
                break
            left_s = None if deadline_ns is None else max(0.0, (deadline_ns - monotonic_ns()) / 1e9)
            if not self._drained.wait(left_s):
                return False
        return True

    # --- life ---------------------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """The client was opened (again): the running thread is where the worker lives."""
        self._home.settle()
        self._stopped.clear()
        if self._writes:
            self._home.post(self._ensure_worker)

    def close(self) -> None:
        """Drains for at most `close_timeout` seconds and ends the worker; what is left becomes dead letters."""
        settings = self._settings
        if settings is None:
            return
        if self._writes:
            self.flush(settings.close_timeout)
        self._stopped.set()
        self._wake.set()
        worker = self._worker
        if worker is not None:
            worker.join(STOP_TIMEOUT_S)
        with self._mutex:
            left = list(self._writes.items())
        for place, write in left:
            self._bury(place, write, "closed")
        if left:
            logger.warning("%s: closed with %d queued writes that were not stored", self._client_name, len(left))

    # --- the worker ---------------------------------------------------------------------------------------------------

    def _ensure_worker(self) -> None:
        with self._mutex:
            if self._worker is None or self._worker.is_done():
                if self._queue is not None:
                    self._queue.release_leases()  # of a worker whose thread was closed under it
                name = f"agent_memory recovery of {self._client_name}"
                self._worker = spawn(_work, weakref.ref(self), self._wake, self._stopped, name=name)

    def _hand_over(self) -> None:
        with self._mutex:
            self._worker = None
        self._home.post_elsewhere(self._ensure_worker)

    def _drain(self) -> float | None:
        """Retries what is due, as long as the circuit lets it; returns the seconds until there is more to do, or None."""
        queue = self._queue
        assert queue is not None
        while not self._stopped.is_set():
            expires_in_s = self._give_up_the_old()
            if expires_in_s is None:
                return None
            if self._paused:
                return expires_in_s
            if self._guard.state == "open":
                return min(expires_in_s, max(self._guard.retry_after_s, SHORTEST_WAIT_S))
            entry = queue.pop_due()
            if entry is None:
                due_in_s = queue.next_due_in_s()
                return expires_in_s if due_in_s is None else min(expires_in_s, due_in_s)
            if not self._retry(queue, entry.id, entry.payload) and self._guard.state == "half_open":
                # Somebody else's call is the probe. Its end changes the state, which wakes the worker; should it be
                # cancelled, nothing would.
                return HALF_OPEN_WAIT_S
        return None

    def _give_up_the_old(self) -> float | None:
        """Gives up the writes that have waited too long; the seconds until the next is too old, None if none waits."""
        settings = self._settings
        assert settings is not None
        while True:
            with self._mutex:
                oldest = next(iter(self._writes.items()), None)
            if oldest is None:
                return None
            place, write = oldest
            left_s = settings.max_age - (monotonic_ns() - write.queued_ns) / 1e9
            if left_s > 0:
                return left_s
            self._bury(place, write, "expired")

    def _retry(self, queue: RecoveryQueue, place: int, write: Write) -> bool:
        """Tries one write again; returns whether it is done with."""
        held = _turns_held.set(frozenset({(id(self), write.agent_id)}))
        try:
            stored = write.attempt()
        except Exception:
            self._bury(place, write, "rejected")
            return True
        except BaseException:
            self._put_back(queue, place, 0.0)  # this loop ends, the next one goes on
            raise
        finally:
            _turns_held.reset(held)
        if stored:
            self._complete(queue, place)
            return True
        if self._guard.state != "closed":
            self._put_back(queue, place, 0.0)
            return False
        settings = self._settings
        assert settings is not None
        write.counted += 1
        if write.counted >= settings.max_attempts:
            self._bury(place, write, "attempts")
            return True
        pause_s = exponential_backoff(write.counted - 1, settings.base_delay, settings.max_delay)
        # Retries share the budget of the client's own: without it they wait their longest.
        self._put_back(queue, place, pause_s if self._guard.pay_retry() else settings.max_delay)
        return False

    def _complete(self, queue: RecoveryQueue, place: int) -> None:
        with self._mutex:
            if self._writes.pop(place, None) is None:
                return  # closed meanwhile
            queue.complete(place)
            self._stored += 1
        self._note_drained()

    def _put_back(self, queue: RecoveryQueue, place: int, delay_s: float) -> None:
        with self._mutex:
            if place in self._writes:
                queue.retry(place, delay_s)

    def _bury(self, place: int, write: Write, reason: str) -> None:
        queue = self._queue
        assert queue is not None
        with self._mutex:
            if self._writes.pop(place, None) is None:
                return
            queue.discard(place, reason)
            self._given_up += 1
        write.fail()
        logger.error("%s: gave up a queued %s write: %s", self._client_name, write.priority.name, reason)
        self._note_drained()

    def _note_drained(self) -> None:
        if not self._writes:
            self._drained.set()


def _work(recovery: weakref.ref[Recovery], wake: Event, stopped: Event) -> None:
    try:
        while not stopped.is_set():
            # Cleared before looking: what happens after this line wakes the wait below.
            wake.clear()
            owner = recovery()
            if owner is None:
                return
            pause_s = owner._drain()
            if not owner._writes:
                # Nothing waits, so nothing is lost if the client is abandoned meanwhile: its end wakes the wait.
                del owner
            wake.wait(pause_s)
    except BaseException:
        # This thread ends. Another one that the client lives in goes on with what waits.
        owner = recovery()
        if owner is not None and owner._writes and not stopped.is_set():
            owner._hand_over()
        raise


def _listener_of(recovery: weakref.ref[Recovery]) -> Callable[..., None]:
    def on_change(*_: Any) -> None:
        owner = recovery()
        if owner is not None:
            owner._wake.set()

    return on_change


def _is_outage(error: Exception) -> bool:
    """Whether the same write may succeed later: the connection's errors, but not a wrong password."""
    return classify(error)[0] is not None and not isinstance(error, AuthenticationError | AuthorizationError)
