"""`RecoveryConfig`: what a resilient client keeps of writes that failed, where, for how long, and how it repeats them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from agent_memory import _check

__all__ = ["FsyncName", "RecoveryConfig"]

FsyncName = Literal["always", "interval", "never"]
"""When the journal is forced to the disk; see `RecoveryConfig.fsync`."""
_FSYNC_NAMES: Final = get_args(FsyncName)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryConfig:
    """Bounds, pace and durability of the recovery queue; `recovery=` of both resilient clients.

    All times are seconds. Immutable, so one object may serve many clients. Raises ValueError for a value outside its rule.
    docs/reference/recovery.md says what each setting promises.
    """

    path: str | os.PathLike[str] | None = None
    """The directory of the journal, made if it is missing (mode 0700). None keeps queued writes in memory only. Any number of
    processes may share one directory."""
    write_ahead: bool = False
    """Whether a write with priority is in the journal before it is sent, so that it outlives this process. Needs `path`."""
    fsync: FsyncName = "always"
    """When a write counts as kept: "always" after fdatasync, shared by all that wait (survives loss of power); "interval"
    after write() (survives kill -9; loss of power costs at most the last `fsync_interval_s`); "never" likewise, without
    fdatasync but for the operating system's own."""
    fsync_interval_s: float = 1.0
    """Seconds between two fdatasyncs with fsync="interval". > 0."""
    max_entries: int = 10_000
    """The most writes that wait, those being retried included. A further write is refused (status "failed"). >= 1."""
    max_bytes: int = 64 * 1024 * 1024
    """The most memory their data may take, in bytes, as estimated when a write is queued. >= 1."""
    max_age_s: float = 3600.0
    """Seconds after which a write that waits is given up (to the dead letters). > 0."""
    max_attempts: int = 10
    """Retries of one write while the circuit is closed before it is given up; those during an outage do not count. >= 1."""
    base_delay: float = 0.5
    """Seconds before the first retry of a write that failed again; doubled with each further failure. > 0."""
    max_delay: float = 30.0
    """The longest pause between two retries of one write, in seconds. > 0."""
    max_dead_letters: int = 1_000
    """How many given-up writes are kept for inspection; beyond that the oldest is forgotten. >= 0."""
    drain_batch: int = 1_000
    """The most commands that a drain sends in one piece; it begins with one and doubles with each success. >= 1."""
    close_timeout_s: float = 2.0
    """Seconds that closing the client waits for the queue to drain. What is left stays in the journal, or, without one,
    becomes dead letters. >= 0."""
    open_journal: Callable[[RecoveryConfig, str], Any] | None = None
    """What opens the journal of a client in the place of the engine on disk, given this config and the client's identity, such
    as a simulated disk's (`SimulatedProcess.recovery_config`). None opens the directory `path`."""

    def __post_init__(self) -> None:
        if self.path is not None and not isinstance(self.path, str | os.PathLike):
            raise ValueError(f"path must be a directory's name or None, got {self.path!r}")
        if self.path is not None and not os.fspath(self.path):
            raise ValueError("path must be a directory's name or None, got ''")
        if self.fsync not in _FSYNC_NAMES:
            raise ValueError(f"fsync must be one of {', '.join(_FSYNC_NAMES)}, got {self.fsync!r}")
        _check.flag("write_ahead", self.write_ahead)
        if self.write_ahead and self.path is None:
            raise ValueError("write_ahead must be False without a path, got True")
        if self.open_journal is not None:
            _check.function("open_journal", self.open_journal)
            if self.path is None:
                raise ValueError("open_journal must be None without a path, got a function")
        _check.above("fsync_interval_s", self.fsync_interval_s, 0)
        _check.whole("max_entries", self.max_entries, 1)
        _check.whole("max_bytes", self.max_bytes, 1)
        _check.above("max_age_s", self.max_age_s, 0)
        _check.whole("max_attempts", self.max_attempts, 1)
        _check.above("base_delay", self.base_delay, 0)
        _check.above("max_delay", self.max_delay, 0)
        _check.whole("max_dead_letters", self.max_dead_letters, 0)
        _check.whole("drain_batch", self.drain_batch, 1)
        _check.at_least("close_timeout_s", self.close_timeout_s, 0)
