"""The wall clock, which a simulation puts another in the place of: `_wall_clock.now_ns()`, nanoseconds since 1970."""

from __future__ import annotations

import time

__all__ = ["now_ns"]

now_ns = time.time_ns
