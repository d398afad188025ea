"""Retrieval: the index of this process ranks, contents come from Redis, then from SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent_memory._concurrency import async_settle
from agent_memory.memory._agent_index import AgentIndex
from agent_memory.memory._async.accesses import AsyncAccesses
from agent_memory.memory._async.embedding import AsyncEmbedding
from agent_memory.memory._async.indexes import AsyncIndexes
from agent_memory.memory._async.reading import AsyncReader
from agent_memory.memory._copy import Copy, entry_of
from agent_memory.memory._outcomes import Found
from agent_memory.memory._question import Question
from agent_memory.memory._reranking import reranked
from agent_memory.memory.entries import MemoryEntry
from agent_memory.memory.errors import MemoryStoreUnavailableError
from agent_memory.scoring import ScoreWeights, SearchResult

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["AsyncRetrieval"]

RANKINGS: Final = 8
"""The most rankings for one question: another one where memories were stored, deleted or expired a moment ago."""

WITHOUT_MATCH: Final = ScoreWeights(similarity=0, lexical=0, recency=1, importance=1)
"""What ranks memories where none matches."""


class AsyncRetrieval:
    """Finds the memories most relevant to a question. Any number of tasks may use one object."""

    def __init__(
        self, indexes: AsyncIndexes, reader: AsyncReader, embedding: AsyncEmbedding, accesses: AsyncAccesses
    ) -> None:
        self._indexes = indexes
        self._reader = reader
        self._embedding = embedding
        self._accesses = accesses

    async def retrieve(self, question: Question) -> list[MemoryEntry]:
        """The entries that answer a question best, best first."""
        agent_id = question.agent_id
        ranking = question.ranking
        k = question.k if ranking.rerank is None else max(question.k, ranking.pool)
        embedding = await self._vector_of(question)
        index = await self._indexes.fresh(agent_id)
        asked = k
        for attempt in range(RANKINGS):
            index = await self._indexes.settled(agent_id, index)
            found = _search(index, question, embedding, asked)
            ids = [] if found is None else found.ids
            read = await self._reader.read(agent_id, ids, index.known_versions(ids), partial=True)
            if await self._has_news(agent_id, index, read.hint):
                index = await self._indexes.get(agent_id)
                continue
            entries = [
                entry for entry in _entries(found, read.copies) if (entry.relevance or 0.0) >= question.min_relevance
            ][:k]
            if len(entries) >= k or len(ids) < asked or attempt == RANKINGS - 1:
                return await self._answer(question, entries, index, read)
            asked = min(4 * asked, max(len(index), asked))  # some have expired or were deleted a moment ago
        return []

    async def _vector_of(self, question: Question) -> ArrayLike | None:
        embedding, text = question.embedding, question.text
        if (
            text is not None
            and embedding is None
            and self._embedding.is_possible
            and question.ranking.weights.similarity > 0
        ):
            vector: ArrayLike | None = await self._embedding.question(text)
            return vector
        space = await self._embedding.refresh()
        if embedding is not None and space is not None and np.shape(embedding) != (space.dimensions,):
            raise ValueError(
                f"embedding must have {space.dimensions} elements, as the vectors of this database,"
                f" got shape {np.shape(embedding)}"
            )
        return embedding

    async def _has_news(self, agent_id: str, index: AgentIndex, hint: int | None) -> bool:
        """Whether another process has stored something since the ranking, so that it is made again."""
        if hint is None or hint == index.hint:
            return False
        is_news = index.hint is not None
        index.hint = hint
        return is_news and await self._indexes.try_refresh(agent_id, index)

    async def _answer(
        self, question: Question, entries: list[MemoryEntry], index: AgentIndex, read: Found
    ) -> list[MemoryEntry]:
        rerank = question.ranking.rerank
        if rerank is not None and question.text is not None and entries:
            scores = await async_settle(rerank(question.text, entries))
            entries = reranked(entries, scores, question.k)
        if not entries and (read.unknown or index.is_behind or not index.is_loaded):
            raise MemoryStoreUnavailableError("no memory could be read, and whether there are any is unknown")
        self._accesses.note([entry.id for entry in entries])
        return entries


def _search(index: AgentIndex, question: Question, embedding: ArrayLike | None, k: int) -> SearchResult | None:
    if index.index is None or not len(index.index):
        return None
    text, ranking = question.text, question.ranking
    weights = ranking.weights
    vector = embedding if index.dimensions else None
    if vector is None and text is None and not (weights.recency or weights.importance or weights.access):
        raise ValueError("text or embedding must be given unless recency, importance or access have a weight")
    options: dict[str, Any] = {
        "filters": question.filters,
        "now_s": question.now_s,
        "decay": ranking.decay,
        "diversity": ranking.diversity,
    }
    found = index.index.search(vector, text, k, components=True, weights=weights, **options)
    if not found.ids and vector is None:
        # No memory has a word of the text: `Who am I?` is answered by what is recent and important.
        found = index.index.search(None, None, k, weights=WITHOUT_MATCH, **options)
    return found


def _entries(found: SearchResult | None, read: dict[str, Copy]) -> list[MemoryEntry]:
    if found is None:
        return []
    entries = []
    is_match = found.relevance is not None
    relevance = [0.0] * len(found.ids) if found.relevance is None else found.relevance.tolist()
    parts = [(name, values.tolist()) for name, values in (found.components or {}).items()]
    for at, memory_id in enumerate(found.ids):
        copy = read.get(memory_id)
        if copy is not None:
            # What is not equal to itself is nan: the memory has no such part.
            known = {name: values[at] for name, values in parts if values[at] == values[at]}
            entries.append(entry_of(copy, relevance=relevance[at], is_match=is_match, score_parts=known))
    return entries
