"""The rules by which copies of a memory agree, as pure functions: no store, no clock, no chance.

A memory has one authoritative row in SQL and any number of copies: in Redis, in an index, in a journal, in commands
that are still under way. Copies form a join ordered by (deleted, version, writer); whoever holds one applies another
only if it is greater. So late, duplicate and reordered writes do nothing, and no lock is needed for correctness.

    R1  Guarded upserts: a store applies a copy only if it beats the one it holds (`beats`).
    R2  A delete leaves a tombstone: a copy without payload that beats every live one. Ids are never used again.
    R3  Redis remembers a floor per memory that outlives the copy by REPLAY_LIFETIME_S, the longest life of a command;
        a clean put below it is refused (`floor_refuses`).
    R4  Clean puts carry the epoch that was read before the SQL statement whose result they bring. A clean copy or put
        of another epoch is a miss (`same_epoch`). An epoch is the server's run_id and a nonce: a restart ends it, and
        so does losing the agent's keys.
    R5  Dirty copies (accepted while SQL was away) have no TTL and stand in a dirty set written by the same script. The
        sync marks one clean only if it is unchanged (`unchanged`), and drops it if SQL holds a greater one.
    R6  Movers act only on an unchanged version and never raise it: the tier is a label.
    R7  Leases save work; nothing depends on them.

Two consequences that the simulation of `tests/sim/` insists on, beyond the rules themselves:

- Redis follows the change feed with a cursor per agent: for every row after the cursor the floor is raised and a lower
  copy is dropped. Otherwise a writer that dies between its commit and its put leaves a stale copy for ever. The cursor
  is set when an epoch begins, before anybody may put a clean copy of that epoch.
- A reader that knows a version (its index, its own writes) takes a lower copy for a miss (`is_hit`), and a dirty copy
  is compared with SQL while SQL is there: it may have come back with an old snapshot of Redis.

The Lua scripts of `_redis_scripts.py` and the statements of the SQL stores say the same in their languages; tests compare them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from agent_memory import _core

REPLAY_LIFETIME_S: Final = 600.0
"""How long floors live in Redis: twice the longest time that a command may be under way, clock skew included."""

REPLAY_LIFETIME_US: Final = int(REPLAY_LIFETIME_S * 1e6)

MAX_VERSION: Final = 2**52 - 1
"""Versions stay below 2^52, so that a floor (2 * version + deleted) is exact as a double: until the year 2112."""


class Stamp(NamedTuple):
    """What the order looks at: whether it is a tombstone, its version, and who wrote it (which breaks ties)."""

    deleted: bool
    version: int
    writer: int


class Epoch(NamedTuple):
    """One life of an agent's keys in one life of a Redis server."""

    run_id: str
    nonce: str


def next_version(last: int, clock_us: int) -> int:
    """The version of a new copy over `last` (0: none): microseconds since the epoch, but always at least last + 1."""
    return max(clock_us, last + 1)


def beats(new: Stamp, held: Stamp | None) -> bool:
    """R1, R2: whether `new` is to be applied where `held` is. Equal copies are the same copy: nothing to do."""
    return held is None or new > held


def floor_of(copy: Stamp, clock_us: int, lifetime_us: int = REPLAY_LIFETIME_US) -> int:
    """What Redis remembers of a copy that SQL holds: twice its version, odd for a tombstone.

    Floors below twice the clock less the lifetime are forgotten. A version is about the time of its commit, except
    where a dirty copy or a journal was synced late: a version older than half the lifetime counts as of `clock_us`, so
    that its floor lives long enough. That may refuse clean puts of the same copy meanwhile, which costs cache misses.
    """
    is_late = copy.version + lifetime_us // 2 < clock_us
    return 2 * (clock_us if is_late else copy.version) + copy.deleted


def raised_floor(held: int, new: int) -> int:
    """The floor that is left when `new` meets the one that is held (0: none); once a tombstone's, always one."""
    return max(held, new) | ((held | new) & 1)


def floor_is_tombstone(floor: int) -> bool:
    """Whether a floor belongs to a deleted memory."""
    return floor % 2 == 1


def floor_refuses(floor: int | None, copy: Stamp) -> bool:
    """R3: whether a floor refuses a clean put of `copy`. A tombstone's floor refuses every live copy."""
    if floor is None:
        return False
    if floor_is_tombstone(floor) and not copy.deleted:
        return True
    return not copy.deleted and 2 * copy.version < floor


def same_epoch(carried: Epoch | None, current: Epoch | None, run_id: str) -> bool:
    """R4: whether what carries an epoch belongs to the agent's `current` one on the server that has `run_id` now."""
    return carried is not None and carried == current and carried.run_id == run_id


def is_evictable(is_dirty: bool) -> bool:
    """R5: whether a copy may leave Redis before SQL has been asked."""
    return not is_dirty


def unchanged(held: Stamp | None, seen: Stamp) -> bool:
    """R5, R6: whether the copy is still the one that was looked at."""
    return held == seen


def moved_version(version: int) -> int:
    """R6: the version of a row after a move between tiers."""
    return version


is_expired = _core.is_expired
"""Whether a memory with `expires_at` is gone at `now`, swept or not; both in seconds since the epoch."""


def is_hit(held: Stamp, known_version: int) -> bool:
    """Whether a valid clean copy serves a reader that knows of `known_version` (0: nothing)."""
    return held.version >= known_version
