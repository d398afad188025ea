"""LangGraph's operations as calls of a memory system. `langgraph.py` has the store that is given to LangGraph.

An item is a memory of the agent: namespace and key as they are, the value as JSON content, `timestamp_s` when it was put last.
Its metadata keep what the memory itself has no place for: `TTL_MINUTES`, so that reading can begin its life anew, and
`SEARCHED_TEXT`, where not all of the value is to be found by words, and `EMBEDDED`, where the memory system makes its vector.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from langgraph.store.base import GetOp, Item, ListNamespacesOp, Op, PutOp, Result, SearchItem, SearchOp

from agent_memory._concurrency import async_in_thread, async_settle
from agent_memory.memory import _langgraph_values as values
from agent_memory.memory._async.system import AsyncMemorySystem
from agent_memory.memory._copy import EMBEDDED, SEARCHED_TEXT
from agent_memory.memory.attributes import NewMemory
from agent_memory.memory.entries import MemoryEntry
from agent_memory.memory.errors import MemoryStoreUnavailableError

__all__ = ["AsyncItems"]

TTL_MINUTES: Final = "ttl_minutes"

_EMBEDDED: Final = 500
"""The most texts in one call of an embedder."""

logger = logging.getLogger(__name__)


class AsyncItems:
    """The items of one agent. Any number of tasks may use one object."""

    def __init__(
        self, memory: AsyncMemorySystem, agent_id: str, embedder: values.Embedder | None, fields: Sequence[str]
    ) -> None:
        self._memory = memory
        self._agent_id = agent_id
        self._embedder = embedder
        self._fields = tuple(fields)
        self._can_renew = True

    async def batch(self, ops: Sequence[Op]) -> list[Result]:
        """The results of all operations, in their order. What is wrong with any of them is raised before the first is done."""
        puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        filters: dict[int, dict[str, Any]] = {}
        for at, op in enumerate(ops):
            values.check_op(op)
            if isinstance(op, PutOp):
                checked = values.checked_put(op)
                puts.pop((tuple(op.namespace), op.key), None)  # the last one counts, and is the newest of the batch
                puts[tuple(op.namespace), op.key] = checked
            elif isinstance(op, SearchOp):
                filters[at] = values.checked_filter(op.filter)
        results: list[Result] = []
        for at, op in enumerate(ops):
            if isinstance(op, GetOp):
                results.append(await self._get(op))
            elif isinstance(op, SearchOp):
                results.append(await self._search(op, filters[at]))
            elif isinstance(op, ListNamespacesOp):
                results.append(await self._list_namespaces(op))
            else:
                results.append(None)
        if puts:
            await self._put(list(puts.values()))
        return results

    # --- reading ---

    async def _get(self, op: GetOp) -> Item | None:
        entry = await self._memory.get_by_key(self._agent_id, op.key, op.namespace)
        if entry is None or not values.is_item(entry):
            return None
        if op.refresh_ttl:
            await self._renew([entry])
        return Item(**_fields(entry))

    async def _search(self, op: SearchOp, wanted: Mapping[str, Any]) -> list[SearchItem]:
        if not op.limit:
            return []
        found = await (self._ranked(op, op.query, wanted) if op.query else self._latest(op, wanted))
        page = found[op.offset : op.offset + op.limit]
        if op.refresh_ttl:
            await self._renew(page)
        return [SearchItem(**_fields(entry), score=entry.score) for entry in page]

    async def _latest(self, op: SearchOp, wanted: Mapping[str, Any]) -> list[MemoryEntry]:
        """The items put last, as many as the page needs, newest first."""
        found: list[MemoryEntry] = []
        needed = op.offset + op.limit
        # Without a filter the first page of the query is all that is read, unless other memories are among the items.
        for limit in (None,) if wanted else (needed, None):
            found = []
            given = 0
            async for entry in self._memory.query(
                self._agent_id, limit=limit, order_by="timestamp", descending=True, **_below(op.namespace_prefix)
            ):
                given += 1
                if values.is_item(entry) and values.matches(entry.content, wanted):
                    found.append(entry)
                    if len(found) == needed:
                        return found
            if limit is None or given < limit:
                break
        return found

    async def _ranked(self, op: SearchOp, query: str, wanted: Mapping[str, Any]) -> list[MemoryEntry]:
        needed = op.offset + op.limit
        embedding = None
        if self._embedder is not None:
            embedding = await async_settle(await async_in_thread(self._embedder.question, query))
        k = needed
        while True:
            ranked = await self._memory.retrieve(
                self._agent_id, query, embedding=embedding, k=k, **_below(op.namespace_prefix)
            )
            found = [
                entry
                for entry in ranked
                if _is_found(entry) and values.is_item(entry) and values.matches(entry.content, wanted)
            ]
            if len(found) >= needed or len(ranked) < k:
                return found
            k *= 4  # some were taken out

    async def _list_namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        found: set[tuple[str, ...]] = set()
        for one in await self._memory.namespaces(self._agent_id, values.leading_labels(conditions)):
            namespace = one.namespace
            if namespace and all(values.fits(namespace, condition) for condition in conditions):
                found.add(namespace[: op.max_depth] if op.max_depth is not None else namespace)
        return sorted(found)[op.offset : op.offset + op.limit]

    async def _renew(self, entries: Sequence[MemoryEntry]) -> None:
        """Begins the life of items anew that have a TTL. Where SQL takes no writes they keep the life they have."""
        lives = {
            entry.id: (entry.version, entry.metadata[TTL_MINUTES] * 60.0)
            for entry in entries
            if TTL_MINUTES in entry.metadata and entry.expires_at_s is not None
        }
        if lives:
            try:
                parts = await self._memory._lifecycle.opened()
                await parts.storing.renew(self._agent_id, lives)
            except MemoryStoreUnavailableError as error:
                if self._can_renew:  # told once, not with every read
                    logger.warning("the life of items that are read is not renewed: %s", error)
                self._can_renew = False
            else:
                self._can_renew = True

    # --- writing ---

    async def _put(self, ops: Sequence[PutOp]) -> None:
        entries = await self._entries([op for op in ops if op.value is not None])
        gone = []
        for op in ops:
            if op.value is None:
                entry = await self._memory.get_by_key(self._agent_id, op.key, op.namespace)
                if entry is not None:
                    gone.append(entry.id)
        parts = await self._memory._lifecycle.opened()
        await parts.storing.delete_many(self._agent_id, gone)
        if len(entries) > 1:
            try:
                await self._memory.store_many(self._agent_id, entries)
            except MemoryStoreUnavailableError:
                pass  # one by one: `store` knows what the settings allow instead, and raises where they do not
            else:
                return
        for item in entries:
            await self._memory.store(self._agent_id, **item)

    async def _entries(self, ops: Sequence[PutOp]) -> list[NewMemory]:
        """What `store_many` is given for puts."""
        embedding = (await self._memory._lifecycle.opened()).embedding
        entries: list[NewMemory] = []
        embedded: list[tuple[NewMemory, str]] = []
        for op in ops:
            fields = self._fields if op.index is None else tuple(op.index or ())
            is_whole = fields == ("$",)
            text = "" if op.index is False else values.text_at(op.value, [values.path_of(field) for field in fields])
            metadata: dict[str, Any] = {} if is_whole else {SEARCHED_TEXT: text}
            if op.ttl is not None:
                metadata[TTL_MINUTES] = op.ttl
            entry: NewMemory = {
                "content": op.value,
                "key": op.key,
                "namespace": op.namespace,
                "ttl_s": None if op.ttl is None else op.ttl * 60.0,
                "metadata": metadata,
            }
            entries.append(entry)
            if text:
                embedded.append((entry, text))
                if self._embedder is None and embedding.is_possible:
                    metadata[EMBEDDED] = True
        if self._embedder is not None or embedding.is_possible:
            for start in range(0, len(embedded), _EMBEDDED):
                part = embedded[start : start + _EMBEDDED]
                for (entry, _), vector in zip(part, await self._vectors([text for _, text in part]), strict=True):
                    entry["embedding"] = vector
        return entries

    async def _vectors(self, texts: list[str]) -> Any:
        if self._embedder is None:
            parts = await self._memory._lifecycle.opened()
            return await parts.embedding.make_or_wait(texts)
        vectors = np.asarray(
            await async_settle(await async_in_thread(self._embedder.documents, texts)), dtype=np.float32
        )
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(f"embed must return an array of shape ({len(texts)}, dimensions), got {vectors.shape}")
        return vectors


def _is_found(entry: MemoryEntry) -> bool:
    """Whether a retrieved memory has anything to do with the question: a vector, or a word of it."""
    parts = entry.score_parts or {}
    return entry.is_match and ("similarity" in parts or parts.get("lexical", 0.0) > 0.0)


def _below(prefix: tuple[str, ...]) -> dict[str, Any]:
    """The condition of a namespace's prefix; the empty one is that of all namespaces, which is no condition."""
    return {"namespace": tuple(prefix)} if prefix else {}


def _fields(entry: MemoryEntry) -> dict[str, Any]:
    return {
        "namespace": entry.namespace,
        "key": entry.key,
        "value": entry.content,
        "created_at": datetime.fromtimestamp(entry.created_at_s, UTC),
        "updated_at": datetime.fromtimestamp(max(entry.timestamp_s, entry.created_at_s), UTC),
    }
