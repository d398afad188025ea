# Generated from ../_async/packing.py by tools/generate_sync.py: edit that file, not this one.

"""Commands packed as the queue keeps them: with the moment of expiry in the place of a duration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from agent_memory.recovery._sync.queued_writes import CommandWrite, Shape, shape_of
from agent_memory.redis.commands.keys import KNOWN_NAMES, is_absolute, name_of, with_absolute_expiry
from agent_memory.redis.commands.packing import pack_command, refused_words

__all__ = ["Command", "pipeline_of", "write_of"]

Command = tuple[tuple[Any, ...], dict[str, Any]]
"""A command's words, and what redis-py's callback of its reply wants to know."""


def write_of(
    args: tuple[Any, ...],
    called_ms: int,
    options: dict[str, Any] | None = None,
    is_pipeline: bool = False,
    is_transaction: bool = False,
) -> CommandWrite:
    """One command as it is queued; `called_ms` is when it was called, milliseconds since 1970."""
    absolute = with_absolute_expiry(args, called_ms)
    shape = shape_of((name_of(args[0]),), is_absolute(absolute), is_pipeline, is_transaction)
    return CommandWrite(_packed(absolute), _with_options(shape, (options or {},)))


def pipeline_of(commands: Sequence[Command], called_ms: int, is_transaction: bool) -> CommandWrite:
    """The commands of a pipeline as one write."""
    if len(commands) == 1:
        # The common case, without the lists and the loops of the other.
        ((args, options),) = commands
        return write_of(args, called_ms, options, True, is_transaction)
    absolutes = [with_absolute_expiry(args, called_ms) for args, _ in commands]
    names = tuple(name_of(args[0]) for args, _ in commands)
    shape = shape_of(names, all(map(is_absolute, absolutes)), True, is_transaction)
    several = tuple(options for _, options in commands)
    return CommandWrite(tuple(map(_packed, absolutes)), _with_options(shape, several))


def _with_options(shape: Shape, options: tuple[dict[str, Any], ...]) -> Shape:
    return shape._replace(options=options) if any(options) else shape


@lru_cache(maxsize=KNOWN_NAMES)
def _head(name: str) -> tuple[bytes, ...]:
    return tuple(word.encode() for word in name.split())


def _packed(args: tuple[Any, ...]) -> bytes:
    head = _head(name_of(args[0]))
    try:
        return pack_command((*head, *args[1:]))
    except TypeError as error:
        raise refused_words(error) from None
