"""What has to be known about a command name before it is sent, looked up once and kept.

A `BoundCommand` binds a name to its category, to the guard's handle for it and to its route. Clients keep one `BoundCommands`;
the lookup is one dictionary access on the hot path.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from agent_memory._core import DirectCommand, monotonic_ns
from agent_memory._enums import NamedIntEnum
from agent_memory.policy import CommandCategory
from agent_memory.redis.commands.categories import CONNECTION_ATTRIBUTES, REFUSED, category_of, resolved_beyond
from agent_memory.redis.exactly_once.settings import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent_memory._core import Guard
    from agent_memory.redis.exactly_once.mode import Mode

__all__ = ["BoundCommand", "BoundCommands", "Route"]

MAX_BOUND_COMMANDS: Final = 1_024
"""Bound of remembered names: far more than servers have commands, few enough that invented names cannot fill memory."""


class Route(NamedIntEnum):
    """The way a command travels."""

    SHARED = 0
    """With all others: over an idle socket or the shared connection."""
    BLOCKING = 1
    """On a leased connection whose read deadline is the command's own timeout plus a margin."""
    STATE = 2
    """On a leased connection that is closed afterwards, because the command changes the connection."""
    ONCE = 3
    """With all others, carrying what tells later whether it was executed."""


class BoundCommand:
    """Everything the hot path needs of one command name."""

    __slots__ = (
        "abandon",
        "admit",
        "answered_error",
        "category",
        "direct",
        "failure",
        "head",
        "name",
        "only_reads",
        "pipelined",
        "plain",
        "refusal",
        "route",
        "success",
    )

    def __init__(
        self,
        name: str,
        guard: Guard | None,
        category: CommandCategory | None = None,
        once: Mode | None = None,
    ) -> None:
        self.name = name
        self.category = category_of(name) if category is None else category
        words = name.split()
        self.head: tuple[bytes, ...] | None = tuple(word.encode() for word in words) if len(words) > 1 else None
        self.route = {
            CommandCategory.BLOCKING: Route.BLOCKING,
            CommandCategory.CONNECTION_STATE: Route.SHARED if name in CONNECTION_ATTRIBUTES else Route.STATE,
        }.get(self.category, Route.SHARED)
        self.refusal = REFUSED.get(name)
        self.plain = 0
        """The number of words up to which it travels with all others all the same."""
        if once is not None and self.route is Route.SHARED:
            beyond = resolved_beyond(name, self.category)
            if once.level in (None, Level.GATE) and self.category is CommandCategory.ABSOLUTE_WRITE:
                beyond = 0
            if beyond is not None:
                self.route, self.plain = Route.ONCE, beyond
        self.only_reads = self.category is CommandCategory.READ
        # HIMPORT needs preparation per connection, which is redis-py's.
        self.pipelined = self.route in (Route.SHARED, Route.ONCE) and not name.startswith("HIMPORT")
        handle = None if guard is None else guard.operation(name, category=int(self.category))
        shared_upto = {Route.SHARED: sys.maxsize, Route.ONCE: self.plain}.get(self.route, 0)
        self.direct = DirectCommand(name, handle, self.head or (), shared_upto, self)
        """What the extension needs of it."""
        operation: Any = handle or _Unguarded
        self.admit: Callable[[], int] = operation.admit
        self.success: Callable[[int], None] = operation.success
        self.failure: Callable[[int, int, int, int, int, int], float] = operation.failure
        self.abandon: Callable[[int], None] = operation.abandon
        self.answered_error: Callable[[int], None] = operation.answered_error


class BoundCommands(dict[Any, BoundCommand]):
    """Plans by the first argument of a command, made when they are first asked for; safe to share between threads."""

    def __init__(
        self,
        guard: Guard | None,
        categories: Mapping[str, CommandCategory] | None = None,
        once: Mode | None = None,
    ) -> None:
        super().__init__()
        self.direct: dict[Any, DirectCommand] = {}
        """The same commands, as the extension knows them."""
        self._guard = guard
        self._categories = {} if categories is None else categories
        self._once = once
        if once is not None:
            once.bind(self)

    def __missing__(self, first: Any) -> BoundCommand:
        name = (first if isinstance(first, str) else bytes(first).decode("utf-8", "replace")).strip().upper()
        command = BoundCommand(name, self._guard, self._categories.get(name), self._once)
        if len(self) < MAX_BOUND_COMMANDS:
            self[first] = command
            self.direct[first] = command.direct
        return command

    def clear(self) -> None:
        """Forget all: they are made anew."""
        super().clear()
        self.direct.clear()


def _ignore(_permit: int) -> None:
    """No guard: nothing is recorded."""


class _Unguarded:
    """The handle of a view without a guard: every call is admitted, nothing is retried."""

    admit = staticmethod(monotonic_ns)
    success = abandon = answered_error = staticmethod(_ignore)

    @staticmethod
    def failure(*_facts: int) -> float:
        return -1.0
