"""From arguments of `store`, `store_many` and `update` to copies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from agent_memory import _check
from agent_memory.memory._copy import (
    EMBEDDED,
    PENDING_VECTOR,
    SEARCHED_TEXT,
    Copy,
    content_of,
    decode_namespace,
    make_copy,
    new_id,
)
from agent_memory.memory.attributes import MemoryAttributes
from agent_memory.memory.entries import Durability, Tier
from agent_memory.memory.settings import STRENGTHS, check_level, check_order

__all__ = ["changed_copy", "copy_from", "copy_of", "expiry", "levels_of"]

_ATTRIBUTES: Final = frozenset(MemoryAttributes.__annotations__)


def levels_of(
    durability: Durability | None, minimum: Durability | None, default: tuple[Durability, Durability], has_journal: bool
) -> tuple[Durability, Durability]:
    """The level to try first and the weakest to accept, of what a caller gave and the `default` of both.

    Raises ValueError for what is no level, cannot be reached here, or contradicts the other.
    """
    for parameter, level in (("durability", durability), ("minimum", minimum)):
        if level is not None:
            check_level(parameter, level, has_journal=has_journal)
    if durability is None:
        durability = default[0]
        if minimum is not None and STRENGTHS[minimum] > STRENGTHS[durability]:
            durability = minimum
    elif minimum is None:
        minimum = durability
    if minimum is None:
        minimum = default[1]
    check_order(durability, minimum)
    return durability, minimum


def _unknown(given: Mapping[str, Any], known: frozenset[str]) -> TypeError:
    return TypeError(f"attributes must be of {', '.join(sorted(known))}, got {sorted(given.keys() - known)[0]!r}")


def copy_of(
    agent_id: str,
    content: Any,
    attributes: dict[str, Any],
    now_us: int,
    writer: int,
    deduplicate: bool,
    place: int = 0,
) -> Copy:
    """The copy of a new memory; takes `attributes` over. Raises TypeError for a keyword that `store` does not have.

    `place` is that in a call of `store_many`: each memory is a microsecond newer than the one before, and all expire from
    `now_us` on.
    """
    if not _ATTRIBUTES.issuperset(attributes):
        raise _unknown(attributes, _ATTRIBUTES)
    created_us = now_us + place
    timestamp_s = attributes.pop("timestamp_s", None)
    attributes["timestamp"] = created_us / 1e6 if timestamp_s is None else timestamp_s
    if attributes.get("deduplicate") is None:
        attributes["deduplicate"] = deduplicate
    else:
        _check.flag("deduplicate", attributes["deduplicate"])
    if "ttl_s" in attributes:
        attributes["expires_at"] = expiry(now_us / 1e6, attributes.pop("ttl_s"))
    return make_copy(
        agent_id, content, memory_id=new_id(created_us), created_us=created_us, writer=writer, **attributes
    )


def copy_from(
    agent_id: str, entry: Mapping[str, Any], embedding: Any, now_us: int, place: int, writer: int, deduplicate: bool
) -> Copy:
    """The copy of the mapping at `place` of those given to `store_many`."""
    attributes = dict(entry)
    content = attributes.pop("content")
    if embedding is not None:
        attributes["embedding"] = embedding
    return copy_of(agent_id, content, attributes, now_us, writer, deduplicate, place)


def expiry(now: float, ttl_s: float | None) -> float | None:
    """When a memory with `ttl_s` expires."""
    if ttl_s is None:
        return None
    _check.any_number("ttl_s", ttl_s)
    if not ttl_s > 0 or math.isinf(ttl_s):
        raise ValueError(f"ttl_s must be above 0 and finite, got {ttl_s!r}")
    return now + ttl_s


def changed_copy(base: Copy, changes: Mapping[str, Any], now: float, writer: int) -> Copy:
    """A copy over `base` with what `changes` holds that is not None (a `content` counts, whatever it is)."""
    words: dict[str, Any] = {
        "importance": base.importance,
        "memory_type": base.memory_type,
        "step": base.step,
        "metadata": json.loads(base.metadata) if base.metadata else None,
        "tags": json.loads(base.tags) if base.tags else (),
        "timestamp": base.timestamp,
    }
    words |= {name: changes[name] for name in words if changes.get(name) is not None}
    if changes.get("timestamp_s") is not None:
        words["timestamp"] = changes["timestamp_s"]
    words["metadata"] = _with_own_names(base, words["metadata"], is_new_content="content" in changes)
    embedding = changes.get("embedding")
    if embedding is None and base.vector and "content" not in changes:
        # The vector belongs to the content: new content without a vector has none.
        embedding = base.vector if base.vector == PENDING_VECTOR else np.frombuffer(base.vector, dtype="<f4")
    ttl_s = changes.get("ttl_s")
    return make_copy(
        base.agent_id,
        changes["content"] if "content" in changes else content_of(base),
        memory_id=base.id,
        created_us=base.created_us,
        writer=writer,
        embedding=embedding,
        namespace=decode_namespace(base.namespace),
        user_id=base.user_id or None,
        session_id=base.session_id or None,
        key=base.key or None,
        idempotency_key=base.idempotency_key or None,
        expires_at=base.expires_at if ttl_s is None else expiry(now, ttl_s),
        tier=Tier(base.tier),
        generation=base.generation,
        deduplicate=bool(base.content_hash),
        **words,
    )


def _with_own_names(base: Copy, metadata: Any, *, is_new_content: bool) -> Any:
    """New metadata with what the system itself has written into those of the memory, as far as it is of this content."""
    if "agent_memory:" not in base.metadata or (metadata is not None and not isinstance(metadata, Mapping)):
        return metadata
    held = json.loads(base.metadata)
    own = {name: held[name] for name in (SEARCHED_TEXT, EMBEDDED) if name in held}
    if is_new_content and own.get(SEARCHED_TEXT):  # what was to be found by no word stays so, whatever its content is
        del own[SEARCHED_TEXT]
    return {name: value for name, value in (metadata or {}).items() if name not in (SEARCHED_TEXT, EMBEDDED)} | own
