"""What can be chosen about a run, and how its time is divided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["DEFAULT_SECONDS", "PHASE_TITLES", "SHORTEST_SECONDS", "DemoSettings"]

DEFAULT_SECONDS: Final = 56.0
SHORTEST_SECONDS: Final = 8.0
"""Below this the outages would end before the circuits open."""

_SHORTEST_AGENT_S: Final = 4.0
"""Below this nothing of the agent's would reach long-term memory between its outages."""

# Shares of the whole; what is left over goes to starting, draining and checking.
_SHARES: Final = {
    "compare": 0.21,
    "steady": 0.10,
    "stalled": 0.08,
    "resumed": 0.11,
    "killed": 0.12,
    "restarted": 0.14,
    "agent": 0.17,
}

PHASE_TITLES: Final = {
    "compare": "beside redis-py",
    "steady": "steady",
    "stalled": "stalled",
    "resumed": "resumed",
    "killed": "killed",
    "restarted": "restarted",
    "check": "checking",
    "agent": "an agent's memory",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """One run of the demo. Raises ValueError for a value outside its rule."""

    seconds: float = DEFAULT_SECONDS
    """About how long the run takes, >= 8."""
    report_path: Path = Path("demo-report.html")
    plain: bool = False
    """Lines instead of a live dashboard."""
    seed: int = 1
    """Of everything the workers choose; what the scheduler does to them is not repeatable."""
    threads: int = 8
    """Of these and of the tasks, every fourth stores by priority."""
    tasks: int = 32
    thread_pause_s: float = 0.008
    """A worker rests about this long after each operation: the callers of a service, not a benchmark."""
    task_pause_s: float = 0.016
    socket_timeout_s: float = 0.5
    circuit_threshold: int = 3
    compared_threads: int = 16
    compared_tasks: int = 50
    compared_slice_s: float = 0.4

    def __post_init__(self) -> None:
        if not self.seconds >= SHORTEST_SECONDS:
            raise ValueError(f"seconds must be >= {SHORTEST_SECONDS:g}, got {self.seconds!r}")

    def duration_s(self, phase: str) -> float:
        """How long `phase` lasts."""
        duration_s = self.seconds * _SHARES[phase]
        # However short the run: a stall must outlast the timeouts that make it known.
        if phase == "stalled":
            return max(duration_s, 2 * self.socket_timeout_s)
        return max(duration_s, _SHORTEST_AGENT_S) if phase == "agent" else duration_s
