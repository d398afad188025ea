"""`resilient_operation`: puts a method of a resilient client under its circuit breaker; one decorator for both worlds.

Rules
- One admission per call. A decorated method of a user's subclass may call decorated methods of the same client: those
  join the call they are part of. (In half-open the breaker admits one call: a nested admission would be rejected by it.)
- The methods that this package decorates run one command on the unguarded `.client` and cannot nest, so they do not pay
  for the mark.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any, Generic, TypeVar, cast

from agent_memory._concurrency import async_settle
from agent_memory._core import Call
from agent_memory.policy._decoration import compile_passing_on

__all__ = ["Command", "Settled", "current_call", "joins_a_call", "resilient_operation"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class _Mark:
    """Says that code runs as part of an admitted call of one client; `active` is False for a task that outlives the call."""

    __slots__ = ("active", "client")

    def __init__(self, client: object) -> None:
        self.client = client
        self.active = True


current_call: ContextVar[_Mark | None] = ContextVar("agent_memory_admitted_call", default=None)


def joins_a_call(client: object) -> bool:
    """Whether the running code is part of a call that `client` has admitted already."""
    mark = current_call.get()
    return mark is not None and mark.active and mark.client is client


class Command(functools.partial[Any]):
    """An operation that is exactly one command, so the outcome of its error is the outcome of the whole.

    A user's operation may have applied one command before the next one was refused: it must not be repeated on the word
    of its last error.
    """


class Settled(Generic[T]):
    """A value that may be awaited, as often as one likes, for clients with `double_await=True`."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, T]:
        return self._value
        yield  # what makes this a generator

    def __repr__(self) -> str:
        return "<Settled: await it for the value>"


def resilient_operation(operation_name: str) -> Callable[[F], F]:
    """Decorates a method of a (subclass of a) resilient client: admission, metrics, retries, error categories.

    `operation_name` is what metrics, errors and logs call it; the name of a Redis command that only reads lets the guard
    repeat the operation after a timeout. Serves sync methods and coroutine functions alike; what a method of an asyncio
    client returns is awaited to any depth, so `return self.client.get(key)` works in a plain `def` too.

    The decorated method raises CircuitOpenError while the circuit is open, RedisUnavailableError and RedisTimeoutError
    for what happened to the connection, and the method's other exceptions as they are. Raises ValueError for an empty
    name.
    """
    if not isinstance(operation_name, str) or not operation_name:
        raise ValueError(f"operation_name must be a non-empty str, got {operation_name!r}")

    def decorate(function: F) -> F:
        ours = (getattr(function, "__module__", None) or "").startswith(f"{__package__}.")
        wrap = _wrap_command if ours else _wrap_operation
        return cast(F, functools.wraps(function)(wrap(operation_name, function)))

    return decorate


def _wrap_operation(operation_name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A user's method: whatever it does, it is one guarded call."""
    inner = _marked(function)
    if inspect.iscoroutinefunction(function):

        async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            operation = functools.partial(inner, self, *args, **kwargs)
            value = await self._execute_with_circuit_breaker(operation_name, operation)
            return Settled(value) if self._double_await else value

        return call_async

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._execute_with_circuit_breaker(operation_name, functools.partial(inner, self, *args, **kwargs))

    return call


def _wrap_command(operation_name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A listed command: one command, so the drop-in with the same guard does it at its own speed where there is one.

    `function` only looks at `self.client`, which is the guarded drop-in in `self._direct`. An injected client, a call
    within an admitted one, and a subclass that overrides `_execute_with_circuit_breaker` go the long way.
    """
    if "._async." in function.__module__:
        return _wrap_async_command(operation_name, function)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        direct = self._direct
        if direct is None or (current_call.get() is not None and joins_a_call(self)):
            return self._execute_with_circuit_breaker(operation_name, Command(function, self, *args, **kwargs))
        try:
            return function(direct, *args, **kwargs)
        except Exception as error:
            self._runner.note_error(operation_name, error)
            raise

    return call


def _wrap_async_command(operation_name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for asyncio: what the drop-in returns is passed on as it is, which saves the coroutines around it."""

    async def go_the_long_way(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = await self._execute_with_circuit_breaker(operation_name, Command(function, self, *args, **kwargs))
        return Settled(value) if self._double_await else value

    async def settle(self: Any, value: Any) -> Any:
        try:
            value = await value
        except Exception as error:
            self._runner.note_error(operation_name, error)
            raise
        return Settled(value) if self._double_await else value

    async def fail(self: Any, error: Exception) -> Any:
        self._runner.note_error(operation_name, error)
        raise error

    call = compile_passing_on(function)(
        function, operation_name, go_the_long_way, settle, fail, current_call.get, joins_a_call, Call
    )
    # It is called as a coroutine function is, and `inspect.iscoroutinefunction` says so.
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(call)
    else:  # 3.11 looks at the flag alone
        call.__code__ = call.__code__.replace(co_flags=call.__code__.co_flags | inspect.CO_COROUTINE)
    return call


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with a mark around it that lets decorated methods it calls join its call."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        def marked_async(client: object, *args: Any, **kwargs: Any) -> Any:
            return _settle_marked(client, function(client, *args, **kwargs))

        return marked_async

    @functools.wraps(function)
    def marked(client: object, *args: Any, **kwargs: Any) -> Any:
        mark = _Mark(client)
        token = current_call.set(mark)
        try:
            value = function(client, *args, **kwargs)
        finally:
            mark.active = False
            current_call.reset(token)
        # A plain `def` on an asyncio client: its work begins when what it returned is awaited.
        return _settle_marked(client, value) if hasattr(value, "__await__") else value

    return marked


async def _settle_marked(client: object, value: Any) -> Any:
    mark = _Mark(client)
    token = current_call.set(mark)
    try:
        return await async_settle(value)
    finally:
        mark.active = False
        current_call.reset(token)
