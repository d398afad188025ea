"""`score`: exact ranking of the rows of a numpy array."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from agent_memory import _check, _core
from agent_memory.scoring._settings import (
    DEFAULT_DECAY,
    DEFAULT_WEIGHTS,
    MOST,
    Decay,
    HalfLife,
    PowerLaw,
    ScoreWeights,
    check_count,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Indices = NDArray[np.int64]
    Floats = NDArray[np.float64]

Similarity = Literal["cosine", "inner_product", "euclidean"]
Normalize = Literal["minmax"]


def kernel_tiers() -> list[str]:
    """The kernel tiers that this processor has, slowest first: some of `scalar`, `neon`, `avx2`, `avx512`."""
    return _core.kernel_tiers()


def float_vector(name: str, values: ArrayLike) -> NDArray[Any]:
    array = values if type(values) is np.ndarray else np.asarray(values)
    if array.ndim == 0:
        raise TypeError(f"{name} must be an array of one dimension, got {values!r}")
    if array.dtype.char in "efd":
        return array
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    raise TypeError(f"{name} must hold real numbers, got a {type(values).__name__} of dtype {array.dtype}")


def check_threshold(threshold: float) -> None:
    """Raises TypeError for what is no number, ValueError for nan."""
    _check.any_number("threshold", threshold)
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, got nan")


def check_array(name: str, values: object) -> None:
    """Raises TypeError for bytes and text, which are buffers or sequences and no arrays."""
    if isinstance(values, str | bytes | bytearray):
        raise TypeError(f"{name} must be a numpy array, got a {type(values).__name__}")


def check_how(weights: ScoreWeights, decay: Decay, kernel: str | None) -> None:
    """Raises TypeError for what says how to score and is of another kind."""
    if type(weights) is not ScoreWeights:
        _check.instance("weights", weights, ScoreWeights)
    if not isinstance(decay, HalfLife | PowerLaw):
        raise TypeError(f"decay must be a HalfLife or a PowerLaw, got {decay!r}")
    if kernel is not None:
        _check.instance("kernel", kernel, str)


@overload
def score(
    query: ArrayLike,
    vectors: NDArray[Any],
    *,
    importance: ArrayLike | None = ...,
    age_s: ArrayLike | None = ...,
    access_count: ArrayLike | None = ...,
    lexical: ArrayLike | None = ...,
    mask: NDArray[np.bool_] | None = ...,
    weights: ScoreWeights = ...,
    decay: Decay = ...,
    similarity: Similarity = ...,
    normalize: Normalize | None = ...,
    threshold: float | None = ...,
    components: Literal[False] = ...,
    k: int = ...,
    threads: int = ...,
    kernel: str | None = ...,
) -> tuple[Indices, Floats]: ...
@overload
def score(
    query: ArrayLike,
    vectors: NDArray[Any],
    *,
    importance: ArrayLike | None = ...,
    age_s: ArrayLike | None = ...,
    access_count: ArrayLike | None = ...,
    lexical: ArrayLike | None = ...,
    mask: NDArray[np.bool_] | None = ...,
    weights: ScoreWeights = ...,
    decay: Decay = ...,
    similarity: Similarity = ...,
    normalize: Normalize | None = ...,
    threshold: float | None = ...,
    components: Literal[True],
    k: int = ...,
    threads: int = ...,
    kernel: str | None = ...,
) -> tuple[Indices, Floats, dict[str, Floats]]: ...
def score(
    query: ArrayLike,
    vectors: NDArray[Any],
    *,
    importance: ArrayLike | None = None,
    age_s: ArrayLike | None = None,
    access_count: ArrayLike | None = None,
    lexical: ArrayLike | None = None,
    mask: NDArray[np.bool_] | None = None,
    weights: ScoreWeights = DEFAULT_WEIGHTS,
    decay: Decay = DEFAULT_DECAY,
    similarity: Similarity = "cosine",
    normalize: Normalize | None = None,
    threshold: float | None = None,
    components: bool = False,
    k: int = 10,
    threads: int = 1,
    kernel: str | None = None,
) -> tuple[Indices, Floats] | tuple[Indices, Floats, dict[str, Floats]]:
    """The best `k` rows of `vectors` for `query`, exactly.

    The score of row `i` is

        w.similarity * N(similarity(query, vectors[i])) + w.lexical * N(lexical[i])
        + w.recency * N(recency(age_s[i])) + w.importance * N(importance[i]) + w.access * N(ln(1 + access_count[i]))

    a weighted sum of relevance, recency and importance as in Park et al., *Generative Agents* (2023), section 4.1;
    the logarithm of the count is the term that repeated use adds to ACT-R's base-level activation (Anderson and
    Schooler, 1991). `N` is the identity, or with `normalize="minmax"` it is `(x - min) / (max - min)` over the rows
    that take part, and 0 for a part that is the same in all of them.

    What goes in:

    - `query`: shape (d,), finite.
    - `vectors`: shape (n, d), float32, float16 or float64, native byte order, 1 <= d <= 65,536, n < 2**32; contiguous
      along the last axis, rows at any distance. Never copied.
    - `importance`, `lexical`: shape (n,), any finite numbers. `age_s`: shape (n,), seconds; below 0 counts as 0.
      `access_count`: shape (n,), >= 0. A part whose array is missing is left out; a weight other than 0 for a missing
      `age_s`, `importance` or `access_count` is an error.
    - `mask`: shape (n,), bool; only rows that are True take part. Nothing of the others is read.
    - `similarity`: `"cosine"` (the default; in -1..1; 0 if a vector is zero), `"inner_product"`, or `"euclidean"`
      (`1 / (1 + distance)`, in 0..1).
    - `decay`: `HalfLife` (0.995 an hour) or `PowerLaw`.
    - `weights`: the `ScoreWeights`: similarity and words 1.0 each, the others off.
    - `threshold`: rows with a lower score are left out. `k` (10): >= 1; fewer rows than `k` give a shorter answer.
    - `threads` (1): >= 1; threads that share the pass over the rows.
    - `kernel`: forces one of `kernel_tiers()`; results do not depend on it.

    Returns `(indices, scores)`: int64 and float64, sorted by descending score, ties by ascending index; with
    `components=True` also a dict from the name of each part to its values (scaled by `N`, not weighted) for the same
    rows. Scores are computed in float64 from the elements as they are, with a relative error below 1e-12 of
    `|q||x|`; a float32 pass with proven error bounds only decides for which rows that is needed.

    A row with a NaN, an infinity or (in float64) a squared norm beyond the range of float64 is not ranked. With
    n = 0 or nothing but False in `mask` the answer is empty.

    Raises `TypeError` for a wrong type or dtype and `ValueError` for a wrong shape, layout or value.

    Thread safety: runs without the GIL and may be called from any number of threads. Arrays may be written by other
    threads meanwhile: the answer then mixes old and new values, and nothing worse happens. They cannot be resized.
    """
    # At 1,000 rows every Python step shows: the checks are called where they have something to say.
    if type(k) is not int or not 1 <= k <= MOST:
        check_count("k", k)
    if type(threads) is not int or not 1 <= threads <= MOST:
        check_count("threads", threads)
    if normalize is not None and normalize != "minmax":
        raise ValueError(f"normalize must be None or 'minmax', got {normalize!r}")
    if threshold is not None:
        check_threshold(threshold)
    if weights is not DEFAULT_WEIGHTS or decay is not DEFAULT_DECAY or kernel is not None:
        check_how(weights, decay, kernel)
    if type(components) is not bool or not isinstance(similarity, str):
        _check.flag("components", components)
        _check.instance("similarity", similarity, str)
    if type(vectors) is not np.ndarray or (mask is not None and type(mask) is not np.ndarray):
        check_array("vectors", vectors)
        check_array("mask", mask)
    parts: list[tuple[str, float, NDArray[Any]]] = []
    names = ["similarity"]
    if (
        weights is not DEFAULT_WEIGHTS
        or lexical is not None
        or age_s is not None
        or importance is not None
        or access_count is not None
    ):
        for name, argument, weight, values in (
            ("lexical", "lexical", weights.lexical, lexical),
            ("recency", "age_s", weights.recency, age_s),
            ("importance", "importance", weights.importance, importance),
            ("access", "access_count", weights.access, access_count),
        ):
            if values is None:
                if weight != 0 and name != "lexical":
                    raise ValueError(f"{argument} must be given when weights.{name} is not 0, got weight {weight}")
            elif weight == 0:
                float_vector(argument, values)  # not read, and refused all the same if it is none
            else:
                parts.append((argument, weight, float_vector(argument, values)))
                names.append(name)
    indices, scores, values_of_parts = _core.score_rows(
        float_vector("query", query),
        vectors,
        similarity,
        weights.similarity,
        parts,
        decay._as_tuple(),
        normalize is not None,
        mask,
        threshold,
        k,
        threads,
        components,
        kernel,
    )
    if values_of_parts is not None:
        return indices, scores, dict(zip(names, values_of_parts, strict=True))
    return indices, scores
