"""Circuit breakers around calls of any kind: `CircuitBreaker` for functions, `AsyncCircuitBreaker` for coroutine
functions.

The state machine is in Rust (`rust/core/src/guard/breaker.rs` tells its rules), and so is the sync call itself. Threads and
tasks may share one breaker.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, Self, TypeAlias, TypeVar, cast

from agent_memory import _check, _core

from ._decoration import guard_calls, guard_coroutines, rewrap_method
from .settings import BreakerSettings

__all__ = ["AsyncCircuitBreaker", "CircuitBreaker", "Counts", "counts_by_default"]

P = ParamSpec("P")
R = TypeVar("R")

Counts: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool]
"""Which exceptions are failures: a class, a tuple of classes, or a function of the exception."""


def counts_by_default(error: object) -> bool:
    """Whether `error` is a failure of a server: OSError (so ConnectionError and TimeoutError), and redis-py's connection and
    timeout errors.

    Not counted, though they are ConnectionErrors of redis-py: a pool without a free connection, a wrong password, a
    missing right. They say nothing about the server's health.
    """
    if isinstance(error, OSError):
        return True
    from redis import exceptions

    if isinstance(
        error, exceptions.MaxConnectionsError | exceptions.AuthenticationError | exceptions.AuthorizationError
    ):
        return False
    return isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError)


class _ConfiguredBreaker(_core.Breaker):
    """The constructor of both breakers."""

    __slots__ = ()

    def __new__(
        cls,
        name: str,
        failure_threshold: int | None = 3,
        reset_timeout_s: float = 300.0,
        *,
        failure_rate: float | None = None,
        slow_call_rate: float | None = None,
        slow_call_duration_s: float | None = None,
        window_calls: int | None = None,
        window_s: float | None = None,
        minimum_calls: int | None = None,
        half_open_max_calls: int = 1,
        probe_timeout_s: float = 30.0,
        max_reset_timeout_s: float | None = None,
        counts: Counts = counts_by_default,
        clock: Callable[[], int] | None = None,
    ) -> Self:
        """Parameters of both breakers. The numbers and their rules are those of `BreakerSettings`.

        - `name`: the name in errors and logs.
        - `failure_threshold` (3): failures in a row that open the circuit; None switches that off.
        - `reset_timeout_s` (300.0), `max_reset_timeout_s` (None, no growth): how long it stays open at first and at most, in
          seconds.
        - `failure_rate`, `slow_call_rate` (None, off): shares of calls, 0..1, that open it.
        - `slow_call_duration_s` (None): seconds after which a call is slow.
        - `window_calls`, `window_s` (None, the last 100 calls): what rates are taken over, in calls or in seconds.
        - `minimum_calls` (None): results that a window needs before a rate counts.
        - `half_open_max_calls` (1): probes that are admitted, and successes that close the circuit.
        - `probe_timeout_s` (30.0): seconds after which a probe makes room for another.
        - `counts` (`counts_by_default`): which exceptions are failures: a class, a tuple of classes, or a function of the
          exception.
        - `clock` (None, the monotonic clock): a callable that returns nanoseconds, for tests.

        Raises TypeError or ValueError for an argument outside its rule.
        """
        settings = BreakerSettings(
            failure_threshold,
            reset_timeout_s,
            failure_rate=failure_rate,
            slow_call_rate=slow_call_rate,
            slow_call_duration_s=slow_call_duration_s,
            window_calls=window_calls,
            window_s=window_s,
            minimum_calls=minimum_calls,
            half_open_max_calls=half_open_max_calls,
            probe_timeout_s=probe_timeout_s,
            max_reset_timeout_s=max_reset_timeout_s,
        )
        _check.instance("name", name, str)
        if clock is not None and not callable(clock):
            raise TypeError(f"clock must be a callable, got {clock!r}")
        _check_counts(counts)
        return super().__new__(cls, name, settings.rules(), counts, clock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.state}>"


def _check_counts(counts: Counts) -> None:
    classes = counts if isinstance(counts, tuple) else (counts,) if isinstance(counts, type) else ()
    for candidate in classes:
        if not (isinstance(candidate, type) and issubclass(candidate, BaseException)):
            raise TypeError(f"counts must be exception classes or a callable, got {candidate!r}")
    if not classes and not callable(counts):
        raise TypeError(f"counts must be exception classes or a callable, got {counts!r}")


class CircuitBreaker(_ConfiguredBreaker):
    """A circuit breaker around functions.

        breaker = CircuitBreaker("search", failure_threshold=5, reset_timeout_s=60)
        breaker.execute(lambda: fetch(url))

        @breaker
        def fetch(url): ...

    While the circuit is open it raises `CircuitOpenError`, whose `retry_after_s` tells when a probe will be admitted.
    Which exceptions are failures is said by `counts`; all others pass through and count as neither failure nor
    success, and so does what is no `Exception` (KeyboardInterrupt, CancelledError, GeneratorExit).

    Thread-safe: any number of threads and tasks may share a breaker, and no call of it waits.
    """

    __slots__ = ()

    # The method of the extension itself: a Python frame around it would cost as much as all it does.
    execute = _core.Breaker._execute

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call of it goes through the breaker.

        The result is a function with the same parameters, name and documentation, so methods, `inspect.signature` and
        pickling by name work as before. A call with wrong arguments raises TypeError before the breaker is asked.

        Raises TypeError for a coroutine function: it would be done before its work begins.
        """
        method = rewrap_method(self, function)
        if method is not None:
            return cast("Callable[P, R]", method)
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"CircuitBreaker cannot guard the coroutine function {function!r}: use AsyncCircuitBreaker")
        is_own = type(self).execute is CircuitBreaker.execute
        return guard_calls(self, None if is_own else self.execute, function)


class AsyncCircuitBreaker(_ConfiguredBreaker):
    """A circuit breaker around coroutine functions; everything else is as in `CircuitBreaker`.

        await breaker.execute(lambda: fetch(url))

    Any number of tasks, event loops and threads may share a breaker. A call that is cancelled counts as neither failure nor
    success.
    """

    __slots__ = ()

    async def execute(self, operation: Callable[[], Awaitable[R]]) -> R:
        """Await `operation()` under the breaker and return its result.

        Raises CircuitOpenError while the circuit is open, what `operation` raises, and TypeError for what cannot be called.
        """
        if not callable(operation):
            raise TypeError(f"operation must be callable, got {operation!r}")
        permit = self.admit()
        try:
            result = await operation()
        except BaseException as error:
            self.error(permit, error)
            raise
        self.success(permit)
        return result

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        """Decorate a coroutine function: each call of it goes through the breaker.

        The result is a coroutine function with the same parameters, name and documentation. A call with wrong arguments
        raises TypeError where it is made.
        """
        method = rewrap_method(self, function)
        if method is not None:
            return cast("Callable[P, Coroutine[Any, Any, R]]", method)
        return guard_coroutines(self, function)
