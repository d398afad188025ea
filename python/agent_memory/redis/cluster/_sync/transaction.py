# Generated from ../_async/transaction.py by tools/generate_sync.py: edit that file, not this one.

"""The steps of a cluster transaction: where WATCH goes, what a leased connection executes, and when slots do not agree.

The two worlds' classes add what redis-py's strategies have under different names: `_ready`, `_collect`, `_words_of`,
`_find_slot`, `_lease` and `_before_exec`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import CrossSlotTransactionError, ResponseError, WatchError

from agent_memory._concurrency import sleep
from agent_memory._core import CLUSTER_ASK, CLUSTER_RAISE, CLUSTER_ROUTE, monotonic_ns
from agent_memory.redis.cluster._sync.pipeline import run_transaction
from agent_memory.redis.cluster.views import MOVED_WHILE_WATCHING, ONE_SLOT, slot_of_word, slot_of_words
from agent_memory.redis.commands.keys import ONE_KEY
from agent_memory.redis.redis_py_internals.cluster import is_explicit

__all__ = ["TransactionSteps"]


class TransactionSteps:
    """MULTI to EXEC in one buffer; with WATCH on a leased connection of the slot's owner. For one thread."""

    if TYPE_CHECKING:
        _command_queue: Any
        _watching: bool
        IMMEDIATE_EXECUTE_COMMANDS: Any
        SLOT_REDIRECT_ERRORS: Any

        def _ready(self) -> None: ...
        def _collect(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any: ...
        def _words_of(self, one: Any) -> tuple[tuple[Any, ...], dict[str, Any]]: ...
        def _find_slot(self, args: tuple[Any, ...]) -> int: ...
        def _lease(self, node: Any) -> Any: ...
        def _before_exec(self, leased: Any) -> None: ...

    _client: Any
    _leased: Any = None
    _slot: int | None = None

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Collect a command, or send it at once where WATCH has begun and MULTI has not."""
        if (self._leased is not None or args[0] in self.IMMEDIATE_EXECUTE_COMMANDS) and not is_explicit(self):
            return self._execute_at_once(args, kwargs)
        return self._collect(args, kwargs)

    def _slot_of(self, args: tuple[Any, ...]) -> int:
        if args[0] in ONE_KEY and len(args) > 1:
            return slot_of_word(args[1])
        return self._find_slot(args)

    def _execute_at_once(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._ready()
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
        node = self.owner_of(self._slot)
        progress = 0
        while True:
            leased = self._lease(node)
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
                sleep(pause_s)
                node = self.owner_of(self._slot) if action == CLUSTER_ROUTE else router.core.handle(number)
            except BaseException:
                leased.reset()
                raise
            else:
                self._leased = leased
                return reply

    def execute_queue(self, raise_on_error: bool) -> list[Any]:
        """Results by position. Raises WatchError where watched keys have changed or moved, and the first error among them."""
        queue = self._command_queue
        if self._leased is None:
            return self._execute_unwatched(queue, raise_on_error) if queue else []
        leased = self._leased
        if not leased.explicit_transaction:
            leased.multi()
        for one in queue:
            args, options = self._words_of(one)
            if self._slot_of(args) != self._slot:
                raise CrossSlotTransactionError(ONE_SLOT)
            leased.execute_command(*args, **options)
        self._before_exec(leased)
        try:
            return cast("list[Any]", leased.execute(raise_on_error))
        except self.SLOT_REDIRECT_ERRORS as error:
            raise WatchError(MOVED_WHILE_WATCHING) from error

    def _execute_unwatched(self, queue: list[Any], raise_on_error: bool) -> list[Any]:
        self._ready()
        commands = [self._words_of(one) for one in queue]
        slots = {self._slot_of(args) for args, _ in commands}
        if len(slots) > 1:
            raise CrossSlotTransactionError(ONE_SLOT)
        return run_transaction(self._client._router, self, commands, slots.pop(), raise_on_error)

    # What shaping the replies asks for.

    def owner_of(self, slot: int) -> Any:
        """The node of a slot."""
        return self._client._owner_of(slot)

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
