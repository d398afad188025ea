"""What a subscriber reports after its connection was lost: from when to when messages may have passed it by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["SubscriptionGap"]


@dataclass(frozen=True, slots=True)
class SubscriptionGap:
    """A time in which a subscriber was not connected: messages published in it are lost to it.

    All times are readings of the monotonic clock in nanoseconds (`time.monotonic_ns()`'s clock).
    """

    reason: str
    """What ended the connection, in words."""
    error: Exception | None
    """The error that ended it; None where it was closed on this side."""
    heard_ns: int
    """When something was received for the last time, in nanoseconds: what was published before it has been delivered or will
    be."""
    noticed_ns: int
    """When the loss was noticed, in nanoseconds."""
    restored_ns: int
    """When the first word arrived on the new connection, in nanoseconds: what is published after it is delivered."""
    attempts: int
    """Attempts to connect that it took, the successful one included."""
    channels: tuple[Any, ...] | None = None
    """The shard channels of a cluster that are concerned, all of one slot; None: everything but shard channels of a cluster."""

    @property
    def duration_s(self) -> float:
        """The longest time in which messages can have been missed, in seconds: from the last word heard to the next."""
        return (self.restored_ns - self.heard_ns) / 1e9

    @property
    def outage_s(self) -> float:
        """From noticing the loss to hearing again, in seconds."""
        return (self.restored_ns - self.noticed_ns) / 1e9
