"""From arguments of the memory system to copies and filters, and from copies to lines of an export and back."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from agent_memory.memory._copy import (
    EMBEDDED,
    PENDING_VECTOR,
    SEARCHED_TEXT,
    Copy,
    content_of,
    decode_namespace,
    entry_of,
    make_copy,
    new_id,
)
from agent_memory.memory._copy import encode_namespace as encode
from agent_memory.memory.entries import MemoryEntry, Tier
from agent_memory.memory.reports import ImportReport
from agent_memory.memory.stores.operations import MemoryQuery, WriteResult, WriteStatus
from agent_memory.scoring import Filters

__all__ = [
    "NEEDS_NEW_ID",
    "UNSET",
    "ImportCount",
    "check_condition",
    "changed_copy",
    "check_durability",
    "copy_from",
    "expiry",
    "exported",
    "filters_of",
    "imported",
    "query_of",
    "renewed",
    "restricts",
]

UNSET: Final[Any] = object()
"""The default of a condition that is not given; None is a value that the caller gave."""

_ORDERING: Final = ("order_by", "descending")

NEEDS_NEW_ID: Final = (WriteStatus.DELETED, WriteStatus.ERASED, WriteStatus.FOREIGN)
"""What an import may store under another id after all."""

_SKIPPED: Final = {
    WriteStatus.DELETED: "deleted",
    WriteStatus.ERASED: "erased",
    WriteStatus.FOREIGN: "foreign",
    WriteStatus.STALE: "outdated",
    WriteStatus.EXISTING: "existing",
}

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


def query_of(agent_id: str | None, conditions: Mapping[str, Any]) -> MemoryQuery:
    """The query of a caller's conditions. Raises ValueError for one that is given and restricts nothing."""
    for name, value in conditions.items():
        if name == "namespace" and conditions.get("namespace_exact"):
            continue  # the memories without a namespace
        if name not in _ORDERING:
            check_condition(name, value)
    return MemoryQuery(agent_id=agent_id, **conditions)


def restricts(conditions: Mapping[str, Any]) -> bool:
    """Whether any of a caller's conditions, which `query_of` took, leaves memories out."""
    return any(name not in _ORDERING and (name != "namespace_exact" or value) for name, value in conditions.items())


def check_condition(name: str, value: Any) -> None:
    """Refuses what an unset variable of the caller's gives: it would stand for the memories of all users, sessions, ..."""
    if value is None or (isinstance(value, str | Collection) and not len(value)):
        raise ValueError(f"{name} must not be empty, got {value!r}: leave it out for memories with any {name}")


def filters_of(filters: Filters | Mapping[str, Any] | None, conditions: Mapping[str, Any]) -> Filters | None:
    """The filters of a retrieval over the attributes of the index. Of `conditions` those that are UNSET do not count."""
    given = {name: value for name, value in conditions.items() if value is not UNSET}
    for name, value in given.items():
        check_condition(name, value)
    attributes: dict[str, Any] = {}
    since, until = given.get("since"), given.get("until")
    if isinstance(filters, Filters):
        attributes |= filters.attributes
        since = filters.time_from_s if since is None else since
        until = filters.time_to_s if until is None else until
    elif filters:
        for name, value in filters.items():
            if value is None or (isinstance(value, Collection) and not len(value) and not isinstance(value, str)):
                raise ValueError(f"filters must give {name!r} a value or several, got {value!r}")
            attributes[f"metadata.{name}"] = value
    for name in ("memory_types", "tags"):
        if isinstance(given.get(name), str):
            raise TypeError(f"{name} must be a collection of str, got a str")
    if "memory_types" in given:
        attributes["memory_type"] = tuple(given["memory_types"])
    for tag in given.get("tags", ()):
        attributes[f"tag:{tag}"] = True
    if "namespace" in given:
        attributes[f"namespace:{encode(given['namespace'])}"] = True
    attributes |= {name: given[name] for name in ("user_id", "session_id") if name in given}
    if not attributes and since is None and until is None:
        return None
    return Filters(attributes, since, until)


MAX_RERANKED: Final = 1_000
"""The most memories that a `rerank` is given at once."""


def check_reranking(rerank: object, text: str | None, pool: int, min_relevance: float) -> None:
    """Refuses what `retrieve` cannot do."""
    if isinstance(pool, bool) or not isinstance(pool, int) or not 1 <= pool <= MAX_RERANKED:
        raise ValueError(f"pool must be a whole number in 1..{MAX_RERANKED}, got {pool!r}")
    if rerank is not None and (not callable(rerank) or text is None):
        raise ValueError("rerank must be a callable, and needs a text to rank by")
    if not 0 <= min_relevance <= 1:
        raise ValueError(f"min_relevance must be in 0..1, got {min_relevance}")


def reranked(entries: list[MemoryEntry], scores: Any, k: int) -> list[MemoryEntry]:
    """The best `k` by the scores of a caller's `rerank`, one for each entry."""
    given = [float(score) for score in scores]
    if len(given) != len(entries) or not all(map(math.isfinite, given)):
        raise ValueError(f"rerank must return {len(entries)} finite scores, got {len(given)}")
    order = sorted(range(len(entries)), key=lambda at: -given[at])
    return [replace(entries[at], score=given[at]) for at in order[:k]]


def exported(copy: Copy) -> str:
    """One line of an export."""
    entry = entry_of(copy)
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
    if entry.awaits_embedding:
        line["awaits_embedding"] = True
    if copy.idempotency_key:
        line["idempotency_key"] = copy.idempotency_key
    if copy.content_hash:
        line["deduplicate"] = True
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def imported(line: str) -> Copy:
    """The copy that one line of an export stands for. Of two copies of one version the one that is held stays: writer 0."""
    try:
        found = json.loads(line)
        vector = found.pop("embedding_base64", None)
        waits = found.pop("awaits_embedding", False)
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
        writer=0,
        tier=tier,
        embedding=PENDING_VECTOR
        if waits
        else None
        if vector is None
        else np.frombuffer(base64.b64decode(vector), dtype="<f4"),
        **found,
    )


def renewed(copy: Copy, now_us: int, writer: int) -> Copy:
    """An imported copy as a new memory, with a new id and a version that the store assigns; `created_us` stays."""
    return copy._replace(id=new_id(now_us), version=0, writer=writer, checksum=0)


class ImportCount:
    """Counts what becomes of the lines of an import."""

    def __init__(self) -> None:
        self._stored = 0
        self._unchanged = 0
        self.skipped: dict[str, int] = {}

    def skip(self, reason: str) -> None:
        """One line was not stored."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def add(self, copy: Copy, result: WriteResult) -> None:
        """What the store answered to one line."""
        if result.status is WriteStatus.APPLIED:
            self._stored += 1
        elif result.status is WriteStatus.STALE and result.version == copy.version:
            self._unchanged += 1
        elif result.status is WriteStatus.DELETED and result.seq:
            self.skip("key taken")
        elif result.status is WriteStatus.EXISTING and not result.existed:
            self.skip("deleted")
        else:
            self.skip(_SKIPPED[result.status])

    def report(self) -> ImportReport:
        """All of it."""
        return ImportReport(self._stored, self._unchanged, self.skipped)
