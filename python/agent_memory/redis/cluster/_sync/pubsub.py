# Generated from ../_async/pubsub.py by tools/generate_sync.py: edit that file, not this one.

"""Publish/subscribe on a cluster.

Ordinary channels and patterns reach every node, so one connection to any node carries them. Shard channels belong to slots:
`shard_channels.py` says how they are carried.

Rules
- The connection of ordinary channels is lost, too, when a view does not name its node as a primary any more. After a
  silence, or if the first attempt to connect fails, another primary takes its place, unless the caller has chosen the node.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import DataError, RedisClusterException

from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.redis.cluster._sync.shard_channels import ShardChannels
from agent_memory.redis.error_outcomes import ERRORS_OF_CONNECTIONS
from agent_memory.redis.redis_py_internals.leases import drop, lease
from agent_memory.redis.redis_py_internals.replies import as_text
from agent_memory.redis.redis_py_internals.subscribers import shut_down

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ClusterPubSub"]


class ClusterPubSub(ShardChannels):
    """redis-py's ClusterPubSub that survives failovers and moved slots and reports every gap; made by `client.pubsub()`.

    Takes redis-py's arguments (`node`, or `host` and `port`: where ordinary channels are subscribed), and by keyword those
    of the drop-in client's `PubSub`: `on_gap`, `gap_messages`, `ping_interval_s`, `reconnect_timeout_s` (None by default in
    any case).

    `get_message()` and `listen()` give what arrives for ordinary channels and patterns, `get_sharded_message()` what arrives
    for shard channels; each tells of its own gaps. A gap of shard channels names them, all of one slot, in `channels`.

    Raises RedisClusterException for a node that is not of the cluster. One reader of each kind at a time; other threads may
    subscribe and unsubscribe meanwhile. A reader that is cancelled while it waits leaves the subscriptions as they are.
    """

    node: Any = None

    def __init__(
        self,
        redis_cluster: Any,
        node: Any = None,
        host: str | None = None,
        port: int | None = None,
        push_handler_func: Callable[..., Any] | None = None,
        event_dispatcher: Any = None,
        reconnect_timeout_s: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.cluster = redis_cluster
        self.set_pubsub_node(redis_cluster, node, host, port)
        self._is_chosen = self.node is not None
        self._router = redis_cluster._router
        self._core = redis_cluster._core
        self._prepare_shards()
        self._suspicion: str | None = None
        self._elsewhere = False  # whether the node of ordinary channels is to be left at once
        self._tried = -1
        client = redis_cluster._client_of(self.node) if self._is_chosen else self._any_client()
        options = {"encoder": redis_cluster.encoder, "event_dispatcher": event_dispatcher}
        self._shard_options = {**options, **{name: kwargs[name] for name in ("ping_interval_s",) if name in kwargs}}
        super().__init__(
            client, push_handler_func=push_handler_func, reconnect_timeout_s=reconnect_timeout_s, **options, **kwargs
        )
        redis_cluster._subscribers.add(self)

    # --- nodes ----------------------------------------------------------------------------------------------------

    def set_pubsub_node(self, cluster: Any, node: Any = None, host: str | None = None, port: int | None = None) -> None:
        """Choose the node of ordinary channels, or none.

        Raises RedisClusterException for a node that is not of the cluster, DataError for one of `host` and `port` alone.
        """
        if node is None and (host is None) != (port is None):
            raise DataError("Passing a host requires passing a port, and vice versa")
        if node is None and host is None:
            self.node = None
            return
        known = cluster.get_node(host=host, port=port) if node is None else cluster.get_node(node_name=node.name)
        if known is None:
            name = f"{host}:{port}" if node is None else node.name
            raise RedisClusterException(f"Node {name} doesn't exist in the cluster")
        self.node = known if node is None else node

    def get_pubsub_node(self) -> Any:
        """The node of ordinary channels; None where none was chosen yet."""
        return self.node

    def get_redis_connection(self) -> Any:
        """What redis-py gives: on threads the client of the node, on asyncio the subscriber's connection."""
        return None if self.node is None else self.node.redis_connection

    def _primaries(self) -> list[int]:
        return sorted({row[2] for row in self._core.slot_ranges()})

    def _settle(self, client: Any) -> None:
        """Ordinary channels are this node's from now on."""
        self._client, self.connection_pool = client, client.connection_pool
        self._tried = client.number
        for number, host, port, *_ in self._core.nodes():
            if number == client.number:
                self.node = self.cluster.get_node(host=host, port=port)

    # --- ordinary channels ----------------------------------------------------------------------------------------

    def execute_command(self, *args: Any) -> Any:
        """Send one command of the subscriber's; what it answers arrives among the messages."""
        if not self._is_restoring():
            self._ready()
            name = as_text(args[0]).upper()
            if name == "SSUBSCRIBE":
                return self.ssubscribe(*args[1:])
            if name == "SUNSUBSCRIBE":
                return self.sunsubscribe(*args[1:])
            if self.connection is None and not self._is_chosen:
                client = self._core.route_slot(self._slot_of(args[1])) if len(args) > 1 else None
                self._settle(client or self._any_client())
        return super().execute_command(*args)

    def on_connect(self, connection: Any) -> None:
        """redis-py calls it when the connection stands again: subscribe to what was subscribed to."""
        pending = set(self.pending_unsubscribe_shard_channels)
        super().on_connect(connection)
        self.pending_unsubscribe_shard_channels.update(pending)

    def _resubscribe_shard_channels(self) -> None:
        """Shard channels have connections of their own."""

    def _lease(self) -> None:
        try:
            super()._lease()
        except ERRORS_OF_CONNECTIONS:
            self._core.node_failed(self._client.number)  # type: ignore[attr-defined]
            if not self._is_chosen:
                self._settle(self._next_client())
            raise

    def _connect_anew(self, connection: Any) -> None:
        loss = self._loss
        client: Any = self._client
        if not self._is_chosen and loss is not None and (self._elsewhere or loss.attempts > 1):
            client = self._next_client()
        self._elsewhere = False
        self._tried = client.number
        try:
            if client is self._client:
                super()._connect_anew(connection)
                return
            fresh = lease(client.connection_pool)
        except ERRORS_OF_CONNECTIONS:
            self._core.node_failed(client.number)
            raise
        left = self.connection_pool
        self._settle(client)
        self._use(fresh)
        connection.deregister_connect_callback(self.on_connect)
        # It may still be subscribed, and the pool of a retired node is not closed again.
        drop(connection)
        _release(left, connection)
        self.on_connect(fresh)

    def _next_client(self) -> Any:
        """Another primary than the one that was tried, if there is one."""
        primaries = self._primaries()
        others = [number for number in primaries if number != self._tried] or primaries
        return self._core.handle(random.choice(others)) if others else self._client

    def _lose(self, error: Exception | None) -> None:
        if not (self.channels or self.patterns):
            return
        suspicion, self._suspicion = self._suspicion, None
        if suspicion is not None:
            error = RedisUnavailableError(suspicion, outcome=Outcome.NOT_SENT, endpoint=self._client.endpoint)
        self._elsewhere = self._elsewhere or suspicion is not None or isinstance(error, RedisTimeoutError)
        super()._lose(error)

    def view_changed(self) -> None:
        """The core has accepted another view. From any thread."""
        self._look_at_slots = True
        connection = self.connection
        if connection is None or self._is_chosen or not (self.channels or self.patterns):
            return
        if self._client.number not in self._primaries():  # type: ignore[attr-defined]
            self._suspicion = "the cluster does not name the node as a primary any more"
            shut_down(connection)

    # --- redis-py's names -------------------------------------------------------------------------------------------

    def on_slots_changed(self) -> None:
        """The next call that waits for messages looks where the slots are."""
        self._look_at_slots = True

    def reinitialize_shard_subscriptions(self) -> None:
        """Move shard channels to where their slots are now, without waiting for a message."""
        self._check_slots()
        for number in self._place_moving():
            self._core.end_waiting(number)

    # --- end ------------------------------------------------------------------------------------------------------

    def reset(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Close all connections; the subscriber may be used again afterwards."""
        cast(Any, super())._end_shards()
        super().reset()  # pyright: ignore[reportUnusedCoroutine]

    def disconnect(self) -> None:
        """Disconnect; the next call that waits for messages connects and subscribes again."""
        for one in [self, *self.node_pubsub_mapping.values()]:
            if one.connection is not None:
                one.connection.disconnect()


def _release(pool: Any, connection: Any) -> None:
    pool.release(connection)
