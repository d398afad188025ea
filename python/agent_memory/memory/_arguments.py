"""From arguments of `store`, `store_many` and `update` to copies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

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
from agent_memory.memory.entries import Tier

__all__ = ["changed_copy", "check_durability", "copy_from", "expiry"]

_STORED_WORDS: Final = frozenset(
    "importance embedding memory_type step metadata tags namespace user_id session_id key idempotency_key deduplicate".split()
)


def check_durability(durability: str, *, has_journal: bool) -> None:
    """Refuses what is no level of durability, or cannot be promised here."""
    if durability not in ("sql", "redis", "journal"):
        raise ValueError(f"durability must be 'sql', 'redis' or 'journal', got {durability!r}")
    if durability == "journal" and not has_journal:
        raise ValueError("durability must be 'sql' or 'redis' without MemorySettings(journal=True), got 'journal'")


def expiry(now: float, ttl_s: float | None) -> float | None:
    """When a memory with `ttl_s` expires."""
    if ttl_s is None:
        return None
    if not ttl_s > 0 or math.isinf(ttl_s):
        raise ValueError(f"ttl_s must be above 0 and finite, got {ttl_s!r}")
    return now + ttl_s


def copy_from(
    agent_id: str, entry: Mapping[str, Any], embedding: Any, now_us: int, place: int, writer: int, deduplicate: bool
) -> Copy:
    """The copy of the mapping at `place` of those given to `store_many`: each is a microsecond newer than the one before."""
    words = dict(entry)
    if "content" not in words:
        raise ValueError("entries must have a 'content' each, got one without")
    content = words.pop("content")
    timestamp = words.pop("timestamp", None)
    expires_at = expiry(now_us / 1e6, words.pop("ttl_s", None))
    unknown = words.keys() - _STORED_WORDS
    if unknown:
        raise ValueError(f"entries must have arguments of store, got {sorted(unknown)[0]!r}")
    if embedding is not None:
        words["embedding"] = embedding
    words.setdefault("deduplicate", deduplicate)
    created_us = now_us + place
    return make_copy(
        agent_id,
        content,
        memory_id=new_id(created_us),
        timestamp=created_us / 1e6 if timestamp is None else timestamp,
        created_us=created_us,
        writer=writer,
        expires_at=expires_at,
        **words,
    )


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
