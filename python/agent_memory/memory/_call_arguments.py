"""What the methods of a memory system take, refused before anything is opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory import _check
from agent_memory.memory._arguments import copy_of, expiry, levels_of
from agent_memory.memory._copy import check_embedding, check_name, encode_namespace, make_copy
from agent_memory.memory.attributes import MemoryChanges
from agent_memory.memory.entries import Durability
from agent_memory.memory.settings import MemorySettings

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "check_changes",
    "check_embedding",
    "check_levels",
    "check_lines",
    "check_names",
    "check_namespace",
    "check_new",
    "new_memories",
]

_CHANGES = frozenset(MemoryChanges.__annotations__)
_NEVER_NONE = ("importance", "memory_type", "tags")


def check_names(**given: object) -> None:
    """Raises TypeError or ValueError for the first that is no name of 1..512 characters."""
    for parameter, value in given.items():
        check_name(parameter, value)


def check_namespace(parameter: str, value: Sequence[str]) -> None:
    """Raises TypeError or ValueError unless `value` is a sequence of labels."""
    encode_namespace(value, parameter)


def check_levels(
    settings: MemorySettings,
    minimum: Durability | None,
    durability: Durability | None = None,
    if_version: int | None = None,
) -> None:
    """Raises ValueError for levels that no write can have here, and for an `if_version` that no memory has."""
    if minimum is not None or durability is not None:
        levels_of(durability, minimum, (settings.durability, settings.minimum or settings.durability), settings.journal)
    if if_version is not None:
        _check.whole("if_version", if_version, 0)


def check_new(agent_id: str, content: Any, attributes: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for what is wrong with a new memory."""
    copy_of(agent_id, content, {**attributes}, 1, 1, False)


def check_changes(agent_id: str, memory_id: str, changes: Mapping[str, Any], content: Any) -> None:
    """Raises TypeError for a keyword that `update` does not have, and TypeError or ValueError for a wrong value."""
    if not _CHANGES.issuperset(changes):
        unknown = sorted(changes.keys() - _CHANGES)[0]
        raise TypeError(f"changes must be of {', '.join(sorted(_CHANGES))}, got {unknown!r}")
    for name in _NEVER_NONE:
        if name in changes and changes[name] is None:
            raise TypeError(f"{name} must be left out where it stays as it is, got None")
    given = {name: value for name, value in changes.items() if value is not None}
    expiry(0.0, given.pop("ttl_s", None))
    timestamp_s = given.pop("timestamp_s", 0.0)
    make_copy(agent_id, content, memory_id=memory_id, timestamp=timestamp_s, created_us=0, writer=1, **given)


def new_memories(
    entries: Iterable[Mapping[str, Any]], embeddings: ArrayLike | None
) -> tuple[list[dict[str, Any]], NDArray[np.float32] | None]:
    """The mappings given to `store_many`, and their vectors; raises TypeError or ValueError for what is none."""
    if isinstance(entries, Mapping):
        raise TypeError("entries must be a collection of mappings, got a mapping")
    _check.iterable("entries", entries, "mappings")
    given: list[dict[str, Any]] = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise TypeError(f"entries must be a collection of mappings, got {entry!r} in it")
        if "content" not in entry:
            raise ValueError("entries must have a 'content' each, got one without")
        given.append({**entry})
    if embeddings is None:
        return given, None
    try:
        vectors = np.asarray(embeddings, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"embeddings must be an array of numbers, got a {type(embeddings).__name__}") from None
    if vectors.ndim != 2 or len(vectors) != len(given):
        raise ValueError(
            f"embeddings must have shape ({len(given)}, dimensions), got {vectors.shape} of {type(embeddings).__name__}"
        )
    return given, vectors


def check_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines given to `import_`; raises TypeError for what is no line, of a list or tuple before the first is given."""
    _check.iterable("lines", lines, "str")
    if isinstance(lines, Sequence):
        for line in lines:
            _check_line(line)
        return iter(lines)
    return map(_check_line, lines)


def _check_line(line: object) -> str:
    if not isinstance(line, str):
        raise TypeError(f"lines must be a collection of str, got {line!r} in it")
    return line
