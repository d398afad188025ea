"""What the recovery queue needs to know of the data it keeps: a copy of its own, and about how much memory it takes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Set
from typing import Any, Final

MAX_VALUES_LOOKED_AT: Final = 10_000
"""Beyond this many values an estimate is scaled up from those looked at, so that queueing stays quick."""


def copy_of(data: Any) -> Any:
    """A deep copy, or `data` itself where it cannot be copied."""
    try:
        return copy.deepcopy(data)
    except Exception:
        return data


def estimate_bytes(data: Any) -> int:
    """About how many bytes of memory `data` takes, what it contains included. Never raises."""
    total = 0
    looked_at = 0
    seen: set[int] = set()
    waiting = [data]
    while waiting and looked_at < MAX_VALUES_LOOKED_AT:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        looked_at += 1
        total += sys.getsizeof(value, 64)
        if isinstance(value, Mapping):
            waiting.extend(value.keys())
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | Set):
            waiting.extend(value)
        elif hasattr(value, "__dict__"):
            waiting.append(vars(value))
    return total + total * len(waiting) // max(looked_at, 1)
