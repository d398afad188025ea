"""The simulated disk: the journals of simulated processes, and what of them is left when a process is killed.

It stands where `agent_memory._core.Journal` stands for real: requests get tickets, are written in batches a moment later, and a
batch is there as a whole or not at all. What has not been written when its process is killed is lost; what has been written and
not synced is lost with the machine's power.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

__all__ = ["JournalOwner", "SimulatedDisk"]

BATCH_S: Final = (0.0001, 0.004)
"""Least and greatest time between a request and the end of its batch, in seconds."""
_ROW_BITS: Final = 48


class JournalOwner(Protocol):
    """What the disk needs of the process that a journal belongs to."""

    host: str
    journals: list[Any]


class _Segment:
    """What one process has written: records by row, notes by name, and what is being sent."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.owner: _Journal | None = None
        self.written: dict[str, Any] = {"records": {}, "notes": {}, "sent": (frozenset(), b"")}
        self.synced = _copy(self.written)


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    return {"records": dict(state["records"]), "notes": dict(state["notes"]), "sent": state["sent"]}


class SimulatedDisk:
    """The disk that all processes of one simulation share.

    - `forgets`: a process that is killed leaves nothing (to see that a test notices).
    - `without_notes`: notes are not kept (likewise).

    For one thread, as the simulation is.
    """

    def __init__(self, dice: random.Random) -> None:
        """Made by `Simulation`."""
        self.forgets = False
        self.without_notes = False
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # set by the simulation
        self._dice = dice
        self._segments: list[_Segment] = []

    @property
    def records(self) -> int:
        """Records in all journals, those not synced yet included."""
        return sum(len(segment.written["records"]) for segment in self._segments)

    def delay_s(self) -> float:
        """How long a batch takes, in seconds."""
        return self._dice.uniform(*BATCH_S)

    def open(self, process: JournalOwner, identity: str, fsync: str, interval_s: float) -> _Journal:
        """For the simulation: a journal of `process` named `identity`, by `fsync` and `interval_s` (seconds).

        It adopts what dead ones of the same identity left.
        """
        mine = [segment for segment in self._segments if segment.owner is None and segment.identity == identity]
        if not mine:
            mine = [_Segment(identity)]
            self._segments += mine
        return _Journal(self, process, mine, fsync, interval_s)

    def lose(self, journal: _Journal, *, power: bool) -> None:
        """For the simulation: the process of `journal` was killed; with `power` the machine went out."""
        for segment in journal.segments:
            segment.owner = None
            if self.forgets:
                segment.written = {"records": {}, "notes": {}, "sent": (frozenset(), b"")}
            elif power:
                segment.written = _copy(segment.synced)
            segment.synced = _copy(segment.written)


class _Journal:
    """One open journal; the methods are those of `agent_memory._core.Journal`, and `wait`."""

    def __init__(
        self, disk: SimulatedDisk, process: JournalOwner, segments: list[_Segment], fsync: str, interval_s: float
    ) -> None:
        self.segments = segments
        self._disk = disk
        self._fsync = fsync
        self._interval_s = interval_s
        self._dead = False
        self._asked: list[tuple[int, int, Any]] = []  # ticket, segment, change
        self._next_ticket = 1
        self._done = 0
        self._writing = False
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        for segment in segments:
            segment.owner = self
        written = segments[0].written
        self._next_row = max((*written["records"], *written["sent"][0]), default=0) + 1
        process.journals.append(self)

    # --- recovering -----------------------------------------------------------------------------------------------

    def take_recovered(self) -> list[tuple[int, bytes | None, bytes]]:
        """What was there, as (id, how it was being sent, body)."""
        found = []
        for number, segment in enumerate(self.segments):
            rows, how = segment.written["sent"]
            for row, body in sorted(segment.written["records"].items()):
                found.append((number << _ROW_BITS | row, how if row in rows else None, body))
        return found

    def uncertain(self) -> list[int]:
        """Nothing is damaged here."""
        return []

    def recovered_notes(self) -> list[tuple[int, str, bytes]]:
        """The notes that were there, as (segment, name, body)."""
        return [
            (number, name, body)
            for number, segment in enumerate(self.segments)
            for name, body in segment.written["notes"].items()
        ]

    # --- asking ---------------------------------------------------------------------------------------------------

    def append(self, body: bytes) -> tuple[int, int]:
        """Ask for a record."""
        row, self._next_row = self._next_row, self._next_row + 1
        return row, self._ask([(0, ("put", row, bytes(body)))])

    def replace(self, record: int, body: bytes) -> int:
        """Ask for a record to be replaced."""
        return self._ask([(record >> _ROW_BITS, ("put", record & ((1 << _ROW_BITS) - 1), bytes(body)))])

    def remove(self, records: Sequence[int]) -> int:
        """Ask for records to be removed."""
        rows = [(record >> _ROW_BITS, ("remove", record & ((1 << _ROW_BITS) - 1), b"")) for record in records]
        return self._ask(rows)

    def mark_sent(self, records: Sequence[int], how: bytes) -> int:
        """Ask to remember what is being sent."""
        changes = []
        for number in range(len(self.segments)):
            rows = frozenset(record & ((1 << _ROW_BITS) - 1) for record in records if record >> _ROW_BITS == number)
            changes.append((number, ("sent", rows, how)))
        return self._ask(changes)

    def note(self, name: str, body: bytes) -> int:
        """Ask for a note."""
        return self._ask([] if self._disk.without_notes else [(0, ("note", name, body))])

    def _ask(self, changes: list[tuple[int, Any]]) -> int:
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        self._asked += [(ticket, segment, change) for segment, change in changes or [(0, ("nothing", 0, b""))]]
        if not self._writing and not self._dead:
            self._writing = True
            self._disk.loop.call_later(self._disk.delay_s(), self._write)
        return ticket

    def _write(self) -> None:
        self._writing = False
        if self._dead:
            return
        asked, self._asked = self._asked, []
        for _, number, (kind, what, body) in asked:
            written = self.segments[number].written
            if kind == "put":
                written["records"][what] = body
            elif kind == "remove":
                written["records"].pop(what, None)
            elif kind == "sent":
                written["sent"] = (what, body)
            elif kind == "note":
                written["notes"][what] = body
        if asked:
            self._done = asked[-1][0]
        if self._fsync == "always":
            self._sync()
        elif self._fsync == "interval":
            self._disk.loop.call_later(self._interval_s, self._sync)
        for ticket, future in self._waiting:
            if ticket <= self._done and not future.done():
                future.set_result(None)
        self._waiting = [(ticket, future) for ticket, future in self._waiting if ticket > self._done]

    def _sync(self) -> None:
        if not self._dead:
            for segment in self.segments:
                segment.synced = _copy(segment.written)

    # --- waiting --------------------------------------------------------------------------------------------------

    async def wait(self, ticket: int) -> None:
        """Return when a ticket is done; never, where the process is dead."""
        if ticket > self._done or self._dead:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if not self._dead:
                self._waiting.append((ticket, future))
            await future

    def done(self) -> int:
        """The last ticket that is done."""
        return self._done

    def stats(self) -> dict[str, Any]:
        """Figures that a client looks at."""
        names = ("damaged_segments", "damaged_records", "removed_damaged_files", "torn_bytes", "foreign_segments")
        return dict.fromkeys(names, 0)

    # --- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what is asked for, and give the segments free."""
        if not self._dead:
            self._write()
            self._sync()
            self._dead = True
            for segment in self.segments:
                segment.owner = None

    def abandon(self) -> None:
        """Nothing forks here."""

    def die(self, *, power: bool) -> None:
        """The process was killed: what was not written is lost."""
        if not self._dead:
            self._dead = True
            self._disk.lose(self, power=power)
