"""The guard's handles of a resilient client's operations, bound once for each name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent_memory.redis.commands.bound_command import BoundCommand, Route
from agent_memory.redis.commands.categories import category_of

if TYPE_CHECKING:
    from agent_memory._core import Guard

__all__ = ["GuardedOperation", "GuardedOperations"]

MAX_OPERATIONS: Final = 1_024
"""Bound of remembered names; further ones are looked up each time."""

_COMMANDS: Final = {"delete": "DEL", "hset_dict": "HSET", "hmset": "HSET", "script": "EVALSHA"}
"""Listed operations that are a command under another name."""
_LISTED: Final = frozenset(
    """
    ping get set exists expire hset hget hgetall hdel zadd zrange zrangebyscore zrem zcard scan
    """.split()
)


class GuardedOperation(BoundCommand):
    """What a call needs of its operation.

    A command counts under the command's name ("GET"), as it does in the drop-in; an operation of one's own under the name
    it was given.
    """

    __slots__ = ()

    def __init__(self, name: str, guard: Guard) -> None:
        command = _COMMANDS.get(name, name.upper())
        self.name = command if name in _COMMANDS or name in _LISTED else name
        self.category = category_of(command)
        self.head = None
        self.route = Route.SHARED
        operation = guard.operation(self.name, category=int(self.category))
        self.admit = operation.admit
        self.success = operation.success
        self.failure = operation.failure
        self.abandon = operation.abandon
        self.answered_error = operation.answered_error


class GuardedOperations(dict[str, GuardedOperation]):
    """Operations by name, made when first asked for; safe to share between threads."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def __missing__(self, name: str) -> GuardedOperation:
        guarded = GuardedOperation(name, self._guard)
        if len(self) < MAX_OPERATIONS:
            self[name] = guarded
        return guarded
