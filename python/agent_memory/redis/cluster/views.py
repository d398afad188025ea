"""The topology in two shapes: the core's, and redis-py's `nodes_manager`, which users look at."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from redis.cluster import PRIMARY, REPLICA
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import RedisClusterException
from redis.utils import safe_str, truncate_text

from agent_memory._core import key_slot
from agent_memory.redis.cluster.figures import summed_stats
from agent_memory.redis.commands.packing import refused_words
from agent_memory.redis.redis_py_internals.cluster import is_dynamic, must_be_covered

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_memory._core import ClusterCore

__all__ = [
    "Chosen",
    "MOVED_WHILE_WATCHING",
    "ONE_SLOT",
    "annotate",
    "annotate_watched",
    "check_coverage",
    "cluster_stats",
    "fill_manager",
    "is_himport",
    "listener_of",
    "slot_of_node",
    "slot_of_word",
    "slot_of_words",
    "weakly",
]


def fill_manager(manager: Any, core: ClusterCore, node_of: Callable[[int, str, int, str], Any]) -> None:
    """Give redis-py's `nodes_manager` the core's topology.

    `node_of(number, host, port, role)` gives the ClusterNode of a node. The default node stays while it is a primary.
    """
    addresses = {row[0]: (row[1], row[2]) for row in core.nodes()}
    ranges = core.slot_ranges()
    roles: dict[int, str] = {}
    for _first, _last, primary, replicas in ranges:
        roles[primary] = PRIMARY
        for replica in replicas:
            roles.setdefault(replica, REPLICA)
    known = {number: node_of(number, *addresses[number], role) for number, role in roles.items()}
    slots: dict[int, list[Any]] = {}
    for first, last, primary, replicas in ranges:
        nodes = [known[primary], *(known[replica] for replica in replicas)]
        slots.update(dict.fromkeys(range(first, last + 1), nodes))
    manager.nodes_cache = {node.name: node for node in known.values()}
    manager.slots_cache = slots
    default = manager.default_node
    default = None if default is None else manager.nodes_cache.get(default.name)
    if default is None or default.server_type != PRIMARY:
        default = next((node for node in known.values() if node.server_type == PRIMARY), default)
    manager.default_node = default
    if is_dynamic(manager):
        manager.startup_nodes = dict(manager.nodes_cache)


def check_coverage(manager: Any) -> None:
    """Raises RedisClusterException where slots have no owner though full coverage is required."""
    covered = len(manager.slots_cache)
    if must_be_covered(manager) and covered < REDIS_CLUSTER_HASH_SLOTS:
        raise RedisClusterException(
            "All slots are not covered after query all startup_nodes. "
            f"{covered} of {REDIS_CLUSTER_HASH_SLOTS} covered..."
        )


class Chosen:
    """A node that the caller has named: its command stays there."""

    __slots__ = ("name", "node")

    def __init__(self, node: Any) -> None:
        self.node = node
        self.name = node.name

    def __eq__(self, other: object) -> bool:
        return bool(self.node == (other.node if isinstance(other, Chosen) else other))

    def __hash__(self) -> int:
        return hash(self.node)


ONE_SLOT: Final = "All keys involved in a cluster transaction must map to the same slot"
MOVED_WHILE_WATCHING: Final = "Slot rebalancing occurred while watching keys"


def is_himport(args: tuple[Any, ...]) -> bool:
    """HIMPORT prepares connections, which is redis-py's way."""
    return isinstance(args[0], str) and args[0].upper().startswith("HIMPORT")


def listener_of(router: weakref.ref[Any], guard: weakref.ref[Any], number: int) -> Callable[..., None]:
    """What tells the core that the circuit of node `number` has opened or closed."""

    def on_change(*_: Any) -> None:
        owner, watched = router(), guard()
        if owner is None or watched is None:
            return
        state = watched.state
        if state == "open":
            owner.core.node_opened(number)
        elif state == "closed":
            owner.core.node_closed(number)

    return on_change


def slot_of_node(manager: Any, node: Any) -> int:
    """A slot of a node, which stands for it. Raises RedisClusterException for a replica."""
    for slot, nodes in manager.slots_cache.items():
        if nodes[0] == node:
            return int(slot)
    raise RedisClusterException(f"target_nodes of a pipeline must be primaries with slots, got {node!r}")


def slot_of_word(key: Any) -> int:
    """The slot of a key. Raises redis-py's DataError for what cannot be sent as one."""
    try:
        return key_slot(key)
    except TypeError as error:
        raise refused_words(error) from None


def slot_of_words(args: tuple[Any, ...]) -> int:
    """The slot of a WATCH. Raises RedisClusterException where its keys belong to several."""
    slots = {slot_of_word(key) for key in args[1:]}
    if len(slots) != 1:
        raise RedisClusterException(f"{args[0]} - all keys must map to the same key slot")
    return slots.pop()


def annotate(error: Exception, number: int, args: tuple[Any, ...]) -> None:
    """Name the command of a pipeline in its error, as redis-py does."""
    command = truncate_text(" ".join(map(safe_str, args)))
    error.args = (f"Command # {number} ({command}) of pipeline caused error: {error.args}", *error.args[1:])


def annotate_watched(error: Exception, number: int, args: tuple[Any, ...]) -> None:
    """The same as redis-py's transactions do it."""
    command = truncate_text(" ".join(map(safe_str, args)))
    error.args = (f"Command # {number} ({command}) of pipeline caused error: {error.args[0]}", *error.args[1:])


def cluster_stats(core: ClusterCore, nodes: list[Any]) -> dict[str, Any]:
    """The figures of the core under `cluster`, of each node's guard under `nodes` by "host:port", and summed under `total`."""
    by_node = {node.endpoint: node.stats() for node in nodes}
    return {"cluster": core.stats(), "nodes": by_node, "total": summed_stats(by_node.values())}


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method without a hold on its object; None is returned once that is gone."""
    reference = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        bound = reference()
        return None if bound is None else bound(*args)

    return call
