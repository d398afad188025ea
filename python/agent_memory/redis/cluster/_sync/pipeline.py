# Generated from ../_async/pipeline.py by tools/generate_sync.py: edit that file, not this one.

"""Pipelines and transactions of a cluster: carried out round by round, as the core's `ClusterPipeline` splits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Self, cast

from redis.exceptions import (
    AskError,
    ClusterDownError,
    ExecAbortError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)

from agent_memory._core import CLUSTER_WAIT, CLUSTER_WAIT_ROUTE, ClusterBatch, ClusterPipeline, monotonic_ns
from agent_memory.errors import CircuitOpenError, ClientClosedError, Outcome, RedisUnavailableError
from agent_memory.policy import FailureKind
from agent_memory.redis.cluster._sync.router import LOOK_AGAIN_S, RoutedCall
from agent_memory.redis.commands.callbacks import call_back, callback_named, callback_of, note_applied
from agent_memory.redis.commands.keys import ONE_KEY
from agent_memory.redis.commands.packing import refused_words
from agent_memory.redis.commands.prepared_pipeline import (
    PreparedPipeline,
    pipeline_operation,
    pipeline_results,
    prepare_pipeline,
)
from agent_memory.redis.error_outcomes import classify, describe
from agent_memory.redis.redis_py_internals.replies import EMPTY_RESPONSE, NEVER_DECODE

if TYPE_CHECKING:
    from agent_memory.redis.cluster._sync.router import Router

    Command = tuple[tuple[Any, ...], dict[str, Any]]

__all__ = ["PipelineRun", "run_transaction"]

MAX_READS_REPEATED: Final = 3
"""How often a pipeline that only reads is sent again to a node after its connection was lost."""
NS_PER_S: Final = 1e9
BARRED: Final = "not sent: the outcome of a command before it, in the same slot, is unknown"
REDIRECTS: Final = (MovedError, AskError, TryAgainError, ClusterDownError, ReadOnlyError)
"""Error replies after which a transaction that was aborted goes to another node, or waits."""


class PipelineRun:
    """One execution of a pipeline. Used by one caller."""

    def __init__(
        self,
        router: Router,
        pipeline: ClusterPipeline,
        started_ns: int,
        deadline_ns: int,
        *,
        commands: Sequence[Command] = (),
        collected: list[tuple[Any, ...]] | None = None,
    ) -> None:
        """See `of_commands` and `of_collected`."""
        self._router, self._pipeline, self._started_ns, self._deadline_ns = router, pipeline, started_ns, deadline_ns
        self._commands, self._collected = commands, collected
        self.names = pipeline.names
        """The different names of commands that were collected."""
        self._operation = ""
        self._reads = 0
        self._ownerless_ns = 0
        self._has_raw = any(NEVER_DECODE in options for _, options in commands)
        self._answered: list[ClusterBatch] = []

    @classmethod
    def of_commands(
        cls, router: Router, commands: Sequence[Command], places: Sequence[int], slots: dict[int, int]
    ) -> Self:
        """Any commands; `places` says where the key of each stands, `slots` names slots by position."""
        started_ns = monotonic_ns()
        deadline_ns = started_ns + int(router.deadline_s * NS_PER_S)
        try:
            pipeline = ClusterPipeline(router.core, [args for args, _ in commands], places, deadline_ns, slots or None)
        except TypeError as error:
            raise refused_words(error) from None
        return cls(router, pipeline, started_ns, deadline_ns, commands=commands)

    @classmethod
    def of_collected(cls, router: Router, queue: list[Any]) -> Self | None:
        """Commands that the extension's methods have collected; None where any other is among them."""
        started_ns = monotonic_ns()
        deadline_ns = started_ns + int(router.deadline_s * NS_PER_S)
        try:
            pipeline = ClusterPipeline.collected(router.core, queue, ONE_KEY, deadline_ns)
        except TypeError as error:
            raise refused_words(error) from None
        return None if pipeline is None else cls(router, pipeline, started_ns, deadline_ns, collected=queue)

    def run(self) -> list[Any]:
        """The results by position: replies as redis-py's nodes show them, or errors."""
        pipeline = self._pipeline
        while (due := pipeline.next_round()) is not None:
            pause_s, batches, homeless = due
            if pause_s > 0 and self._router.shared.pause(self._started_ns, pause_s):
                pipeline.give_up(ClientClosedError(outcome=Outcome.NOT_SENT))
                continue
            self._send(batches)
            self._wait_for_owner(homeless)
        barred = RedisUnavailableError(BARRED, outcome=Outcome.NOT_SENT)
        callbacks = self._callbacks_of_names()
        if callbacks is None:
            shaped = self._shaped(pipeline.results(barred))
        else:
            shaped = pipeline.shown(callbacks, barred, note_applied)
        if callbacks is not None and not any(callbacks):
            return shaped
        return shaped

    def _send(self, batches: list[ClusterBatch]) -> None:
        """One round: every batch is written before a reply is read."""
        admitted: list[tuple[ClusterBatch, Any, int]] = []
        stuck: list[tuple[ClusterBatch, Exception]] = []
        for batch in batches:
            node = batch.handle
            command = node.bound_commands[self._name_of(node)]
            try:
                admitted.append((batch, command, command.admit()))
            except CircuitOpenError as error:
                node._note_rejection()
                self._pipeline.failed(batch, [], error, False, monotonic_ns())
                stuck.append((batch, error))
        left_s = max(0.001, (self._deadline_ns - monotonic_ns()) / 1e9)
        try:
            outcomes = self._router.exchange(
                [(batch.handle, batch.packed, batch.count, self._raw_of(batch)) for batch, _, _ in admitted], left_s
            )
        except BaseException:
            for _, command, permit in admitted:
                command.abandon(permit)
            raise
        for (batch, command, permit), answer in zip(admitted, outcomes, strict=True):
            if isinstance(answer, Exception):
                if self._fail(batch, command, permit, answer):
                    stuck.append((batch, answer))
                continue
            command.success(permit)
            self._answered.append(batch)
            self._pipeline.answered(batch, answer, permit)
        for batch, reason in stuck:
            self._wait(batch.node, batch.slot, reason)

    def _name_of(self, node: Any) -> str:
        if not self._operation:
            commands = self._commands if self._collected is None else [((name,), {}) for name in self.names]
            self._operation = pipeline_operation(node.bound_commands, commands, False)
        return self._operation

    def _raw_of(self, batch: ClusterBatch) -> list[int]:
        """Which of the replies stay bytes."""
        if not self._has_raw:
            return []
        return [
            reply
            for place, reply in zip(batch.positions, batch.reply_places, strict=True)
            if NEVER_DECODE in self._commands[place][1]
        ]

    def _fail(self, batch: ClusterBatch, command: Any, permit: int, error: Exception) -> bool:
        """A batch was lost; returns whether what is left of it goes again."""
        kind, outcome = classify(error)
        if kind is None:
            command.abandon(permit)
            kind = FailureKind.OTHER
        else:
            command.failure(permit, kind, outcome, 0, permit, permit)  # past its deadline: only counted
        if kind is not FailureKind.CLIENT:
            self._router.core.node_failed(batch.node)
        describe(error, batch.handle.guard, self._operation)
        again = outcome is Outcome.NOT_SENT
        if not again and command.only_reads and self._reads < MAX_READS_REPEATED:
            self._reads += 1
            again = True
        if isinstance(error, ClientClosedError) or self._router.shared.was_closed_since(self._started_ns):
            again = False
        self._pipeline.failed(batch, [] if again else list(getattr(error, "replies", ())), error, not again, permit)
        return again

    def _wait_for_owner(self, slot: int) -> None:
        """Before commands of a slot without an owner are routed anew; -1 where every slot had one."""
        if slot < 0:
            self._ownerless_ns = 0
            return
        self._ownerless_ns = self._ownerless_ns or monotonic_ns()
        if self._router.shared.was_closed_since(self._started_ns):
            self._pipeline.give_up(ClientClosedError(outcome=Outcome.NOT_SENT))
        elif not self._router.wait_for_owner(slot, self._ownerless_ns, self._deadline_ns):
            self._pipeline.give_up(SlotNotCoveredError(f'Slot "{slot}" not covered by the cluster.'))

    def _wait(self, node: int, slot: int, error: Exception) -> None:
        """Before what was not sent to this node goes again."""
        router = self._router
        left_s = (self._deadline_ns - monotonic_ns()) / 1e9
        if left_s <= 0 or router.shared.was_closed_since(self._started_ns):
            self._pipeline.give_up(error)
            return
        verdict = router.core.wait_or_reject(node, slot, isinstance(error, CircuitOpenError))
        if verdict == CLUSTER_WAIT:
            try:
                router.waiters.wait(node, min(LOOK_AGAIN_S, left_s))
            finally:
                router.core.end_waiting(node)
        elif verdict != CLUSTER_WAIT_ROUTE:
            self._pipeline.give_up(error)

    def _callbacks_of_names(self) -> list[Any] | None:
        """What shows the replies of each name; None where that depends on the node, or on a command's options."""
        if self._collected is None:
            return None
        tables = [batch.handle.callbacks_for(batch.handle.transport_here().protocol) for batch in self._answered]
        if not tables:
            return [None] * len(self.names)
        first = tables[0]
        for table in tables:
            # Each node's client has a table of its own, filled alike; what matters is what it says of these names.
            if table is not first and any(
                callback_of(table, name) is not callback_of(first, name) for name in self.names
            ):
                return None
        return [callback_of(first, name) for name in self.names]

    def _shaped(self, results: list[Any]) -> list[Any]:
        """The results as redis-py's nodes show them; asyncio's callbacks may give awaitables."""
        callbacks: dict[int, Any] = {}
        shaped = []
        commands = self._commands if self._collected is None else [(args, {}) for args in self._collected]
        nodes: list[Any] = [None] * len(commands)
        for batch in self._answered:
            for place in batch.positions:
                nodes[place] = batch.handle
        for (args, options), node, reply in zip(commands, nodes, results, strict=True):
            if isinstance(reply, Exception):
                empty = EMPTY_RESPONSE in options and isinstance(reply, ResponseError)
                shaped.append(options[EMPTY_RESPONSE] if empty else reply)
                continue
            known = callbacks.get(node.number)
            if known is None:
                known = callbacks[node.number] = node.callbacks_for(node.transport_here().protocol)
            callback = callback_named(known, args[0])
            shaped.append(reply if callback is None else self._shape(callback, reply, options))
        return shaped

    @staticmethod
    def _shape(callback: Any, reply: Any, options: dict[str, Any]) -> Any:
        return call_back(callback, reply, options)


class _RoutedTransaction(RoutedCall):
    """MULTI … EXEC in one buffer, which goes from node to node as a whole."""

    __slots__ = ("_commands", "_prepared")

    _commands: Sequence[Command]
    _prepared: PreparedPipeline

    def _attempt(self, node: Any, command: Any, permit: int, left_s: float, asking: bool) -> Any:
        prepared = prepare_pipeline(node.bound_commands, self._commands, True, always_shared=True)
        if prepared is None:
            raise NotImplementedError(
                "a transaction of a cluster must not hold HIMPORT, nor what changes the connection"
            )
        self._prepared = prepared
        packed, count = next(prepared.windows())
        replies = node.send_transaction(packed, count, prepared.raw, left_s, asking)
        last = replies[-1]
        if isinstance(last, ExecAbortError):
            # It was not executed: what was refused while queueing says why.
            return next((reply for reply in replies if isinstance(reply, REDIRECTS)), replies)
        return last if isinstance(last, REDIRECTS) else replies

    def _shape(self, node: Any, command: Any, reply: Any) -> Any:
        return (node, self._prepared, reply)


def run_transaction(
    router: Router, pipeline: Any, commands: Sequence[Command], slot: int, raise_on_error: bool
) -> list[Any]:
    """The results of a transaction whose keys are all in `slot`.

    Raises the first error among them if `raise_on_error`, CircuitOpenError, and what the connection raises.
    """

    def slot_of() -> int:
        return slot

    node = pipeline.owner_of(slot)
    operation = pipeline_operation(node.bound_commands, commands, False)
    call = _RoutedTransaction(router, node, (operation,), {}, slot_of)
    call._commands = commands
    node, prepared, replies = cast("tuple[Any, PreparedPipeline, list[Any]]", call.run())
    return pipeline_results(pipeline, pipeline.response_callbacks, prepared, replies, raise_on_error)
