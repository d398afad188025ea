# Generated from _async_writes.py by tools/generate_sync.py: edit that file, not this one.

"""Writes with a priority: what each is, how it is tried, what is told about it. The queue's entries are these objects.

- `StoreResult` is what the caller gets and keeps.
- `Write` is one call of `store_with_retry`: a function that nobody but its author understands.
- `Commands` is one command, or the commands of a pipeline, packed: what a journal can keep and a drain can pipeline.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.exceptions import AuthenticationError, AuthorizationError

from agent_memory._compat import Event, settle
from agent_memory.policy import Priority
from agent_memory.redis.outcomes import classify
from agent_memory.storage.results import DeadLetter, StoreStatus

if TYPE_CHECKING:
    from agent_memory.redis.exactly_once.tickets import Ticket

__all__ = ["Commands", "StoreResult", "Write", "Shape", "as_dead_letter", "is_outage", "shown_as"]

logger: Final = logging.getLogger("agent_memory.storage")

_making_events: Final = threading.Lock()

_ENTRY_BYTES: Final = 300
"""What an entry takes beside its keys and its packed commands, in bytes; counted in `max_bytes`."""


class StoreResult:
    """What became of a write with a priority: true only when it is stored.

    A queued write's result changes when the write is done with; `wait()` waits for that. A write that takes the place of an
    older one that still waits has that one's result too: whoever waits for the older is served by the newer. Safe to read
    from any thread.
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
        if self.status is StoreStatus.QUEUED:
            # Made by the first who waits: most of a million queued writes are waited for by nobody.
            with _making_events:
                settled = self._settled
                if settled is None:
                    settled = self._settled = Event()
            if self.status is not StoreStatus.QUEUED:
                settled.set()  # it was settled between the two lines above
            settled.wait(timeout)
        return bool(self)

    def _queue(self) -> None:
        self.status = StoreStatus.QUEUED

    def _settle(self, status: StoreStatus) -> None:
        self.status = status
        self._release()

    def _release(self) -> None:
        """Wakes whoever waits: nothing will change any more here."""
        settled, self._settled = self._settled, None
        if settled is not None:
            settled.set()


class Write:
    """One call of `store_with_retry`: what to store and how, and its result."""

    __slots__ = (
        "_client_name",
        "agent_id",
        "attempts",
        "doubt",
        "name",
        "priority",
        "record",
        "result",
        "state",
        "store",
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
        self.doubt: bytes | None = None
        self.result = StoreResult()

    @property
    def keys(self) -> list[bytes]:
        """What orders it: a name of its own kind, since nobody knows the keys that a function writes."""
        return [b"agent_memory:agent:" + self.agent_id.encode("utf-8", "surrogatepass")]

    def attempt(self) -> bool:
        """Tries to store; False for a false value and for an error of the connection, raises any other error.

        Whoever calls it settles the result, when it has left the queue.
        """
        self.attempts += 1
        try:
            value = settle(self.store(self.agent_id, self.state))
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


class Commands:
    """One command, or the commands of a pipeline, as they are sent; and its result."""

    __slots__ = ("doubt", "is_inherited", "packed", "record", "result", "shape", "ticket")

    def __init__(self, packed: tuple[bytes, ...], shape: Shape) -> None:
        self.packed = packed
        self.shape = shape
        self.is_inherited = False
        """Whether a process that has died left it."""
        self.doubt: bytes | None = None
        """None unless its outcome is unknown; then what the error said for a resolver, b"" for nothing."""
        self.record: int | None = None
        """Its id in the journal."""
        self.ticket: Ticket | None = None
        """What its record names to be resolved by, which is held for it; None for nothing."""
        self.result = StoreResult()

    def doubt_by(self, error: Exception) -> None:
        """An attempt at it ended with `error`, and may have been executed."""
        self.doubt = getattr(error, "doubt", b"")
        ticket: Ticket | None = getattr(error, "ticket", None)
        if ticket is not self.ticket:
            self.let_go()
            if ticket is not None:
                ticket.hold(self)
            self.ticket = ticket

    def let_go(self) -> None:
        """Its record is gone, or names nothing any more."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            ticket.let_go(self)

    @property
    def size_bytes(self) -> int:
        """What it counts for in `max_bytes`, its keys apart."""
        return _ENTRY_BYTES + sum(map(len, self.packed))

    @property
    def count(self) -> int:
        """How many replies it gets."""
        return len(self.packed) + 2 * self.shape.is_transaction

    def only(self, places: Sequence[int]) -> None:
        """Leaves only these of its commands: the others have been executed."""
        self.packed = tuple(self.packed[place] for place in places)
        shape = self.shape
        options = None if shape.options is None else tuple(shape.options[place] for place in places)
        self.shape = shape._replace(names=tuple(shape.names[place] for place in places), options=options)


def as_dead_letter(write: Any, entry: Any) -> DeadLetter:
    """A write as it is shown when it was given up; `entry` is the queue's."""
    error = write.result.error
    name = None if error is None else type(error).__name__
    operation, shown = shown_as(write, entry.keys)
    attempts = write.attempts if isinstance(write, Write) else entry.attempts
    return DeadLetter(entry.id, shown, Priority(entry.priority), attempts, entry.reason or "", name, operation)


def shown_as(write: Any, keys: Sequence[bytes]) -> tuple[str, str]:
    """How a write is shown: its operation, and its agent_id or its first key."""
    if isinstance(write, Write):
        return "store_with_retry", write.agent_id
    names = write.shape.names
    operation = names[0] if len(names) == 1 else "PIPELINE"
    return operation, keys[0].decode("utf-8", "backslashreplace") if keys else ""


def is_outage(error: Exception) -> bool:
    """Whether the same write may succeed later: the connection's errors, but not a wrong password."""
    return classify(error)[0] is not None and not isinstance(error, AuthenticationError | AuthorizationError)
