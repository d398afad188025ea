"""Long-term memory for LangGraph: a `BaseStore` on a memory system (the extra `langgraph`).

    with MemorySystem() as memory:
        graph = builder.compile(store=AgentMemoryStore(memory))

Items are memories of one agent: namespace and key as they are, the value as JSON content. What LangGraph's store promises
holds across processes, outages and restarts, because the memory system does.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from agent_memory import _check

try:
    from langgraph.store.base import BaseStore, Embeddings, Op, Result, TTLConfig, ensure_embeddings
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("langgraph"):
        raise
    raise _check.missing_extra("AgentMemoryStore", "langgraph-checkpoint", "langgraph") from None

from agent_memory.memory._async.langgraph import AsyncItems
from agent_memory.memory._async.system import AsyncMemorySystem
from agent_memory.memory._langgraph_values import Embedder
from agent_memory.memory._sync.langgraph import Items
from agent_memory.memory._sync.system import MemorySystem

__all__ = ["AgentMemoryStore"]

_TTL_NAMES: Final = frozenset(TTLConfig.__annotations__)


class AgentMemoryStore(BaseStore):
    """LangGraph's store, sync and asyncio, on a `MemorySystem` or an `AsyncMemorySystem`, which stays the caller's.

    - `memory`: the memory system.
    - `agent_id`: whose memories the items are; graphs that use one name share them. Default `"langgraph"`.
    - `embed`: called with a list of texts, gives vectors; or a LangChain `Embeddings`, or what `init_embeddings` takes.
      Default: the memory system's own `embed`. Without either a search by `query` ranks by words alone.
    - `fields`: the parts of a value that are searched, as LangGraph writes paths; `"$"` is all of it. `put(index=...)` says it
      for one item. All of an item's parts have one vector together. Default `("$",)`.
    - `ttl`: as LangGraph's `TTLConfig`; default None: only items that are put with a TTL expire. Expired items are never given,
      whatever `omit_expired` says, and swept by the memory system's `maintain()`, so `sweep_interval_minutes` changes nothing.

    The operations of one batch see the items as they were before the batch; of several puts of one key the last counts; puts
    are one commit. Filters take LangGraph's operators ($eq, $ne, $gt, $gte, $lt, $lte). A search without a `query` gives the
    item put last first. A search with one gives items that have a vector or share a word with it, and `score` is their
    relevance, 0..1. Reading an item with a TTL begins its life anew and changes nothing else.

    Safe to use from any thread. With an `AsyncMemorySystem` the methods without `a` work from threads other than that of its
    event loop, once the loop is known: where the store was made, or first used. A cancelled call may have made its puts.

    Raises TypeError or ValueError for arguments outside their rules. The methods raise what the memory system raises, and
    RuntimeError for a call without `a` where the loop of an `AsyncMemorySystem` cannot serve it.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: MemorySystem | AsyncMemorySystem,
        *,
        agent_id: str = "langgraph",
        embed: Callable[[list[str]], Any] | Embeddings | str | None = None,
        fields: Sequence[str] = ("$",),
        ttl: TTLConfig | None = None,
    ) -> None:
        if not isinstance(memory, MemorySystem | AsyncMemorySystem):
            raise TypeError(f"memory must be a MemorySystem or an AsyncMemorySystem, got {type(memory).__name__}")
        _check.text("agent_id", agent_id)
        if not isinstance(fields, Sequence):
            raise TypeError(f"fields must be a sequence of paths, got {type(fields).__name__}")
        if isinstance(fields, str) or not all(isinstance(field, str) for field in fields):
            raise TypeError(f"fields must be a sequence of paths, got {fields!r:.80}")
        _check_ttl(ttl)
        self.ttl_config = ttl
        embedder = _embedder(embed, is_async=isinstance(memory, AsyncMemorySystem))
        self._items: Items | None = None
        self._async_items: AsyncItems | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        if isinstance(memory, AsyncMemorySystem):
            self._async_items = AsyncItems(memory, agent_id, embedder, fields)
            self._loop = _running_loop()
        else:
            self._items = Items(memory, agent_id, embedder, fields)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As `batch`: in a thread, or with an `AsyncMemorySystem` in its event loop."""
        given = list(ops)
        if self._items is not None:
            return await asyncio.to_thread(self._items.batch, given)
        assert self._async_items is not None
        here = asyncio.get_running_loop()
        if self._loop is None or self._loop.is_closed():
            self._loop = here
        if self._loop is here:
            return await self._async_items.batch(given)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._async_items.batch(given), self._loop))

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """The results of all operations, in their order; None for puts."""
        given = list(ops)
        if self._items is not None:
            return self._items.batch(given)
        assert self._async_items is not None
        loop = self._loop
        if loop is None or not loop.is_running() or loop is _running_loop():
            where = "no running loop" if loop is None or not loop.is_running() else "a call inside that loop"
            raise RuntimeError(
                "an AsyncMemorySystem must be used with aget, aput, asearch, ..., or from a thread other than that of its "
                f"running event loop, got {where}"
            )
        return asyncio.run_coroutine_threadsafe(self._async_items.batch(given), loop).result()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _embedder(embed: Callable[[list[str]], Any] | Embeddings | str | None, *, is_async: bool) -> Embedder | None:
    if embed is None:
        return None
    if isinstance(embed, str | Embeddings):
        embeddings = ensure_embeddings(embed)
        return Embedder(embeddings.embed_documents, embeddings.embed_query)
    if not callable(embed):
        raise TypeError(f"embed must be callable, an Embeddings or its name, got {type(embed).__name__}")
    function: Callable[[list[str]], Any] = embed
    if not is_async:
        if inspect.iscoroutinefunction(embed) or inspect.iscoroutinefunction(getattr(embed, "__call__", None)):  # noqa: B004
            raise TypeError("embed must not be a coroutine function with a MemorySystem: give an AsyncMemorySystem")
        return Embedder(function, lambda text: function([text])[0])

    async def question(text: str) -> Any:
        found = await asyncio.to_thread(function, [text])
        return (await found if inspect.isawaitable(found) else found)[0]

    return Embedder(function, question)


def _check_ttl(ttl: TTLConfig | None) -> None:
    if ttl is None:
        return
    if not isinstance(ttl, Mapping):
        raise TypeError(f"ttl must be a mapping, LangGraph's TTLConfig, got {type(ttl).__name__}")
    unknown = sorted(set(ttl).difference(_TTL_NAMES))
    if unknown:
        raise ValueError(f"ttl must have names of LangGraph's TTLConfig, got {unknown[0]!r}")
    minutes = ttl.get("default_ttl")
    if minutes is not None and (not minutes > 0 or math.isinf(minutes)):
        raise ValueError(f"ttl must have a default_ttl of finite minutes above 0, got {minutes!r}")
