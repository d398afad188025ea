"""Whether the server of a pool can be reached, as its connections show: their loss and their return are events.

The state belongs to the pool and is for listeners and the log; no decision depends on it.
"""

from __future__ import annotations

import time
from typing import Any

from agent_memory.policy.event_listeners import publish
from agent_memory.policy.events import Event
from agent_memory.redis.error_outcomes import classify

__all__ = ["Reachability"]


class Reachability:
    """What is known of one pool's server. Any thread may use it: a change that two threads see at once may be two events."""

    __slots__ = ("_lost_since_s", "name", "opened", "times_lost")

    def __init__(self) -> None:
        self.name = "redis"
        """The name of the client that was made last on the pool."""
        self.opened = 0
        """Connections that were opened, a probe's included."""
        self.times_lost = 0
        """Connections that were lost, and those that could not be opened."""
        self._lost_since_s: float | None = None

    def connected(self, endpoint: str) -> None:
        """A connection stands, handshake included; or one that was silent is heard again."""
        self.opened += 1
        since_s, self._lost_since_s = self._lost_since_s, None
        if since_s is not None:
            away_s = round(time.monotonic() - since_s, 3)
            self._tell(
                endpoint,
                "lost",
                "connected",
                f"connection to {endpoint} regained after {away_s:.1f} s",
                None,
                {"away_s": away_s},
            )

    def lost(self, endpoint: str, error: BaseException) -> None:
        """A connection broke or fell silent under a call, or could not be opened; `error` is what the call fails with."""
        kind, _ = classify(error)
        if kind is None or kind.name == "CLIENT":
            return
        self.times_lost += 1
        if self._lost_since_s is None:
            self._lost_since_s = time.monotonic()
            cause = kind.name.lower()
            self._tell(endpoint, "connected", "lost", f"connection to {endpoint} lost ({cause})", cause, {})

    def _tell(self, endpoint: str, old: str, new: str, what: str, cause: str | None, figures: dict[str, Any]) -> None:
        publish(
            Event(
                source="connection",
                name=self.name,
                endpoint=endpoint,
                old=old,
                new=new,
                message=f"{self.name}: {what}",
                severity="info",
                cause=cause,
                figures=figures,
            )
        )
