"""Vectors of texts: made by the caller's `embed`, of one space in all of a database.

A *space* is a model and its number of dimensions, noted in SQL by the first vector. Rules
- A vector of other dimensions is refused, and so is one of a model with another name.
- Where `embed` fails, the memory is stored with PENDING_VECTOR, and gets its vector from a later pass.
- `reembed()` notes the next space first, whose vectors have versions from `first_version` on. That lies GRACE_S ahead: until
  then other processes learn of it, and refuse what is made by their model. What they have stored meanwhile is below it, and is
  made anew like everything older. Vectors of lower versions are not searched.
- A pass goes through the table by rows, and may be broken off anywhere: what has its vector is not found by the next one.
- Each memory is changed only over the version that was read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np

from agent_memory._concurrency import AsyncKeyedLocks, async_in_thread, async_settle, async_sleep
from agent_memory.memory._async.sql_gateway import AsyncSqlGateway
from agent_memory.memory._async.writing import AsyncWriter
from agent_memory.memory._copy import PENDING_VECTOR, Copy, embedded_text
from agent_memory.memory._damage import Damage
from agent_memory.memory.errors import EmbeddingSpaceError, MemoryStoreUnavailableError, MemorySystemError
from agent_memory.memory.reports import ReembedReport
from agent_memory.memory.settings import MemorySettings
from agent_memory.memory.stores.operations import EmbeddingSpace, Put, Unembedded, WriteStatus

__all__ = ["AsyncEmbedding"]

logger = logging.getLogger(__name__)

GRACE_S: Final = 2.0
"""How far ahead a new space begins; at least twice `max_staleness_s`, in which others learn of it."""

EMBEDDED_AT_ONCE: Final = 100
"""Texts that a pass gives to `embed` in one call."""

MAX_FAILURES: Final = 3
"""Texts in a row for which `embed` fails, after which a pass is given up."""

WARNING_INTERVAL_S: Final = 60.0
"""Between two lines in the log on an `embed` that fails, or that is of another space."""


class AsyncEmbedding:
    """The vectors of one memory system. Any number of tasks may use one object."""

    def __init__(
        self,
        sql: AsyncSqlGateway,
        writer: AsyncWriter,
        damage: Damage,
        settings: MemorySettings,
        embed: Callable[[list[str]], Any] | None,
        on_space: Callable[[EmbeddingSpace], None],
        on_changed: Callable[[Copy], None],
    ) -> None:
        self._sql = sql
        self._writer = writer
        self._damage = damage
        self._embed_function = embed
        self._on_space = on_space
        self._on_changed = on_changed
        self._settings = settings
        self._passing = AsyncKeyedLocks()
        self._asked_at = -float("inf")
        self._warned_at = -float("inf")
        self.space: EmbeddingSpace | None = None
        self.failures = 0
        self.embedded_later = 0

    @property
    def is_possible(self) -> bool:
        """Whether the caller gave an `embed`."""
        return self._embed_function is not None

    def stats(self) -> dict[str, Any]:
        """The space, and how `embed` did."""
        space = self.space
        return {
            "model": None if space is None else space.model,
            "dimensions": None if space is None else space.dimensions,
            "complete": space is None or space.is_complete,
            "failures": self.failures,
            "embedded_later": self.embedded_later,
        }

    # --- the space ---

    async def refresh(self) -> EmbeddingSpace | None:
        """The space as SQL has it, at most `max_staleness_s` old; what is known where SQL is away."""
        if time.monotonic() - self._asked_at >= self._settings.sync.max_staleness_s:
            try:
                await self._ask()
            except MemoryStoreUnavailableError:
                pass
        return self.space

    async def _ask(self) -> None:
        space = await self._sql.ask(self._sql.store.embedding_space)
        self._learn(space)

    def _learn(self, space: EmbeddingSpace | None) -> None:
        self._asked_at = time.monotonic()
        if space is not None and space != self.space:
            self.space = space
            self._on_space(space)

    async def _note(self, space: EmbeddingSpace) -> EmbeddingSpace:
        present: EmbeddingSpace = await self._sql.ask(self._sql.store.note_embedding_space, space)
        self._learn(present)
        return present

    async def admit(self, copies: Sequence[Copy]) -> None:
        """Refuses vectors that are not of the space of the database; the first vector of all begins it."""
        lengths = {len(copy.vector) for copy in copies if len(copy.vector) > 1}
        wanted = self._settings.index.dimensions
        for length in lengths:
            if wanted is not None and length != 4 * wanted:
                raise ValueError(f"embedding must have {wanted} elements (IndexSettings.dimensions), got {length // 4}")
        for length in sorted(lengths):
            space = await self.refresh()
            if space is None:
                try:
                    space = await self._note(EmbeddingSpace(1, self._settings.index.model, length // 4))
                except MemoryStoreUnavailableError:
                    continue  # nothing can be known; it is compared when SQL is back
            await self._check(space, length // 4)

    async def _check(self, space: EmbeddingSpace, dimensions: int) -> None:
        model = self._settings.index.model
        of_model = f" of model {space.model!r}" if space.model else ""
        if dimensions != space.dimensions:
            raise EmbeddingSpaceError(
                f"embedding must have {space.dimensions} elements, as all vectors{of_model} in this database, got {dimensions}:"
                " reembed() makes them anew with this system's embed"
            )
        if model and space.model and model != space.model:
            raise EmbeddingSpaceError(
                f"IndexSettings.model must be {space.model!r}, as of all vectors in this database, got {model!r}:"
                " reembed() makes them anew with this system's embed"
            )
        if model and not space.model:
            await self._note(space._replace(model=model))

    def _fits(self, dimensions: int) -> bool:
        """Whether a vector of this system's `embed` can be compared with those of the database."""
        space, model = self.space, self._settings.index.model
        if space is None:
            return True
        return dimensions == space.dimensions and not (model and space.model and model != space.model)

    # --- making vectors ---

    async def make(self, texts: list[str]) -> Any:
        """The vectors of texts; raises what `embed` raises, and ValueError for what is no array of vectors."""
        function = self._embed_function
        assert function is not None
        vectors = np.asarray(await async_settle(await async_in_thread(function, texts)), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(f"embed must return an array of shape ({len(texts)}, dimensions), got {vectors.shape}")
        return vectors

    async def make_or_wait(self, texts: list[str]) -> Sequence[Any]:
        """The vectors of texts that are stored; where `embed` fails, PENDING_VECTOR in the place of each."""
        function = self._embed_function
        assert function is not None
        try:
            made = await async_settle(await async_in_thread(function, texts))
        except Exception as error:  # the caller's function: whatever it raises, the text is worth keeping
            self.failures += 1
            self._warn("embed failed (%s): memories are stored, found by words, and embedded later", error)
            return [PENDING_VECTOR] * len(texts)
        vectors = np.asarray(made, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(f"embed must return an array of shape ({len(texts)}, dimensions), got {vectors.shape}")
        return list(vectors)

    async def question(self, text: str) -> Any:
        """The vector of a question; None, so that words alone rank, where `embed` fails or is of another space."""
        await self.refresh()
        (vector,) = await self.make_or_wait([text])
        if vector is PENDING_VECTOR:
            return None
        if not self._fits(len(vector)):
            error = EmbeddingSpaceError("embed gives other vectors than those of the database")
            self._warn("questions are answered by words alone (%s): call reembed()", error)
            return None
        return vector

    def _warn(self, message: str, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned_at >= WARNING_INTERVAL_S:
            self._warned_at = now
            logger.warning(message, type(error).__name__)

    # --- making them later, and anew ---

    async def catch_up(self) -> int:
        """Makes the vectors that wait, and goes on with a migration that was broken off; returns how many were made.

        Does nothing without `embed`, or where it is of another space than the database.
        """
        space = await self.refresh()
        if self._embed_function is None or space is None:
            return 0
        report = ReembedReport()
        try:
            async with self._passing.hold("pass"):
                is_done = await self._pass(space, "pending" if space.is_complete else "earlier", report)
                if is_done and not space.is_complete and self._is_over(space):
                    await self._note(space._replace(is_complete=True))
        except EmbeddingSpaceError as error:
            self._warn("memories wait for their embedding (%s): call reembed()", error)
        except MemorySystemError:
            raise
        except Exception as error:  # the caller's function
            self.failures += 1
            self._warn("embed failed (%s): memories still wait for their embedding", error)
        return report.embedded

    async def reembed(self, include_missing: bool) -> ReembedReport:
        """Makes all vectors anew by this system's `embed`; returns when all are."""
        if self._embed_function is None:
            raise ValueError("embed must be given to the memory system, got None: it makes the vectors")
        dimensions = (await self.make(["dimensions"])).shape[1]
        wanted = self._settings.index.dimensions
        if wanted not in (None, dimensions):
            raise EmbeddingSpaceError(f"embed must give IndexSettings.dimensions ({wanted}) elements, got {dimensions}")
        async with self._passing.hold("pass"):
            await self._ask()
            space = await self._begin(dimensions)
            while not self._is_over(space):
                await async_sleep(max(0.0, space.first_version / 1e6 - time.time()) + 0.001)
            report = ReembedReport()
            which: Literal["earlier", "missing"] = "missing" if include_missing else "earlier"
            while not await self._pass(space, which, report):
                pass  # something was changed meanwhile, or one text could not be embedded
            await self._note(space._replace(is_complete=True))
        return report

    async def _begin(self, dimensions: int) -> EmbeddingSpace:
        """The next space; the present one, where a migration to this very model was broken off."""
        model, present = self._settings.index.model, self.space
        if present is None:
            return await self._note(EmbeddingSpace(1, model, dimensions))
        if not present.is_complete and present.dimensions == dimensions and present.model == model:
            return present
        grace_s = max(GRACE_S, 2 * self._settings.sync.max_staleness_s)
        first = int((time.time() + grace_s) * 1e6)
        begun = await self._note(EmbeddingSpace(present.number + 1, model, dimensions, first, False))
        if (begun.number, begun.model, begun.dimensions) != (present.number + 1, model, dimensions):
            raise EmbeddingSpaceError(
                f"reembed() must be called by one system at a time, another one has begun with model {begun.model!r}"
            )
        return begun

    @staticmethod
    def _is_over(space: EmbeddingSpace) -> bool:
        """Whether what is written from now on is of the space."""
        return time.time() * 1e6 >= space.first_version

    async def _pass(
        self, space: EmbeddingSpace, which: Literal["pending", "earlier", "missing"], report: ReembedReport
    ) -> bool:
        """Goes through the table once; returns whether all that was found has its vector now."""
        store, row, is_done = self._sql.store, 0, True
        while True:
            found: list[Unembedded] = await self._sql.ask(store.unembedded, space, which, row, limit=EMBEDDED_AT_ONCE)
            if not found:
                return is_done
            row = found[-1].row
            is_done &= await self._embed_again(space, [one.id for one in found], report)

    async def _embed_again(self, space: EmbeddingSpace, ids: list[str], report: ReembedReport) -> bool:
        damaged: list[str] = []
        rows: list[Copy | None] = await self._sql.ask(self._sql.store.get, ids, damaged=damaged)
        for memory_id in damaged:  # it is left as it is
            self._damage.note(memory_id, "SQL")
        held = [copy for copy in rows if copy is not None and not copy.deleted]
        texts = {copy: text for copy in held if (text := embedded_text(copy)) is not None}
        vectors = await self._make_each(list(texts.values())) if texts else []
        writer = self._writer.number
        puts = [
            Put(_with_vector(copy, vector, writer), copy.version)
            for copy, vector in zip(texts, vectors, strict=True)
            if vector is not None
        ]
        for put in puts:
            await self._check(space, len(put.copy.vector) // 4)
        # As late as can be: what is put within the grace of a space that has begun meanwhile is made anew by its migration.
        present = await self.refresh()
        if present is not None and present.number != space.number:
            raise EmbeddingSpaceError("reembed() was overtaken by another one, to another model")
        is_done = len(puts) == len(texts)
        # What only its caller could embed: its vector cannot be compared with the others any more.
        puts += [
            Put(_with_vector(copy, None, writer), copy.version) for copy in held if copy not in texts and copy.vector
        ]
        for put, written in zip(puts, await self._writer.put_many(puts), strict=True):
            if written.result.status is WriteStatus.APPLIED:
                report.embedded += bool(put.copy.vector)
                report.dropped += not put.copy.vector
                self.embedded_later += bool(put.copy.vector)
                if written.copy is not None:
                    self._on_changed(written.copy)
            else:
                is_done = False  # it was changed meanwhile: the next pass sees what it is now
        return is_done

    async def _make_each(self, texts: list[str]) -> list[Any]:
        """The vectors of texts; None for one that `embed` fails for, which must not keep the others waiting.

        Raises what `embed` raises where it fails for MAX_FAILURES in a row: then it is `embed` that is away.
        """
        try:
            return list(await self.make(texts))
        except Exception:
            if len(texts) == 1:
                raise
        made: list[Any] = []
        failures = 0
        for text in texts:
            try:
                (vector,) = await self.make([text])
            except Exception:
                failures += 1
                if failures == MAX_FAILURES:
                    raise
                made.append(None)
            else:
                failures = 0
                made.append(vector)
        return made


def _with_vector(copy: Copy, vector: Any, writer: int) -> Copy:
    """The same memory with another vector, as a new version."""
    data = b""
    if vector is not None:
        if not np.isfinite(vector).all():
            raise ValueError("embed must return finite numbers, got nan or infinity")
        data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return copy._replace(vector=data, version=0, writer=writer, checksum=0)
