# Generated from ../_async/drain.py by tools/generate_sync.py: edit that file, not this one.

"""The drain of the recovery queue: sends what is due once the server is back, and decides what an answer means for an entry.

Rules
- It sends while the circuit is not open; half-open, its first write is the probe where no background probe is.
- The first batch after trouble is one entry; each success doubles it up to `drain_batch`, and one that takes longer than
  LONG_BATCH_S halves it, so that callers' commands never stand behind more than that. Any failure of the connection ends the
  drain and starts again from one.
- An entry whose outcome is unknown is not sent before the resolver has decided.
- A retry that fails while the circuit is not closed does not count against the write: it says nothing about the write.
- What cannot succeed (an error that is not the connection's, too many attempts, too old) goes to the dead letters. OOM and
  MISCONF pass: those are retried, and count.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import OutOfMemoryError

from agent_memory._core import monotonic_ns
from agent_memory.errors import CircuitOpenError, Outcome, RecoveryJournalError
from agent_memory.policy import exponential_backoff
from agent_memory.recovery._sync.announcing import Announcement, Announcer
from agent_memory.recovery._sync.queued_writes import CommandWrite, FunctionWrite, is_outage
from agent_memory.recovery._sync.resolver import Resolution, Resolver
from agent_memory.recovery._sync.sender import Sender, has_failed
from agent_memory.recovery._sync.write_order import in_drain
from agent_memory.redis.error_outcomes import classify

if TYPE_CHECKING:
    from agent_memory._core import Guard, RecoveryEntry, RecoveryQueue
    from agent_memory.policy import RecoveryConfig
    from agent_memory.recovery._sync.record_keeper import RecordKeeper
    from agent_memory.recovery._sync.worker import Worker
    from agent_memory.recovery._sync.write_order import WriteOrder
    from agent_memory.recovery._sync.write_queue import WriteQueue

__all__ = ["Drain"]

logger: Final = logging.getLogger("agent_memory.storage")

SHORTEST_WAIT_S: Final = 0.01
"""At least this long between two looks at an open circuit whose time is up."""
HALF_OPEN_WAIT_S: Final = 1.0
"""How long the worker waits at most for the end of another caller's probe before it looks again."""
LONG_BATCH_S: Final = 0.02
"""A batch that takes longer is halved."""
LATER_PAUSE_S: Final = 0.5
"""How long an entry waits whose outcome cannot be resolved now."""

_WORKERS: Final = 1 << 16
"""Workers are numbered below this, one after the other."""


class _EndedError(Exception):
    """The client was closed: what waits is not this worker's to send any more."""

    outcome = Outcome.NOT_SENT


class Drain:
    """Sends what waits in one queue of the core; closing the client ends it, and the next life of the client has another."""

    def __init__(
        self,
        queue: WriteQueue,
        order: WriteOrder,
        keeper: RecordKeeper,
        sender: Sender,
        resolver: Resolver,
        worker: Worker,
        guard: Guard,
        settings: RecoveryConfig,
    ) -> None:
        assert queue.core is not None
        self._queue = queue
        self._leases: RecoveryQueue = queue.core
        self._order = order
        self._keeper = keeper
        self._sender = sender
        self._resolver = resolver
        self._worker = worker
        self._guard = guard
        self._settings = settings
        self._announcement = Announcement(keeper)
        self._batch = 1
        self._failed_before = False
        self._number = 0
        self._sending: Announcer | None = None
        self.has_ended = False
        """Whether the journal has been given free: a successor may be sending what this worker still holds."""

    def take_over(self) -> None:
        """A worker starts: what its predecessor held is released. The leases of plain writes are not touched.

        A predecessor whose thread was closed under it may have sent what it held.
        """
        if self._sending is not None:
            self._sending.interrupted()
            self._sending = None
        before, self._number = self._number, (self._number + 1) % _WORKERS
        self._leases.release_leases(before)

    def run(self) -> float | None:
        """Sends what is due, as long as the circuit lets it; returns the seconds until there is more to do, or None."""
        leases, number = self._leases, self._number
        token = in_drain.set(True)
        try:
            while not (self._worker.is_stopped or self.has_ended):
                expires_in_s = self._give_up_the_old()
                if expires_in_s is None:
                    return None
                if self._worker.is_paused:
                    return expires_in_s
                if self._guard.state == "open":
                    self._batch = 1
                    return min(expires_in_s, max(self._guard.retry_after_s, SHORTEST_WAIT_S))
                entries = leases.pop_due_many(self._batch, number)
                if not entries:
                    due_in_s = leases.next_due_in_s()
                    return expires_in_s if due_in_s is None else min(expires_in_s, max(due_in_s, SHORTEST_WAIT_S / 10))
                pause_s = self._work_off(entries)
                if pause_s is not None:
                    return min(expires_in_s, pause_s)
            return None
        finally:
            in_drain.reset(token)

    def _give_up_the_old(self) -> float | None:
        """Gives up the writes that have waited too long; the seconds until the next is too old, None if none waits."""
        while True:
            oldest = self._leases.oldest()
            if oldest is None or self.has_ended:
                return None
            left_s = self._settings.max_age_s - oldest.age_s
            if left_s > 0:
                return left_s
            if oldest.lease is not None:
                return HALF_OPEN_WAIT_S  # a plain write is about to make it needless
            self._bury(oldest, "expired")

    def _work_off(self, entries: list[RecoveryEntry]) -> float | None:
        """Tries leased entries in their order; returns how long to wait if there was trouble, with no lease left behind."""
        left = {entry.id: entry for entry in entries}
        try:
            for is_function, group in groupby(entries, lambda entry: isinstance(entry.payload, FunctionWrite)):
                if is_function:
                    for entry in group:
                        if self._worker.is_stopped or self.has_ended:
                            return None
                        pause_s = self._try_function(entry)
                        left.pop(entry.id, None)
                        if pause_s is not None:
                            return pause_s
                else:
                    commands = list(group)
                    pause_s = self._try_commands(commands)
                    for entry in commands:
                        left.pop(entry.id, None)
                    if pause_s is not None:
                        return pause_s
        finally:
            # What was not come to, or was under way when this thread ended, waits as before.
            self._release_all(list(left.values()))
        return None

    # --- functions ----------------------------------------------------------------------------------------------------

    def _try_function(self, entry: RecoveryEntry) -> float | None:
        """Tries one call of store_with_retry again."""
        write = entry.payload
        if write.unknown_token is not None:
            # It was in flight when its process died: the outcome of a function is unknown.
            self._bury(entry, "unknown")
            return None
        try:
            with self._order.retrying(write.agent_id):
                stored = write.attempt()
        except Exception:
            self._bury(entry, "rejected")
            return None
        if stored:
            self._finish([entry])
            return None
        if self._guard.state != "closed":
            self._release(entry)
            # Another call may be the probe. Its end changes the state, which wakes the worker; should it be
            # cancelled, nothing would.
            return HALF_OPEN_WAIT_S if self._guard.state == "half_open" else SHORTEST_WAIT_S
        self._count(entry)
        return None

    # --- commands -----------------------------------------------------------------------------------------------------

    def _try_commands(self, entries: list[RecoveryEntry]) -> float | None:
        entries = self._resolve(entries)
        if not entries:
            return None
        if self._failed_before and not self._guard.pay_retry():
            # Replays share the budget of the client's own retries: without it they wait.
            self._release_all(entries)
            return self._settings.max_delay
        started_ns = monotonic_ns()
        writes = [entry.payload for entry in entries]
        announcer = Announcer(self._announcement, self._keeper, entries, self._check)
        try:
            self._sending = announcer
            replies = self._sender.send(writes, announcer)
            self._sending = None
        except Exception as error:
            self._sending = None
            return self._stop(entries, error)
        except BaseException:
            announcer.interrupted()
            raise
        self._failed_before = False
        if self._judge_all(entries, replies):
            self._batch = 1
            return self._settings.base_delay
        elapsed_s = (monotonic_ns() - started_ns) / 1e9
        wanted = self._batch // 2 if elapsed_s > LONG_BATCH_S else 2 * self._batch
        self._batch = min(max(1, wanted), self._settings.drain_batch)
        return None

    def _check(self) -> None:
        """Before each attempt: the worker may have been stopped between two, and the client opened again."""
        if self._worker.is_stopped or self.has_ended:
            raise _EndedError

    def end(self, *, leaves: bool) -> None:
        """The journal is given free: nothing is sent from here any more. What it `leaves` may ask by what was announced."""
        self.has_ended = True
        if not leaves:
            self._announcement.release()

    def _stop(self, entries: list[RecoveryEntry], error: Exception) -> float | None:
        """A batch failed: keeps what has been answered, notes as unknown what may have been executed."""
        if self.has_ended:
            return None
        self._batch = 1
        replies: list[Any] = getattr(error, "replies", [])
        answered: list[RecoveryEntry] = []
        first = 0
        for entry in entries:
            first += entry.payload.count
            if first > len(replies):
                break
            answered.append(entry)
        if answered:
            self._judge_all(answered, replies[: sum(entry.payload.count for entry in answered)])
        sent = max(len(answered), getattr(error, "sent", len(entries)))
        self._release_all(entries[sent:])
        return self._judge_unanswered(entries[len(answered) : sent], error)

    def _judge_unanswered(self, entries: list[RecoveryEntry], error: Exception) -> float | None:
        """These had no answer: what that means for each."""
        if isinstance(error, CircuitOpenError):
            self._release_all(entries)
            # Another call may be the probe. Its end changes the state, which wakes the worker; should it be
            # cancelled, nothing would.
            return HALF_OPEN_WAIT_S if self._guard.state == "half_open" else SHORTEST_WAIT_S
        if isinstance(error, _EndedError):
            self._release_all(entries)
            return None
        if not is_outage(error):
            logger.error("queued writes cannot be sent: %s", error if _is_ours(error) else type(error).__name__)
            self._release_all(entries)
            return self._settings.base_delay
        self._failed_before = True
        outcome = classify(error)[1]
        if outcome is Outcome.APPLIED:
            # All of it was executed, and only its answer is lost.
            self._finish(entries)
            return None
        closed = self._guard.state == "closed"
        for entry in entries:
            write = entry.payload
            write.result.error = error
            if outcome is Outcome.UNKNOWN:
                write.note_unknown(error)
                self._keeper.rewrite(write, entry)
            if closed:
                self._count(entry)
            else:
                self._release(entry)
        if outcome is not Outcome.UNKNOWN:
            self._announcement.withdraw()
        return self._settings.base_delay if closed else SHORTEST_WAIT_S

    def _resolve(self, entries: list[RecoveryEntry]) -> list[RecoveryEntry]:
        """Resolves entries of unknown outcome; returns what may be sent."""
        unknown = [entry for entry in entries if entry.payload.unknown_token is not None]
        if not unknown:
            return entries
        try:
            self._adopt(unknown)
            resolutions = self._resolver.resolve([entry.payload for entry in unknown])
        except Exception as error:
            logger.warning("the outcome of queued writes cannot be resolved now: %s", type(error).__name__)
            resolutions = [Resolution.LATER] * len(unknown)
        if self.has_ended:
            return []
        applied = []
        not_sent = set()
        for entry, resolution in zip(unknown, resolutions, strict=True):
            if resolution is Resolution.SEND:
                entry.payload.unknown_token = None
                if not entry.payload.shape.is_absolute:
                    self._keeper.rewrite(entry.payload, entry)
                continue
            not_sent.add(entry.id)
            if resolution is Resolution.APPLIED:
                applied.append(entry)
            elif resolution is Resolution.UNKNOWN:
                self._bury(entry, "unknown")
            else:
                self._retry(entry, LATER_PAUSE_S)
        if applied:
            self._finish(applied)
        return [entry for entry in entries if entry.id not in not_sent]

    def _adopt(self, unknown: Sequence[RecoveryEntry]) -> None:
        """What a predecessor left is resolved together: its writes share markers, which are deleted once they have served."""
        if any(_is_left(entry.payload) for entry in unknown):
            self._resolver.adopt([entry.payload for entry in self._leases.entries() if _is_left(entry.payload)])

    def _judge_all(self, entries: Sequence[RecoveryEntry], replies: Sequence[Any]) -> bool:
        """What the replies mean for each entry; returns whether the server is in trouble."""
        if self.has_ended:
            return False
        done: list[RecoveryEntry] = []
        trouble = again = False
        first = 0
        for entry in entries:
            write = entry.payload
            count = write.count
            mine = replies[first : first + count]
            first += count
            if write.shape.is_transaction:
                outcome = mine[-1]
                mine = [outcome] * len(write.shape.names) if has_failed(outcome) or outcome is None else outcome
            failed = [place for place, reply in enumerate(mine) if has_failed(reply) and _is_failure(reply)]
            if not failed:
                values = self._sender.shaped(write, mine)
                write.result.value = values if write.shape.is_pipeline else values[0]
                done.append(entry)
                continue
            error: Any = mine[failed[0]]
            write.result.error = error
            executed = write.shape.is_transaction and not has_failed(replies[first - 1])
            write.only(failed)
            if executed or not _may_succeed_later(error):
                self._bury(entry, "rejected")
            else:
                trouble = trouble or classify(error)[0] is not None
                again = True
                # What is left of it; what was said of this attempt does not hold for the next.
                self._keeper.rewrite(write, entry)
                self._count(entry)
        if again:
            self._announcement.withdraw()
        if done:
            self._finish(done)
        return trouble

    def _finish(self, entries: Sequence[RecoveryEntry]) -> None:
        """Entries have been executed: they leave the journal, then the queue."""
        self._keeper.finish([entry.payload for entry in entries])
        if not self.has_ended:  # else they are a successor's, which finds out that they have been executed
            self._queue.complete(entries)

    # --- the queue ----------------------------------------------------------------------------------------------------

    def _bury(self, entry: RecoveryEntry, reason: str) -> None:
        if not self.has_ended:  # else the entry is a successor's, and its number may be another's
            self._queue.bury(entry, reason)

    def _count(self, entry: RecoveryEntry) -> None:
        """A retry that counts against the entry."""
        settings = self._settings
        if entry.attempts + 1 >= settings.max_attempts:
            self._bury(entry, "attempts")
            return
        pause_s = exponential_backoff(entry.attempts, settings.base_delay, settings.max_delay)
        # Retries share the budget of the client's own: without it they wait their longest.
        self._retry(entry, pause_s if self._guard.pay_retry() else settings.max_delay)

    def _retry(self, entry: RecoveryEntry, delay_s: float) -> None:
        try:
            self._leases.retry(entry.id, delay_s, lease=entry.lease)
        except KeyError:
            pass  # given up meanwhile

    def _release(self, entry: RecoveryEntry) -> None:
        try:
            self._leases.release(entry.id, lease=entry.lease)
        except KeyError:
            pass  # done with, given up, or taken over by another worker meanwhile

    def _release_all(self, entries: Sequence[RecoveryEntry]) -> None:
        for entry in entries:
            self._release(entry)


def _is_left(write: Any) -> bool:
    """Whether a predecessor recorded what resolves it, and that has not been looked at yet."""
    return isinstance(write, CommandWrite) and write.is_inherited and bool(write.unknown_token) and write.ticket is None


def _is_ours(error: Exception) -> bool:
    """Whether an error's text is known not to quote what was to be stored."""
    return isinstance(error, RecoveryJournalError)


def _is_failure(reply: Exception) -> bool:
    """Whether an error among the replies means that the command did not do what it says (a value may be undecodable)."""
    return not isinstance(reply, UnicodeError)


def _may_succeed_later(error: Exception) -> bool:
    """Whether a command that the server refused may succeed later, unchanged."""
    if classify(error)[0] is not None or isinstance(error, OutOfMemoryError):
        return True
    return str(error).startswith("MISCONF")
