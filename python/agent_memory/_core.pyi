"""Types of the extension module; `python -m mypy.stubtest agent_memory._core` checks them against the binary."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BreakerRules",
    "BudgetRules",
    "DEBUG_BUILD",
    "Guard",
    "Operation",
    "RetryRules",
    "__version__",
    "kernel_tiers",
    "monotonic_ns",
    "score_rows",
]

__version__: Final[str]
DEBUG_BUILD: Final[bool]

_State: TypeAlias = Literal["closed", "open", "half_open"]
_Listener: TypeAlias = Callable[[str, _State, _State], object]

def monotonic_ns() -> int: ...

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
) -> tuple[
    NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], list[NDArray[np.float64]], int
]: ...
