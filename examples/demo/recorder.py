"""Everything that is measured during a run, with the time of the run it happened at."""

from __future__ import annotations

import enum
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Ending", "Mark", "PhaseSpan", "QueuePoint", "Recorder", "Sample", "StateChange"]


class Ending(enum.StrEnum):
    """How one operation ended, as its caller saw it."""

    ANSWERED = "answered"
    STORED = "stored"
    QUEUED = "queued"
    DROPPED = "dropped"
    """A write of low priority, given up at once."""
    CIRCUIT_OPEN = "circuit open"
    """Refused by the open circuit, without trying."""
    NOT_SENT = "not sent"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    """An error after which the effect is not known: most often a timeout."""
    FAILED = "failed"
    """store_with_retry gave the write up."""
    UNEXPECTED = "unexpected"
    """An exception that no caller should have to expect. The verdict does not forgive it."""

    @property
    def good(self) -> bool:
        """Whether the server did what was asked."""
        return self in (Ending.ANSWERED, Ending.STORED)


class Sample(NamedTuple):
    """One operation that has ended. A command is GET, SET, HSET, INCR; else it was store_with_retry."""

    end_ns: int
    latency_ns: int
    client: str
    is_command: bool
    ending: Ending


class StateChange(NamedTuple):
    """A circuit changed its state."""

    at_ns: int
    client: str
    state: str


class QueuePoint(NamedTuple):
    """How many writes waited in a client's recovery queue."""

    at_ns: int
    client: str
    length: int


class Mark(NamedTuple):
    """Something that was done to the server."""

    at_ns: int
    name: str


@dataclass(slots=True)
class PhaseSpan:
    """A phase; `end_ns` is 0 while it lasts."""

    name: str
    start_ns: int
    end_ns: int = 0


class Recorder:
    """Takes samples from any thread; everything else is called by the thread that conducts the run or the sampler's."""

    def __init__(self, clients: list[str]) -> None:
        self.clients = clients
        self.start_ns = time.monotonic_ns()
        self.samples: list[Sample] = []
        self.states = [StateChange(self.start_ns, client, "closed") for client in clients]
        self.queues: list[QueuePoint] = []
        self.marks: list[Mark] = []
        self.phases: list[PhaseSpan] = []
        self.unexpected: list[str] = []
        """Descriptions of unexpected exceptions, the first few."""
        self._inbox: deque[Sample] = deque()
        self.add = self._inbox.append  # a deque's append is atomic: workers share it without a lock

    def collect(self) -> None:
        """Moves what the workers have added to `samples`."""
        inbox = self._inbox
        for _ in range(len(inbox)):
            self.samples.append(inbox.popleft())

    def recent(self, window_s: float) -> list[Sample]:
        """The samples of the last `window_s` seconds. They are added in about the order in which they ended."""
        oldest_ns = time.monotonic_ns() - int(window_s * 1e9)
        found = []
        for sample in reversed(self.samples):
            if sample.end_ns < oldest_ns:
                break
            found.append(sample)
        return found

    def change_state(self, client: str, state: str) -> None:
        """A circuit changed its state now."""
        self.states.append(StateChange(time.monotonic_ns(), client, state))

    def measure_queue(self, client: str, length: int) -> None:
        """A recovery queue's length now."""
        self.queues.append(QueuePoint(time.monotonic_ns(), client, length))

    def mark(self, name: str) -> None:
        """Something is done to the server now."""
        self.marks.append(Mark(time.monotonic_ns(), name))

    def begin_phase(self, name: str) -> None:
        """The phase before it ends and `name` begins."""
        now_ns = time.monotonic_ns()
        if self.phases:
            self.phases[-1].end_ns = now_ns
        self.phases.append(PhaseSpan(name, now_ns))

    def end_phases(self) -> None:
        """The last phase ends."""
        self.phases[-1].end_ns = time.monotonic_ns()

    def report_unexpected(self, error: BaseException) -> None:
        """Remembers an exception that should not have happened."""
        if len(self.unexpected) < 20:
            self.unexpected.append(f"{type(error).__name__}: {error}")
