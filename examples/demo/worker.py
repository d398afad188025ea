"""What one caller does next. The same for threads and tasks: a step is a call, and what its end means to the ledger."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agent_memory.errors import CircuitOpenError, Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import Priority
from agent_memory.recovery.results import StoreStatus
from demo.ledger import CounterLedger, KeyLedger, QueuedWrite, foreign_reply, render_value
from demo.recorder import Ending

__all__ = ["CommandWorker", "Step", "StoreWorker", "Worker", "ending_of"]

_STRING_KEYS: Final = 4
_HASH_KEYS: Final = 2
_STORED_KEYS: Final = 12

_COMMANDS: Final = ("read", "set", "hset", "incr")
_WEIGHTS: Final = (54, 18, 13, 15)
_PRIORITIES: Final = (Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.LOW)
_PRIORITY_WEIGHTS: Final = (2, 3, 5, 2)

_ENDING_OF_STATUS: Final = {
    StoreStatus.STORED: Ending.STORED,
    StoreStatus.QUEUED: Ending.QUEUED,
    StoreStatus.DROPPED: Ending.DROPPED,
    StoreStatus.FAILED: Ending.FAILED,
}
_ENDING_OF_OUTCOME: Final = {
    Outcome.NOT_SENT: Ending.NOT_SENT,
    Outcome.REJECTED: Ending.REJECTED,
    Outcome.UNKNOWN: Ending.UNKNOWN,
}


def ending_of(error: BaseException) -> Ending:
    """How a call ended that raised `error`."""
    if isinstance(error, CircuitOpenError):
        return Ending.CIRCUIT_OPEN
    if isinstance(error, RedisUnavailableError | RedisTimeoutError):
        return _ENDING_OF_OUTCOME.get(error.outcome, Ending.UNEXPECTED)
    return Ending.UNEXPECTED


def _may_have_run(error: BaseException) -> bool:
    """Whether the command behind `error` may have been executed, now or later."""
    return getattr(error, "outcome", Outcome.UNKNOWN) not in (Outcome.NOT_SENT, Outcome.REJECTED)


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: `call()` does it, or gives an awaitable that does; then either `succeed` or `fail` is called."""

    is_command: bool
    call: Callable[[], Any]
    succeed: Callable[[Any], Ending]
    fail: Callable[[Exception], Ending]


class Worker:
    """One caller with keys of its own. `client` is a resilient client, sync or asyncio."""

    def __init__(self, name: str, client: Any, seed: int) -> None:
        self.name = name
        self.keys: list[KeyLedger] = []
        """Every key this worker writes, counters aside."""
        self.counter: CounterLedger | None = None
        self.queued: list[QueuedWrite] = []
        self.foreign_replies = 0
        self._client = client
        self._random = random.Random(f"{seed} {name}")

    def rest_s(self, pause_s: float) -> float:
        """How long to wait before the next operation: `pause_s` on average, so that workers do not march in step."""
        return self._random.uniform(0.5, 1.5) * pause_s

    def choose(self) -> Step:
        """The next operation."""
        raise NotImplementedError


class CommandWorker(Worker):
    """Calls GET, SET, HSET and INCR.

    `readable` is shared by all workers of a client: the string keys that any worker may read.
    """

    def __init__(self, name: str, client: Any, seed: int, readable: list[str]) -> None:
        super().__init__(name, client, seed)
        self._strings = [KeyLedger(f"{name}:string:{number}") for number in range(_STRING_KEYS)]
        self._hashes = [KeyLedger(f"{name}:hash:{number}", is_hash=True) for number in range(_HASH_KEYS)]
        self._counter = CounterLedger(f"{name}:counter")
        self._readable = readable
        readable.extend(ledger.key for ledger in self._strings)
        self.keys = [*self._strings, *self._hashes]
        self.counter = self._counter

    def choose(self) -> Step:
        """See Worker."""
        (command,) = self._random.choices(_COMMANDS, _WEIGHTS)
        if command == "read":
            return self._read(self._random.choice(self._readable))
        if command == "set":
            return self._set(self._random.choice(self._strings))
        if command == "hset":
            return self._hset(self._random.choice(self._hashes))
        return self._increment()

    def _read(self, key: str) -> Step:
        def succeed(value: Any) -> Ending:
            self.foreign_replies += foreign_reply(key, value)
            return Ending.ANSWERED

        return Step(True, lambda: self._client.get(key), succeed, ending_of)

    def _set(self, ledger: KeyLedger) -> Step:
        sequence = ledger.begin()
        value = render_value(ledger.key, sequence)
        return self._write(ledger, sequence, lambda: self._client.set(ledger.key, value))

    def _hset(self, ledger: KeyLedger) -> Step:
        sequence = ledger.begin()
        fields = _fields_of(ledger.key, sequence)
        return self._write(ledger, sequence, lambda: self._client.hset_dict(ledger.key, fields))

    def _write(self, ledger: KeyLedger, sequence: int, call: Callable[[], Any]) -> Step:
        def succeed(_: Any) -> Ending:
            ledger.accept(sequence)
            return Ending.ANSWERED

        def fail(error: Exception) -> Ending:
            if _may_have_run(error):
                ledger.note_unknown(sequence)
            return ending_of(error)

        return Step(True, call, succeed, fail)

    def _increment(self) -> Step:
        counter = self._counter
        counter.attempted += 1

        def succeed(_: Any) -> Ending:
            counter.acknowledged += 1
            return Ending.ANSWERED

        def fail(error: Exception) -> Ending:
            counter.unknown += _may_have_run(error)
            return ending_of(error)

        return Step(True, lambda: self._client.incr(counter.key), succeed, fail)


class StoreWorker(Worker):
    """Calls `store_with_retry`, with every priority; `store` is the function that it hands over."""

    def __init__(self, name: str, client: Any, seed: int, store: Callable[[str, Any], Any]) -> None:
        super().__init__(name, client, seed)
        self.keys = [KeyLedger(f"{name}:state:{number}", is_hash=True) for number in range(_STORED_KEYS)]
        self._store = store

    def choose(self) -> Step:
        """See Worker."""
        (priority,) = self._random.choices(_PRIORITIES, _PRIORITY_WEIGHTS)
        return self._store_with(self._random.choice(self.keys), priority)

    def _store_with(self, ledger: KeyLedger, priority: Priority) -> Step:
        sequence = ledger.begin()
        fields = _fields_of(ledger.key, sequence)

        def succeed(result: Any) -> Ending:
            # Read once: a queued write may be stored at any moment.
            status = result.status
            if status in (StoreStatus.STORED, StoreStatus.QUEUED):
                ledger.accept(sequence)
            elif result.error is not None and _may_have_run(result.error):
                ledger.note_unknown(sequence)
            if status == StoreStatus.QUEUED:
                self.queued.append(QueuedWrite(ledger.key, sequence, result))
            return _ENDING_OF_STATUS[status]

        def fail(error: Exception) -> Ending:
            ledger.note_unknown(sequence)
            return ending_of(error)

        def call() -> Any:
            return self._client.store_with_retry(ledger.key, fields, self._store, priority)

        return Step(False, call, succeed, fail)


def _fields_of(key: str, sequence: int) -> dict[str, str]:
    return {"value": render_value(key, sequence), "sequence": str(sequence)}
