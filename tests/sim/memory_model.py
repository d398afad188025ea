"""
The stores of agent memory as a model: what SQL, Redis and a journal hold, and what each of their commands does.

The decisions are those of `agent_memory.memory._copy_rules` and `memory_rules`, taken from the namespace that is handed in,
so that a simulation can take one of them away and see whether anything breaks. The methods of `ModelRedis` are the scripts of
`agent_memory.memory` line by line; a test runs both on the same commands and compares.
"""

from __future__ import annotations

import types
from typing import NamedTuple

import memory_rules
from memory_rules import Epoch

from agent_memory.memory import _copy_rules
from agent_memory.memory._copy_rules import Stamp

LIFETIME = 1_000
"""The longest time a command may be under way, in ticks of the model's clock."""


class Away(Exception):
    """A store does not answer: nothing was done."""


class Held(NamedTuple):
    """A copy in Redis."""

    stamp: Stamp
    payload: object
    dirty: bool
    epoch: Epoch | None


class Row(NamedTuple):
    """A row in SQL."""

    stamp: Stamp
    payload: object
    tier: str


def rules_without(*names):
    """The rules, but for those whose ablation is named."""
    real = {**vars(_copy_rules), **vars(memory_rules)}
    rules = types.SimpleNamespace(**{name: value for name, value in real.items() if name[0] != "_"})
    # What a store, a reader or the sync does beyond a single decision; an ablation switches it off.
    rules.sql_is_guarded = rules.redis_is_guarded = True
    rules.deletes_leave_tombstones = rules.carried_epochs_are_checked = rules.read_epochs_are_checked = True
    rules.late_floors_follow_the_clock = rules.sync_drops_the_beaten = rules.redis_follows_the_feed = True
    rules.cursor_precedes_the_epoch = rules.dirty_copies_are_compared = rules.sequence_is_taken_in_order = True
    rules.epochs_have_a_nonce = rules.puts_follow_only_what_is_next = rules.puts_follow_with_late_floors = True
    rules.leases_are_trusted = False
    for name in names:
        ABLATIONS[name](rules)
    return rules


def _set(**changes):
    return lambda rules: rules.__dict__.update(changes)


ABLATIONS = {
    "R1 in SQL": _set(sql_is_guarded=False),
    "R1 in Redis": _set(redis_is_guarded=False),
    "R2 tombstones": _set(deletes_leave_tombstones=False),
    "R2 nothing beats a tombstone": _set(
        beats=lambda new, held: held is None or new[1:] > held[1:],
        floor_refuses=lambda floor, stamp: floor is not None and 2 * stamp.version < floor,
    ),
    "R3 floors": _set(floor_refuses=lambda floor, stamp: False),
    "R3 floors of late syncs": _set(late_floors_follow_the_clock=False),
    "R4 puts carry an epoch": _set(carried_epochs_are_checked=False),
    "R4 copies carry an epoch": _set(read_epochs_are_checked=False),
    "R4 the run_id": _set(same_epoch=lambda carried, current, run_id: carried is not None and carried == current),
    "R4 the nonce": _set(epochs_have_a_nonce=False),
    "R5 dirty copies have no TTL": _set(is_evictable=lambda is_dirty: True),
    "R5 marked clean only if unchanged": _set(unchanged=lambda held, seen: held is not None),
    "R5 dropped if SQL is newer": _set(sync_drops_the_beaten=False),
    "R5 dirty copies are compared": _set(dirty_copies_are_compared=False),
    "R6 moved only if unchanged": _set(sql_unchanged=lambda held, seen: held is not None),
    "R6 moves raise no version": _set(moved_version=lambda version: version + 500),
    "R7 leases are not trusted": _set(leases_are_trusted=True),
    "the feed reaches Redis": _set(redis_follows_the_feed=False),
    "the cursor precedes the epoch": _set(cursor_precedes_the_epoch=False),
    "puts follow only what is next in the feed": _set(puts_follow_only_what_is_next=False),
    "puts that follow raise late floors": _set(puts_follow_with_late_floors=False),
    "sequence numbers are taken in order": _set(sequence_is_taken_in_order=False),
}


class ModelSQL:
    """One agent's rows and its change feed. A transaction is one call: it happens or it does not."""

    def __init__(self, rules):
        self.rules = rules
        self.rows = {}
        self.feed = []  # (seq, memory) in the order of commits
        self.seq = 0
        self.clock = 0
        self.skew = 0
        self.up = True
        self.stamp_of = {}  # payload -> the stamp of the write that brought it

    def _commit(self, memory, row, seq=None):
        self.rows[memory] = row
        if seq is None:
            self.seq += 1
            seq = self.seq
        self.feed.append((seq, memory))

    def fresh(self, memory, payload, writer, deleted, expected, seq=None):
        """A write whose version this store assigns; None if refused (deleted, or not the expected version)."""
        held = self.rows.get(memory)
        if held is not None and held.stamp.deleted:
            return None
        if expected is not None and (held is None or held.stamp.version != expected):
            return None
        last = 0 if held is None else held.stamp.version
        stamp = Stamp(deleted, self.rules.next_version(last, self.clock + self.skew), writer)
        self.stamp_of[payload] = stamp
        if deleted and not self.rules.deletes_leave_tombstones:
            self.rows.pop(memory, None)
            self.seq += 1
            self.feed.append((self.seq, memory))
        else:
            self._commit(memory, Row(stamp, payload, "stm"), seq)
        return stamp

    def absolute(self, memory, stamp, payload):
        """A write that comes with its stamp, from Redis or a journal; returns the row that is there afterwards."""
        held = self.rows.get(memory)
        if not self.rules.sql_is_guarded or self.rules.beats(stamp, None if held is None else held.stamp):
            if stamp.deleted and not self.rules.deletes_leave_tombstones:
                self.rows.pop(memory, None)
                return None
            self._commit(memory, Row(stamp, payload, "stm" if held is None else held.tier))
        return self.rows[memory]

    def move(self, memory, seen, tier):
        """Changes the label of a row that is as it was seen."""
        held = self.rows.get(memory)
        unchanged = getattr(self.rules, "sql_unchanged", self.rules.unchanged)
        if not unchanged(None if held is None else held.stamp, seen.stamp):
            return
        stamp = seen.stamp._replace(version=self.rules.moved_version(seen.stamp.version))
        self._commit(memory, Row(stamp, seen.payload, tier))

    def seq_of(self, memory):
        """The last place of a memory in the feed."""
        return max((seq for seq, one in self.feed if one == memory), default=0)

    def changes(self, after):
        """The feed after a sequence number: the highest number and the memories, each with the row it has now."""
        found = [(seq, memory) for seq, memory in self.feed if seq > after]
        return max((seq for seq, _ in found), default=after), {memory: self.rows.get(memory) for _, memory in found}

    def highest(self):
        return max((seq for seq, _ in self.feed), default=0)


class ModelRedis:
    """One agent's keys in Redis."""

    def __init__(self, rules):
        self.rules = rules
        self.copies = {}
        self.floors = {}
        self.epoch = None
        self.cursor = 0
        self.runs = 0
        self.run_id = "run0"
        self.clock = 0
        self.skew = 0
        self.up = True

    # --- faults ---

    def snapshot(self):
        return dict(self.copies), dict(self.floors), self.epoch, self.cursor

    def restart(self, snapshot):
        self.copies, self.floors, self.epoch, self.cursor = dict(snapshot[0]), dict(snapshot[1]), *snapshot[2:]
        self.runs += 1
        self.run_id = f"run{self.runs}"

    def flush(self):
        self.copies, self.floors, self.epoch, self.cursor = {}, {}, None, 0

    # --- scripts ---

    def now(self):
        return self.clock + self.skew

    def _raise_floor(self, memory, stamp, clock=0):
        floor = self.rules.floor_of(stamp, clock, 2 * LIFETIME)
        self.floors[memory] = self.rules.raised_floor(self.floors.get(memory, 0), floor)

    def _late(self):
        """The clock that late floors follow."""
        return self.now() if self.rules.late_floors_follow_the_clock else 0

    def trim_floors(self):
        horizon = 2 * (self.now() - 2 * LIFETIME)
        for memory in [memory for memory, floor in self.floors.items() if floor < horizon]:
            del self.floors[memory]

    def _current(self):
        """The epoch, if it is one of this run of the server."""
        return self.epoch if self.rules.same_epoch(self.epoch, self.epoch, self.run_id) else None

    def open_epoch(self, nonce, cursor):
        """Begins an epoch unless there is one; returns the one there is."""
        current = self._current()
        if current is None:
            current = self.epoch = Epoch(self.run_id, nonce if self.rules.epochs_have_a_nonce else "")
            self.cursor = cursor
        return current

    def current_epoch(self):
        return self._current()

    def put_clean(self, memory, stamp, payload, epoch, seq=0):
        """A copy that SQL holds, at this place of its feed; dropped unless it beats what is here and is of this epoch."""
        if self.rules.carried_epochs_are_checked and (epoch is None or epoch != self._current()):
            return "epoch"
        answer = self._put_clean(memory, stamp, payload)
        self._follow_next(epoch, memory, stamp, seq)
        return answer

    def _follow_next(self, epoch, memory, stamp, seq):
        """Where a row that was just written is the next of the feed, the feed need not bring it."""
        if seq and (self.cursor == seq - 1 or not self.rules.puts_follow_only_what_is_next):
            if self.rules.puts_follow_with_late_floors:
                self.follow(epoch, seq, {memory: stamp})
            elif epoch == self._current():
                self.cursor = max(self.cursor, seq)

    def _put_clean(self, memory, stamp, payload):
        rules = self.rules
        current = self._current()
        held = self._valid(memory)
        if rules.redis_is_guarded:
            if rules.floor_refuses(self.floors.get(memory), stamp):
                # A late floor may refuse what is newer than the copy here: then that goes, or it would stay for ever.
                if held is not None and rules.beats(stamp, held.stamp):
                    del self.copies[memory]
                return "floor"
            # The same copy, dirty: SQL holds it, so it is clean. Anything else is at least as new as this one.
            is_cleaned = held is not None and held.dirty and held.stamp == stamp
            if held is not None and not rules.beats(stamp, held.stamp) and not is_cleaned:
                return "held"
        if stamp.deleted:
            self.copies.pop(memory, None)
            if rules.deletes_leave_tombstones:
                self._raise_floor(memory, stamp, self._late())
            return "ok"
        self.copies[memory] = Held(stamp, payload, False, current)
        self._raise_floor(memory, stamp, self._late() if held is not None and held.dirty else 0)
        return "ok"

    def _valid(self, memory):
        """What is held, unless it is a clean copy of another epoch, which is nothing."""
        held = self.copies.get(memory)
        if held is None or held.dirty or not self.rules.read_epochs_are_checked:
            return held
        return held if held.epoch == self._current() and held.epoch is not None else None

    def put_dirty(self, memory, stamp, payload, base):
        """A copy that SQL does not hold. `base`: the version it was made from, None for a new memory or a delete."""
        rules = self.rules
        held = self._valid(memory)
        if held is not None and held.stamp == stamp:
            return "ok"
        if rules.floor_is_tombstone(self.floors.get(memory, 0)):
            return "deleted"
        if held is not None and held.stamp.deleted:
            return "deleted"
        if base is not None and (held is None or held.stamp.version != base):
            return "conflict"
        if rules.redis_is_guarded and held is not None and not rules.beats(stamp, held.stamp):
            return "held"
        if not stamp.deleted and rules.redis_is_guarded and rules.floor_refuses(self.floors.get(memory), stamp):
            return "floor"
        self.copies[memory] = Held(stamp, payload, True, None)
        return "ok"

    def mark_clean(self, memory, stamp, epoch, seq=0):
        """After SQL took the copy: clean it is, if it is still the same one. A tombstone leaves its floor only."""
        self._mark_clean(memory, stamp, epoch)
        self._follow_next(epoch, memory, stamp, seq)

    def _mark_clean(self, memory, stamp, epoch):
        rules = self.rules
        held = self.copies.get(memory)
        if held is None or not held.dirty or not rules.unchanged(held.stamp, stamp):
            return
        self._raise_floor(memory, stamp, self._late())
        current = self._current()
        if held.stamp.deleted or current is None or epoch != current:
            del self.copies[memory]
        else:
            self.copies[memory] = held._replace(dirty=False, epoch=current)

    def drop_beaten(self, memory, stamp, sql_stamp):
        """After SQL turned out to hold a greater one: the dirty copy goes, if it is still the same one."""
        held = self.copies.get(memory)
        if held is None or not held.dirty or not self.rules.unchanged(held.stamp, stamp):
            return
        del self.copies[memory]
        self._raise_floor(memory, sql_stamp, self._late())

    def follow(self, epoch, cursor, stamps):
        """Rows after the cursor: floors rise, lower copies go, the cursor moves."""
        if self._current() is None or self._current() != epoch:
            return
        for memory, stamp in stamps.items():
            held = self.copies.get(memory)
            if held is not None and stamp > held.stamp and (not held.dirty or stamp.deleted):
                del self.copies[memory]
            self._raise_floor(memory, stamp, self._late())
        self.cursor = max(self.cursor or 0, cursor)

    def evict(self, memory):
        """The residency of a copy is over."""
        held = self.copies.get(memory)
        if held is not None and self.rules.is_evictable(held.dirty):
            del self.copies[memory]

    def dirty(self):
        return {memory: held for memory, held in self.copies.items() if held.dirty}

    def get(self, memory):
        """What a reader gets: a copy and whether it is dirty, or None. Clean copies of other epochs are misses."""
        return self._valid(memory)
