"""The rules by which copies of a memory agree, as pure functions: no store, no clock, no chance.

A memory has one authoritative row in SQL and any number of copies: in Redis, in an index, in a journal, in commands
that are still under way. Copies form a join ordered by (deleted, version, writer); a holder of one applies another
only if it is greater. So late, duplicate and reordered writes do nothing, and no lock is needed for correctness.

    R1  Guarded upserts: a store applies a copy only if it beats the one it holds (`beats`).
    R2  A delete leaves a tombstone: a copy without payload that beats every live one. Ids are never used again.
    R3  Redis remembers a floor per memory that outlives the copy by REPLAY_LIFETIME_S, the longest life of a command;
        a clean put below it is refused.
    R4  Clean puts carry the epoch that was read before the SQL statement whose result they bring. A clean copy or put
        of another epoch is a miss. An epoch is the server's run_id and a nonce: a restart ends it, and
        so does losing the agent's keys.
    R5  Dirty copies (accepted while SQL was away) have no TTL and stand in a dirty set written by the same script. The
        sync marks one clean only if it is unchanged, and drops it if SQL holds a greater one.
    R6  Movers act only on an unchanged version and never raise it: the tier is a label.
    R7  Leases save work; nothing depends on them.

Two consequences that the simulation of `tests/sim/` insists on, beyond the rules themselves:

- Redis follows the change feed with a cursor per agent: for every row after the cursor the floor is raised and a lower
  copy is dropped. Otherwise a writer that dies between its commit and its put leaves a stale copy for ever. The cursor
  is set when an epoch begins, before any process may put a clean copy of that epoch. A put or a mark of exactly the rows
  that come next does the same, and moves the cursor past them.
- A reader that knows a version (its index, its own writes) takes a lower copy for a miss, and a dirty copy
  is compared with SQL while SQL is there: it may have come back with an old snapshot of Redis.

Here is what Python decides by these rules. The Lua scripts of `_redis_scripts.py` and the statements of the SQL stores say
them in their languages; tests compare the scripts with the model of `tests/sim/`, where all rules are functions.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from agent_memory import _core

REPLAY_LIFETIME_S: Final = 600.0
"""Seconds for which Redis keeps floors: twice the longest time that a command may be in flight, clock skew included."""

REPLAY_LIFETIME_US: Final = int(REPLAY_LIFETIME_S * 1e6)

MAX_VERSION: Final = 2**52 - 1
"""Versions stay below 2^52, so that a floor (2 * version + deleted) is exact as a double: until the year 2112."""


class Stamp(NamedTuple):
    """What the order looks at: whether it is a tombstone, its version, and its writer (which breaks ties)."""

    deleted: bool
    version: int
    writer: int


def next_version(last: int, clock_us: int) -> int:
    """The version of a new copy over `last` (0: none): microseconds since the epoch, but always at least last + 1."""
    return max(clock_us, last + 1)


def beats(new: Stamp, held: Stamp | None) -> bool:
    """R1, R2: whether `new` is to be applied where `held` is. Equal copies are the same copy: nothing to do."""
    return held is None or new > held


is_expired = _core.is_expired
"""Whether a memory with `expires_at` is gone at `now`, swept or not; both in seconds since the epoch."""
