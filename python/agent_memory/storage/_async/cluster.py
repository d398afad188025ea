"""The cluster client of a resilient client, and what the resilient client asks of it.

The guards are those of the nodes: a call is admitted by the circuit of the node that it goes to, so one shard that is down
rejects no call for the others. Retries of all nodes are paid from one budget.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio.cluster import ClusterNode
from redis.exceptions import AuthenticationError, RedisClusterException, SlotNotCoveredError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisPyTimeout

from agent_memory import _at_fork
from agent_memory._concurrency import ASYNC, async_settle
from agent_memory._core import monotonic_ns
from agent_memory.errors import Outcome, RedisTimeoutError, RedisUnavailableError
from agent_memory.recovery.results import Health, NodeHealth
from agent_memory.redis.asyncio import RedisCluster
from agent_memory.redis.cluster.figures import summed_stats, worst_state
from agent_memory.redis.cluster.node_policy import NodePolicy
from agent_memory.storage._async.runner import log_error

if TYPE_CHECKING:
    from agent_memory.policy.resilience import ResiliencePolicy

__all__ = ["AsyncClusterBinding", "AsyncClusterCommands", "AsyncClusterRunner", "AsyncResilientCluster", "bind_cluster"]

_UNREACHABLE: Final = (RedisConnectionError, RedisPyTimeout, OSError)


def _as_ours(error: RedisClusterException) -> Exception:
    """A cluster that cannot be reached, or a slot that no node serves, as errors of this package: nothing was sent."""
    cause = error.__cause__
    if isinstance(cause, AuthenticationError):
        return cause
    if isinstance(error, SlotNotCoveredError) or isinstance(cause, _UNREACHABLE):
        ours = RedisUnavailableError(str(error), outcome=Outcome.NOT_SENT)
        ours.__cause__ = error
        return ours
    return error


class AsyncResilientCluster(RedisCluster):
    """The drop-in cluster client, with this package's errors where no node answers or a slot has no owner."""

    is_unreachable = False
    """Whether the last attempt to reach the cluster failed."""

    async def _open(self) -> None:
        try:
            await super()._open()
        except RedisClusterException as error:
            self.is_unreachable = True
            raise _as_ours(error) from error
        self.is_unreachable = False

    async def _owner_of(self, slot: int) -> Any:
        try:
            return await super()._owner_of(slot)
        except SlotNotCoveredError as error:
            raise _as_ours(error) from error


class AsyncClusterBinding:
    """The cluster client behind a resilient client, made when it is first asked for: in threads, making it connects.

    Listed commands are called on `client`; `note` is called with their errors.
    """

    def __init__(self, make: Callable[[], Any], note: Callable[[str, Exception], None], *, owns: bool = True) -> None:
        self._make = make
        self.note = note
        self._owns = owns
        self._made: Any = None
        self._failed: tuple[int, Exception] | None = None
        self._start_afresh()
        _at_fork.in_child(self._start_afresh)
        if ASYNC:
            self._made = make()
        if not owns:
            self._made = make()

    def _start_afresh(self) -> None:
        self._mutex = threading.Lock()

    @property
    def made(self) -> Any:
        """The cluster client, if there is one yet."""
        return self._made

    @property
    def client(self) -> Any:
        """The cluster client. Raises RedisUnavailableError (NOT_SENT) where it has to connect first and no node answers."""
        return self._made or self._connect()

    def _connect(self) -> Any:
        began_ns = monotonic_ns()
        with self._mutex:
            if self._made is not None:
                return self._made
            # Of callers that waited for an attempt which failed none repeats it: each would wait for all before it.
            if self._failed is not None and self._failed[0] >= began_ns:
                raise _copy_of(self._failed[1])
            try:
                self._made = self._make()
            except RedisClusterException as error:
                failure = _as_ours(error)
                self._failed = (monotonic_ns(), failure)
                raise failure from error
            self._failed = None
            return self._made

    async def open(self) -> None:
        """Connect. Raises RedisUnavailableError where no node answers, and what a node answered."""
        if ASYNC:
            await self.client.initialize()
        else:
            self._connect()

    async def close(self) -> None:
        """Disconnect, unless the cluster client was injected; the next call connects again."""
        if self._made is not None and self._owns:
            await async_settle(self._made.aclose() if ASYNC else self._made.close())

    # --- what it knows ----------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """The figures of all nodes summed, those of each under `nodes`, and those of the topology under `cluster`."""
        if self._made is None:
            return {**summed_stats(()), "nodes": {}, "cluster": {}}
        figures: dict[str, Any] = self._made.stats()
        return {**figures["total"], "nodes": figures["nodes"], "cluster": figures["cluster"]}

    def node_healths(self) -> dict[str, NodeHealth]:
        """The circuit of each node that has been used, by "host:port"."""
        if self._made is None:
            return {}
        manager = self._made.nodes_manager
        healths = {}
        for node in self._made._router.nodes():
            if node.guard is None:
                continue
            state, retry_after_s = node.guard.state_and_retry_after_s()
            known = manager.nodes_cache.get(node.endpoint)
            role = None if known is None else known.server_type
            healths[node.endpoint] = NodeHealth(state, retry_after_s if state == "open" else None, role)
        return healths

    def health(self) -> Health:
        """Of the whole: healthy where every primary's circuit is closed and every slot has an owner."""
        nodes = self.node_healths()
        serving = [node for node in nodes.values() if node.role != "replica"]
        state = worst_state(node.state for node in serving)
        waits_s = [node.retry_after_s for node in serving if node.retry_after_s is not None]
        if self._was_opened():
            is_covered = not self._made._core.uncovered
        else:
            is_covered = self._failed is None and not getattr(self._made, "is_unreachable", False)
        return Health(
            healthy=state == "closed" and is_covered,
            state=state,
            retry_after_s=max(waits_s, default=None) if state == "open" else None,
            queued=0,
            dead_letters=0,
            nodes=nodes,
        )

    def _was_opened(self) -> bool:
        return self._made is not None and bool(self._made._core.slot_ranges())


def _copy_of(error: Exception) -> Exception:
    if not isinstance(error, RedisUnavailableError):
        return error
    copy = RedisUnavailableError(str(error), outcome=Outcome.NOT_SENT)
    copy.__cause__ = error
    return copy


class AsyncClusterCommands:
    """Commands beyond the listed ones: the cluster client's own, looked up when they are called."""

    __slots__ = ("_binding",)

    def __init__(self, binding: AsyncClusterBinding) -> None:
        self._binding = binding

    def __getattr__(self, name: str) -> Any:
        made = self._binding.made
        if made is not None:
            return getattr(made, name)
        if callable(getattr(AsyncResilientCluster, name)):  # no connection is needed to know what there is
            return functools.partial(self._call, name)
        return getattr(self._binding.client, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._binding.client, name)(*args, **kwargs)

    def __dir__(self) -> list[str]:
        return dir(AsyncResilientCluster)


class AsyncClusterRunner:
    """Runs operations of a resilient client of a cluster: each command in them is a guarded call of its own."""

    shared: Any = None

    def __init__(self, client_name: str) -> None:
        self._client_name = client_name

    def note_error(self, operation_name: str, error: Exception) -> None:
        """Looks at an error on its way to the caller: one that is not of a connection is logged."""
        if not isinstance(error, RedisUnavailableError | RedisTimeoutError):
            log_error(self._client_name, operation_name, error)

    def ensure_probe(self) -> None:
        """Each node has its own probe."""

    async def run(self, operation_name: str, operation: Callable[[], Any], *, repeat: bool = True) -> Any:
        """Runs `operation` once; what is repeated is each of its commands, as the cluster client says."""
        del repeat
        try:
            return await async_settle(operation())
        except Exception as error:
            self.note_error(operation_name, error)
            raise


def bind_cluster(
    addresses: list[tuple[str, int]],
    arguments: dict[str, Any],
    policy: ResiliencePolicy,
    client_name: str,
    note: Callable[[str, Exception], None],
) -> AsyncClusterBinding:
    """The cluster client for these addresses."""
    named = {name: value for name, value in arguments.items() if name not in ("host", "port", "db")}
    # A slot without an owner fails its own calls, not the client.
    named.setdefault("require_full_coverage", False)
    if named.get("client_name") is None:
        named.pop("client_name", None)
    node_policy = NodePolicy.of(policy, client_name, policy.retry.deadline_s)

    def make() -> AsyncResilientCluster:
        nodes = [ClusterNode(host, port) for host, port in addresses]
        return AsyncResilientCluster(startup_nodes=nodes, resilience=node_policy, **named)

    return AsyncClusterBinding(make, note)
