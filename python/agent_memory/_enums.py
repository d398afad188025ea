"""The base of the package's numbered enums."""

from __future__ import annotations

import enum


class NamedIntEnum(enum.IntEnum):
    """An int that prints as its name: `Outcome.UNKNOWN`, where `enum.IntEnum` prints 3.

    Comparisons, arithmetic, `%d`, `int()`, JSON and SQL see the number.
    """

    __str__ = enum.Enum.__str__

    def __format__(self, format_spec: str) -> str:
        return format(str(self), format_spec)
