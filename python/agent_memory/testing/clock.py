"""A clock that is moved by hand."""

from __future__ import annotations

import math
import threading

__all__ = ["ManualClock"]


class ManualClock:
    """
    A monotonic clock for tests: calling it returns nanoseconds, advance() moves it.

    Takes the place of `time.monotonic_ns` wherever a clock can be passed in. Thread-safe: each call sees a time at
    least as late as any earlier call did. Starts at `start_ns` (default: one hour, so that subtracting a timeout never
    gives a negative time).
    """

    def __init__(self, start_ns: int = 3_600_000_000_000) -> None:
        """Set the clock. Raises ValueError below 0."""
        if start_ns < 0:
            raise ValueError(f"start_ns must be at least 0, not {start_ns!r}")
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
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds must be at least 0, not {seconds!r}: a monotonic clock never goes back")
        return self.advance_ns(round(seconds * 1e9))

    def advance_ns(self, nanoseconds: int) -> int:
        """Move on by whole nanoseconds and return the new time in ns. Raises ValueError below 0."""
        if nanoseconds < 0:
            raise ValueError(f"nanoseconds must be at least 0, not {nanoseconds!r}: a monotonic clock never goes back")
        with self._lock:
            self._now_ns += nanoseconds
            return self._now_ns

    def __repr__(self) -> str:
        """With the time in seconds."""
        return f"<ManualClock {self.time():.9f} s>"
