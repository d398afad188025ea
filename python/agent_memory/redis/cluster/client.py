"""The synchronous client for Redis Cluster: redis-py's `RedisCluster` with our routing, transports and guards below."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, Unpack, cast, overload

from redis.cluster import SLOT_ID, ClusterNode
from redis.cluster import ClusterPipeline as RedisPyClusterPipeline
from redis.cluster import RedisCluster as RedisPyCluster
from redis.commands import READ_COMMANDS
from redis.connection import ConnectionPool
from redis.exceptions import RedisClusterException, SlotNotCoveredError

from agent_memory._core import ClusterCore, key_slot, monotonic_ns
from agent_memory.errors import CircuitOpenError
from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis.client import Redis
from agent_memory.redis.cluster._sync.node import NodeCalls, pack_words
from agent_memory.redis.cluster._sync.pipeline import PipelineRun
from agent_memory.redis.cluster._sync.pubsub import ClusterPubSub
from agent_memory.redis.cluster._sync.refresher import Refresher
from agent_memory.redis.cluster._sync.router import NO_SLOT, Router
from agent_memory.redis.cluster.arguments import (
    check_cluster,
    check_policy,
    deadline_s_of,
    max_retries_of,
    node_policy,
)
from agent_memory.redis.cluster.strategies import PipelineStrategy, TransactionStrategy
from agent_memory.redis.cluster.subscribers import Subscribers
from agent_memory.redis.cluster.views import (
    Chosen,
    check_coverage,
    cluster_stats,
    fill_manager,
    is_himport,
    listener_of,
    slot_of_node,
    weakly,
)
from agent_memory.redis.commands.callbacks import call_back, callback_of
from agent_memory.redis.commands.direct import add_cluster_commands, add_collected_commands
from agent_memory.redis.commands.keys import ONE_KEY
from agent_memory.redis.commands.packing import refused_words
from agent_memory.redis.originals import RedisPy
from agent_memory.redis.redis_py_internals.cluster import (
    RequestPolicy,
    announce_view,
    determine_nodes,
    is_node_flag,
    is_sent_by_flag,
    keys_of,
    must_be_covered,
    policies_of,
)
from agent_memory.redis.redis_py_internals.replies import NEVER_DECODE
from agent_memory.redis.redis_py_internals.settings import fill_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent_memory.redis._typing import ClusterOptions

__all__ = ["ClusterPipeline", "RedisCluster"]

SLOT_GIVEN: Final = -1
"""Stands for the place of the key in a command whose slot is given beside it."""


class NodeClient(NodeCalls, Redis[Any]):
    """The client of one node. `execute_routed` gives failures to the cluster's router; `execute_command` stays here."""

    def __init__(self, router: Router, number: int, pool: Any, resilience: ResiliencePolicy | None) -> None:
        super().__init__(connection_pool=pool, resilience=resilience)
        self.auto_close_connection_pool = True
        self.number = number
        self._router = weakref.ref(router)
        if self._transport is None:
            raise ValueError("the connections of a cluster client must be redis-py's own, got others")

    def _recover_routed(
        self, _transport: Any, _command: Any, args: tuple[Any, ...], options: dict[str, Any], permit: int, error: Any
    ) -> Any:
        """A command of the cluster was admitted and sent here by the extension, and ended with `error`."""
        return self._the_router().go_on(self, args, options, _slot_of_first(args), permit, error)

    def barrier(self) -> bytes | None:
        """See `NodeCalls`."""
        return self._the_router().barrier_of(self.number)

    def _the_router(self) -> Router:
        router = self._router()
        assert router is not None  # the client that calls holds it
        return router

    def execute_routed(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """One command whose one key is its first argument, from this node to wherever the key is."""
        command = self.bound_commands[args[0]]
        transport: Any = self._transport
        if (command.route and len(args) > command.plain) or self._takes_slow_path:
            return self._the_router().execute(self, args, options, _slot_of_first(args))
        packed = pack_words(command, args)
        raw = NEVER_DECODE in options
        try:
            permit = command.admit()
        except CircuitOpenError:
            return self._the_router().execute(self, args, options, _slot_of_first(args))
        try:
            reply = transport.call(packed, permit, raw, self._deadline_s)
        except Exception as error:
            return self._the_router().go_on(self, args, options, _slot_of_first(args), permit, error)
        except BaseException:
            command.abandon(permit)
            raise
        if isinstance(reply, Exception):
            return self._the_router().go_on(self, args, options, _slot_of_first(args), permit, reply)
        command.success(permit)
        callbacks = self.response_callbacks
        if transport.protocol != self._asked_protocol:
            callbacks = self.callbacks_for(transport.protocol)
        callback = callback_of(callbacks, command.name)
        return reply if callback is None else call_back(callback, reply, options)


def _slot_of_first(args: tuple[Any, ...]) -> Any:
    def slot_of() -> int:
        return key_slot(args[1])

    return slot_of


def _no_slot() -> int:
    return NO_SLOT


def _no_route(_key: Any) -> None:
    return None


class RedisCluster(RedisPyCluster):
    """redis-py's `RedisCluster` on transports of our own, with resilience built in.

    Takes every argument of `redis.RedisCluster`, and by keyword:

    - `resilience`: the `ResiliencePolicy` of each node (breaker, budget, probe) and of the calls (retries, deadline). Without
      a `deadline_s` a call has max(2 x `socket_timeout`, 20 s): a failover costs time, not errors. None: no breaker, budget
      or probe. A command that was not sent then still waits for a failover until that deadline; a lost reply is raised, of a
      command that reads as well.

    A write whose outcome is UNKNOWN is raised at once and never repeated. `retry` and `cluster_error_retry_attempts` bound how
    often a call goes on after failures; without them its deadline does. Not there yet, and refused: `exactly_once`,
    `cache`, maintenance notifications.

    Raises ValueError for arguments outside their rule, and what `redis.RedisCluster` raises where no node answers.
    Thread-safe: each node has as many connections as threads use it at once.
    """

    # What redis-py's constructor asks for before ours has run.
    _route: Any = staticmethod(_no_route)
    _core: ClusterCore | None = None
    _reads_elsewhere = False
    _own_callbacks = False
    _filled = -1
    _direct_core: ClusterCore | None = None
    """While it is the client's own attribute, and a core, the extension sends the commands of `commands.direct` by itself."""

    if TYPE_CHECKING:

        @overload
        def __init__(self, host: str, port: int = ..., **options: Unpack[ClusterOptions]) -> None: ...

        @overload
        def __init__(
            self,
            host: None = ...,
            port: int = ...,
            startup_nodes: list[ClusterNode] | None = ...,
            **options: Unpack[ClusterOptions],
        ) -> None: ...

    def __init__(
        self,
        *args: Any,
        resilience: ResiliencePolicy | None = DEFAULT_RESILIENCE,
        exactly_once: bool = False,
        **kwargs: Any,
    ) -> None:
        check_policy(resilience, exactly_once)
        given = check_cluster(RedisPyCluster, args, kwargs, asynchronous=False)
        super().__init__(*args, **kwargs)
        deadline_s = deadline_s_of(resilience, given)
        self._resilience = node_policy(resilience, given, deadline_s)
        self._reads_elsewhere = bool(self.read_from_replicas or self.load_balancing_strategy)
        router = self._router = Router(weakly(self._make_node), exchange, deadline_s, max_retries_of(given))
        refresher = self._refresher = Refresher(router, weakly(self._view_changed))
        self._subscribers = Subscribers()
        seeds = list(dict.fromkeys((node.host, int(node.port)) for node in self.startup_nodes))
        seeds += [seed for node in cast(Any, self).get_nodes() if (seed := (node.host, int(node.port))) not in seeds]
        arguments = self.nodes_manager.connection_kwargs
        self._core = router.core = ClusterCore(
            seeds,
            weakly(router.node),
            remap=self.nodes_manager.address_remap,
            wake=weakly(router.waiters.wake),
            refresh_due=weakly(refresher.hurry),
            failover_wait_s=deadline_s,
            is_tls=bool(arguments.get("ssl")),
        )
        # redis-py has asked with connections of its own: they are not needed any more.
        for node in [*cast(Any, self).get_nodes(), *self.nodes_manager.startup_nodes.values()]:
            if node.redis_connection is not None:
                node.redis_connection.close()
                node.redis_connection = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    # --- nodes ----------------------------------------------------------------------------------------------------

    @property
    def core(self) -> ClusterCore:
        """The core's decisions of this cluster."""
        assert self._core is not None
        return self._core

    def _make_node(self, number: int, host: str, port: int) -> NodeClient:
        manager = self.nodes_manager
        arguments = dict(manager.connection_kwargs)
        if self._reads_elsewhere or self.user_on_connect_func is not None:
            arguments["redis_connect_func"] = weakly(self.on_connect)
        else:
            arguments.pop("redis_connect_func", None)
        fill_arguments(arguments, asynchronous=False)
        if manager.from_url:
            pool: Any = ConnectionPool(**arguments | {"host": host, "port": port})
        else:
            pool = RedisPy(**arguments | {"host": host, "port": port}).connection_pool
        client = NodeClient(self._router, number, pool, self._resilience)
        if client.guard is not None:
            client.guard.add_listener(listener_of(weakref.ref(self._router), weakref.ref(client.guard), number))
        return client

    def _node_of(self, number: int, host: str, port: int, role: str) -> ClusterNode:
        node = self.nodes_manager.nodes_cache.get(f"{host}:{port}")
        if node is None:
            node = ClusterNode(host, port, role)
        node.server_type = role
        node.redis_connection = self.core.handle(number)
        return node

    def _open(self) -> None:
        """Ask for the topology with our own connections."""
        with self._lock:
            if self._route is not _no_route:
                return
            self._refresher.first_view(self._router.deadline_s)
            self._fill()
            check_coverage(self.nodes_manager)
            self._route = self.core.route
            if not self._reads_elsewhere and not self._own_callbacks:
                self._direct_core = self.core
            self._refresher.ensure_running()

    def _fill(self) -> None:
        """Give `nodes_manager` what the core knows."""
        with self._lock:
            self._filled = self.core.version
            fill_manager(self.nodes_manager, self.core, self._node_of)

    def _view_changed(self) -> None:
        """The core has accepted another view."""
        if self._route is _no_route:
            return
        self._fill()
        self._subscribers.view_changed()
        announce_view(self)
        for number in self.core.retirable():
            retired = self.core.retire(number)
            if retired is not None:
                retired.connection_pool.disconnect(inuse_connections=False)

    def _client_of(self, node: Any) -> NodeClient | None:
        """The client of a node object, also of one that a user has made; None where the cluster has no such node."""
        client = getattr(node, "redis_connection", None)
        if not isinstance(client, NodeClient):
            client = getattr(self.nodes_manager.nodes_cache.get(node.name), "redis_connection", None)
        return client if isinstance(client, NodeClient) else None

    # --- commands -------------------------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send one command to the node of its key, or to those that its policy or `target_nodes` name."""
        name = args[0]
        if name in ONE_KEY and not ("target_nodes" in kwargs or (self._reads_elsewhere and name in READ_COMMANDS)):
            try:
                node = self._route(args[1])
            except (IndexError, TypeError):
                node = None
            if node is not None:
                reply = node.execute_routed(args, kwargs)
                return self._show(name, reply, kwargs) if self._own_callbacks else reply
        return self._execute_anyhow(args, kwargs)

    def _execute_anyhow(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The same where there is no node to send it to at once."""
        core, started_ns = self._core, monotonic_ns()
        if core is None:
            return cast(Any, super()).execute_command(*args, **options)
        self._be_open()
        name = args[0]
        if name not in ONE_KEY or "target_nodes" in options or len(args) == 1:
            return cast(Any, super()).execute_command(*args, **options)
        if self._reads_elsewhere and name in READ_COMMANDS:
            return cast(Any, super()).execute_command(*args, **options)
        try:
            slot = key_slot(args[1])
        except TypeError as error:
            raise refused_words(error) from None
        reply = self._router.execute(self._owner_of(slot), args, options, _slot_of_first(args), started_ns)
        return self._show(name, reply, options)

    def _owner_of(self, slot: int) -> NodeClient:
        """The node of a slot; waits for one, where it has none, as the core says. Raises SlotNotCoveredError."""
        node = self._router.owner_of(slot)
        if node is None:
            raise SlotNotCoveredError(
                f'Slot "{slot}" not covered by the cluster. '
                f'"require_full_coverage={must_be_covered(self.nodes_manager)}"'
            )
        return cast(NodeClient, node)

    def _parse_target_nodes(self, target_nodes: Any) -> list[Any]:
        return [Chosen(node) for node in cast(Any, super())._parse_target_nodes(target_nodes)]

    def _execute_command(self, target_node: Any, *args: Any, **kwargs: Any) -> Any:
        """What redis-py's `execute_command` sends to one node."""
        chosen = isinstance(target_node, Chosen)
        node = target_node.node if chosen else target_node
        client = self._client_of(node)
        if client is None or is_himport(args):
            return cast(Any, super())._execute_command(node, *args, **kwargs)
        reply = self._router.execute(client, args, kwargs, _no_slot if chosen else self._slot_finder(args))
        return self._show(args[0], reply, kwargs)

    def _show(self, name: Any, reply: Any, options: dict[str, Any]) -> Any:
        """The reply as the callbacks of the cluster client want it."""
        if name not in self.cluster_response_callbacks:
            return reply
        return self.cluster_response_callbacks[name](reply, **options)

    def set_response_callback(self, command: str, callback: Any) -> None:
        """Set a custom response callback."""
        cast(Any, super()).set_response_callback(command, callback)
        self._own_callbacks = True
        self._direct_core = None

    def _slot_finder(self, args: tuple[Any, ...]) -> Any:
        """Finds out the slot of a command that redis-py has placed."""

        def slot_of() -> int:
            flag = self.command_flags.get(str(args[0]).upper())
            if is_sent_by_flag(self, flag) and flag != SLOT_ID:
                return NO_SLOT
            try:
                slot = self.determine_slot(*args)
            except Exception:  # no keys, or no node that could say which: it stays with its node
                return NO_SLOT
            return NO_SLOT if slot is None else int(slot)

        return slot_of

    # --- pipelines ------------------------------------------------------------------------------------------------

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        """A pipeline over all nodes, or with `transaction` a transaction on the node of its keys' slot."""
        if shard_hint:
            raise RedisClusterException("shard_hint is deprecated in cluster mode")
        pipeline = ClusterPipeline.__new__(ClusterPipeline)
        pipeline._begin(self, transaction)
        pipeline._execution_strategy = (TransactionStrategy if transaction else PipelineStrategy)(pipeline, self)
        return pipeline

    def _run_collected(self, queue: list[Any]) -> list[Any]:
        """The results of what a pipeline has collected by position, errors as values."""
        self._be_open()
        run = PipelineRun.of_collected(self._router, queue)
        if run is None:
            return self._run_pipeline([(one, {}) if type(one) is tuple else (one.args, one.options) for one in queue])
        results = run.run()
        if self.cluster_response_callbacks.keys().isdisjoint(run.names):
            return results
        return [
            result if isinstance(result, Exception) else self._show(args[0], result, {})
            for args, result in zip(queue, results, strict=True)
        ]

    def _be_open(self) -> None:
        if self._route is _no_route:
            self._open()
        elif self._filled != self.core.version:
            self._fill()

    def _run_pipeline(self, commands: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
        """The results of commands by position, errors as values."""
        self._be_open()
        places: list[int] = []
        slots: dict[int, int] = {}
        for number, (args, options) in enumerate(commands):
            targets = options.pop("target_nodes", None)
            if targets is None and args[0] in ONE_KEY and len(args) > 1:
                places.append(1)
                continue
            slots[number] = self._slot_in_pipeline(args, targets)
            places.append(SLOT_GIVEN)
        results = PipelineRun.of_commands(self._router, commands, places, slots).run()
        return [
            result if isinstance(result, Exception) else self._show(args[0], result, options)
            for (args, options), result in zip(commands, results, strict=True)
        ]

    def _slot_in_pipeline(self, args: tuple[Any, ...], targets: Any) -> int:
        """The slot of a command that redis-py places: that of its keys, or one of the node that it is for."""
        if targets and not is_node_flag(self, targets):
            nodes = [chosen.node for chosen in self._parse_target_nodes(targets)]
        else:
            resolver = policies_of(self)
            policies = None if resolver is None else resolver.resolve(args[0].lower())
            policy = None if policies is None else policies.request_policy
            flag = targets or self.command_flags.get(args[0])
            if (policy in (None, RequestPolicy.DEFAULT_KEYED) and flag is None) or flag == SLOT_ID:
                try:
                    return int(cast(int, self.determine_slot(*args)))
                except RedisClusterException:
                    # Several slots are an error; what names no key goes to any primary, where the server says what is wrong.
                    if policies is not None or flag is not None or keys_of(self, args):
                        raise
                    policy = RequestPolicy.DEFAULT_KEYLESS
            nodes = determine_nodes(self, args, policy, targets, asynchronous=False)
        if len(nodes) > 1:
            raise RedisClusterException(f"Too many targets for command {args}")
        return slot_of_node(self.nodes_manager, nodes[0])

    def _execute_pipeline_by_slot(self, command: str, slots_to_args: Mapping[int, Any]) -> list[Any]:
        if len(slots_to_args) == 1 and self._route is not _no_route:
            ((slot, words),) = slots_to_args.items()
            return [self._show(command, self._owner_of(slot).execute_routed((command, *words), {}), {})]
        self._be_open()
        commands: list[Any] = [((command, *words), {}) for words in slots_to_args.values()]
        slots = dict(enumerate(slots_to_args))
        results = PipelineRun.of_commands(self._router, commands, [SLOT_GIVEN] * len(commands), slots).run()
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [self._show(command, result, {}) for result in results]

    def pubsub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, node: Any = None, host: str | None = None, port: int | None = None, **kwargs: Any
    ) -> ClusterPubSub:
        """A subscriber as redis-py's that comes back by itself and reports gaps; `ClusterPubSub` says what it takes."""
        return ClusterPubSub(self, node=node, host=host, port=port, **kwargs)

    # --- state ----------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """The figures of the topology under `cluster`, and those of each node's guard under `nodes`, by "host:port"."""
        return cluster_stats(self.core, self._router.nodes())

    def close(self) -> None:
        """Close the connections to all nodes; calls under way end with ClientClosedError. May be used again afterwards."""
        self._route = _no_route
        self._direct_core = None
        router = getattr(self, "_router", None)
        if router is not None and self._core is not None:
            router.shared.end()
            router.waiters.wake_all()
            self._refresher.stop(0)
            for node in router.nodes():
                node.close()
        super().close()


class ClusterPipeline(RedisPyClusterPipeline):
    """redis-py's cluster pipeline on our transports.

    Each node gets its commands in one buffer; all are written before a reply is read; results come by position. A redirected
    command goes again, in the order of its slot. What may have been executed is never sent again: its result is an error with
    outcome UNKNOWN, unless the pipeline only reads.
    """

    _collected: list[Any] | None = None
    """What the extension appends the commands of `commands.direct` to; None where they are not collected."""

    _client: RedisCluster | None = None
    _is_whole = False
    """Whether redis-py's constructor has run."""

    def _begin(self, client: RedisCluster, transaction: Any) -> None:
        """What the constructor does, without the tables that only redis-py's own way of executing a pipeline needs.

        The copies of the flags and the two tables of policies are a tenth of what a pipeline of 100 commands costs.
        """
        self._client, self._transaction = client, transaction
        self.command_stack = []
        self.nodes_manager = client.nodes_manager
        self.cluster_response_callbacks = client.cluster_response_callbacks
        self.command_flags = client.command_flags

    def __getattr__(self, name: str) -> Any:
        client, own = self._client, vars(self)
        if client is None or self._is_whole or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._is_whole = True
        kept = dict(own)
        super().__init__(
            nodes_manager=client.nodes_manager,
            commands_parser=client.commands_parser,
            startup_nodes=cast(Any, client.nodes_manager.startup_nodes),
            result_callbacks=client.result_callbacks,
            cluster_response_callbacks=client.cluster_response_callbacks,
            read_from_replicas=client.read_from_replicas,
            load_balancing_strategy=client.load_balancing_strategy,
            reinitialize_steps=client.reinitialize_steps,
            retry=client.retry,
            lock=client._lock,
            transaction=self._transaction,
            event_dispatcher=cast(Any, client._event_dispatcher),
        )
        own.update(kept)
        return getattr(self, name)

    def __len__(self) -> int:
        queue = cast(Any, self._execution_strategy).command_queue if self._collected is None else self._collected
        return len(queue)


add_cluster_commands(RedisCluster, RedisPyCluster, NodeClient, RedisPy, asynchronous=False)
add_collected_commands(ClusterPipeline, RedisPyClusterPipeline)


def exchange(batches: Sequence[tuple[Any, bytes, int, list[int]]], timeout_s: float) -> list[Any]:
    """Send packed commands to several nodes, all before any reply is read; a list of replies or an error for each."""
    outcomes: list[Any] = [None] * len(batches)
    unread: dict[int, tuple[Any, Any, int | None]] = {}
    try:
        for number, (node, packed, _, _) in enumerate(batches):
            transport = node.transport_here()
            try:
                channel, until_ns = transport.send_batch(packed, timeout_s)
            except Exception as error:
                outcomes[number] = error
            else:
                unread[number] = (transport, channel, until_ns)
        for number in list(unread):
            _, _, count, raw = batches[number]
            transport, channel, until_ns = unread.pop(number)
            try:
                outcomes[number] = transport.receive_batch(channel, count, frozenset(raw), until_ns)
            except Exception as error:
                outcomes[number] = error
    except BaseException:
        for transport, channel, _ in unread.values():
            transport.forget_batch(channel)
        raise
    return outcomes
