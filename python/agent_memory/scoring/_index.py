"""`MemoryIndex`: memories in this process, searched by vector, by words, or by both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from agent_memory import _check, _core
from agent_memory.scoring._score import check_array, check_how, float_vector
from agent_memory.scoring._settings import (
    DEFAULT_DECAY,
    DEFAULT_WEIGHTS,
    AttributeValue,
    Decay,
    Diversity,
    Filters,
    ScoreWeights,
    check_count,
    encode_attributes,
)

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import ArrayLike, NDArray

Fusion = Literal["minmax", "sum", "rrf"]
Embedder = Callable[[list[str]], "ArrayLike"]
_NO_FILTERS = Filters()
_FUSIONS: Final = ("minmax", "sum", "rrf")


_PARTS: Final = ("similarity", "lexical", "recency", "importance", "access")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What was found, best first. Of equal scores the later timestamp comes first, then the greater id.

    `ids` and `scores` (float64) go together. `reranked` says for how many memories the `f32` elements had to be read
    to prove the ranking.
    """

    ids: list[str]
    scores: NDArray[np.float64]
    reranked: int
    components: Mapping[str, NDArray[np.float64]] | None = None
    """With `components=True`: the values of each part by its name, as they are, neither scaled nor weighted; nan where a
    memory has no such part. Parts without a weight are left out."""
    relevance: NDArray[np.float64] | None = None
    """With `components=True`: 0..1, comparable between searches, falling as `scores` do. It is the mean of the parts, each
    as a share of the best it can be (1 for a similarity; for the words, a text of mean length in which each of them stands
    once), by what a unit of them adds to the score."""

    def __len__(self) -> int:
        return len(self.ids)


def _strings(name: str, values: Iterable[str]) -> list[str]:
    if isinstance(values, str):
        raise TypeError(f"{name} must be a collection of str, got a str")
    _check.iterable(name, values, "str")
    found = list(values)
    if set(map(type, found)) <= {str}:
        return found
    for position, value in enumerate(found):
        if not isinstance(value, str):
            raise TypeError(f"{name} must hold str, got {type(value).__name__} at {position}")
    return found


def _check_len(name: str, values: Sequence[object] | None, expected: int) -> None:
    if values is None:
        return
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise TypeError(f"{name} must be a sequence with one element per id, got {values!r}")
    if len(values) != expected:
        raise ValueError(f"{name} must have one element per id ({expected}), got {len(values)}")


def _check_embedder(embedder: object) -> None:
    if embedder is not None:
        _check.function("embedder", embedder)


def _check_pair(pair: object) -> None:
    if pair is not None and not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
        raise TypeError(f"sequence must hold pairs (session, step) or None, got {pair!r}")


class MemoryIndex:
    """An exact index of memories: vectors of one embedding model, words, times, attributes, sequences.

    - `dimensions`: elements of a vector, 1..65,536.
    - `similarity`: `"cosine"`, `"inner_product"` or `"euclidean"` (`1 / (1 + distance)`).
    - `language`: whose Snowball stemmer words in Latin letters have: `"english"` (with a long stop list), another of
      `languages()`, or `"none"` for words as they are. `"auto"` is English for Latin letters. Words of other scripts are
      stemmed or cut into n-grams by their script, whatever the language.
    - `k1` (0.9, >= 0) and `b` (0.15, in 0..1) are BM25's constants; the defaults suit short texts.
    - `context`: whether memories with a `sequence` lend their words to their neighbours. Words that stand in more than a
      fifth of the texts are not lent.
    - `model`: the name of the embedding model; a loaded snapshot of another model is refused.
    - `embedder`: called with a list of texts, returns an array of shape (len(texts), dimensions). With it, texts that
      come without vectors are embedded. Nothing is ever downloaded by this class.

    Rankings are exact: an int8 shadow of the vectors is scanned, and every vector that its error bound does not rule
    out is ranked by float64 sums. There is no approximate index: the time of a search grows with the number of rows.

    Raises `TypeError` or `ValueError` for an argument outside its rule.

    Thread safety: every method may be called from any number of threads. Writes take turns; a search sees the index as
    it was when the search began, never waits for a write to finish, and runs without the GIL.
    """

    def __init__(
        self,
        dimensions: int,
        *,
        similarity: Literal["cosine", "inner_product", "euclidean"] = "cosine",
        language: str = "english",
        k1: float = 0.9,
        b: float = 0.15,
        context: bool = True,
        model: str = "",
        embedder: Embedder | None = None,
    ) -> None:
        check_count("dimensions", dimensions)
        for name, number in (("k1", k1), ("b", b)):
            _check.any_number(name, number)
        for name, word in (("similarity", similarity), ("language", language), ("model", model)):
            _check.instance(name, word, str)
        _check.flag("context", context)
        _check_embedder(embedder)
        if not (math.isfinite(k1) and k1 >= 0):
            raise ValueError(f"k1 must be finite and >= 0, got {k1}")
        if not 0 <= b <= 1:
            raise ValueError(f"b must be in 0..1, got {b}")
        self._core = _core.IndexCore(dimensions, similarity, language, k1, b, context, model)
        self._embedder = embedder

    @property
    def dimensions(self) -> int:
        """Elements of a vector."""
        return self._core.dimensions

    @property
    def model(self) -> str:
        """The name of the embedding model."""
        return self._core.model

    @property
    def language(self) -> str:
        """What `language` was given."""
        return self._core.language

    @property
    def has_present_rules(self) -> bool:
        """Whether its words were made by the rules of this version; a loaded snapshot keeps those it was made by."""
        return self._core.analyzer_version == _core.ANALYZER_VERSION

    def __len__(self) -> int:
        return len(self._core)

    def __contains__(self, memory_id: object) -> bool:
        return isinstance(memory_id, str) and memory_id in self._core

    def _embed(self, texts: list[str]) -> NDArray[Any]:
        assert self._embedder is not None
        vectors = np.asarray(self._embedder(texts))
        if vectors.shape != (len(texts), self.dimensions):
            expected = (len(texts), self.dimensions)
            raise ValueError(f"embedder must return an array of shape {expected}, got {vectors.shape}")
        return vectors

    def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[Any] | None = None,
        texts: Sequence[str | None] | None = None,
        importance: ArrayLike | None = None,
        timestamps_s: ArrayLike | None = None,
        attributes: Sequence[Mapping[str, AttributeValue | list[AttributeValue]]] | None = None,
        sequence: Sequence[tuple[str, int] | None] | None = None,
        *,
        access_counts: ArrayLike | None = None,
    ) -> None:
        """Writes memories; one whose id is there already is replaced as a whole. All become visible at once.

        - `ids`: n distinct str.
        - `vectors`: shape (n, dimensions), float16, float32 or float64 (rounded to float32), finite, elements at most
          1e15 in size; or None.
        - `texts`: n str or None. With an embedder and no `vectors`, every text is embedded, and none may be None.
        - `importance`, `access_counts` (>= 0): shape (n,), finite; 0 if not given.
        - `timestamps_s`: shape (n,), seconds since the epoch, NaN for unknown.
        - `attributes`: n mappings from a name to a str, int, float or bool, or a list of them, for filters.
        - `sequence`: n pairs (session, step) or None, for the context field.

        Raises `TypeError` or `ValueError` naming what is wrong; then nothing was written. Large batches are fastest.
        """
        names = _strings("ids", ids)
        check_array("vectors", vectors)
        count = len(names)
        for name, values in (("texts", texts), ("attributes", attributes), ("sequence", sequence)):
            _check_len(name, values, count)
        given_texts = None if texts is None else list(texts)
        for text in given_texts or ():
            if not isinstance(text, str | None):
                raise TypeError(f"texts must hold str or None, got {type(text).__name__}")
        for pair in sequence or ():
            _check_pair(pair)
        if vectors is None and given_texts is not None and self._embedder is not None:
            vectors = self._embed(_strings("texts", given_texts))  # type: ignore[arg-type]
        encoded = None
        if attributes is not None:
            for one in attributes:
                _check.instance("attributes", one, Mapping)
            encoded = [encode_attributes(one) for one in attributes]

        def numbers(name: str, values: ArrayLike | None) -> NDArray[np.float64] | None:
            if values is None:
                return None
            try:
                array = np.asarray(values, dtype=np.float64)
            except (TypeError, ValueError, OverflowError):
                array = np.empty(())
            if array.ndim == 0:
                raise TypeError(f"{name} must be an array of numbers, got {values!r}")
            return array

        self._core.upsert(
            names,
            vectors,
            given_texts,
            numbers("importance", importance),
            numbers("access_counts", access_counts),
            numbers("timestamps_s", timestamps_s),
            encoded,
            None if sequence is None else list(sequence),
        )

    def delete(self, ids: Iterable[str]) -> int:
        """Takes the memories of `ids` out; unknown ids are passed over. Returns how many there were.

        Raises `TypeError` for what is no collection of str; then nothing was taken out.
        """
        return self._core.delete(_strings("ids", ids))

    def search(
        self,
        vector: ArrayLike | None = None,
        text: str | None = None,
        k: int = 10,
        *,
        weights: ScoreWeights = DEFAULT_WEIGHTS,
        filters: Filters | Mapping[str, AttributeValue] | None = None,
        now_s: float | None = None,
        decay: Decay = DEFAULT_DECAY,
        fusion: Fusion = "minmax",
        diversity: Diversity | None = None,
        components: bool = False,
        kernel: str | None = None,
    ) -> SearchResult:
        """The best `k` memories for a vector, a text, or both.

        With one part of non-zero weight, scores are that part's: the similarity, or BM25
        (`sum of idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length))`, `idf = ln(1 + (N - df + 0.5) /
        (df + 0.5))`, Robertson and Zaragoza, 2009). With several, `fusion` ("minmax") puts them together:

        - `"minmax"` (the default): each part is scaled to 0..1 over the memories that take part, then the sum is weighted.
        - `"sum"`: the weighted sum of the parts as they are.
        - `"rrf"`: `weight / (60 + rank)` of the vector's and the text's rankings, each `max(100, 10 k)` deep (Cormack
          et al., 2009).

        A text alone finds memories that share a word with it; a vector alone finds memories with a vector; both find
        every memory that `filters` lets through. `filters` is a `Filters` or a mapping of attributes. `now_s` (default:
        the clock) is what ages count from, in seconds since the epoch; memories without a timestamp have recency 0. With
        an embedder and no `vector`, the text is embedded too. With `components` the result tells the parts of each score.
        A zero vector has cosine 0 with everything.

        - `k` (10): the most memories of the answer.
        - `weights`: the `ScoreWeights`. `decay`: a `HalfLife` (the default) or a `PowerLaw`.
        - `diversity` (None): a `Diversity`, which spreads the answer out.
        - `kernel` (None, the fastest): forces one of `kernel_tiers()`; results do not depend on it.

        Raises `TypeError` or `ValueError` naming what is wrong, also if neither `vector` nor `text` is given and no
        other part has a weight.
        """
        if text is not None:
            _check.instance("text", text, str)
        _check.flag("components", components)
        check_how(weights, decay, kernel)
        if vector is None and text is not None and self._embedder is not None and weights.similarity > 0:
            vector = self._embed([text])[0]
        if vector is None and text is None and not (weights.recency or weights.importance or weights.access):
            raise ValueError("vector or text must be given unless recency, importance or access have a weight")
        options = self._options(k, weights, fusion, decay, now_s, filters, diversity, 1, kernel)
        given = None if vector is None else float_vector("vector", vector)
        if not components:
            return SearchResult(*self._core.search(given, text, options))
        answer, parts, relevance = self._core.search_with_parts(given, text, options)
        asked = {"similarity": vector is not None, "lexical": text is not None}
        named = {
            name: parts[:, column]
            for column, name in enumerate(_PARTS)
            if getattr(weights, name) > 0 and asked.get(name, True)
        }
        return SearchResult(*answer, named, relevance)

    def search_many(
        self,
        vectors: NDArray[Any] | None = None,
        texts: Sequence[str] | None = None,
        k: int = 10,
        *,
        weights: ScoreWeights = DEFAULT_WEIGHTS,
        filters: Filters | Mapping[str, AttributeValue] | None = None,
        now_s: float | None = None,
        decay: Decay = DEFAULT_DECAY,
        fusion: Fusion = "minmax",
        diversity: Diversity | None = None,
        threads: int = 1,
        kernel: str | None = None,
    ) -> list[SearchResult]:
        """As `search` for every row of `vectors` (shape (m, dimensions)) and every one of m `texts`, over one state of
        the index. Searches by vector alone share one pass over the codes, which is several times faster.

        `k` (10), `weights`, `filters`, `now_s` (seconds since the epoch), `decay`, `fusion` ("minmax"), `diversity` and
        `kernel` are those of `search`; `threads` (1) share the pass. Raises `TypeError` or `ValueError` naming what is wrong.
        """
        given = None if texts is None else _strings("texts", texts)
        check_array("vectors", vectors)
        check_how(weights, decay, kernel)
        if vectors is None and given and self._embedder is not None and weights.similarity > 0:
            vectors = self._embed(given)
        if vectors is None and given is None:
            raise ValueError("vectors or texts must be given")
        check_count("threads", threads)
        options = self._options(k, weights, fusion, decay, now_s, filters, diversity, threads, kernel)
        return [SearchResult(*answer) for answer in self._core.search_many(vectors, given, options)]

    @staticmethod
    def _options(
        k: int,
        weights: ScoreWeights,
        fusion: Fusion,
        decay: Decay,
        now_s: float | None,
        filters: Filters | Mapping[str, AttributeValue] | None,
        diversity: Diversity | None,
        threads: int,
        kernel: str | None,
    ) -> dict[str, Any]:
        check_count("k", k)
        _check.one_of("fusion", fusion, _FUSIONS)
        if diversity is not None:
            _check.instance("diversity", diversity, Diversity)
        _check.numbers({"now_s": now_s})
        if filters is None:
            filters = _NO_FILTERS
        elif not isinstance(filters, Filters):
            if not isinstance(filters, Mapping):
                raise TypeError(f"filters must be a Filters or a mapping of attributes, got {filters!r}")
            filters = Filters(filters)
        now_s = time.time() if now_s is None else float(now_s)
        if not math.isfinite(now_s):
            raise ValueError(f"now_s must be finite, got {now_s}")
        w = weights
        return {
            "k": k,
            "weights": (w.similarity, w.lexical, w.recency, w.importance, w.access),
            "fusion": fusion,
            "decay": decay._as_tuple(),
            "now_s": now_s,
            "time_range_s": filters._time_range(),
            "attributes": filters._encoded(),
            "diversity": None if diversity is None else (diversity.relevance_share, diversity.pool),
            "threads": threads,
            "kernel": kernel,
        }

    def ids(self) -> list[str]:
        """The ids of all memories, by the time of their last write."""
        return self._core.ids()

    def reembed(
        self,
        embedder: Embedder,
        texts: Mapping[str, str],
        *,
        model: str,
        dimensions: int,
        batch: int = 1024,
    ) -> MemoryIndex:
        """A new index with the vectors of another embedding model; this one stays as it is and can be searched on.

        An index has one embedding space, and vectors of different models cannot be compared. So a new model means a new
        index: every memory is carried over with its words, times, attributes, sequence, importance and access count, and
        gets `embedder([texts[id]])` as its vector. An index keeps words, not texts: hence `texts`. A memory whose id is
        not in `texts` is carried over without a vector.

        - `embedder`: as in the constructor, called with at most `batch` (1024) texts at once; the new index keeps it.
        - `model`, `dimensions`: of the new vectors.

        What is written to this index after the call began may or may not be carried over: write to both meanwhile.
        Raises what `embedder` raises, `TypeError` for an argument of the wrong type, and `ValueError` for an array of another
        shape or with values that are not finite.
        """
        check_count("dimensions", dimensions)
        check_count("batch", batch)
        _check.function("embedder", embedder)
        _check.instance("texts", texts, Mapping)
        _check.instance("model", model, str)
        new = type(self).__new__(type(self))
        new._core = self._core.emptied(dimensions, model)
        new._embedder = embedder
        ids = self.ids()
        for start in range(0, len(ids), batch):
            part = ids[start : start + batch]
            with_text = [memory_id for memory_id in part if memory_id in texts]
            if len(with_text) < len(part):
                self._core.copy_into(new._core, [memory_id for memory_id in part if memory_id not in texts], None)
            if with_text:
                vectors = new._embed(_strings("texts", [texts[memory_id] for memory_id in with_text]))
                self._core.copy_into(new._core, with_text, vectors)
        return new

    def save(self, path: str | PathLike[str], *, vectors: Literal["memory", "mapped"] = "memory") -> None:
        """Writes a snapshot: beside `path`, synced, renamed over it. `path` always leads to a whole snapshot.

        `vectors` is "memory" (the default) or "mapped". With "mapped" the float32 elements are then left to the file, as after
        `load(path, vectors="mapped")`,
        and their memory is given back. An index of more memories than fit in memory is written in rounds: upsert, save
        mapped, upsert on. Segments of which memories were replaced or deleted stay in memory until they are compacted
        (more than a quarter dead) and saved again.

        Writers wait meanwhile, searches do not. Raises `OSError`; then `path` is as it was. Raises `TypeError` or `ValueError`
        for an argument outside its rule.
        """
        if vectors not in ("memory", "mapped"):
            raise ValueError(f"vectors must be 'memory' or 'mapped', got {vectors!r}")
        _check.path("path", path)
        self._core.save(path, vectors == "mapped")

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        vectors: Literal["memory", "mapped"] = "memory",
        model: str | None = None,
        embedder: Embedder | None = None,
    ) -> MemoryIndex:
        """An index from the snapshot at `path`; its settings are in the file. `embedder` is that of the constructor.

        `vectors` is "memory" (the default) or "mapped". With "mapped" the float32 elements (1,536 bytes a memory at 384
        dimensions) stay in the file, which is
        mapped and can be shared by processes; only candidates are read from it. What is written after loading is in
        memory. The file must not be truncated or written in place while it is mapped (`save` never does).
        All of the file is read and its checksums compared, by as many threads as there are processors, 4 at most.

        Raises `OSError` if the file cannot be read, and `ValueError` if it is foreign, damaged or of another version,
        or if `model` is given and the snapshot's is another, and `TypeError` for an argument of the wrong type.
        """
        if vectors not in ("memory", "mapped"):
            raise ValueError(f"vectors must be 'memory' or 'mapped', got {vectors!r}")
        _check.path("path", path)
        if model is not None:
            _check.instance("model", model, str)
        _check_embedder(embedder)
        core = _core.IndexCore.load(path, vectors == "mapped")
        if model is not None and core.model != model:
            raise ValueError(f"model must be the snapshot's, {core.model!r}, got {model!r}")
        index = cls.__new__(cls)
        index._core = core
        index._embedder = embedder
        return index

    def stats(self) -> dict[str, int]:
        """`memories`, `segments`, and `dead_rows`: rows that were replaced or deleted and are still held."""
        segments, dead_rows = self._core.fragmentation()
        return {"memories": len(self), "segments": segments, "dead_rows": dead_rows}
