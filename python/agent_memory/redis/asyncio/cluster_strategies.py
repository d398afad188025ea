"""How the asyncio cluster pipelines are executed: redis-py's strategies on our transports."""

from __future__ import annotations

from typing import Any

from redis.asyncio.cluster import PipelineCommand
from redis.asyncio.cluster import PipelineStrategy as RedisPyPipelineStrategy
from redis.asyncio.cluster import TransactionStrategy as RedisPyTransactionStrategy

from agent_memory._core import first_error
from agent_memory.redis.cluster._async.transaction import AsyncTransactionSteps
from agent_memory.redis.cluster.collected import CollectedCommands
from agent_memory.redis.cluster.views import annotate, annotate_watched
from agent_memory.redis.redis_py_internals.cluster import annotate_error, determine_slot_async, pipeline_of

__all__ = ["PipelineStrategy", "TransactionStrategy"]


class PipelineStrategy(CollectedCommands, RedisPyPipelineStrategy):  # pyright: ignore[reportIncompatibleVariableOverride]
    """How a pipeline that is no transaction is executed."""

    @staticmethod
    def _command_of(words: tuple[Any, ...], position: int) -> PipelineCommand:
        return PipelineCommand(position, *words)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Collect a command."""
        self._collect(PipelineCommand(len(self), *args, **options))
        return self._pipe

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """Results by position; raises the first error among them unless `raise_on_error` is false."""
        if not allow_redirections:
            raise ValueError("allow_redirections must be True: redirects are always followed, got False")
        queue = self._take_collected()
        if not queue:
            return []
        client: Any = pipeline_of(self).cluster_client
        results: list[Any] = await client._run_collected(queue)
        if raise_on_error and (place := first_error(results)) is not None:
            error, one = results[place], queue[place]
            position, words = (place, one) if type(one) is tuple else (one.position, one.args)
            annotate(error, position + 1, words)
            raise error
        return results


class TransactionStrategy(AsyncTransactionSteps, RedisPyTransactionStrategy):
    """A transaction: see `AsyncTransactionSteps`."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self._client = pipe.cluster_client

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """Results by position. Raises WatchError where watched keys have changed or moved, and the first error among them."""
        if not allow_redirections:
            raise ValueError("allow_redirections must be True: redirects are always followed, got False")
        return await self.execute_queue(raise_on_error)

    def annotate_exception(self, error: Exception, number: int, args: tuple[Any, ...]) -> None:
        """Name the command in its error."""
        annotate_error(self, error, number, args)

    async def _ready(self) -> None:
        if self._client._initialize:
            await self._client.initialize()

    def _collect(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._command_queue.append(PipelineCommand(len(self._command_queue), *args, **options))
        return pipeline_of(self)

    def _words_of(self, one: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return one.args, one.kwargs

    async def _find_slot(self, args: tuple[Any, ...]) -> int:
        return await determine_slot_async(self._client, args)

    def _lease(self, node: Any) -> Any:
        leased = node.pipeline(True)
        leased.annotate_exception = annotate_watched
        return leased

    def _before_exec(self, leased: Any) -> None:
        """Its replies are shaped as they are on one server."""
