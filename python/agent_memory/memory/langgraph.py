"""Long-term memory for LangGraph: a `BaseStore` on a `MemorySystem` (the extra `langgraph`).

    with MemorySystem() as memory:
        graph = builder.compile(store=AgentMemoryStore(memory))

Items are memories of one agent: namespace and key as they are, the value as JSON content. What LangGraph's store promises
holds across processes, outages and restarts, because the memory system does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    get_text_at_path,
    tokenize_path,
    validate_op_namespace,
)

from agent_memory.memory._system import MemorySystem
from agent_memory.memory.entries import MemoryEntry

__all__ = ["AgentMemoryStore"]

_TTL: Final = "ttl_minutes"
"""Where the length of an item's life is kept, in its metadata, so that reading it can begin it anew."""


class AgentMemoryStore(BaseStore):
    """LangGraph's store, sync and asyncio, on an opened `MemorySystem`, which stays the caller's.

    - `agent_id`: whose memories the items are; graphs that use one name share them.
    - `embed`: called with a list of texts, gives vectors; without it a search by `query` ranks by words alone, and finds
      items that share a word with it.
    - `fields`: the parts of a value that are embedded, as LangGraph writes paths; `"$"` is all of it.

    The operations of one batch see the items as they were before the batch; of several puts of one key the last counts.
    Filters take LangGraph's operators ($eq, $ne, $gt, $gte, $lt, $lte). Safe to use from any thread.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: MemorySystem,
        *,
        agent_id: str = "langgraph",
        embed: Callable[[list[str]], Any] | None = None,
        fields: Sequence[str] = ("$",),
    ) -> None:
        self._memory = memory
        self._agent_id = agent_id
        self._embed = embed
        self._paths = [_path(field) for field in fields]

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As `batch`, in a thread."""
        return await asyncio.to_thread(self.batch, list(ops))

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """The results of all operations, in their order; None for puts."""
        results: list[Result] = []
        puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        for op in ops:
            validate_op_namespace(op)
            if isinstance(op, PutOp):
                puts[op.namespace, op.key] = op
                results.append(None)
            elif isinstance(op, GetOp):
                results.append(self._get(op))
            elif isinstance(op, SearchOp):
                results.append(self._search(op))
            elif isinstance(op, ListNamespacesOp):
                results.append(self._list_namespaces(op))
            else:
                raise ValueError(f"ops must be operations of LangGraph's store, got {type(op).__name__}")
        self._put(list(puts.values()))
        return results

    def _get(self, op: GetOp) -> Item | None:
        entry = self._memory.get_by_key(self._agent_id, op.key, op.namespace)
        if entry is None:
            return None
        if op.refresh_ttl:
            self._refresh(entry)
        return Item(**_fields(entry))

    def _put(self, ops: list[PutOp]) -> None:
        texts: dict[int, str] = {}
        if self._embed is not None:
            for position, op in enumerate(ops):
                text = "" if op.value is None or op.index is False else self._text(op)
                if text:
                    texts[position] = text
        vectors = dict(zip(texts, self._embed(list(texts.values())), strict=True)) if texts and self._embed else {}
        for position, op in enumerate(ops):
            if op.value is None:
                entry = self._memory.get_by_key(self._agent_id, op.key, op.namespace)
                if entry is not None:
                    self._memory.delete(self._agent_id, entry.id)
                continue
            self._memory.store(
                self._agent_id,
                op.value,
                key=op.key,
                namespace=op.namespace,
                embedding=vectors.get(position),
                ttl_s=None if op.ttl is None else op.ttl * 60.0,
                metadata=None if op.ttl is None else {_TTL: op.ttl},
            )

    def _text(self, op: PutOp) -> str:
        paths = self._paths if op.index is None or op.index is False else [_path(field) for field in op.index]
        return "\n".join(text for path in paths for text in get_text_at_path(op.value, path))

    def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.query:
            found = self._ranked(op, op.query)
        else:
            found = []
            for entry in self._memory.query(
                self._agent_id, order_by="seq", descending=True, **_below(op.namespace_prefix)
            ):
                if _matches(entry, op.filter):
                    found.append(entry)
                    if len(found) == op.offset + op.limit:
                        break
        page = found[op.offset : op.offset + op.limit]
        if op.refresh_ttl:
            for entry in page:
                self._refresh(entry)
        return [SearchItem(**_fields(entry), score=entry.score) for entry in page]

    def _ranked(self, op: SearchOp, query: str) -> list[MemoryEntry]:
        wanted = op.offset + op.limit
        embedding = None if self._embed is None else self._embed([query])[0]
        k = wanted
        while True:
            ranked = self._memory.retrieve(
                self._agent_id, query, embedding=embedding, k=k, **_below(op.namespace_prefix)
            )
            found = [entry for entry in ranked if _matches(entry, op.filter)]
            if len(found) >= wanted or len(ranked) < k:
                return found
            k *= 4  # the filter has taken some out

    def _list_namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        for one in self._memory.namespaces(self._agent_id):
            namespace = one.namespace
            if namespace and all(_fits(namespace, condition) for condition in op.match_conditions or ()):
                found.add(namespace[: op.max_depth] if op.max_depth is not None else namespace)
        return sorted(found)[op.offset : op.offset + op.limit]

    def _refresh(self, entry: MemoryEntry) -> None:
        minutes = entry.metadata.get(_TTL)
        if minutes is None:
            return
        try:
            self._memory.update(self._agent_id, entry.id, ttl_s=minutes * 60.0)
        except KeyError:
            pass  # deleted meanwhile


def _below(prefix: tuple[str, ...]) -> dict[str, Any]:
    """The condition of a namespace's prefix; the empty one is that of all namespaces, which is no condition."""
    return {"namespace": tuple(prefix)} if prefix else {}


def _path(field: str) -> str | list[str]:
    return field if field == "$" else tokenize_path(field)


def _fields(entry: MemoryEntry) -> dict[str, Any]:
    return {
        "namespace": entry.namespace,
        "key": entry.key,
        "value": entry.content,
        "created_at": datetime.fromtimestamp(entry.created_at, UTC),
        "updated_at": datetime.fromtimestamp(entry.updated_at, UTC),
    }


def _fits(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = condition.path
    if len(path) > len(namespace):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :] if path else ()
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))


def _matches(entry: MemoryEntry, wanted: Mapping[str, Any] | None) -> bool:
    if entry.key is None or not isinstance(entry.content, dict):
        return False  # a memory of the agent's that is no item
    value = entry.content
    return all(_compare(value.get(name), one) for name, one in (wanted or {}).items())


def _compare(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if any(name.startswith("$") for name in wanted):
            return all(_operate(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, dict) and all(_compare(value.get(name), one) for name, one in wanted.items())
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list)
            and len(value) == len(wanted)
            and all(_compare(one, other) for one, other in zip(value, wanted, strict=True))
        )
    return bool(value == wanted)


def _operate(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$eq":
        return bool(value == operand)
    if operator == "$ne":
        return bool(value != operand)
    if operator not in ("$gt", "$gte", "$lt", "$lte"):
        raise ValueError(f"filter must use $eq, $ne, $gt, $gte, $lt or $lte, got {operator!r}")
    try:
        number, bound = float(value), float(operand)
    except (TypeError, ValueError):
        return False
    return {"$gt": number > bound, "$gte": number >= bound, "$lt": number < bound, "$lte": number <= bound}[operator]
