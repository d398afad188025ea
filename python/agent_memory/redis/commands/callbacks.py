"""The response callbacks that shape replies as redis-py shows them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, cast

from agent_memory.errors import Outcome
from agent_memory.redis.redis_py_internals.replies import EMPTY_RESPONSE, NEVER_DECODE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["call_back", "callback_named", "callback_of", "note_applied"]

# dict's own `get`: the client's dictionary upper-cases every name it is asked for, in Python.
callback_of: Final = cast("Callable[[Any, str], Callable[..., Any] | None]", dict.get)
"""`callback_of(response_callbacks, "GET")`: the callback that shapes a reply, or None."""


def callback_named(callbacks: Mapping[Any, Callable[..., Any]], name: Any) -> Callable[..., Any] | None:
    """The same for a name as the caller has written it: redis-py's clients find "get", too, but for its asyncio cluster."""
    found = callback_of(callbacks, name)
    if found is None and type(callbacks) is not dict and isinstance(name, str) and not name.isupper():
        return callbacks.get(name)
    return found


def call_back(callback: Callable[..., Any], reply: Any, options: dict[str, Any]) -> Any:
    """Shape a reply as redis-py does; the options that are meant for the transport do not reach the callback."""
    if options:
        options.pop("keys", None)
        options.pop(NEVER_DECODE, None)
        options.pop(EMPTY_RESPONSE, None)
    try:
        return callback(reply, **options)
    except Exception as error:
        note_applied(error)
        raise


def note_applied(error: BaseException) -> None:
    """What a callback raised: the reply came whole, only that it is not what it expects, so the command was executed."""
    with contextlib.suppress(AttributeError):
        error.outcome = Outcome.APPLIED  # type: ignore[attr-defined]
