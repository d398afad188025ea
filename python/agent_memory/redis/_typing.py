"""The types of the commands. `_typing.pyi` holds them; at run time there is nothing to them but their names.

`Redis[str]` is a client whose replies are text (`decode_responses=True`), `Redis[bytes]`, the default, one whose replies are
bytes. A resilient client of the specification is one of text by default.
"""

from __future__ import annotations

from types import GenericAlias
from typing import TypeVar

__all__ = [
    "AsyncTypedCommands",
    "AsyncTypedResults",
    "ReplyT",
    "TextT",
    "TypedCommands",
    "TypedPipeline",
    "TypedResults",
]

ReplyT = TypeVar("ReplyT")
TextT = TypeVar("TextT")


class TypedCommands:
    """Commands that give their replies."""

    __slots__ = ()
    __class_getitem__ = classmethod(GenericAlias)


class AsyncTypedCommands(TypedCommands):
    """Commands that are awaited for their replies."""

    __slots__ = ()


class TypedResults(TypedCommands):
    """Commands that give what became of them."""

    __slots__ = ()


class AsyncTypedResults(TypedCommands):
    """Commands that are awaited for what became of them."""

    __slots__ = ()


class TypedPipeline:
    """Commands that are collected."""

    __slots__ = ()
