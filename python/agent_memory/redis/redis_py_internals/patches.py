"""What stands in the place of redis-py's own methods: tracers and tests put their functions into its classes.

They put them around `Redis.execute_command` and `Pipeline.execute`. Our classes have these methods of their own, so a call has
to be led through what was put there: our method calls redis-py's by its name, and where redis-py's own function asks for a
connection in the end it gets a `StandIn`, which leads back to us.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STANDING_IN", "OwnFunction", "StandIn"]


class OwnFunction:
    """A function of a class of redis-py's, known by its code: whatever stood there when this package was imported."""

    def __init__(self, holder: type, name: str) -> None:
        self.holder = holder
        self.name = name
        self._known: object = None

    def __call__(self, found: object) -> bool:
        """Whether `found` is redis-py's own function."""
        return (
            type(found) is FunctionType
            and found.__code__.co_qualname == f"{self.holder.__name__}.{self.name}"
            and found.__globals__ is vars(sys.modules[self.holder.__module__])
        )

    def stands(self) -> bool:
        """Whether it stands in its class now."""
        found = getattr(self.holder, self.name, None)
        if found is self._known:
            return True
        if not self(found):
            return False
        self._known = found
        return True


class StandIn:
    """What redis-py's own function gets in the place of a connection: it hands its call over to `run`."""

    host = port = db = None
    """For redis-py's metrics, which the guard's replace."""

    def __init__(self, owner: object, run: Callable[..., Any]) -> None:
        self.owner = owner
        self.run = run
        self.retry = self

    def call_with_retry(self, act: Callable[[], Any], *_: Any, **__: Any) -> Any:
        """redis-py's retries are not for what is guarded within."""
        return act()

    def should_reconnect(self) -> bool:
        """It is no connection."""
        return False


STANDING_IN: Final[ContextVar[StandIn | None]] = ContextVar("agent_memory.redis.standing_in", default=None)
"""What stands in for the connection of the call that goes through a patched `execute_command` in this task."""
