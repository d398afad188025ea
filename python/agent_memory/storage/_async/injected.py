"""Commands of an injected client: whatever redis-py-compatible object was passed, each call goes under the façade's guard.

What a method does is only known by its name here, so this follows redis-py's conventions:

- An ordinary method is one guarded call, repeated as the guard says.
- `pipeline()` gives a pipeline whose `execute()` is one guarded call, never repeated: executing empties a pipeline.
- `register_script()` gives a script whose calls are guarded.
- PASSED_ON names what makes no call of its own (a cluster client's look at its topology) or hands out objects with calls
  of their own (pub/sub, locks, modules): those are the injected client's, unguarded.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, Self

from agent_memory._concurrency import async_settle

__all__ = ["AsyncInjectedCommands"]

PASSED_ON: Final = frozenset(
    """
    bf cf client cms connection connection_pool ft get_connection_kwargs get_default_node get_encoder get_node
    get_node_from_key get_nodes get_primaries get_random_node get_replicas get_retry json keyslot load_external_module lock
    monitor nodes_manager parse_response pubsub response_callbacks sentinel set_default_node set_response_callback set_retry
    tdigest topk ts vset
    """.split()
)


class _Run(Protocol):
    def __call__(self, operation_name: str, operation: Callable[[], Any], *, repeat: bool = True) -> Awaitable[Any]: ...


class AsyncInjectedCommands:
    """Attributes of an injected client, its calls guarded by `run`."""

    __slots__ = ("_client", "_run")

    def __init__(self, client: Any, run: _Run) -> None:
        self._client = client
        self._run = run

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._client, name)
        if name == "pipeline":
            return functools.partial(self._pipeline, target)
        if name == "register_script":
            return functools.partial(self._script, target)
        if name in PASSED_ON or name.endswith("_iter") or not callable(target):
            return target

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._run(name, functools.partial(target, *args, **kwargs))

        call.__name__ = call.__qualname__ = name
        return call

    def _pipeline(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return _Pipeline(target(*args, **kwargs), self._run)

    def _script(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return _Script(target(*args, **kwargs), self._run)


class _Pipeline:
    """An injected client's pipeline; executing it is one guarded call."""

    __slots__ = ("_pipeline", "_run")

    def __init__(self, pipeline: Any, run: _Run) -> None:
        self._pipeline = pipeline
        self._run = run

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._pipeline, name)
        return functools.partial(self._collect, target) if callable(target) else target

    def _collect(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        value = target(*args, **kwargs)
        return self if value is self._pipeline else value

    def __len__(self) -> int:
        return len(self._pipeline)

    async def execute(self, raise_on_error: bool = True) -> Any:
        """Sends what was collected; one guarded call, not repeated."""
        operation = functools.partial(self._pipeline.execute, raise_on_error=raise_on_error)
        return await self._run("pipeline", operation, repeat=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pipeline.reset()


class _Script:
    """An injected client's Lua script; each call of it is guarded."""

    __slots__ = ("_run", "_script")

    def __init__(self, script: Any, run: _Run) -> None:
        self._script = script
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._script, name)

    async def __call__(self, keys: Sequence[Any] = (), args: Sequence[Any] = (), client: Any = None) -> Any:
        """Runs the script; in a pipeline (`client=`) it is collected instead."""
        if isinstance(client, _Pipeline):
            client = client._pipeline
        if client is not None:
            return await async_settle(self._script(keys=keys, args=args, client=client))
        return await self._run("script", functools.partial(self._script, keys=keys, args=args))
