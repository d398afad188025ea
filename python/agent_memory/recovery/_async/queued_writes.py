"""Writes with a priority: what each is, how it is tried, what is reported. The queue's entries are these objects.

- `AsyncStoreResult` is what the caller gets and keeps.
- `AsyncFunctionWrite` is one call of `store_with_retry`: a function whose keys and effects are not known.
- `AsyncCommandWrite` is one command, or the commands of a pipeline, packed: what a journal can keep and a drain can pipeline.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from redis.exceptions import AuthenticationError, AuthorizationError

from agent_memory import _check
from agent_memory._concurrency import AsyncEvent, async_settle
from agent_memory.policy import Priority
from agent_memory.recovery.results import DeadLetter, StoreStatus
from agent_memory.redis.commands.keys import KNOWN_NAMES
from agent_memory.redis.error_outcomes import classify

if TYPE_CHECKING:
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = [
    "AsyncCommandWrite",
    "AsyncInheritedCommandWrite",
    "AsyncStoreResult",
    "AsyncFunctionWrite",
    "Shape",
    "as_dead_letter",
    "is_outage",
    "shape_of",
    "shown_as",
]

logger: Final = logging.getLogger("agent_memory.storage")

_making_events: Final = threading.Lock()

_ENTRY_BYTES: Final = 360
"""What an entry takes beside its keys and its packed commands, in bytes, by `benches/python/bench_recovery.py`; counted in
`max_bytes`."""


class AsyncStoreResult:
    """What became of a write with a priority: true only when it is stored.

    A queued write's result changes when the write is done with; `wait()` waits for that. A write that takes the place of an
    older one that still waits has that one's result too: a waiter for the older gets the newer's outcome. Safe to read
    from any thread. A `wait()` that is cancelled leaves the write where it is.
    """

    __slots__ = ("_settled", "durable", "error", "status", "value")

    def __init__(self) -> None:
        self.status: StoreStatus = StoreStatus.FAILED
        """Stored, queued, dropped or failed; equal to these words as str."""
        self.value: Any = None
        """Once stored: the reply, a pipeline's list of replies, or what `store_func` returned."""
        self.error: Exception | None = None
        """The last error met, if any."""
        self.durable = False
        """Whether it was queued in the journal, so that it survives this process as `RecoveryConfig.fsync` says."""
        self._settled: AsyncEvent | None = None

    def __bool__(self) -> bool:
        return self.status is StoreStatus.STORED

    def __repr__(self) -> str:
        error = f", error={type(self.error).__name__}" if self.error is not None else ""
        return f"<{type(self).__name__} {self.status}{error}>"

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits until a queued write is stored or given up, at most `timeout` seconds (None: for ever).

        Returns whether it is stored. Returns at once if it does not wait in the queue. Raises ValueError for a timeout that is
        not a number >= 0.
        """
        if timeout is not None:
            _check.at_least("timeout", timeout, 0)
        if self.status is StoreStatus.QUEUED:
            # Made by the first waiter: most of a million queued writes have none.
            with _making_events:
                settled = self._settled
                if settled is None:
                    settled = self._settled = AsyncEvent()
            if self.status is not StoreStatus.QUEUED:
                settled.set()  # it was settled between the two lines above
            await settled.wait(timeout)
        return bool(self)

    def _queue(self) -> None:
        self.status = StoreStatus.QUEUED

    def _settle(self, status: StoreStatus) -> None:
        self.status = status
        self._release()

    def _release(self) -> None:
        """Wakes the waiters: the result is final."""
        settled, self._settled = self._settled, None
        if settled is not None:
            settled.set()


class AsyncFunctionWrite:
    """One call of `store_with_retry`: what to store and how, and its result."""

    __slots__ = (
        "_client_name",
        "agent_id",
        "attempts",
        "name",
        "priority",
        "record",
        "result",
        "state",
        "store",
        "unknown_token",
    )

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
        self.name: str | None = None
        """The name that `store` is registered by."""
        self.record: int | None = None
        """Its id in the journal."""
        self.unknown_token: bytes | None = None
        self.result = AsyncStoreResult()

    @property
    def keys(self) -> list[bytes]:
        """What orders it: a name of its own kind, since the keys that a function writes are not known."""
        return [b"agent_memory:agent:" + self.agent_id.encode("utf-8", "surrogatepass")]

    async def attempt(self) -> bool:
        """Tries to store; False for a false value and for an error of the connection, raises any other error.

        The caller settles the result, when it has left the queue.
        """
        self.attempts += 1
        try:
            value = await async_settle(self.store(self.agent_id, self.state))
        except Exception as error:
            self.result.error = error
            if is_outage(error):
                return False
            logger.error("%s: store_with_retry failed: %s", self._client_name, type(error).__name__)
            raise
        if not value:
            return False
        self.result.value = value
        return True


class Shape(NamedTuple):
    """What commands are, whatever their keys and values; one object for all the writes that are alike."""

    names: tuple[str, ...]
    """The commands' names, by which replies are shaped."""
    is_absolute: bool
    is_pipeline: bool = False
    """Whether the value is a list."""
    is_transaction: bool = False
    options: tuple[dict[str, Any], ...] | None = None
    """What redis-py's callbacks want to know; None where that is nothing."""


shape_of: Final = lru_cache(maxsize=KNOWN_NAMES)(Shape)
"""One shape for all writes that are alike: there may be a million of them."""


class _Attempted:
    """What is known of a write beside its record once an attempt at it was made: few of a million that wait have one."""

    __slots__ = ("record", "ticket", "unknown_token")

    def __init__(self, record: int | None) -> None:
        self.record = record
        self.unknown_token: bytes | None = None
        self.ticket: Ticket | None = None


class AsyncCommandWrite:
    """One command, or the commands of a pipeline, as they are sent; and its result."""

    # A million of these may wait. So one command is kept without a tuple around it, and what nearly all of them have none of,
    # `unknown_token` and `ticket`, shares a slot with `record`.
    __slots__ = ("_known", "_packed", "result", "shape")

    is_inherited: ClassVar[bool] = False
    """Whether a process that has died left it."""

    def __init__(self, packed: bytes | tuple[bytes, ...], shape: Shape) -> None:
        self._packed = packed
        self.shape = shape
        self._known: _Attempted | int | None = None
        self.result = AsyncStoreResult()

    @property
    def packed(self) -> tuple[bytes, ...]:
        """Its commands, each as it is sent."""
        packed = self._packed
        return (packed,) if isinstance(packed, bytes) else packed

    @property
    def record(self) -> int | None:
        """Its id in the journal."""
        known = self._known
        return known.record if isinstance(known, _Attempted) else known

    @record.setter
    def record(self, record: int | None) -> None:
        if isinstance(self._known, _Attempted):
            self._known.record = record
        else:
            self._known = record

    @property
    def unknown_token(self) -> bytes | None:
        """None unless its outcome is unknown; then what the error said for a resolver, b"" for nothing."""
        known = self._known
        return known.unknown_token if isinstance(known, _Attempted) else None

    @unknown_token.setter
    def unknown_token(self, unknown_token: bytes | None) -> None:
        if unknown_token is not None or isinstance(self._known, _Attempted):
            self._attempted().unknown_token = unknown_token

    @property
    def ticket(self) -> Ticket | None:
        """What its record names to be resolved by, which is held for it; None for nothing."""
        known = self._known
        return known.ticket if isinstance(known, _Attempted) else None

    @ticket.setter
    def ticket(self, ticket: Ticket | None) -> None:
        if ticket is not None or isinstance(self._known, _Attempted):
            self._attempted().ticket = ticket

    def _attempted(self) -> _Attempted:
        known = self._known
        if not isinstance(known, _Attempted):
            known = self._known = _Attempted(known)
        return known

    def note_unknown(self, error: Exception) -> None:
        """An attempt at it ended with `error`, and may have been executed."""
        self.unknown_token = getattr(error, "unknown_token", b"")
        ticket: Ticket | None = getattr(error, "ticket", None)
        if ticket is not self.ticket:
            self.release()
            if ticket is not None:
                ticket.hold(self)
            self.ticket = ticket

    def release(self) -> None:
        """Its record is gone, or names nothing any more."""
        known = self._known
        if isinstance(known, _Attempted):
            ticket, known.ticket = known.ticket, None
            if ticket is not None:
                ticket.release(self)

    def leave_journal(self) -> None:
        """It has been executed: its record is gone."""
        if self._known is not None:
            self.record = None
            self.release()

    @property
    def size_bytes(self) -> int:
        """What it counts for in `max_bytes`, its keys apart."""
        packed = self._packed
        return _ENTRY_BYTES + (len(packed) if isinstance(packed, bytes) else sum(map(len, packed)))

    @property
    def joined(self) -> bytes:
        """Its commands in one piece."""
        packed = self._packed
        return packed if isinstance(packed, bytes) else b"".join(packed)

    @property
    def count(self) -> int:
        """How many replies it gets."""
        return len(self.shape.names) + 2 * self.shape.is_transaction

    def only(self, places: Sequence[int]) -> None:
        """Leaves only these of its commands: the others have been executed."""
        packed, shape = self.packed, self.shape
        self._packed = tuple(packed[place] for place in places)
        options = None if shape.options is None else tuple(shape.options[place] for place in places)
        self.shape = shape._replace(names=tuple(shape.names[place] for place in places), options=options)


class AsyncInheritedCommandWrite(AsyncCommandWrite):
    """Commands that a process that has died left in its journal."""

    __slots__ = ()

    is_inherited: ClassVar[bool] = True


def as_dead_letter(write: Any, entry: Any) -> DeadLetter:
    """A write as it is shown when it was given up; `entry` is the queue's."""
    error = write.result.error
    name = None if error is None else type(error).__name__
    operation, shown = shown_as(write, entry.keys)
    attempts = write.attempts if isinstance(write, AsyncFunctionWrite) else entry.attempts
    return DeadLetter(entry.id, shown, Priority(entry.priority), attempts, entry.reason or "", name, operation)


def shown_as(write: Any, keys: Sequence[bytes]) -> tuple[str, str]:
    """How a write is shown: its operation, and its agent_id or its first key."""
    if isinstance(write, AsyncFunctionWrite):
        return "store_with_retry", write.agent_id
    names = write.shape.names
    operation = names[0] if len(names) == 1 else "PIPELINE"
    return operation, keys[0].decode("utf-8", "backslashreplace") if keys else ""


def is_outage(error: Exception) -> bool:
    """Whether the same write may succeed later: the connection's errors, but not a wrong password."""
    return classify(error)[0] is not None and not isinstance(error, AuthenticationError | AuthorizationError)
