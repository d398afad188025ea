"""Types of the extension module; `python -m mypy.stubtest agent_memory._core` checks them against the binary."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

__all__ = [
    "Backoff",
    "Breaker",
    "BreakerRules",
    "BudgetRules",
    "DEBUG_BUILD",
    "Guard",
    "IndexCore",
    "Operation",
    "RecoveryEntry",
    "RecoveryQueue",
    "RetryRules",
    "__version__",
    "exponential_backoff",
    "kernel_tiers",
    "monotonic_ns",
    "pack_command",
    "score_rows",
]

__version__: Final[str]
DEBUG_BUILD: Final[bool]

_State: TypeAlias = Literal["closed", "open", "half_open"]
_Listener: TypeAlias = Callable[[str, _State, _State], object]

_R = TypeVar("_R")

def monotonic_ns() -> int: ...
def pack_command(words: tuple[Any, ...], /) -> bytes: ...
def exponential_backoff(attempt: int, base_delay: float = 0.5, max_delay: float = 30.0) -> float: ...

@final
class Backoff:
    def __new__(
        cls,
        base_delay: float = ...,
        max_delay: float = ...,
        *,
        strategy: str | Callable[[int], float] | None = None,
        factor: float = ...,
        jitter: str = "full",
        seed: int | None = None,
    ) -> Backoff: ...
    def delay(self, attempt: int, previous: float | None = None) -> float: ...
    def ceiling(self, attempt: int) -> float: ...

@disjoint_base
class Breaker:
    def __new__(
        cls,
        name: str,
        rules: BreakerRules,
        counts: type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool],
        clock: Callable[[], int] | None = None,
    ) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> _State: ...
    @property
    def retry_after_s(self) -> float: ...
    def admit(self) -> int: ...
    def success(self, permit: int, /) -> None: ...
    def error(self, permit: int, error: BaseException, /) -> None: ...
    def abandon(self, permit: int, /) -> None: ...
    def _execute(self, operation: Callable[[], _R], /) -> _R: ...
    def reset(self) -> None: ...
    def force_open(self) -> None: ...
    def add_listener(self, listener: _Listener) -> None: ...
    def remove_listener(self, listener: _Listener) -> bool: ...
    def stats(self) -> dict[str, Any]: ...

@final
class RecoveryQueue:
    def __new__(
        cls,
        *,
        max_entries: int = ...,
        max_bytes: int = ...,
        max_age: float | None = None,
        max_dead_letters: int = ...,
        clock: Callable[[], int] | None = None,
    ) -> RecoveryQueue: ...
    @property
    def size_bytes(self) -> int: ...
    def __len__(self) -> int: ...
    def push(
        self,
        keys: bytes | str | Iterable[bytes | str],
        payload: object,
        *,
        priority: int,
        due_in_s: float = 0.0,
        size_bytes: int = 0,
        coalesce: bool = False,
    ) -> int: ...
    def pop_due(self) -> RecoveryEntry | None: ...
    def complete(self, id: int) -> None: ...
    def retry(self, id: int, delay_s: float = 0.0) -> None: ...
    def discard(self, id: int, reason: str) -> None: ...
    def cancel_superseded(self, key: bytes | str) -> int: ...
    def release_leases(self) -> int: ...
    def next_due_in_s(self) -> float | None: ...
    def keys_queued(self, key: bytes | str) -> bool: ...
    def dead_letters(self) -> list[RecoveryEntry]: ...
    def retry_dead(self, id: int) -> int: ...
    def stats(self) -> dict[str, Any]: ...

@final
class RecoveryEntry:
    @property
    def id(self) -> int: ...
    @property
    def keys(self) -> tuple[bytes, ...]: ...
    @property
    def payload(self) -> Any: ...
    @property
    def priority(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def age_s(self) -> float: ...
    @property
    def reason(self) -> str | None: ...

@final
class BreakerRules:
    def __new__(
        cls,
        failure_threshold: int | None = ...,
        reset_timeout: float = 300.0,
        *,
        failure_rate: float | None = None,
        slow_call_rate: float | None = None,
        slow_call_duration: float | None = None,
        window_calls: int | None = None,
        window_seconds: float | None = None,
        minimum_calls: int | None = None,
        half_open_max_calls: int = ...,
        probe_timeout: float = ...,
        max_reset_timeout: float | None = None,
    ) -> BreakerRules: ...

@final
class RetryRules:
    def __new__(
        cls,
        max_retries: int,
        base_delay: float,
        backoff_factor: float,
        *,
        max_delay: float,
        strategy: str | Callable[[int], float],
        jitter: str,
        deadline: float | None = None,
    ) -> RetryRules: ...

@final
class BudgetRules:
    def __new__(
        cls,
        capacity: float = ...,
        *,
        retry_cost: float = ...,
        success_refund: float = ...,
        refill_per_s: float = ...,
    ) -> BudgetRules: ...

@final
class Guard:
    def __new__(
        cls,
        name: str,
        *,
        endpoint: str | None = None,
        breaker: BreakerRules | None = None,
        retry: RetryRules | None = None,
        budget: BudgetRules | None = None,
        overrides: Mapping[str, RetryRules | Callable[[int, int, int], float | None]] | None = None,
        seed: int | None = None,
        clock: Callable[[], int] | None = None,
    ) -> Guard: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> _State: ...
    @property
    def retry_after_s(self) -> float: ...
    def operation(self, name: str, *, category: int) -> Operation: ...
    def server_answered(self) -> bool: ...
    def announce_probe(self, delay_s: float) -> None: ...
    def pay_retry(self) -> bool: ...
    def reset(self) -> None: ...
    def force_open(self) -> None: ...
    def add_listener(self, listener: _Listener) -> None: ...
    def remove_listener(self, listener: _Listener) -> bool: ...
    def stats(self) -> dict[str, Any]: ...

@final
class Operation:
    @property
    def name(self) -> str: ...
    @property
    def category(self) -> int: ...
    def admit(self) -> int: ...
    def success(self, permit: int, /) -> None: ...
    def answered_error(self, permit: int, /) -> None: ...
    def abandon(self, permit: int, /) -> None: ...
    def failure(
        self,
        permit: int,
        kind: int,
        outcome: int,
        attempt: int,
        call_started_ns: int,
        deadline_ns: int,
        /,
    ) -> float: ...

# --- scoring --------------------------------------------------------------------------------------------------------

def kernel_tiers() -> list[str]: ...
def score_rows(
    query: NDArray[Any],
    vectors: NDArray[Any],
    similarity: str,
    similarity_weight: float,
    parts: Sequence[tuple[str, float, NDArray[Any]]],
    decay: tuple[str, float, float],
    min_max: bool,
    mask: NDArray[np.bool_] | None,
    threshold: float | None,
    k: int,
    threads: int,
    components: bool,
    kernel: str | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], list[NDArray[np.float64]], int]: ...

@final
class IndexCore:
    def __new__(
        cls, dimensions: int, similarity: str, language: str, k1: float, b: float, context: bool, model: str
    ) -> IndexCore: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def similarity(self) -> str: ...
    @property
    def model(self) -> str: ...
    def __len__(self) -> int: ...
    def __contains__(self, id: str, /) -> bool: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    @staticmethod
    def load(path: str | PathLike[str], mapped: bool) -> IndexCore: ...
    def fragmentation(self) -> tuple[int, int]: ...
    def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[Any] | None,
        texts: Sequence[str | None] | None,
        importance: NDArray[np.float64] | None,
        access_counts: NDArray[np.float64] | None,
        timestamps_s: NDArray[np.float64] | None,
        attributes: Sequence[Sequence[str]] | None,
        sequence: Sequence[tuple[str, int] | None] | None,
    ) -> None: ...
    def delete(self, ids: Sequence[str]) -> int: ...
    def search(
        self, vector: NDArray[Any] | None, text: str | None, options: Mapping[str, Any]
    ) -> tuple[list[str], NDArray[np.float64], int]: ...
    def search_many(
        self, vectors: NDArray[Any] | None, texts: Sequence[str] | None, options: Mapping[str, Any]
    ) -> list[tuple[list[str], NDArray[np.float64], int]]: ...
