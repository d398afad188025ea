# Generated from ../_async/router.py by tools/generate_sync.py: edit that file, not this one.

"""What follows the failure of a command in a cluster: another node, a wait for a failover, or the error.

The core says what a reply or a failure means (`redirect`, `wait_or_reject`); here it is carried out within the call's deadline.

Rules
- A command whose outcome is UNKNOWN is repeated only if it reads.
- A redirect is no failure: the server proved that it did not execute the command.
- A call that belongs to no slot stays with its node, as a call to one server does.
- A call that waits for a node is counted by the core, which bounds the waiting calls of each node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from agent_memory._concurrency import Event
from agent_memory._core import (
    CLUSTER_ASK,
    CLUSTER_RAISE,
    CLUSTER_ROUTE,
    CLUSTER_WAIT,
    CLUSTER_WAIT_ROUTE,
    monotonic_ns,
    slot_tag,
)
from agent_memory.errors import CircuitOpenError, ClientClosedError, Outcome
from agent_memory.policy import FailureKind
from agent_memory.redis.call_notes import note_retry
from agent_memory.redis.cluster.waiters import Waiters
from agent_memory.redis.commands.packing import pack_command
from agent_memory.redis.error_outcomes import classify, describe
from agent_memory.redis.pool_state import PoolState
from agent_memory.redis.redis_py_internals.replies import EMPTY_RESPONSE

if TYPE_CHECKING:
    from agent_memory._core import ClusterCore

__all__ = ["NO_NODE", "NO_SLOT", "RoutedCall", "Router"]

NO_SLOT: Final = -1
"""Stands for the slot of a call that stays with its node."""
NO_NODE: Final = -1
"""Stands for the node of a slot without an owner."""
LOOK_AGAIN_S: Final = 0.25
"""The longest that a call waits for a failover before it asks the core again."""
SHORTEST_ATTEMPT_S: Final = 0.001
BARRIER_PREFIX: Final = "agent_memory:wait:"

SlotOf = Callable[[], int]
"""Finds out the slot of a call, asked only when it has failed."""


class Router:
    """Carries calls to the nodes of one cluster. Thread-safe."""

    def __init__(
        self,
        make_node: Callable[[int, str, int], Any],
        exchange: Callable[..., list[Any]],
        deadline_s: float,
        max_retries: int | None,
    ) -> None:
        self.core: ClusterCore
        """Set by the client, which makes both."""
        self._make_node = make_node
        self.exchange = exchange
        """Sends batches to several nodes, all before any reply is read; a list of replies or an error for each."""
        self.deadline_s = deadline_s
        self.max_retries = max_retries
        """How often a call goes on after a failure; None where only its deadline says so."""
        self.shared = PoolState(Event)
        self.waiters = Waiters(Event)
        self._made: set[int] = set()

    def node(self, number: int, host: str, port: int) -> Any:
        """The client of a node, made for the core, which keeps it."""
        made = self._make_node(number, host, port)
        self._made.add(number)
        return made

    def nodes(self) -> list[Any]:
        """The clients of nodes that have been made and not retired."""
        found = []
        for number in list(self._made):
            try:
                found.append(self.core.handle(number))
            except KeyError:
                self._made.discard(number)
        return found

    def execute(
        self, node: Any, args: tuple[Any, ...], options: dict[str, Any], slot_of: SlotOf, started_ns: int = 0
    ) -> Any:
        """One command, begun at `started_ns` (0: now), first to `node`; returns its reply as redis-py's node shows it."""
        return RoutedCall(self, node, args, options, slot_of, started_ns).run()

    def owner_of(self, slot: int) -> Any:
        """The node of a slot, waited for as the core says; None where it has none. Raises ClientClosedError."""
        since_ns = monotonic_ns()
        deadline_ns = since_ns + int(self.deadline_s * 1e9)
        while (node := self.core.route_slot(slot)) is None:
            if self.shared.was_closed_since(since_ns):
                raise ClientClosedError(outcome=Outcome.NOT_SENT)
            if not self.wait_for_owner(slot, since_ns, deadline_ns):
                return None
        return node

    def wait_for_owner(self, slot: int, since_ns: int, deadline_ns: int) -> bool:
        """A call has found no owner of `slot` since `since_ns`: wait a while; returns False where it fails instead."""
        verdict, pause_s = self.core.wait_for_owner(slot, since_ns, deadline_ns)
        if verdict != CLUSTER_WAIT:
            return verdict == CLUSTER_WAIT_ROUTE
        try:
            self.waiters.wait(NO_NODE, min(LOOK_AGAIN_S, pause_s))
        finally:
            self.core.end_waiting(NO_NODE)
        return True

    def go_on(
        self,
        node: Any,
        args: tuple[Any, ...],
        options: dict[str, Any],
        slot_of: SlotOf,
        permit: int,
        error: Exception,
    ) -> Any:
        """The same for a call whose first attempt, admitted with `permit`, has failed with `error` at `node`."""
        call = RoutedCall(self, node, args, options, slot_of, permit)
        try:
            call.take(permit, error)
        finally:
            del error  # its traceback refers to this frame
        return call.run()

    def barrier_of(self, number: int) -> bytes | None:
        """A packed write to the node that leaves nothing, so that WAIT covers what was written before; None for a replica.

        Valkey notes a connection's replication offset only after its writes, and PUBLISH is not replicated in a cluster.
        """
        for first, _last, primary, _replicas in self.core.slot_ranges():
            if primary == number:
                return pack_command(("SET", f"{BARRIER_PREFIX}{{{slot_tag(first)}}}", b"", "PX", 1))
        return None


class RoutedCall:
    """One call, from node to node. `run` returns its reply or raises its last error."""

    __slots__ = (
        "_args",
        "_asking",
        "_deadline_ns",
        "_failures",
        "_node",
        "_options",
        "_perhaps_executed",
        "_progress",
        "_router",
        "_slot",
        "_slot_of",
        "_started_ns",
        "_suspects",
    )

    def __init__(
        self,
        router: Router,
        node: Any,
        args: tuple[Any, ...],
        options: dict[str, Any],
        slot_of: SlotOf,
        started_ns: int = 0,
    ) -> None:
        self._router, self._node, self._args, self._options, self._slot_of = router, node, args, options, slot_of
        self._slot: int | None = None
        self._started_ns = started_ns or monotonic_ns()
        self._deadline_ns = self._started_ns + int(router.deadline_s * 1e9)
        self._progress = self._failures = 0
        self._asking = self._perhaps_executed = False
        self._suspects: set[int] = set()

    def run(self) -> Any:
        """Attempts until there is a reply; raises the last error otherwise."""
        while True:
            node = self._node
            command = node.bound_commands[self._args[0]]
            try:
                permit: int = command.admit()
            except CircuitOpenError as error:
                node._note_rejection()
                self._wait_for_owner(error)
                continue
            asking, self._asking = self._asking, False
            left_s = max(SHORTEST_ATTEMPT_S, (self._deadline_ns - monotonic_ns()) / 1e9)
            try:
                reply = self._attempt(node, command, permit, left_s, asking)
            except Exception as error:
                reply = error
            except BaseException:
                command.abandon(permit)
                raise
            if not isinstance(reply, Exception):
                command.success(permit)
                if node.number in self._suspects:
                    self._router.core.node_closed(node.number)
                return self._shape(node, command, reply)
            try:
                if self.take(permit, reply):
                    return self._options[EMPTY_RESPONSE]
                note_retry()
            finally:
                del reply

    def _attempt(self, node: Any, command: Any, permit: int, left_s: float, asking: bool) -> Any:
        return node.attempt(command, self._args, self._options, permit, left_s, asking)

    def _shape(self, node: Any, command: Any, reply: Any) -> Any:
        return node.shape(self._args[0], reply, self._options)

    def take(self, permit: int, error: Exception) -> bool:
        """Deal with the failure of an attempt: returns False when another one may follow, with everything set for it.

        True where the caller wants another value for an error reply. Raises where the call is over.
        """
        node = self._node
        command = node.bound_commands[self._args[0]]
        if self._router.shared.was_closed_since(self._started_ns) and not isinstance(error, ResponseError):
            command.abandon(permit)
            raise self._closed(error)
        if isinstance(error, ResponseError):
            action, number, pause_s, self._progress = self._router.core.redirect(
                error, node.number, self._progress, permit, self._deadline_ns
            )
            if action != CLUSTER_RAISE:
                command.answered_error(permit)
                self._follow(action, number, pause_s, error)
                return False
            if EMPTY_RESPONSE in self._options:
                command.answered_error(permit)
                return True
        self._recover(command, permit, error)
        return False

    def _follow(self, action: int, number: int, pause_s: float, error: Exception) -> None:
        """Go where the reply leads."""
        core = self._router.core
        if pause_s > 0:
            self._pause(pause_s, error)
        if action == CLUSTER_ROUTE:
            slot = self._find_slot()
            if slot != NO_SLOT:
                self._node = core.route_slot(slot) or self._node
            return
        self._asking = action == CLUSTER_ASK
        if number != self._node.number:
            self._node = core.handle(number)

    def _recover(self, command: Any, permit: int, error: Exception) -> None:
        """The attempt failed with what is no redirect: raises, or waits until there is reason for another."""
        kind, outcome = classify(error)
        number = self._node.number
        if kind is None:
            (command.answered_error if isinstance(error, ResponseError) else command.abandon)(permit)
            raise self._last(error)
        lost = not isinstance(error, ResponseError) and kind is not FailureKind.CLIENT
        slot = self._find_slot()
        self._failures += 1
        if lost:
            self._suspects.add(number)
        if lost and outcome is Outcome.NOT_SENT and slot != NO_SLOT:
            command.failure(permit, kind, outcome, 0, permit, permit)  # past its deadline: only counted
            self._router.core.node_failed(number)
            self._check_retries(error)
            self._wait_for_owner(error)
            return
        delay_s = command.failure(permit, kind, outcome, self._failures - 1, self._started_ns, self._deadline_ns)
        if lost:
            self._router.core.node_failed(number)
        if delay_s < 0:
            raise self._last(error)
        self._check_retries(error)
        self._perhaps_executed = self._perhaps_executed or outcome is Outcome.UNKNOWN
        self._pause(delay_s, error)
        if slot != NO_SLOT:
            self._node = self._router.core.route_slot(slot) or self._node

    def _wait_for_owner(self, error: Exception) -> None:
        """The node takes no calls: go to the slot's new owner, wait for one, or raise `error`."""
        router, node = self._router, self._node
        slot = self._find_slot()
        if slot == NO_SLOT:
            raise self._last(error)
        verdict = router.core.wait_or_reject(node.number, slot, isinstance(error, CircuitOpenError))
        if verdict == CLUSTER_WAIT:
            left_s = (self._deadline_ns - monotonic_ns()) / 1e9
            try:
                if left_s <= 0:
                    raise self._last(error)
                router.waiters.wait(node.number, min(LOOK_AGAIN_S, left_s))
            finally:
                router.core.end_waiting(node.number)
            if router.shared.was_closed_since(self._started_ns):
                raise self._closed(error)
        elif verdict != CLUSTER_WAIT_ROUTE:
            raise self._last(error)
        self._node = router.core.route_slot(slot) or node

    def _find_slot(self) -> int:
        if self._slot is None:
            self._slot = self._slot_of()
        return self._slot

    def _check_retries(self, error: Exception) -> None:
        bound = self._router.max_retries
        if bound is not None and self._failures > bound:
            raise self._last(error)

    def _pause(self, delay_s: float, error: Exception) -> None:
        left_s = (self._deadline_ns - monotonic_ns()) / 1e9
        if delay_s > left_s:
            raise self._last(error)
        if self._router.shared.pause(self._started_ns, delay_s):
            raise self._closed(error)

    def _last(self, error: Exception) -> Exception:
        """The error that the call ends with."""
        if self._perhaps_executed:
            error.outcome = Outcome.UNKNOWN  # type: ignore[attr-defined]
        describe(error, self._node.guard, str(self._args[0]))
        return error

    def _closed(self, error: Exception) -> Exception:
        if isinstance(error, ClientClosedError):
            return error
        is_unknown = self._perhaps_executed or classify(error)[1] is Outcome.UNKNOWN
        closed = ClientClosedError(
            outcome=Outcome.UNKNOWN if is_unknown else Outcome.NOT_SENT, endpoint=getattr(error, "endpoint", None)
        )
        closed.__cause__ = error
        return closed
