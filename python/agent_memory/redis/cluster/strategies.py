"""How the synchronous cluster pipelines are executed: redis-py's strategies on our transports."""

from __future__ import annotations

from typing import Any, cast

from redis.cluster import PipelineCommand
from redis.cluster import PipelineStrategy as RedisPyPipelineStrategy
from redis.cluster import TransactionStrategy as RedisPyTransactionStrategy

from agent_memory._core import first_error
from agent_memory.redis.cluster._sync.transaction import TransactionSteps
from agent_memory.redis.cluster.collected import CollectedCommands
from agent_memory.redis.redis_py_internals.cluster import pipeline_of

__all__ = ["PipelineStrategy", "TransactionStrategy"]


class PipelineStrategy(CollectedCommands, RedisPyPipelineStrategy):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A pipeline that is no transaction."""

    def __init__(self, pipe: Any, client: Any) -> None:
        self._pipe = pipe
        super().__init__(pipe)
        self._client = client

    def pipeline_execute_command(self, *args: Any, **options: Any) -> Any:
        """Collect a command."""
        self._collect(PipelineCommand(args, options, len(self)))
        return self._pipe

    @staticmethod
    def _command_of(words: tuple[Any, ...], position: int) -> PipelineCommand:
        return PipelineCommand(words, {}, position)

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Results by position; raises the first error among them unless `raise_on_error` is false."""
        queue = self._take_collected()
        return self.send_cluster_commands(queue, raise_on_error) if queue else []

    def send_cluster_commands(
        self, stack: Any, raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        """Execute these commands; see `execute`."""
        if not allow_redirections:
            raise ValueError("allow_redirections must be True: redirects are always followed, got False")
        results: list[Any] = self._client._run_collected(stack)
        if raise_on_error and (place := first_error(results)) is not None:
            error = results[place]
            if error.args:
                one = stack[place]
                position, words = (place, one) if type(one) is tuple else (one.position, one.args)
                cast(Any, self).annotate_exception(error, position + 1, words)
            raise error
        return results


class TransactionStrategy(TransactionSteps, RedisPyTransactionStrategy):
    """A transaction: see `TransactionSteps`."""

    def __init__(self, pipe: Any, client: Any) -> None:
        super().__init__(pipe)
        self._client = client

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Results by position. Raises WatchError where watched keys have changed or moved, and the first error among them."""
        return self.execute_queue(raise_on_error)

    @property
    def response_callbacks(self) -> Any:
        """What shapes the replies inside EXEC: redis-py uses those of the cluster client alone, so most stay as they come."""
        return pipeline_of(self).cluster_response_callbacks

    def _ready(self) -> None:
        """The constructor has asked for the topology."""

    def _collect(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._command_queue.append(PipelineCommand(args, options, len(self._command_queue)))
        return pipeline_of(self)

    def _words_of(self, one: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return one.args, one.options

    def _find_slot(self, args: tuple[Any, ...]) -> int:
        return int(self._client.determine_slot(*args))

    def _lease(self, node: Any) -> Any:
        return node.pipeline(True)

    def _before_exec(self, leased: Any) -> None:
        leased.response_callbacks = self.response_callbacks
