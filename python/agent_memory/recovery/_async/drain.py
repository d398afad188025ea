"""The worker of the recovery queue: sends what is due once the server is back, and decides what an answer means for an entry.

One worker per client, started by the first write that is queued: a task, or a daemon thread in the sync client.

Rules
- The worker waits for events (a write was queued, the circuit changed, resume, close), for the next due time, or for the
  time the guard names while the circuit is open. It works while the circuit is not open; half-open, its first write is
  the probe where no background probe is.
- Commands leave in batches, each one guarded call in one piece. The first batch after trouble is one entry; each success
  doubles it up to `drain_batch`, and one that takes longer than LONG_BATCH_S halves it, so that callers' commands never stand
  behind more than that. Any failure of the connection ends the drain and starts again from one.
- An entry whose outcome is unknown is not sent before the resolver has decided (`_async_resolving.py`).
- Relative writes that are in the journal are marked there before they are sent, with what will resolve them: a successor
  finds them in doubt. Sent together they have one ticket, in one announcement; sent alone, each has its own in its record.
- A retry that fails while the circuit is not closed does not count against the write: it says nothing about the write.
- What cannot succeed (an error that is not the connection's, too many attempts, too old) goes to the dead letters. OOM and
  MISCONF pass: those are retried, and count.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import OutOfMemoryError, ResponseError

from agent_memory._concurrency import AsyncEvent, async_settle
from agent_memory._core import monotonic_ns
from agent_memory.errors import (
    CircuitOpenError,
    Outcome,
    RecoveryJournalError,
    RedisUnavailableError,
)
from agent_memory.policy import exponential_backoff
from agent_memory.recovery._async.journal import segment_of
from agent_memory.recovery._async.queued_writes import AsyncCommandWrite, AsyncFunctionWrite, is_outage
from agent_memory.recovery._async.resolver import InDoubt, Resolution
from agent_memory.recovery.records import words_of
from agent_memory.redis._async.guarded import AsyncGuardedCalls
from agent_memory.redis.commands.callbacks import call_back, callback_of
from agent_memory.redis.commands.packing import pack_command
from agent_memory.redis.error_outcomes import classify
from agent_memory.redis.exactly_once.settings import Level

if TYPE_CHECKING:
    from agent_memory._core import Guard, RecoveryEntry, RecoveryQueue
    from agent_memory.policy import RecoveryConfig
    from agent_memory.recovery._async.recovery import AsyncRecovery
    from agent_memory.redis.exactly_once.mode import Mode
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["AsyncDrain", "AsyncSender", "async_work", "in_drain"]

logger: Final = logging.getLogger("agent_memory.storage")

SHORTEST_WAIT_S: Final = 0.01
"""At least this long between two looks at an open circuit whose time is up."""
HALF_OPEN_WAIT_S: Final = 1.0
"""How long the worker waits at most for the end of somebody else's probe before it looks again."""
LONG_BATCH_S: Final = 0.02
"""A batch that takes longer is halved."""
LATER_PAUSE_S: Final = 0.5
"""How long an entry waits whose outcome can't be told now."""

_WORKERS: Final = 1 << 16
"""Workers are numbered below this, one after the other."""

in_drain: ContextVar[bool] = ContextVar("agent_memory_in_drain", default=False)
"""Whether the running code is the worker's: its own plain writes must not wait for what it would have to drain."""

_MULTI: Final = pack_command((b"MULTI",))
_EXEC: Final = pack_command((b"EXEC",))


class AsyncSender:
    """How the entries of a drain reach the server; one guarded call for all of them where the client is a drop-in."""

    def __init__(self, commands: Any) -> None:
        self.commands = commands

    async def send(self, writes: Sequence[AsyncCommandWrite], announcer: AsyncAnnouncer) -> list[Any]:
        """The replies of all, one after the other, errors among them as instances.

        Raises what broke the connection, with the replies that had come by then as `.replies`, if any, and as `.sent` the
        number of writes that had been sent, if not all.
        """
        client = self.commands
        transport = client.transport_here() if isinstance(client, AsyncGuardedCalls) else None
        if transport is not None and transport.once is not None:
            level = await self._level(client, transport.once.mode)
            if level is Level.GATE:
                return await self._send_alone(transport, writes, announcer)
            if not all(write.shape.is_absolute for write in writes):
                return await self._send_once(transport, writes, announcer)
        await announcer.together(writes, None)
        if transport is None:
            return await self._send_singly(writes, announcer)
        window = b"".join(map(_joined, writes))
        count = sum(write.count for write in writes)

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            announcer.check()
            return await transport.call_many(iter([(window, count)]), permit, frozenset(), timeout_s)

        replies: list[Any] = await client.guarded(client.bound_commands["PIPELINE"], attempt)
        return replies

    async def _level(self, client: AsyncGuardedCalls, mode: Mode) -> Level | None:
        """How lost writes are told here, which the first connection finds out."""
        if mode.level is None:
            try:
                await cast(Any, client).execute_command("PING")
            except Exception as error:
                error.outcome = Outcome.NOT_SENT  # type: ignore[attr-defined]  # of the writes
                raise
        return mode.level

    async def _send_once(
        self, transport: Any, writes: Sequence[AsyncCommandWrite], announcer: AsyncAnnouncer
    ) -> list[Any]:
        """As one transaction, which can be resolved as a whole; a refused one is repeated write by write."""

        async def keep(ticket: Ticket) -> None:
            await announcer.together(writes, ticket)

        commands = [packed for write in writes for packed in write.packed]
        try:
            executed = await self._transaction(transport, commands, keep, announcer)
        except ResponseError:
            # A command that the server would not even queue has aborted the transaction: nothing of it ran.
            return await self._send_alone(transport, writes, announcer)
        return _as_sent(writes, executed)

    async def _send_alone(
        self, transport: Any, writes: Sequence[AsyncCommandWrite], announcer: AsyncAnnouncer
    ) -> list[Any]:
        """Write by write, each resolvable by itself."""
        await announcer.nothing()
        replies: list[Any] = []
        for place, write in enumerate(writes):
            try:
                replies += await self._send_one(transport, write, announcer)
            except Exception as error:
                error.replies = replies  # type: ignore[attr-defined]
                error.sent = place + 1  # type: ignore[attr-defined]
                raise
        return replies

    async def _send_one(self, transport: Any, write: AsyncCommandWrite, announcer: AsyncAnnouncer) -> list[Any]:
        async def keep(ticket: Ticket) -> None:
            await announcer.alone(write, ticket)

        try:
            if transport.once.mode.level is not Level.GATE or write.shape.is_transaction or len(write.packed) > 1:
                return _as_sent([write], await self._transaction(transport, list(write.packed), keep, announcer))
            client = self.commands
            command = client.bound_commands[write.shape.names[0]]

            async def attempt(permit: int, timeout_s: float | None) -> Any:
                del permit
                announcer.check()
                return await transport.once.call(command, write.packed[0], False, timeout_s, keep)

            return [await client.guarded(command, attempt, client.settler(transport, command))]
        except ResponseError as refused:
            return [refused] * write.count

    async def _transaction(
        self, transport: Any, commands: list[bytes], keep: Callable[..., Any], announcer: AsyncAnnouncer
    ) -> list[Any]:
        client = self.commands
        packed = b"".join((_MULTI, *commands, _EXEC))

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            del permit
            announcer.check()
            return await transport.once.call_transaction(packed, len(commands) + 2, timeout_s, keep)

        command = client.bound_commands["PIPELINE"]
        replies = await client.guarded(command, attempt, client.settler(transport, command))
        executed = replies[-1]
        if isinstance(executed, Exception):
            # EXEC only says that something was wrong; what it was stands with the command.
            raise next(reply for reply in replies if isinstance(reply, Exception))
        return cast("list[Any]", executed)

    async def _send_singly(self, writes: Sequence[AsyncCommandWrite], announcer: AsyncAnnouncer) -> list[Any]:
        """By an injected client's own methods, one command after the other."""
        replies: list[Any] = []
        try:
            for write in writes:
                announcer.check()
                for command in _packed(write):
                    try:
                        replies.append(await async_settle(self.commands.execute_command(*words_of(command))))
                    except ResponseError as error:
                        replies.append(error)
        except Exception as error:
            error.replies = replies  # type: ignore[attr-defined]
            raise
        return replies

    def shaped(self, write: AsyncCommandWrite, replies: Sequence[Any]) -> list[Any]:
        """The replies of a write as the client's own methods would return them."""
        client = self.commands
        transport = client.transport_here() if isinstance(client, AsyncGuardedCalls) else None
        if transport is None:
            return list(replies)
        callbacks = client.callbacks_for(transport.protocol)
        values = []
        for place, (name, reply) in enumerate(zip(write.shape.names, replies, strict=True)):
            callback = callback_of(callbacks, name)
            options = {} if write.shape.options is None else dict(write.shape.options[place])
            values.append(reply if callback is None or _failed(reply) else call_back(callback, reply, options))
        return values


def _as_sent(writes: Sequence[AsyncCommandWrite], executed: Sequence[Any]) -> list[Any]:
    """The replies of a transaction's commands as those of the writes it was made of."""
    replies: list[Any] = []
    first = 0
    for write in writes:
        own = list(executed[first : first + len(write.shape.names)])
        first += len(write.shape.names)
        replies += [b"OK", *[b"QUEUED"] * len(own), own] if write.shape.is_transaction else own
    return replies


def _packed(write: AsyncCommandWrite) -> Sequence[bytes]:
    return (_MULTI, *write.packed, _EXEC) if write.shape.is_transaction else write.packed


def _joined(write: AsyncCommandWrite) -> bytes:
    return b"".join((_MULTI, write.joined, _EXEC)) if write.shape.is_transaction else write.joined


def _failed(reply: Any) -> bool:
    return isinstance(reply, Exception)


class _EndedError(Exception):
    """The client was closed: what waits is not this worker's to send any more."""

    outcome = Outcome.NOT_SENT


class AsyncAnnouncer:
    """Tells the journal how the entries of one batch are sent, before they are; each method raises RecoveryJournalError.

    A worker that outlives its client, because closing waits only so long for it, gets no further than here.
    """

    def __init__(self, drain: AsyncDrain, owner: AsyncRecovery, entries: Sequence[RecoveryEntry]) -> None:
        self._drain = drain
        self._owner = owner
        self._entries = entries
        self._begun: dict[int, Ticket | None] = {}

    def interrupted(self) -> None:
        """The event loop ends in the middle of it: what has begun may be executed."""
        for entry in self._entries:
            write = entry.payload
            if id(write) in self._begun:
                lost = RedisUnavailableError("interrupted", outcome=Outcome.UNKNOWN)
                lost.ticket = self._begun[id(write)]
                write.doubt_by(lost)

    def check(self) -> None:
        """Before each attempt: the worker may have been told to end between two, and the client opened again."""
        if self._owner.is_stopped or self._drain.has_ended:
            raise _EndedError

    async def together(self, writes: Sequence[AsyncCommandWrite], ticket: Ticket | None) -> None:
        """The relative ones of these are sent with one ticket, or with none; no others are being sent."""
        self.check()
        await self._drain.announce(self._owner, [write for write in writes if not write.shape.is_absolute], ticket)
        self._begun = dict.fromkeys(map(id, writes), ticket)

    async def nothing(self) -> None:
        """What is sent from now on says so for itself."""
        self._begun = {}
        await self._drain.announce(self._owner, [], None)

    async def alone(self, write: AsyncCommandWrite, ticket: Ticket) -> None:
        """A write is sent with a ticket of its own."""
        self.check()
        if not write.shape.is_absolute:
            entry = next(entry for entry in self._entries if entry.payload is write)
            await self._owner.rewrite_attempt(write, entry, ticket)
        self._begun[id(write)] = ticket


class AsyncDrain:
    """What the worker knows beyond the queue: how large the next batch may be."""

    def __init__(self, queue: RecoveryQueue, settings: RecoveryConfig, guard: Guard) -> None:
        self._queue = queue
        self._settings = settings
        self._guard = guard
        self._batch = 1
        self._failed_before = False
        self._announced: Ticket | None = None
        self._is_announced = False
        self._worker = 0
        self._sending: AsyncAnnouncer | None = None
        self.has_ended = False
        """Whether the journal has been given free: a successor may be sending what this worker still holds."""

    def take_over(self) -> None:
        """A worker starts: what its predecessor held is released. The leases of plain writes are not touched.

        A predecessor whose event loop was closed under it may have sent what it held.
        """
        if self._sending is not None:
            self._sending.interrupted()
            self._sending = None
        before, self._worker = self._worker, (self._worker + 1) % _WORKERS
        self._queue.release_leases(before)

    async def run(self, owner: AsyncRecovery) -> float | None:
        """Sends what is due, as long as the circuit lets it; returns the seconds until there is more to do, or None."""
        queue, worker = self._queue, self._worker
        token = in_drain.set(True)
        try:
            while not owner.is_stopped:
                expires_in_s = self._give_up_the_old(owner)
                if expires_in_s is None:
                    return None
                if owner.is_paused:
                    return expires_in_s
                if self._guard.state == "open":
                    self._batch = 1
                    return min(expires_in_s, max(self._guard.retry_after_s, SHORTEST_WAIT_S))
                entries = queue.pop_due_many(self._batch, worker)
                if not entries:
                    due_in_s = queue.next_due_in_s()
                    return expires_in_s if due_in_s is None else min(expires_in_s, max(due_in_s, SHORTEST_WAIT_S / 10))
                pause_s = await self._work_off(owner, entries)
                if pause_s is not None:
                    return min(expires_in_s, pause_s)
            return None
        finally:
            in_drain.reset(token)

    def _give_up_the_old(self, owner: AsyncRecovery) -> float | None:
        """Gives up the writes that have waited too long; the seconds until the next is too old, None if none waits."""
        while True:
            oldest = self._queue.oldest()
            if oldest is None:
                return None
            left_s = self._settings.max_age - oldest.age_s
            if left_s > 0:
                return left_s
            if oldest.lease is not None:
                return HALF_OPEN_WAIT_S  # a plain write is about to make it needless
            owner.bury(oldest, "expired")

    async def _work_off(self, owner: AsyncRecovery, entries: list[RecoveryEntry]) -> float | None:
        """Tries leased entries in their order; returns how long to wait if there was trouble, with no lease left behind."""
        left = {entry.id: entry for entry in entries}
        try:
            for is_function, group in groupby(entries, lambda entry: isinstance(entry.payload, AsyncFunctionWrite)):
                if is_function:
                    for entry in group:
                        if owner.is_stopped or self.has_ended:
                            return None
                        pause_s = await self._try_function(owner, entry)
                        left.pop(entry.id, None)
                        if pause_s is not None:
                            return pause_s
                else:
                    commands = list(group)
                    pause_s = await self._try_commands(owner, commands)
                    for entry in commands:
                        left.pop(entry.id, None)
                    if pause_s is not None:
                        return pause_s
        finally:
            # What was not come to, or was under way when this event loop ended, waits as before.
            self._release_all(list(left.values()))
        return None

    # --- functions ----------------------------------------------------------------------------------------------------

    async def _try_function(self, owner: AsyncRecovery, entry: RecoveryEntry) -> float | None:
        """Tries one call of store_with_retry again."""
        write = entry.payload
        if write.doubt is not None:
            # It was under way when its process died: nobody knows what a function has done.
            owner.bury(entry, "unknown")
            return None
        try:
            async with owner.retrying(write.agent_id):
                stored = await write.attempt()
        except Exception:
            owner.bury(entry, "rejected")
            return None
        if stored:
            await self._finish(owner, [entry])
            return None
        if self._guard.state != "closed":
            self._release(entry)
            # Somebody else's call may be the probe. Its end changes the state, which wakes the worker; should it be
            # cancelled, nothing would.
            return HALF_OPEN_WAIT_S if self._guard.state == "half_open" else SHORTEST_WAIT_S
        self._count(owner, entry)
        return None

    # --- commands -----------------------------------------------------------------------------------------------------

    async def _try_commands(self, owner: AsyncRecovery, entries: list[RecoveryEntry]) -> float | None:
        entries = await self._resolve(owner, entries)
        if not entries:
            return None
        if self._failed_before and not self._guard.pay_retry():
            # Replays share the budget of the client's own retries: without it they wait.
            self._release_all(entries)
            return self._settings.max_delay
        started_ns = monotonic_ns()
        writes = [entry.payload for entry in entries]
        announcer = AsyncAnnouncer(self, owner, entries)
        try:
            self._sending = announcer
            replies = await owner.sender.send(writes, announcer)
            self._sending = None
        except Exception as error:
            self._sending = None
            return await self._stop(owner, entries, error)
        except BaseException:
            announcer.interrupted()
            raise
        self._failed_before = False
        if await self._judge_all(owner, entries, replies):
            self._batch = 1
            return self._settings.base_delay
        elapsed_s = (monotonic_ns() - started_ns) / 1e9
        wanted = self._batch // 2 if elapsed_s > LONG_BATCH_S else 2 * self._batch
        self._batch = min(max(1, wanted), self._settings.drain_batch)
        return None

    async def announce(self, owner: AsyncRecovery, writes: Sequence[AsyncCommandWrite], ticket: Ticket | None) -> None:
        """Has the journal say that these writes, and no others, are being sent, and what resolves them."""
        journal = owner.journal
        if journal is None:
            return
        records = [write.record for write in writes if write.record is not None]
        if not (records or self._is_announced):
            return
        before, self._announced = self._announced, ticket
        self._is_announced = bool(records)
        if ticket is not None:
            ticket.hold(self)
        await journal.announce(records, b"" if ticket is None else ticket.token)
        if before is not None and before is not ticket:
            before.let_go(self)

    def end(self, *, leaves: bool) -> None:
        """The journal is given free: nothing is sent from here any more. What it `leaves` may ask by what was announced."""
        self.has_ended = True
        if self._announced is not None and not leaves:
            self._announced.let_go(self)

    async def _stop(self, owner: AsyncRecovery, entries: list[RecoveryEntry], error: Exception) -> float | None:
        """A batch failed: keeps what has been answered, doubts what may have been executed."""
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
            await self._judge_all(owner, answered, replies[: sum(entry.payload.count for entry in answered)])
        sent = max(len(answered), getattr(error, "sent", len(entries)))
        self._release_all(entries[sent:])
        return await self._doubt(owner, entries[len(answered) : sent], error)

    async def _doubt(self, owner: AsyncRecovery, entries: list[RecoveryEntry], error: Exception) -> float | None:
        """These had no answer: what that means for each."""
        if isinstance(error, CircuitOpenError):
            self._release_all(entries)
            # Somebody else's call may be the probe. Its end changes the state, which wakes the worker; should it be
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
            await self._finish(owner, entries)
            return None
        closed = self._guard.state == "closed"
        for entry in entries:
            write = entry.payload
            write.result.error = error
            if outcome is Outcome.UNKNOWN:
                write.doubt_by(error)
                owner.rewrite(write, entry)
            if closed:
                self._count(owner, entry)
            else:
                self._release(entry)
        if outcome is not Outcome.UNKNOWN and owner.journal is not None:
            await self._announce_none(owner)
        return self._settings.base_delay if closed else SHORTEST_WAIT_S

    async def _announce_none(self, owner: AsyncRecovery) -> None:
        try:
            await self.announce(owner, [], None)
        except RecoveryJournalError:
            pass  # then a successor doubts what it need not doubt

    async def _resolve(self, owner: AsyncRecovery, entries: list[RecoveryEntry]) -> list[RecoveryEntry]:
        """Has those in doubt decided; returns what may be sent."""
        doubted = [entry for entry in entries if entry.payload.doubt is not None]
        if not doubted:
            return entries
        try:
            self._adopt(owner, doubted)
            verdicts = await owner.resolver.resolve([_in_doubt(entry) for entry in doubted])
        except Exception as error:
            logger.warning("what became of queued writes cannot be told now: %s", type(error).__name__)
            verdicts = [Resolution.LATER] * len(doubted)
        if self.has_ended:
            return []
        applied = []
        not_sent = set()
        for entry, verdict in zip(doubted, verdicts, strict=True):
            if verdict is Resolution.SEND:
                entry.payload.doubt = None
                if not entry.payload.shape.is_absolute:
                    owner.rewrite(entry.payload, entry)
                continue
            not_sent.add(entry.id)
            if verdict is Resolution.APPLIED:
                applied.append(entry)
            elif verdict is Resolution.UNKNOWN:
                owner.bury(entry, "unknown")
            else:
                self._retry(entry, LATER_PAUSE_S)
        if applied:
            await self._finish(owner, applied)
        return [entry for entry in entries if entry.id not in not_sent]

    def _adopt(self, owner: AsyncRecovery, doubted: Sequence[RecoveryEntry]) -> None:
        """What a predecessor left is resolved together: its writes share markers, which are deleted once they have served."""
        if any(_is_left(entry.payload) for entry in doubted):
            owner.resolver.adopt([entry.payload for entry in self._queue.entries() if _is_left(entry.payload)])

    async def _judge_all(self, owner: AsyncRecovery, entries: Sequence[RecoveryEntry], replies: Sequence[Any]) -> bool:
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
                mine = [outcome] * len(write.shape.names) if _failed(outcome) or outcome is None else outcome
            failed = [place for place, reply in enumerate(mine) if _failed(reply) and _is_failure(reply)]
            if not failed:
                values = owner.sender.shaped(write, mine)
                write.result.value = values if write.shape.is_pipeline else values[0]
                done.append(entry)
                continue
            error: Any = mine[failed[0]]
            write.result.error = error
            executed = write.shape.is_transaction and not _failed(replies[first - 1])
            write.only(failed)
            if executed or not _may_succeed_later(error):
                owner.bury(entry, "rejected")
            else:
                trouble = trouble or classify(error)[0] is not None
                again = True
                owner.rewrite(
                    write, entry
                )  # what is left of it; what was said of this attempt does not hold for the next
                self._count(owner, entry)
        if again:
            await self._announce_none(owner)
        if done:
            await self._finish(owner, done)
        return trouble

    async def _finish(self, owner: AsyncRecovery, entries: Sequence[RecoveryEntry]) -> None:
        """Entries have been executed: they leave the journal, then the queue."""
        journal = owner.journal
        if journal is not None:
            await journal.finish([entry.payload.record for entry in entries if entry.payload.record is not None])
        if not self.has_ended:  # else they are a successor's, who finds out that they have been executed
            owner.complete(entries)

    # --- the queue ----------------------------------------------------------------------------------------------------

    def _count(self, owner: AsyncRecovery, entry: RecoveryEntry) -> None:
        """A retry that counts against the entry."""
        settings = self._settings
        if entry.attempts + 1 >= settings.max_attempts:
            owner.bury(entry, "attempts")
            return
        pause_s = exponential_backoff(entry.attempts, settings.base_delay, settings.max_delay)
        # Retries share the budget of the client's own: without it they wait their longest.
        self._retry(entry, pause_s if self._guard.pay_retry() else settings.max_delay)

    def _retry(self, entry: RecoveryEntry, delay_s: float) -> None:
        try:
            self._queue.retry(entry.id, delay_s, lease=entry.lease)
        except KeyError:
            pass  # given up meanwhile

    def _release(self, entry: RecoveryEntry) -> None:
        try:
            self._queue.release(entry.id, lease=entry.lease)
        except KeyError:
            pass  # done with, given up, or taken over by another worker meanwhile

    def _release_all(self, entries: Sequence[RecoveryEntry]) -> None:
        for entry in entries:
            self._release(entry)


def _in_doubt(entry: RecoveryEntry) -> InDoubt:
    write = entry.payload
    predecessor = segment_of(write.record) if write.is_inherited and write.record is not None else None
    return InDoubt(
        write.packed,
        write.shape.is_transaction,
        write.shape.is_absolute,
        entry.keys,
        write.doubt,
        predecessor,
        write.ticket,
    )


def _is_left(write: Any) -> bool:
    """Whether a predecessor has said what resolves it, and nobody has looked at that yet."""
    return isinstance(write, AsyncCommandWrite) and write.is_inherited and bool(write.doubt) and write.ticket is None


def _is_ours(error: Exception) -> bool:
    """Whether an error's text is known not to quote what was to be stored."""
    return isinstance(error, RecoveryJournalError)


def _is_failure(reply: Exception) -> bool:
    """Whether an error among the replies means that the command did not do what it says (a value may be undecodable)."""
    return not isinstance(reply, UnicodeError)


def _may_succeed_later(error: Exception) -> bool:
    """Whether a command that the server refused may succeed later, without anybody changing the command."""
    if classify(error)[0] is not None or isinstance(error, OutOfMemoryError):
        return True
    return str(error).startswith("MISCONF")


async def async_work(recovery: weakref.ref[AsyncRecovery], wake: AsyncEvent, stopped: AsyncEvent) -> None:
    """The worker's life; it does not keep a client alive for which nothing waits."""
    try:
        while not stopped.is_set():
            # Cleared before looking: what happens after this line wakes the wait below.
            wake.clear()
            owner = recovery()
            if owner is None:
                return
            pause_s = await owner.drain()
            if not owner.is_waiting():
                # Nothing waits, so nothing is lost if the client is abandoned meanwhile: its end wakes the wait.
                del owner
            await wake.wait(pause_s)
    except BaseException:
        # This event loop ends. Another one that the client lives in goes on with what waits.
        owner = recovery()
        if owner is not None and owner.is_waiting() and not stopped.is_set():
            owner.hand_over()
        raise
