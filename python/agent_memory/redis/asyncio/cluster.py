"""The asyncio client for Redis Cluster: redis.asyncio's `RedisCluster` with our routing, transports and guards below."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Final, Self, Unpack, cast, overload

from redis.asyncio.cluster import ClusterNode as RedisPyClusterNode
from redis.asyncio.cluster import ClusterPipeline as RedisPyClusterPipeline
from redis.asyncio.cluster import RedisCluster as RedisPyCluster
from redis.asyncio.connection import ConnectionPool
from redis.cluster import SLOT_ID
from redis.commands import READ_COMMANDS
from redis.exceptions import (
    RedisClusterException,
    SlotNotCoveredError,
)

from agent_memory._concurrency import AsyncKeyedLocks
from agent_memory._core import ClusterCore, key_slot, monotonic_ns
from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis.asyncio.client import Redis
from agent_memory.redis.asyncio.cluster_strategies import PipelineStrategy, TransactionStrategy
from agent_memory.redis.cluster._async.node import AsyncNodeCalls
from agent_memory.redis.cluster._async.pipeline import AsyncPipelineRun
from agent_memory.redis.cluster._async.pubsub import ClusterPubSub
from agent_memory.redis.cluster._async.refresher import AsyncRefresher
from agent_memory.redis.cluster._async.router import NO_SLOT, AsyncRouter
from agent_memory.redis.cluster.arguments import (
    check_cluster,
    check_policy,
    deadline_s_of,
    max_retries_of,
    node_policy,
)
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
from agent_memory.redis.commands.direct import add_cluster_commands, add_collected_commands
from agent_memory.redis.commands.keys import ONE_KEY
from agent_memory.redis.commands.packing import refused_words
from agent_memory.redis.originals import AsyncRedisPy
from agent_memory.redis.redis_py_internals.cluster import (
    RequestPolicy,
    announce_view_async,
    determine_nodes,
    determine_slot_async,
    is_node_flag,
    is_sent_by_flag,
    policies_of,
    startup_nodes_of,
)
from agent_memory.redis.redis_py_internals.settings import fill_arguments
from agent_memory.redis.transport.multiplexed.admission import forget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from agent_memory.redis._typing import AsyncClusterOptions
    from agent_memory.redis.commands.bound_command import BoundCommand

__all__ = ["ClusterNode", "RedisCluster"]

SLOT_GIVEN: Final = -1
"""Stands for the place of the key in a command whose slot is given beside it."""
UNHURRIED: Final = 0.9
"""The share of a connection's patience from which on a call's own deadline needs no timer."""


class NodeClient(AsyncNodeCalls, Redis[Any]):  # type: ignore[misc]
    """The client of one node. Its failures go to the cluster's router; commands that reach it name one key, the first word."""

    def __init__(self, router: AsyncRouter, number: int, pool: Any, resilience: ResiliencePolicy | None) -> None:
        super().__init__(connection_pool=pool, resilience=resilience)
        self.auto_close_connection_pool = True
        self.number = number
        self._router = weakref.ref(router)
        if self._foreign:
            raise ValueError("the connections of a cluster client must be redis-py's own, got others")
        self._transports.share_turns = True

    def barrier(self) -> bytes | None:
        """See `AsyncNodeCalls`."""
        return self._the_router().barrier_of(self.number)

    def _the_router(self) -> AsyncRouter:
        router = self._router()
        assert router is not None  # the client that calls holds it
        return router

    async def _execute_ordinarily(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return await self._the_router().execute(self, args, options, _slot_of_first(args))

    async def _recover_direct(
        self,
        transport: Any,
        command: BoundCommand,
        args: tuple[Any, ...],
        options: dict[str, Any],
        permit: int,
        error: Exception,
    ) -> Any:
        del transport, command
        return await self._the_router().go_on(self, args, options, _slot_of_first(args), permit, error)

    async def execute_here(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A command for this node, guarded; redirects are errors."""
        command = self.bound_commands[args[0]]

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            left_s = self._deadline_s if timeout_s is None else timeout_s
            return await self.attempt(command, args, options, permit, left_s, False)

        return await self.shape(args[0], await self.guarded(command, attempt), options)


def _on_connect_of(method: weakref.WeakMethod[Any]) -> Any:
    async def on_connect(connection: Any) -> None:
        bound = method()
        if bound is not None:
            await bound(connection)

    return on_connect


def _slot_of_first(args: tuple[Any, ...]) -> Any:
    async def slot_of() -> int:
        return key_slot(args[1])

    return slot_of


async def _no_slot() -> int:
    return NO_SLOT


def _no_route(_key: Any) -> None:
    return None


class ClusterNode(RedisPyClusterNode):
    """redis-py's node; its commands travel on the cluster client's connection to it."""

    __slots__ = ("_client",)

    _client: NodeClient | None

    async def execute_command(self, *args: Any, asking: bool = False, **kwargs: Any) -> Any:
        """One command for this node; a redirect is raised."""
        client = getattr(self, "_client", None)
        if client is None or is_himport(args):
            return await super().execute_command(*args, asking=asking, **kwargs)
        return await client.execute_here(args, kwargs)


class RedisCluster(RedisPyCluster):
    """redis.asyncio's `RedisCluster` on one shared connection per node and event loop, with resilience built in.

    Takes every argument of `redis.asyncio.RedisCluster`, and by keyword:

    - `resilience`: the `ResiliencePolicy` of each node (breaker, budget, probe) and of the calls (retries, deadline). Without
      a `deadline_s` a call has max(2 x `socket_timeout`, 20 s): a failover costs time, not errors. None: no breaker, budget
      or probe. A command that was not sent then still waits for a failover until that deadline; a lost reply is raised, of a
      command that reads as well.

    A write whose outcome is UNKNOWN is raised at once and never repeated. `retry` and `cluster_error_retry_attempts` bound how
    often a call goes on after failures; without them its deadline does. Not there yet, and refused: `exactly_once`,
    `cache`, maintenance notifications.

    Raises ValueError for arguments outside their rule. Any number of tasks and event loops may share one client. A
    call that is cancelled before it was sent is not sent; afterwards its reply is dropped, and the other calls
    of the connection go on.
    """

    if TYPE_CHECKING:

        @overload
        def __init__(self, host: str, port: int | str = ..., **options: Unpack[AsyncClusterOptions]) -> None: ...

        @overload
        def __init__(
            self,
            host: None = ...,
            port: int | str = ...,
            startup_nodes: list[RedisPyClusterNode] | None = ...,
            **options: Unpack[AsyncClusterOptions],
        ) -> None: ...

    def __init__(
        self,
        *args: Any,
        resilience: ResiliencePolicy | None = DEFAULT_RESILIENCE,
        exactly_once: bool = False,
        **kwargs: Any,
    ) -> None:
        check_policy(resilience, exactly_once)
        given = check_cluster(RedisPyCluster, args, kwargs, asynchronous=True)
        super().__init__(*args, **kwargs)
        deadline_s = deadline_s_of(resilience, given)
        self._resilience = node_policy(resilience, given, deadline_s)
        self._router = AsyncRouter(weakly(self._make_node), exchange, deadline_s, max_retries_of(given))
        self._refresher = AsyncRefresher(self._router, weakly(self._view_changed))
        self._subscribers = Subscribers()
        seeds = list(dict.fromkeys((node.host, int(node.port)) for node in startup_nodes_of(self)))
        self._core = self._router.core = ClusterCore(
            seeds,
            weakly(self._router.node),
            remap=self.nodes_manager.address_remap,
            wake=weakly(self._router.waiters.wake),
            refresh_due=weakly(self._refresher.hurry),
            failover_wait_s=deadline_s,
            is_tls="ssl_ca_certs" in self.connection_kwargs,
        )
        self._opening = AsyncKeyedLocks()
        self._route: Any = _no_route
        self._direct_core: ClusterCore | None = None
        """While it is a core, the extension sends the commands of `commands.direct` by itself."""
        self._filled = -1
        self._reads_elsewhere = bool(self.read_from_replicas or self.load_balancing_strategy)
        self.startup_nodes = [self._node_of(number, *seed, None) for number, seed in enumerate(seeds)]
        cast(Any, self.nodes_manager).startup_nodes = {node.name: node for node in self.startup_nodes}

    # --- nodes ----------------------------------------------------------------------------------------------------

    def _make_node(self, number: int, host: str, port: int) -> NodeClient:
        arguments = dict(self.connection_kwargs)
        callbacks = arguments.pop("response_callbacks")
        arguments.pop("retry", None)
        fill_arguments(arguments, asynchronous=True)
        if "redis_connect_func" in arguments:
            arguments["redis_connect_func"] = _on_connect_of(weakref.WeakMethod(self.on_connect))
        pool = ConnectionPool(host=host, port=port, **arguments)
        client = NodeClient(self._router, number, pool, self._resilience)
        client.response_callbacks = callbacks
        if client.guard is not None:
            client.guard.add_listener(listener_of(weakref.ref(self._router), weakref.ref(client.guard), number))
        return client

    def _node_of(self, number: int, host: str, port: int, role: str | None) -> ClusterNode:
        """redis-py's node object for a node, the one that users have already where there is one."""
        node = self.nodes_manager.nodes_cache.get(f"{host}:{port}")
        if not isinstance(node, ClusterNode):
            node = ClusterNode(host, port, role, **self.connection_kwargs)
        node.server_type = role
        node._client = self._core.handle(number)
        return node

    async def initialize(
        self,
        additional_startup_nodes_info: list[tuple[str, int]] | None = None,
        last_failed_node_name: str | None = None,
    ) -> Self:
        """Ask the startup nodes for the topology, unless it is known.

        Raises RedisClusterException where none answers, or where slots have no owner though `require_full_coverage` is set.
        """
        del additional_startup_nodes_info, last_failed_node_name  # the core knows which nodes to ask
        if self._initialize:
            async with self._opening.hold("open"):
                if self._initialize:
                    await self._open()
        return self

    async def _open(self) -> None:
        try:
            await self._refresher.first_view(self._router.deadline_s)
            self._fill()
            check_coverage(self.nodes_manager)
            await self.commands_parser.initialize(self.nodes_manager.default_node)
        except BaseException:
            await self._close_nodes()
            raise
        self._initialize = False
        self._route = self._core.route
        self._direct_core = None if self._reads_elsewhere else self._core
        self._refresher.ensure_running()

    def _fill(self) -> None:
        """Give `nodes_manager` what the core knows."""
        self._filled = self._core.version
        fill_manager(self.nodes_manager, self._core, self._node_of)
        self.commands_parser.node = self.nodes_manager.default_node

    async def _view_changed(self) -> None:
        """The core has accepted another view."""
        if self._initialize:
            return
        self._fill()
        self._subscribers.view_changed()
        await announce_view_async(self)
        for number in self._core.retirable():
            retired = self._core.retire(number)
            if retired is not None:
                await retired.connection_pool.disconnect(inuse_connections=False)

    def _client_of(self, node: Any) -> NodeClient | None:
        """The client of a node object, also of one that a user has made; None where the cluster has no such node."""
        client = getattr(node, "_client", None)
        if client is None:
            known = self.nodes_manager.nodes_cache.get(node.name)
            client = getattr(known, "_client", None)
        return client

    # --- commands -------------------------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:  # type: ignore[override]
        """Send one command to the node of its key, or to those that its policy or `target_nodes` name."""
        name = args[0]
        if name in ONE_KEY and not ("target_nodes" in kwargs or (self._reads_elsewhere and name in READ_COMMANDS)):
            try:
                node = self._route(args[1])
            except (IndexError, TypeError):
                node = None
            if node is not None:
                return node.execute_command(*args, **kwargs)  # type: ignore[no-any-return]
        return self._execute_anyhow(args, kwargs)

    async def _execute_anyhow(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The same where there is no node to send it to at once."""
        started_ns = monotonic_ns()
        await self._be_open()
        name = args[0]
        if name not in ONE_KEY or "target_nodes" in options or len(args) == 1:
            return await super().execute_command(*args, **options)
        if self._reads_elsewhere and name in READ_COMMANDS:
            return await super().execute_command(*args, **options)
        try:
            slot = key_slot(args[1])
        except TypeError as error:
            raise refused_words(error) from None
        node = await self._owner_of(slot)
        return await self._router.execute(node, args, options, _slot_of_first(args), started_ns)

    async def _owner_of(self, slot: int) -> NodeClient:
        """The node of a slot; waits for one, where it has none, as the core says. Raises SlotNotCoveredError."""
        node = await self._router.owner_of(slot)
        if node is None:
            raise SlotNotCoveredError(
                f'Slot "{slot}" not covered by the cluster. '
                f'"require_full_coverage={self.nodes_manager.require_full_coverage}"'
            )
        return cast(NodeClient, node)

    def _parse_target_nodes(self, target_nodes: Any) -> list[Any]:
        return [Chosen(node) for node in super()._parse_target_nodes(target_nodes)]

    async def _execute_command(self, target_node: Any, *args: Any, **kwargs: Any) -> Any:
        """What redis-py's `execute_command` sends to one node."""
        chosen = isinstance(target_node, Chosen)
        node = target_node.node if chosen else target_node
        client = self._client_of(node)
        if client is None or is_himport(args):
            return await super()._execute_command(node, *args, **kwargs)
        return await self._router.execute(client, args, kwargs, _no_slot if chosen else self._slot_finder(args))

    def _slot_finder(self, args: tuple[Any, ...]) -> Any:
        """Finds out the slot of a command that redis-py has placed."""

        async def slot_of() -> int:
            flag = self.command_flags.get(args[0])
            if is_sent_by_flag(self, flag) and flag != SLOT_ID:
                return NO_SLOT
            try:
                return await determine_slot_async(self, args)
            except Exception:  # no keys, or no node that could say which: it stays with its node
                return NO_SLOT

        return slot_of

    # --- pipelines ------------------------------------------------------------------------------------------------

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        """A pipeline over all nodes, or with `transaction` a transaction on the node of its keys' slot."""
        if shard_hint:
            raise RedisClusterException("shard_hint is deprecated in cluster mode")
        return ClusterPipeline(self, transaction)

    async def _run_collected(self, queue: list[Any]) -> list[Any]:
        """The results of what a pipeline has collected by position, errors as values."""
        if self._initialize or self._filled != self._core.version:
            await self._be_open()
        run = AsyncPipelineRun.of_collected(self._router, queue)
        if run is None:
            return await self._run_pipeline(
                [(one, {}) if type(one) is tuple else (one.args, one.kwargs) for one in queue]
            )
        return await run.run()

    async def _be_open(self) -> None:
        if self._initialize:
            await self.initialize()
        elif self._filled != self._core.version:
            self._fill()

    async def _run_pipeline(self, commands: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
        """The results of commands by position, errors as values."""
        await self._be_open()
        places: list[int] = []
        slots: dict[int, int] = {}
        for number, (args, options) in enumerate(commands):
            targets = options.pop("target_nodes", None)
            if targets is None and args[0] in ONE_KEY and len(args) > 1:
                places.append(1)
                continue
            slots[number] = await self._slot_in_pipeline(args, targets)
            places.append(SLOT_GIVEN)
        return await AsyncPipelineRun.of_commands(self._router, commands, places, slots).run()

    async def _slot_in_pipeline(self, args: tuple[Any, ...], targets: Any) -> int:
        """The slot of a command that redis-py places: that of its keys, or one of the node that it is for."""
        if targets and not is_node_flag(self, targets):
            nodes = [chosen.node for chosen in self._parse_target_nodes(targets)]
        else:
            resolver = policies_of(self)
            policies = None if resolver is None else await resolver.resolve(args[0].lower())
            policy = None if policies is None else policies.request_policy
            flag = targets or self.command_flags.get(args[0])
            if (policy in (None, RequestPolicy.DEFAULT_KEYED) and flag is None) or flag == SLOT_ID:
                return await determine_slot_async(self, args)
            nodes = await determine_nodes(self, args, policy, targets, asynchronous=True)
        if len(nodes) > 1:
            raise RedisClusterException(f"Too many targets for command {args}")
        return slot_of_node(self.nodes_manager, nodes[0])

    async def _execute_pipeline_by_slot(  # type: ignore[override]  # redis-py's mixin is that of threads
        self, command: str, slots_to_args: Mapping[int, Any]
    ) -> list[Any]:
        if self._initialize:
            await self.initialize()
        if len(slots_to_args) == 1:
            ((slot, words),) = slots_to_args.items()
            node = await self._owner_of(slot)
            return [await node.execute_command(command, *words)]
        commands: list[Any] = [((command, *words), {}) for words in slots_to_args.values()]
        slots = dict(enumerate(slots_to_args))
        results = await AsyncPipelineRun.of_commands(self._router, commands, [SLOT_GIVEN] * len(commands), slots).run()
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def pubsub(  # type: ignore[override]  # redis-py's class for it does the same by other means
        self, node: Any = None, host: str | None = None, port: int | None = None, **kwargs: Any
    ) -> ClusterPubSub:
        """A subscriber as redis-py's that comes back by itself and reports gaps; `ClusterPubSub` says what it takes."""
        return ClusterPubSub(self, node=node, host=host, port=port, **kwargs)

    # --- state ----------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """The figures of the topology under `cluster`, and those of each node's guard under `nodes`, by "host:port"."""
        return cluster_stats(self._core, self._router.nodes())

    async def aclose(self) -> None:
        """Close the connections to all nodes, in every event loop; calls under way end with ClientClosedError.

        The client may be used again afterwards: it connects anew.
        """
        self._route = _no_route
        self._direct_core = None
        await self._close_nodes()
        await super().aclose()

    async def _close_nodes(self) -> None:
        self._router.shared.end()
        self._router.waiters.wake_all()
        await self._refresher.stop(0)
        for node in self._router.nodes():
            await node.aclose()


class ClusterPipeline(RedisPyClusterPipeline):
    """redis.asyncio's cluster pipeline on our transports.

    Each node gets its commands in one buffer; all are written before a reply is read; results come by position. A redirected
    command goes again, in the order of its slot. What may have been executed is never sent again: its result is an error with
    outcome UNKNOWN, unless the pipeline only reads.
    """

    _collected: list[Any] | None = None
    """What the extension appends the commands of `commands.direct` to; None where they are not collected."""

    def __init__(self, client: RedisCluster, transaction: bool | None = None) -> None:
        super().__init__(client, transaction)
        self._event_dispatcher = client._event_dispatcher
        self._execution_strategy = TransactionStrategy(self) if transaction else PipelineStrategy(self)


add_cluster_commands(RedisCluster, RedisPyCluster, NodeClient, AsyncRedisPy, asynchronous=True)
add_collected_commands(ClusterPipeline, RedisPyClusterPipeline)


async def exchange(batches: Sequence[tuple[Any, bytes, int, list[int]]], timeout_s: float) -> list[Any]:
    """Send packed commands to several nodes, all before any reply is read; a list of replies or an error for each."""
    futures = _send_at_once(batches, timeout_s)
    if futures is None:
        return await asyncio.gather(*(_send(*batch, timeout_s) for batch in batches))
    outcomes: list[Any] = []
    try:
        for future in futures:
            try:
                outcomes.append(await future)
            except Exception as error:
                outcomes.append(error)
    finally:
        for future in futures[len(outcomes) :]:
            forget(future)
    return outcomes


async def _send(node: Any, packed: bytes, count: int, raw: list[int], timeout_s: float) -> Any:
    try:
        return await node.send_many(packed, count, raw, timeout_s)
    except Exception as error:
        return error


def _send_at_once(
    batches: Sequence[tuple[Any, bytes, int, list[int]]], timeout_s: float
) -> list[asyncio.Future[list[Any]]] | None:
    """The futures of all batches, which leave in this turn of the loop; None where one of them would have to wait for that.

    No timer is needed while there is nearly all of a call's time: the sweep of each connection bounds what is sent.
    """
    connections = []
    for node, *_ in batches:
        transport = node.transport_here()
        connection = transport.current
        if connection is None or not connection.accepting or timeout_s < UNHURRIED * transport.patience_s:
            return None
        connections.append(connection)
    return [
        connection.send_window(packed, count, raw)
        for connection, (_, packed, count, raw) in zip(connections, batches, strict=True)
    ]
