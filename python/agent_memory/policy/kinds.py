"""The numbered facts a client tells its guard. `agent_memory_core::retry` has the same numbers and says what follows
from them.
"""

from __future__ import annotations

from agent_memory._enums import NamedIntEnum

__all__ = ["CommandCategory", "FailureKind", "Priority"]


class Priority(NamedIntEnum):
    """How much a write matters; a lower number is served first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class CommandCategory(NamedIntEnum):
    """What a command does, which decides whether it may be repeated when its outcome is unknown."""

    READ = 0
    """Changes nothing: GET, HGETALL, SCAN."""
    ABSOLUTE_WRITE = 1
    """Leaves the same state when it runs twice in a row: SET, DEL, HSET."""
    RELATIVE_WRITE = 2
    """Adds to what is there: INCR, LPUSH, APPEND."""
    BLOCKING = 3
    """Waits on the server: BLPOP, XREAD BLOCK."""
    CONNECTION_STATE = 4
    """Changes the connection: SELECT, AUTH, SUBSCRIBE."""


class FailureKind(NamedIntEnum):
    """What went wrong with an attempt."""

    REFUSED = 0
    """The connection could not be made. Counts as a failure of the server."""
    TIMEOUT = 1
    """No answer in time. Counts."""
    RESET = 2
    """The connection broke. Counts."""
    UNAVAILABLE_REPLY = 3
    """The server answered that it is unavailable: LOADING, MASTERDOWN, CLUSTERDOWN, BUSY, max number of clients.
    Counts.
    """
    REJECTED_REPLY = 4
    """The server did not run the command for a reason that passes: TRYAGAIN, READONLY, MOVED. It answered, so it does
    not count.
    """
    CLIENT = 5
    """The fault lies on this side: all connections in use, wrong password. Neither counts nor is it tried again."""
    OTHER = 6
    """An exception that a stand-alone breaker is set to count. Counts; not tried again."""
