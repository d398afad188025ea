"""The rules of `agent_memory.memory._copy_rules` that only Lua scripts and SQL statements decide by, as functions."""

from __future__ import annotations

from typing import NamedTuple

from agent_memory.memory._copy_rules import REPLAY_LIFETIME_US, Stamp


class Epoch(NamedTuple):
    """One life of an agent's keys in one life of a Redis server."""

    run_id: str
    nonce: str


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


def is_hit(held: Stamp, known_version: int) -> bool:
    """Whether a valid clean copy serves a reader that knows of `known_version` (0: nothing)."""
    return held.version >= known_version
