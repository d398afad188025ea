# Generated from ../_async/shard_channels.py by tools/generate_sync.py: edit that file, not this one.

"""Shard channels of a cluster's subscriber.

Each node that owns slots with such channels has a connection of its own, on which they are subscribed, one SSUBSCRIBE for each
slot.

States of a slot with shard channels
- *placed*: SSUBSCRIBE has gone to a node.
- *moving*: it has no node, because its connection was lost, the node said that the slot has moved, or a view names another
  owner. The call that waits for shard messages looks for the owner and subscribes there, until that succeeds.

Rules
- Every slot that was moving reports a gap, behind the confirmation of its last channel and so before anything that is published
  from then on: one SSUBSCRIBE is carried out at once.
- A shard message counts only from the connection where its channel is placed. So none is handed out twice, but behind a gap: a
  replica that becomes the primary may still get over the bus what the former primary has delivered.
- Subscribing to shard channels is a call: it waits for a failover as other calls do.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, cast

from redis.commands.helpers import list_or_args
from redis.exceptions import ResponseError

from agent_memory._concurrency import settle
from agent_memory._core import CLUSTER_RAISE, CLUSTER_WAIT, key_slot, monotonic_ns
from agent_memory.errors import ClientClosedError, Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis._sync.pubsub import Loss, PubSub
from agent_memory.redis.cluster._sync.router import RoutedCall
from agent_memory.redis.cluster._sync.shard_subscriber import (
    LostConnectionError,
    RefusedSubscriptionError,
    ShardSubscriber,
)
from agent_memory.redis.error_outcomes import ERRORS_OF_CONNECTIONS
from agent_memory.redis.redis_py_internals.features import parse_pubsub_subscriptions
from agent_memory.redis.redis_py_internals.replies import as_text
from agent_memory.redis.redis_py_internals.subscribers import normalized, wait_for_input
from agent_memory.redis.subscriptions.gap import SubscriptionGap
from agent_memory.redis.transport.failures import connect_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ShardChannels"]

LOOK_S: Final = 0.1
"""The longest that a call waits for shard messages before it looks after its connections."""
MOVING_LOOK_S: Final = 0.02
"""The same while slots have no node."""
_NS_PER_S: Final = 1_000_000_000
_GATHER_NS: Final = 1_000_000
"""A node that gives a slot away names its channels one by one: they are subscribed again together."""
_NOTHING: Final[Any] = object()


class _Move:
    """A slot whose shard channels have no node, or whose node has not confirmed them yet."""

    __slots__ = ("channels", "failed_at", "loss", "slot", "unconfirmed")

    def __init__(self, slot: int, loss: Loss) -> None:
        self.slot = slot
        self.channels: set[Any] = set()
        self.unconfirmed: set[Any] = set()
        # Of its own: slots that one connection carried come back one by one.
        self.loss = Loss(loss.error, loss.heard_ns, 0)
        self.loss.noticed_ns = loss.noticed_ns
        self.failed_at: int | None = None


class ShardChannels(PubSub):
    """What a cluster's subscriber does about shard channels; ordinary ones are what its base class makes of them."""

    cluster: Any
    _router: Any
    _core: Any
    _shard_options: dict[str, Any]

    def _prepare_shards(self) -> None:
        self._mutex = threading.RLock()
        self.node_pubsub_mapping: dict[str, ShardSubscriber] = {}
        self._turns: list[ShardSubscriber] = []
        self._places: dict[Any, ShardSubscriber] = {}
        self._moving: dict[int, _Move] = {}
        self._unconfirmed: dict[Any, _Move] = {}
        self._due: list[Any] = []  # what was taken and is handed out first
        self._look_at_slots = False
        self._logged_ns = -_NS_PER_S

    def _any_client(self) -> Any:
        number = self._router.core.any_primary()
        return self._router.core.handle(self._router.core.nodes()[0][0] if number is None else number)

    def _ready(self) -> None:
        """Ask for the topology where the client has not yet."""
        self.cluster._open()

    # --- shard channels: subscribing --------------------------------------------------------------------------------

    def _slot_of(self, channel: Any) -> int:
        return key_slot(cast(Any, self.encoder).encode(channel))

    def _by_slot(self, channels: Iterable[Any]) -> dict[int, list[Any]]:
        slots: dict[int, list[Any]] = {}
        for channel in channels:
            slots.setdefault(self._slot_of(channel), []).append(channel)
        return slots

    def ssubscribe(self, *args: Any, target_node: Any = None, **kwargs: Any) -> None:
        """Subscribe to shard channels; as keywords, or by `Subscription` objects, with their handlers.

        Waits for a failover until the client's deadline; raises what a command would raise then.
        """
        del target_node  # the slot says which
        self._ready()
        handlers = normalized(self, parse_pubsub_subscriptions(args, kwargs))
        for slot, channels in self._by_slot(handlers).items():
            with self._mutex:
                fresh = [channel for channel in channels if channel not in self.shard_channels]
                self.shard_channels.update((channel, handlers[channel]) for channel in channels)
                self.pending_unsubscribe_shard_channels.difference_update(channels)
                move = self._moving.get(slot)
                # A slot that is moving brings its channels with it.
                asked = [channel for channel in channels if move is None or channel not in move.channels]
            self._note_subscribed()
            if not asked:
                continue
            try:
                _Subscribing(self, slot, asked).run()
            except BaseException:
                with self._mutex:
                    for channel in fresh:
                        self.shard_channels.pop(channel, None)
                raise

    def _note_subscribed(self) -> None:
        self._subscribed_ns = monotonic_ns()
        cast(Any, self).subscribed_event.set()

    def sunsubscribe(self, *args: Any, target_node: Any = None) -> None:
        """Unsubscribe from shard channels, without any from all of them."""
        del target_node
        names = list_or_args(args[0], args[1:]) if args else list(self.shard_channels)
        known = [channel for channel in normalized(self, dict.fromkeys(names)) if channel in self.shard_channels]
        for slot, channels in self._by_slot(known).items():
            placed: dict[ShardSubscriber, list[Any]] = {}
            with self._mutex:
                self.pending_unsubscribe_shard_channels.update(channels)
                for channel in channels:
                    subscriber = self._places.get(channel)
                    if subscriber is not None:
                        placed.setdefault(subscriber, []).append(channel)
                    else:
                        self._forget_move(slot, channel)
                        self._confirm_unsubscribed(channel)
            for subscriber, named in placed.items():
                try:
                    subscriber.ask(("SUNSUBSCRIBE", *named))
                except ERRORS_OF_CONNECTIONS as error:
                    self._lost(subscriber, Loss(error, subscriber.heard_ns, 0))

    def subscribe_at(self, node: Any, slot: int, channels: list[Any]) -> None:
        """Ask a node for channels of one slot. Raises what connecting and sending raise; then they have no place."""
        subscriber = self._subscriber_at(node)
        with self._mutex:
            for channel in channels:
                before = self._places.get(channel)
                if before is not None and before is not subscriber:
                    before.held.discard(channel)
                    self._await_gap(slot, channel, Loss(self._moved(slot), before.heard_ns, 0))
                self._places[channel] = subscriber
                subscriber.held.add(channel)
        try:
            subscriber.ask(("SSUBSCRIBE", *channels))
        except BaseException:
            with self._mutex:
                for channel in channels:
                    if self._places.get(channel) is subscriber:
                        del self._places[channel]
                    subscriber.held.discard(channel)
                is_idle = not subscriber.held
            if is_idle:
                self._end(subscriber)
            raise

    def _subscriber_at(self, node: Any) -> ShardSubscriber:
        name = node.endpoint
        subscriber = self.node_pubsub_mapping.get(name)
        if subscriber is not None and subscriber.is_lost:
            self._lost(subscriber, Loss(None, subscriber.heard_ns, 0))
            subscriber = None
        with self._mutex:
            subscriber = self.node_pubsub_mapping.get(name)
            if subscriber is None:
                handler = None if self.push_handler_func is None else self._push_handler(name)
                subscriber = ShardSubscriber(node, push_handler_func=handler, **self._shard_options)
                self.node_pubsub_mapping[name] = subscriber
                self._turns = list(self.node_pubsub_mapping.values())
            return subscriber

    def _end(self, subscriber: ShardSubscriber) -> None:
        """Close a connection that carries nothing any more."""
        with self._mutex:
            for name, known in list(self.node_pubsub_mapping.items()):
                if known is subscriber:
                    del self.node_pubsub_mapping[name]
            self._turns = list(self.node_pubsub_mapping.values())
        cast(Any, subscriber).close()

    # --- shard channels: moving -------------------------------------------------------------------------------------

    def _moved(self, slot: int) -> Exception:
        return RedisUnavailableError(f"slot {slot} has moved", outcome=Outcome.NOT_SENT)

    def _move(self, channel: Any, loss: Loss) -> None:
        """The channel has no place any more."""
        slot = self._slot_of(channel)
        move = self._moving.get(slot)
        if move is None:
            move = self._moving[slot] = self._unconfirmed.get(channel) or _Move(slot, loss)
        self._unconfirmed.pop(channel, None)
        move.channels.add(channel)
        move.unconfirmed.discard(channel)
        move.loss.heard_ns = min(move.loss.heard_ns, loss.heard_ns)

    def _await_gap(self, slot: int, channel: Any, loss: Loss) -> None:
        """The channel is being subscribed elsewhere without having been in `_moving`."""
        move = self._unconfirmed.get(channel) or _Move(slot, loss)
        move.channels.add(channel)
        move.unconfirmed.add(channel)
        self._unconfirmed[channel] = move

    def _forget_move(self, slot: int, channel: Any) -> None:
        move = self._moving.get(slot)
        if move is not None:
            move.channels.discard(channel)
            if not move.channels:
                del self._moving[slot]

    def _confirm_unsubscribed(self, channel: Any) -> None:
        """No server will confirm it: the confirmation comes from here."""
        self._due.append(["sunsubscribe", channel, 0])

    def _lost(self, subscriber: ShardSubscriber, loss: Loss) -> None:
        """A connection is gone: its channels move."""
        with self._mutex:
            for channel in sorted(subscriber.held):
                if self._places.get(channel) is not subscriber:
                    continue
                del self._places[channel]
                if channel in self.pending_unsubscribe_shard_channels:
                    self._confirm_unsubscribed(channel)
                else:
                    self._move(channel, loss)
            subscriber.held.clear()
        if isinstance(loss.error, RedisTimeoutError):
            self._core.node_failed(subscriber.number)
        self._end(subscriber)

    def _check_slots(self) -> None:
        """Channels whose slot has another owner by the latest view move there."""
        self._look_at_slots = False
        emptied = []
        with self._mutex:
            for channel, subscriber in list(self._places.items()):
                slot = self._slot_of(channel)
                owner = self._core.owner(slot)
                if owner is None or owner == subscriber.number or channel in self.pending_unsubscribe_shard_channels:
                    continue
                del self._places[channel]
                subscriber.held.discard(channel)
                self._move(channel, Loss(self._moved(slot), subscriber.heard_ns, 0))
                if not subscriber.held:
                    emptied.append(subscriber)
        for subscriber in emptied:
            self._end(subscriber)

    def _place_moving(self) -> list[int]:
        """Subscribe what is moving where its slots are now; returns the nodes for which a wait was counted."""
        now_ns = monotonic_ns()
        verdicts: dict[int, int] = {}
        failed: set[int] = set()
        for slot, move in list(self._moving.items()):
            if move.loss.not_before_ns > now_ns:
                continue
            node = self._core.route_slot(slot)
            if node is None:
                self._core.want_refresh("unknown")
                move.loss.not_before_ns = now_ns + int(LOOK_S * _NS_PER_S)
                continue
            number = node.number
            if number == move.failed_at and number not in verdicts:
                verdicts[number] = self._core.wait_or_reject(number, slot, False)
            if number in failed or (number == move.failed_at and verdicts[number] == CLUSTER_WAIT):
                move.failed_at = number
                move.loss.not_before_ns = now_ns + int(MOVING_LOOK_S * _NS_PER_S)
                continue
            error = self._place(node, move)
            if error is not None:
                failed.add(number)
                self._core.node_failed(number)
                if self._is_over(move):
                    raise connect_failure(error, node.endpoint) from error
        return [number for number, verdict in verdicts.items() if verdict == CLUSTER_WAIT]

    def _place(self, node: Any, move: _Move) -> Exception | None:
        """Subscribe a slot at a node; returns why that failed."""
        self._check_open(None)
        with self._mutex:
            if self._moving.pop(move.slot, None) is None:
                return None
            channels = sorted(move.channels)
            for channel in channels:
                self._unconfirmed[channel] = move
            move.unconfirmed = set(channels)
            move.loss.attempts += 1
        try:
            self.subscribe_at(node, move.slot, channels)
        except BaseException as error:
            with self._mutex:
                for channel in channels:
                    self._move(channel, move.loss)
                if isinstance(error, Exception):
                    move.loss.failed(error)
                    move.failed_at = node.number
            if not isinstance(error, ERRORS_OF_CONNECTIONS):
                raise
            return error
        return None

    def _is_over(self, move: _Move) -> bool:
        return move.loss.is_over(self._reconnect_timeout_ns)

    def _check_open(self, error: Exception | None) -> None:
        if self._router.shared.was_ended_since(self._subscribed_ns):
            raise ClientClosedError(outcome=Outcome.NOT_SENT, endpoint=None) from error

    # --- shard channels: messages -----------------------------------------------------------------------------------

    def get_sharded_message(
        self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0, target_node: Any = None
    ) -> Any:
        """The next message for shard channels, within `timeout` seconds in all (None: wait for ever); None where there is none.

        `target_node`: only from the connection to this node.
        """
        until_ns = None if timeout is None else monotonic_ns() + int(timeout * _NS_PER_S)
        while True:
            if self._look_at_slots:
                self._check_slots()
            counted = self._place_moving() if self._moving else []
            try:
                taken = self._take(target_node)
                if taken is not _NOTHING:
                    return self._show(taken, ignore_subscribe_messages)
                left_s = None if until_ns is None else max(0.0, (until_ns - monotonic_ns()) / 1e9)
                if left_s == 0.0 or not self.shard_channels:
                    return None
                self._wait(left_s)
            finally:
                for number in counted:
                    self._core.end_waiting(number)

    def _wait(self, left_s: float | None) -> None:
        look_s = MOVING_LOOK_S if self._moving else LOOK_S
        connections = [
            connection for one in self._turns if (connection := one.connection) is not None and not one.is_lost
        ]
        wait_for_input(connections, look_s if left_s is None else min(look_s, left_s))

    def _show(self, taken: Any, ignore: bool) -> Any:
        if taken.__class__ is SubscriptionGap:
            now_ns = monotonic_ns()
            is_due = now_ns - self._logged_ns >= _NS_PER_S  # thousands of slots may come back at once
            self._logged_ns = now_ns if is_due else self._logged_ns
            self._tell(taken, is_logged=is_due)
            if not self._gap_messages:
                return None
        return self.handle_message(taken, ignore)

    def _take(self, target_node: Any) -> Any:
        """What has arrived; `_NOTHING` for nothing."""
        if self._due:
            return self._due.pop(0)
        turns = self._turns
        if target_node is not None:
            subscriber = self.node_pubsub_mapping.get(target_node.name)
            turns = [] if subscriber is None else [subscriber]
        for _ in range(len(turns)):
            subscriber = turns[0]
            reply = self._take_from(subscriber)
            if reply is not _NOTHING:
                return reply
            if turns is not self._turns:
                return self._due.pop(0) if self._due else _NOTHING
            turns.append(turns.pop(0))
        return self._due.pop(0) if self._due else _NOTHING

    def _take_from(self, subscriber: ShardSubscriber) -> Any:
        heard_ns = subscriber.heard_ns
        try:
            while (reply := subscriber.take()) is not None:
                if reply[0] in (b"smessage", "smessage"):
                    if self._places.get(reply[1]) is subscriber:
                        return reply
                    continue
                if self._note(subscriber, as_text(reply[0]), reply, heard_ns):
                    return reply
        except LostConnectionError as lost:
            self._lost(subscriber, lost.loss)
        except RefusedSubscriptionError as refused:
            self._refused(subscriber, refused)
        return _NOTHING

    def _note(self, subscriber: ShardSubscriber, kind: str, reply: Any, heard_ns: int) -> bool:
        """Take down what a confirmation says; whether it is for the caller."""
        if kind not in ("ssubscribe", "sunsubscribe"):
            return True
        channel = reply[1]
        with self._mutex:
            is_placed = self._places.get(channel) is subscriber
            if kind == "ssubscribe":
                if not is_placed:
                    return False
                move = self._unconfirmed.pop(channel, None)
                if move is not None:
                    move.unconfirmed.discard(channel)
                    if not move.unconfirmed:
                        self._due.append(move.loss.gap(subscriber.heard_ns, tuple(sorted(move.channels))))
                return True
            if not is_placed:
                return False
            del self._places[channel]
            subscriber.held.discard(channel)
            is_wanted = channel not in self.pending_unsubscribe_shard_channels
            if is_wanted:
                slot = self._slot_of(channel)
                self._core.want_refresh("moved")
                self._move(channel, Loss(self._moved(slot), heard_ns, 0))
                self._moving[slot].loss.not_before_ns = monotonic_ns() + _GATHER_NS
            is_idle = not subscriber.held
        if is_idle:
            self._end(subscriber)
        return not is_wanted

    def _refused(self, subscriber: ShardSubscriber, refused: RefusedSubscriptionError) -> None:
        """The node does not have the slot any more, or not yet; other errors are the caller's."""
        now_ns = monotonic_ns()
        channels = [cast(Any, self.encoder).decode(name) for name in refused.names]
        action = self._core.redirect(refused.error, subscriber.number, 0, now_ns, now_ns + _NS_PER_S)[0]
        with self._mutex:
            placed = [channel for channel in channels if self._places.get(channel) is subscriber]
            for channel in placed:
                del self._places[channel]
                subscriber.held.discard(channel)
                if refused.kind == "sunsubscribe":
                    self._confirm_unsubscribed(channel)
                elif action != CLUSTER_RAISE:
                    self._move(channel, Loss(refused.error, subscriber.heard_ns, 0))
                    self._moving[self._slot_of(channel)].loss.failed(refused.error)
                else:
                    self._unconfirmed.pop(channel, None)
                    self.shard_channels.pop(channel, None)
        if action == CLUSTER_RAISE and refused.kind != "sunsubscribe":
            raise refused.error

    def _push_handler(self, name: str) -> Callable[[Any], Any]:
        """The caller's handler of pushes; what it is given is taken down first."""

        def handle(push: Any) -> Any:
            subscriber = self.node_pubsub_mapping.get(name)
            if subscriber is not None and push:
                self._note(subscriber, as_text(push[0]), push, subscriber.heard_ns)
            return settle(cast(Any, self.push_handler_func)(push))

        return handle

    def _end_shards(self) -> None:
        with self._mutex:
            subscribers, self._turns = list(self.node_pubsub_mapping.values()), []
            self.node_pubsub_mapping.clear()
            self._places.clear()
            self._moving.clear()
            self._unconfirmed.clear()
            self._due.clear()
        for subscriber in subscribers:
            subscriber.held.clear()
            cast(Any, subscriber).close()


class _Subscribing(RoutedCall):
    """SSUBSCRIBE as a call: what follows a failure is what follows that of any command for the slot."""

    __slots__ = ("_channels", "_subscriber")

    def __init__(self, subscriber: ShardChannels, slot: int, channels: list[Any]) -> None:
        def slot_of() -> int:
            return slot

        self._subscriber, self._channels = subscriber, channels
        router = subscriber._router
        node = router.core.route_slot(slot)
        super().__init__(
            router, subscriber._any_client() if node is None else node, ("SSUBSCRIBE", *channels), {}, slot_of
        )

    def _attempt(self, node: Any, command: Any, permit: int, left_s: float, asking: bool) -> Any:
        del command, permit, left_s, asking
        try:
            self._subscriber.subscribe_at(node, self._find_slot(), self._channels)
        except ResponseError:
            raise
        except Exception as error:
            # Whatever left with a connection that broke, no subscription came of it.
            failure = connect_failure(error, node.endpoint)
            if failure is error:
                raise
            raise failure from error

    def _shape(self, node: Any, command: Any, reply: Any) -> Any:
        del node, command, reply
