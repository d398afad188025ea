"""How the synchronous cluster pipelines are executed: redis-py's strategies on our transports."""

from __future__ import annotations

import time
from typing import Any, cast

from redis.cluster import PipelineCommand
from redis.cluster import PipelineStrategy as RedisPyPipelineStrategy
from redis.cluster import TransactionStrategy as RedisPyTransactionStrategy
from redis.exceptions import CrossSlotTransactionError, ResponseError, WatchError

from agent_memory._core import CLUSTER_ASK, CLUSTER_RAISE, CLUSTER_ROUTE, monotonic_ns
from agent_memory.redis.cluster._sync.pipeline import run_transaction
from agent_memory.redis.cluster.views import MOVED_WHILE_WATCHING, ONE_SLOT, slot_of_word, slot_of_words
from agent_memory.redis.commands.keys import ONE_KEY
from agent_memory.redis.redis_py_internals.cluster import is_explicit, pipeline_of

__all__ = ["PipelineStrategy", "TransactionStrategy"]


class PipelineStrategy(RedisPyPipelineStrategy):
    """A pipeline that is no transaction."""

    def __init__(self, pipe: Any, client: Any) -> None:
        super().__init__(pipe)
        self._client = client

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Results by position; raises the first error among them unless `raise_on_error` is false."""
        queue, self._command_queue = self._command_queue, []
        return self.send_cluster_commands(queue, raise_on_error) if queue else []

    def send_cluster_commands(
        self, stack: Any, raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        """Execute these commands; see `execute`."""
        if not allow_redirections:
            raise ValueError("allow_redirections must be True: redirects are always followed, got False")
        results: list[Any] = self._client._run_pipeline([(one.args, one.options) for one in stack])
        if raise_on_error:
            for one, result in zip(stack, results, strict=True):
                if isinstance(result, Exception):
                    if result.args:
                        cast(Any, self).annotate_exception(result, one.position + 1, one.args)
                    raise result
        return results


class TransactionStrategy(RedisPyTransactionStrategy):
    """A transaction: MULTI to EXEC in one buffer; with WATCH on a leased connection of the slot's owner."""

    def __init__(self, pipe: Any, client: Any) -> None:
        super().__init__(pipe)
        self._client = client
        self._leased: Any = None
        self._slot: int | None = None

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Collect a command, or send it at once where WATCH has begun and MULTI has not."""
        if (self._leased is not None or args[0] in self.IMMEDIATE_EXECUTE_COMMANDS) and not is_explicit(self):
            return self._execute_at_once(args, kwargs)
        self._command_queue.append(PipelineCommand(args, kwargs, len(self._command_queue)))
        return pipeline_of(self)

    def _slot_of(self, args: tuple[Any, ...]) -> int:
        if args[0] in ONE_KEY and len(args) > 1:
            return slot_of_word(args[1])
        return int(self._client.determine_slot(*args))

    def _execute_at_once(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if args[0] == "UNWATCH":
            self.reset_lease()
            return True
        slots = {slot_of_words(args)} if args[0] == "WATCH" else {self._slot_of(args)}
        if self._slot is not None:
            slots.add(self._slot)
        if len(slots) > 1:
            raise CrossSlotTransactionError("Cannot watch or send commands on different slots")
        (self._slot,) = slots
        if self._leased is None:
            self._watching = True
            return self._begin_watching(args, options)
        try:
            return self._leased.execute_command(*args, **options)
        except self.SLOT_REDIRECT_ERRORS as error:
            raise WatchError(MOVED_WHILE_WATCHING) from error

    def _begin_watching(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The first WATCH, which goes where the slot is now."""
        assert self._slot is not None
        router = self._client._router
        deadline_ns = monotonic_ns() + int(router.deadline_s * 1e9)
        node = self._client._owner_of(self._slot)
        progress = 0
        while True:
            leased = node.pipeline(True)
            sent_ns = monotonic_ns()
            try:
                reply = leased.execute_command(*args, **options)
            except ResponseError as error:
                leased.reset()
                action, number, pause_s, progress = router.core.redirect(
                    error, node.number, progress, sent_ns, deadline_ns
                )
                if action in (CLUSTER_RAISE, CLUSTER_ASK):
                    raise
                time.sleep(pause_s)
                node = router.core.route_slot(self._slot) if action == CLUSTER_ROUTE else router.core.handle(number)
            except BaseException:
                leased.reset()
                raise
            else:
                self._leased = leased
                return reply

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Results by position. Raises WatchError where watched keys have changed or moved, and the first error among them."""
        queue = self._command_queue
        if self._leased is None:
            return self._execute_unwatched(queue, raise_on_error) if queue else []
        leased = self._leased
        if not leased.explicit_transaction:
            leased.multi()
        for one in queue:
            if self._slot_of(one.args) != self._slot:
                raise CrossSlotTransactionError(ONE_SLOT)
            leased.execute_command(*one.args, **one.options)
        leased.response_callbacks = self.response_callbacks
        try:
            return cast("list[Any]", leased.execute(raise_on_error))
        except self.SLOT_REDIRECT_ERRORS as error:
            raise WatchError(MOVED_WHILE_WATCHING) from error

    def _execute_unwatched(self, queue: list[Any], raise_on_error: bool) -> list[Any]:
        slots = {self._slot_of(one.args) for one in queue}
        if len(slots) > 1:
            raise CrossSlotTransactionError(ONE_SLOT)
        commands = [(one.args, one.options) for one in queue]
        return run_transaction(self._client._router, self, commands, slots.pop(), raise_on_error)

    # What shaping the replies asks for.

    def owner_of(self, slot: int) -> Any:
        """The node of a slot."""
        return self._client._owner_of(slot)

    @property
    def response_callbacks(self) -> Any:
        """What shapes the replies inside EXEC: redis-py uses those of the cluster client alone, so most stay as they come."""
        return pipeline_of(self).cluster_response_callbacks

    def raise_first_error(self, commands: Any, results: list[Any]) -> None:
        """Raise the first error of a transaction."""
        for number, ((args, _), result) in enumerate(zip(commands, results, strict=True)):
            if isinstance(result, ResponseError):
                cast(Any, self).annotate_exception(result, number + 1, args)
                raise result

    def reset_lease(self) -> None:
        """Give the leased connection back, unwatched."""
        leased, self._leased, self._slot = self._leased, None, None
        self._watching = False
        if leased is not None:
            leased.reset()

    def reset(self) -> None:
        """Empty the transaction and end its WATCH."""
        self.reset_lease()
        cast(Any, super()).reset()
