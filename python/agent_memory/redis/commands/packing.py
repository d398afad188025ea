"""The bytes of a command, and what is sent ahead of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import DataError, ResponseError

from agent_memory._core import pack_command
from agent_memory.redis.commands.categories import BARRIER_CHANNEL, BARRIERS, COVER_WRITES

if TYPE_CHECKING:
    from agent_memory.redis.commands.bound_command import BoundCommand

__all__ = ["barriers_of", "is_unknown_command", "pack_command", "refused_words"]


def refused_words(error: TypeError) -> DataError:
    """What redis-py raises for arguments that cannot be sent."""
    return DataError(str(error))


def barriers_of(command: BoundCommand) -> tuple[bytes | None, ...]:
    """What has to be sent ahead of the command, over the same connection: packed, in the order of preference."""
    return _PACKED_BARRIERS if command.name in COVER_WRITES else _NO_BARRIER


_NO_BARRIER: Final = (None,)
_PACKED_BARRIERS: Final = tuple(pack_command((name, BARRIER_CHANNEL, b"")) for name in BARRIERS)


def is_unknown_command(reply: Any) -> bool:
    """Whether the server answered that it does not know such a command."""
    return isinstance(reply, ResponseError) and str(reply).startswith("unknown command")
