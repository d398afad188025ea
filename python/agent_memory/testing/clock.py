"""A clock that is moved by hand."""

from __future__ import annotations

import threading

from agent_memory import _check

__all__ = ["ManualClock"]


class ManualClock:
    """
    A monotonic clock for tests: calling it returns nanoseconds, advance() moves it.

    Takes the place of `time.monotonic_ns` wherever a clock can be passed in. Thread-safe: each call sees a time at
    least as late as any earlier call did. Starts at `start_ns` nanoseconds (3,600,000,000,000: one hour, so that subtracting a
    timeout never gives a negative time). Raises ValueError for a start below 0.
    """

    def __init__(self, start_ns: int = 3_600_000_000_000) -> None:
        """See the class."""
        _check.whole("start_ns", start_ns, 0)
        self._now_ns = start_ns
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """Return the time in nanoseconds."""
        with self._lock:
            return self._now_ns

    def time(self) -> float:
        """Return the time in seconds, for what expects `time.monotonic`."""
        return self() / 1e9

    def advance(self, seconds: float) -> int:
        """Move on by `seconds` (rounded to the nanosecond) and return the new time in ns. Raises ValueError below 0."""
        _check.at_least("seconds", seconds, 0)
        return self.advance_ns(round(seconds * 1e9))

    def advance_ns(self, nanoseconds: int) -> int:
        """Move on by `nanoseconds`, whole ones, and return the new time in ns. Raises ValueError below 0."""
        _check.whole("nanoseconds", nanoseconds, 0)
        with self._lock:
            self._now_ns += nanoseconds
            return self._now_ns

    def __repr__(self) -> str:
        """With the time in seconds."""
        return f"<ManualClock {self.time():.9f} s>"
