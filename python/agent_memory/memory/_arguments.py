"""From arguments of the memory system to copies and filters, and from copies to lines of an export and back."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from agent_memory.memory.entries import Copy, MemoryEntry, Tier, content_of, decode_namespace, make_copy, new_id
from agent_memory.memory.entries import encode_namespace as encode
from agent_memory.scoring import Filters

__all__ = ["changed_copy", "check_durability", "copy_from", "expiry", "exported", "filters_of", "imported"]

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
    agent_id: str, entry: Mapping[str, Any], embedding: Any, now: float, writer: int, deduplicate: bool
) -> Copy:
    """The copy of one mapping given to `store_many`."""
    words = dict(entry)
    if "content" not in words:
        raise ValueError("entries must have a 'content' each, got one without")
    content = words.pop("content")
    timestamp = words.pop("timestamp", None)
    expires_at = expiry(now, words.pop("ttl_s", None))
    unknown = words.keys() - _STORED_WORDS
    if unknown:
        raise ValueError(f"entries must have arguments of store, got {sorted(unknown)[0]!r}")
    if embedding is not None:
        words["embedding"] = embedding
    words.setdefault("deduplicate", deduplicate)
    now_us = int(now * 1e6)
    return make_copy(
        agent_id,
        content,
        memory_id=new_id(now_us),
        timestamp=now if timestamp is None else timestamp,
        created_us=now_us,
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
    embedding = changes.get("embedding")
    if embedding is None and base.vector:
        embedding = np.frombuffer(base.vector, dtype="<f4")
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


def filters_of(
    filters: Filters | Mapping[str, Any] | None,
    memory_types: Sequence[str],
    tags: Sequence[str],
    namespace: Sequence[str],
    user_id: str | None,
    session_id: str | None,
    since: float | None,
    until: float | None,
) -> Filters | None:
    """The filters of a retrieval over the attributes of the index."""
    attributes: dict[str, Any] = {}
    if isinstance(filters, Filters):
        attributes |= filters.attributes
        since = filters.time_from_s if since is None else since
        until = filters.time_to_s if until is None else until
    elif filters:
        attributes |= {f"metadata.{name}": value for name, value in filters.items()}
    for name, wanted in (("memory_types", memory_types), ("tags", tags)):
        if isinstance(wanted, str):
            raise TypeError(f"{name} must be a collection of str, got a str")
    if memory_types:
        attributes["memory_type"] = tuple(memory_types)
    for tag in tags:
        attributes[f"tag:{tag}"] = True
    if namespace:
        attributes[f"namespace:{encode(namespace)}"] = True
    if user_id is not None:
        attributes["user_id"] = user_id
    if session_id is not None:
        attributes["session_id"] = session_id
    if not attributes and since is None and until is None:
        return None
    return Filters(attributes, since, until)


def exported(entry: MemoryEntry) -> str:
    """One line of an export."""
    line: dict[str, Any] = {
        "id": entry.id,
        "agent_id": entry.agent_id,
        "version": entry.version,
        "created_at": entry.created_at,
        "timestamp": entry.timestamp,
        "importance": entry.importance,
        "tier": entry.tier.name,
    }
    if isinstance(entry.content, bytes):
        line["content_base64"] = base64.b64encode(entry.content).decode()
    else:
        line["content"] = entry.content
    if entry.embedding is not None:
        line["embedding_base64"] = base64.b64encode(entry.embedding.tobytes()).decode()
    for name in ("memory_type", "step", "metadata", "tags", "namespace", "user_id", "session_id", "key", "expires_at"):
        value = getattr(entry, name)
        if value not in (None, "", {}, ()):
            line[name] = value
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def imported(line: str, writer: int) -> Copy:
    """The copy that one line of an export stands for."""
    try:
        found = json.loads(line)
        vector = found.pop("embedding_base64", None)
        content = base64.b64decode(found.pop("content_base64")) if "content_base64" in found else found.pop("content")
        created_us = round(found.pop("created_at") * 1e6)
        memory_id, agent_id, version = found.pop("id"), found.pop("agent_id"), found.pop("version")
        tier = Tier[found.pop("tier", "STM")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"lines must be those of an export, got one that is not ({type(error).__name__})") from None
    return make_copy(
        agent_id,
        content,
        memory_id=memory_id,
        version=version,
        created_us=created_us,
        writer=writer,
        tier=tier,
        embedding=None if vector is None else np.frombuffer(base64.b64decode(vector), dtype="<f4"),
        **found,
    )
