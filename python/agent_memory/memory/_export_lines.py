"""A memory as one line of an export, and back; and what becomes of the lines of an import."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import numpy as np

from agent_memory import _core
from agent_memory.memory._copy import PENDING_VECTOR, Copy, entry_of, make_copy, new_id
from agent_memory.memory.entries import Tier
from agent_memory.memory.reports import ImportReport
from agent_memory.memory.stores.operations import WriteResult, WriteStatus

__all__ = ["NEEDS_NEW_ID", "ImportCount", "exported", "imported", "renewed"]

NEEDS_NEW_ID: Final = (WriteStatus.DELETED, WriteStatus.ERASED, WriteStatus.FOREIGN)
"""What an import may store under another id after all."""

_SKIPPED: Final = {
    WriteStatus.DELETED: "deleted",
    WriteStatus.ERASED: "erased",
    WriteStatus.FOREIGN: "foreign",
    WriteStatus.STALE: "outdated",
    WriteStatus.EXISTING: "existing",
}


def exported(copy: Copy) -> str:
    """One line of an export."""
    entry = entry_of(copy)
    line: dict[str, Any] = {
        "id": entry.id,
        "agent_id": entry.agent_id,
        "version": entry.version,
        "created_at": entry.created_at_s,
        "timestamp": entry.timestamp_s,
        "importance": entry.importance,
        "tier": entry.tier.name,
    }
    if isinstance(entry.content, bytes):
        line["content_base64"] = base64.b64encode(entry.content).decode()
    else:
        line["content"] = entry.content
    if entry.embedding is not None:
        line["embedding_base64"] = base64.b64encode(entry.embedding.tobytes()).decode()
    for name in ("memory_type", "step", "metadata", "tags", "namespace", "user_id", "session_id", "key"):
        value = getattr(entry, name)
        if value not in (None, "", {}, ()):
            line[name] = value
    if entry.expires_at_s is not None:
        line["expires_at"] = entry.expires_at_s
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
        found, vector = _parsed(line)
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
        embedding=PENDING_VECTOR if waits else None if vector is None else np.frombuffer(vector, dtype="<f4"),
        **found,
    )


def _parsed(line: str) -> tuple[dict[str, Any], bytes | None]:
    """The members of a line but its vector, and that."""
    split = _core.split_export_line(line)
    if split is not None:
        found = json.loads(split[0])
        if "embedding_base64" not in found:
            return found, split[1]
    found = json.loads(line)
    encoded = found.pop("embedding_base64", None)
    return found, None if encoded is None else base64.b64decode(encoded)


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
