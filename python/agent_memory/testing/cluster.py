"""A private cluster: several embedded servers that form one Redis Cluster on the loopback."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from redis.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from agent_memory import _check
from agent_memory.embedded import EmbeddedServer, ServerError, ServerStartError
from agent_memory.embedded.config import ConfigValue
from agent_memory.embedded.server import check_host
from agent_memory.embedded.workspace import PortReservation
from agent_memory.testing._cluster_view import NodeView, parse_nodes

__all__ = ["ClusterServer", "EmbeddedCluster"]

SLOTS: Final = 16_384
"""Hash slots of a cluster."""
MAX_NODES: Final = 64
"""Bound of the servers that one cluster may start."""

CERTIFICATE_NAMES: Final = ("ca.crt", "server.crt", "server.key")
_ASK_TIMEOUT_S: Final = 10.0
_POLL_INTERVAL_S: Final = 0.03
_KEYS_AT_ONCE: Final = 1_000
_MIGRATE_TIMEOUT_MS: Final = 10_000
_OWN: Final = (
    "cluster-config-file",
    "cluster-enabled",
    "cluster-node-timeout",
    "cluster-port",
    "masterauth",
    "primaryauth",
)
_UNREACHABLE: Final = (RedisConnectionError, RedisTimeout, OSError)


class ClusterServer(EmbeddedServer):
    """One node of an `EmbeddedCluster`: an `EmbeddedServer` with a node id.

    `kill()`, `stop()`, `start()`, `pause()` and `resume()` act on this node only. Over all of them it keeps its address,
    password, node id and view of the cluster, but not its data.
    """

    def __init__(
        self, index: int, bus: PortReservation, password: str | None, first: ClusterServer | None, **options: Any
    ) -> None:
        """Made by `EmbeddedCluster`."""
        super().__init__(transport="tcp", protected=password is not None, **options)
        self._password = password
        if first is not None:
            self._user_passwords = first._user_passwords
        self._bus = bus
        self._first = first
        self._id: str | None = None
        self.index = index
        """Its place in `EmbeddedCluster.nodes`."""

    @property
    def id(self) -> str:
        """The node id. Raises ServerError before the first start."""
        if self._id is None:
            self._id = str(self.ask("CLUSTER", "MYID"))
        return self._id

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises ServerError before start()."""
        if self.port is None:
            raise ServerError("the server was not started: call start()")
        return self._host, self.port

    @property
    def bus_port(self) -> int:
        """The port of the cluster bus, kept while the server is down."""
        return self._bus.port

    def ask(self, *words: str | int | bytes, timeout_s: float = _ASK_TIMEOUT_S) -> Any:
        """Send the command `words` on a new connection of its own; return its reply as RESP2 has it, decoded.

        `timeout_s` (10.0): seconds for connecting, and for the reply.

        Raises redis-py's ResponseError, ConnectionError and TimeoutError, and ServerError before start().
        """
        arguments = dict(self.connection_kwargs)
        kind = SSLConnection if arguments.pop("ssl", False) else Connection
        connection = kind(
            **arguments,
            protocol=2,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )
        try:
            connection.connect()
            connection.send_command(*words)
            return connection.read_response()
        finally:
            connection.disconnect()

    def close(self) -> None:
        """As `EmbeddedServer.close()`; gives the port of the bus back, too."""
        super().close()
        if os.getpid() == self._holdings.owner_pid:
            self._bus.close()

    def _allocate(self) -> None:
        super()._allocate()
        if self._tls and self._first is not None:
            # One authority for all nodes: they are clients of each other.
            ours, theirs = self._require_workspace().folder, self._first._require_workspace().folder
            for name in CERTIFICATE_NAMES:
                shutil.copy(theirs / name, ours / name)


class EmbeddedCluster:
    """
    A private Redis Cluster: `masters` primaries with `replicas` replicas each, on the loopback, stopped with their owner.

    Node `i < masters` begins as the primary of an equal share of the slots, in order; the others are replicas of the
    primaries in turn. All nodes have one random password. Every server ends with its owner, as `EmbeddedServer` does.

    Methods block: with asyncio, call them by `asyncio.to_thread`, or use `async with` to start and stop. Nodes may be
    killed, paused and started from any thread; everything else is for one thread at a time.

    Parameters (all optional, keyword only but the first two):

    - `masters` (3), `replicas` (1): primaries, and replicas of each.
    - `node_timeout_s` (2.0): `cluster-node-timeout`: how many seconds a node is silent until it counts as failed.
    - `first_port` (0): the nodes listen on this port and the following ones; 0: on free ports.
    - `protected` (True): whether there is a password. `tls` (False): TLS only, between the nodes too.
    - `host` ("127.0.0.1", or "::1"): where the nodes listen. `users`: further ACL users, as for `EmbeddedServer`; each has one
      password for all nodes, see connection_kwargs_for().
    - `config`: further directives for all nodes, such as {"cluster-announce-hostname": "localhost"}.
    - `binary`: as for `EmbeddedServer`; Redis 7.0, Valkey 7.2 or newer.
    - `ready_timeout_s` (60.0): how many seconds start() and each other wait may take.

    The constructor raises TypeError or ValueError for parameters outside their rule and ServerNotFoundError without a
    binary; it starts nothing.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        *,
        node_timeout_s: float = 2.0,
        first_port: int = 0,
        protected: bool = True,
        tls: bool = False,
        host: str = "127.0.0.1",
        users: Mapping[str, str] | None = None,
        config: Mapping[str, ConfigValue] | None = None,
        binary: str | os.PathLike[str] | None = None,
        ready_timeout_s: float = 60.0,
    ) -> None:
        """See the class."""
        for flag, switch in (("protected", protected), ("tls", tls)):
            _check.flag(flag, switch)
        if not isinstance(masters, int) or not 1 <= masters <= MAX_NODES:
            raise ValueError(f"masters must be from 1 to {MAX_NODES}, got {masters!r}")
        if not isinstance(replicas, int) or not 0 <= replicas <= MAX_NODES // masters - 1:
            raise ValueError(f"replicas must be from 0 to {MAX_NODES // masters - 1}, got {replicas!r}")
        _check.whole("first_port", first_port, 0, 65_536 - masters * (1 + replicas))
        _check.above("node_timeout_s", node_timeout_s, 0)
        _check.above("ready_timeout_s", ready_timeout_s, 0)
        check_host(host)
        if binary is not None:
            _check.path("binary", binary)
        if config is not None:
            _check.instance("config", config, Mapping)
        if users is not None:
            _check.instance("users", users, Mapping)
        for name in config or {}:
            if name.lower() in _OWN:
                raise ValueError(f"config must not set what the cluster sets itself, got {name!r}")
        self._masters = masters
        self._ready_timeout_s = ready_timeout_s
        self.node_timeout_s = node_timeout_s
        password = secrets.token_hex(24) if protected else None
        nodes: list[ClusterServer] = []
        for index in range(masters * (1 + replicas)):
            bus = PortReservation(0, host)
            try:
                node = ClusterServer(
                    index,
                    bus,
                    password,
                    nodes[0] if nodes else None,
                    port=first_port and first_port + index,
                    tls=tls,
                    host=host,
                    users=users,
                    config=_directives(bus.port, node_timeout_s, password, tls) | dict(config or {}),
                    binary=binary,
                    ready_timeout_s=ready_timeout_s,
                )
            except BaseException:
                bus.close()
                for node in nodes:
                    node.close()
                raise
            nodes.append(node)
        self.nodes: tuple[ClusterServer, ...] = tuple(nodes)
        """All nodes; with `first_port` in the order of their ports."""

    # What it is

    @property
    def connection_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for redis-py's `RedisCluster` (and ours): address of a running node, password, TLS."""
        return self._any_running().connection_kwargs

    @property
    def url(self) -> str:
        """A URL for `RedisCluster.from_url`, credentials included: that of a running node."""
        return self._any_running().url

    def connection_kwargs_for(self, user: str) -> dict[str, Any]:
        """Like connection_kwargs, for `user`, one of `users`. Raises KeyError for another name."""
        return self._any_running().connection_kwargs_for(user)

    def __repr__(self) -> str:
        """Without password."""
        running = len(self._running())
        return f"<EmbeddedCluster {self.nodes[0].product} {self.nodes[0].version} {running} of {len(self.nodes)} nodes run>"

    def owner_of(self, slot: int) -> ClusterServer:
        """The primary of `slot`, as a running node sees it. Raises ServerError where there is none, ValueError for no slot."""
        if not 0 <= slot < SLOTS:
            raise ValueError(f"slot must be from 0 to {SLOTS - 1}, got {slot!r}")
        for view in self._view().values():
            if any(first <= slot <= last for first, last in view.slots):
                return self.node(view.id)
        raise ServerError(f"slot {slot} has no owner")

    def owner_of_key(self, key: str | bytes) -> ClusterServer:
        """The primary of the slot of `key`, as a running node sees it."""
        return self.owner_of(self.slot_of(key))

    @staticmethod
    def slot_of(key: str | bytes) -> int:
        """The hash slot of `key`."""
        word = key.encode() if isinstance(key, str) else key
        opening = word.find(b"{")
        closing = word.find(b"}", opening + 1)
        if opening >= 0 and closing > opening + 1:
            word = word[opening + 1 : closing]
        return crc_hqx(word, 0) % SLOTS

    def node(self, node_id: str) -> ClusterServer:
        """The node with the id `node_id`. Raises KeyError."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)

    def primaries(self) -> list[ClusterServer]:
        """The running nodes that own slots, in the order of `nodes`."""
        return self._by_index(view.id for view in self._view().values() if view.slots)

    def replicas_of(self, primary: ClusterServer) -> list[ClusterServer]:
        """The running replicas of the node `primary`."""
        return self._by_index(view.id for view in self._view().values() if view.primary == primary.id)

    # Starting and stopping

    def start(self) -> Self:
        """
        Start the servers, form the cluster, wait until it is whole; start again only what is down of a formed cluster.

        Raises what `EmbeddedServer.start` raises, and ServerStartError where the cluster is not whole in
        `ready_timeout_s`. All servers are stopped then.
        """
        formed = any(node._id is not None for node in self.nodes)
        try:
            for node in self.nodes:
                node.start()
            if not formed:
                self._form()
            self.wait_ok()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop all servers for good."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        """start()."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """close()."""
        self.close()

    async def __aenter__(self) -> Self:
        """start(), in a thread."""
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """close(), in a thread."""
        await asyncio.to_thread(self.close)

    # Waiting

    def wait_ok(self) -> None:
        """
        Wait until the cluster is whole.

        That is: all running nodes agree on owners and replicas, each slot has a running owner, every node says
        `cluster_state:ok`, and every running replica is in step with its primary. After `kill()` of a primary this waits
        for the failover. Raises ServerStartError after `ready_timeout_s`, naming what is missing.
        """
        self._wait(self._missing)

    def _wait(self, missing: Callable[[], str | None]) -> None:
        deadline_s = time.monotonic() + self._ready_timeout_s
        while True:
            try:
                what = missing()
            except (*_UNREACHABLE, ResponseError, ServerError) as error:
                what = f"{type(error).__name__}: {error}"
            if what is None:
                return
            if time.monotonic() >= deadline_s:
                raise ServerStartError(f"the cluster was not ready within {self._ready_timeout_s:g} s: {what}")
            time.sleep(_POLL_INTERVAL_S)

    def _missing(self) -> str | None:
        """What the cluster lacks to be whole; None when it is."""
        running = self._running()
        ids = {node.id for node in running}
        agreed: dict[str, tuple[str | None, tuple[tuple[int, int], ...]]] | None = None
        for node in running:
            if "cluster_state:ok" not in node.ask("CLUSTER", "INFO"):
                return f"node {node.index} does not say cluster_state:ok"
            views = parse_nodes(node.ask("CLUSTER", "NODES"))
            missing = self._missing_in(node, views, ids)
            if missing is not None:
                return missing
            roles = {view.id: (view.primary, view.slots) for view in views.values() if view.id in ids}
            if agreed is None:
                agreed = roles
            if roles != agreed:
                return f"node {node.index} sees other owners or replicas than node {running[0].index}"
            if views[node.id].primary is not None and "master_link_status:up" not in node.ask("INFO", "replication"):
                return f"replica {node.index} is not in step"
            listed = {shown[2] for row in node.ask("CLUSTER", "SLOTS") for shown in row[3:]}
            for view in views.values():
                if view.primary in ids and view.id in ids and view.id not in listed:
                    self._write_something(self.node(str(view.primary)), views)
                    return f"node {node.index} does not list replica {self.node(view.id).index} yet"
        return None

    def _write_something(self, primary: ClusterServer, views: dict[str, NodeView]) -> None:
        """Servers list a replica only when its primary has replicated something."""
        ranges = views[primary.id].slots
        if ranges:
            key = next(key for number in range(SLOTS * SLOTS) if self.slot_of(key := f"{number}") == ranges[0][0])
            primary.ask("SET", key, "", "PX", 1)

    def _missing_in(self, node: ClusterServer, views: dict[str, NodeView], running: set[str]) -> str | None:
        if len(views) != len(self.nodes):
            return f"node {node.index} knows {len(views)} of {len(self.nodes)} nodes"
        if sum(last - first + 1 for view in views.values() for first, last in view.slots) != SLOTS:
            return f"node {node.index} sees slots without an owner"
        for view in views.values():
            if view.slots and view.id not in running:
                return f"node {node.index} sees slots at a node that does not run"
            if view.id in running and view.failing:
                return f"node {node.index} takes a running node for failed"
        return None

    # Changing it

    def failover(self, replica: ClusterServer, *, force: bool = False, takeover: bool = False) -> None:
        """
        Make `replica` the primary of its shard (CLUSTER FAILOVER) and wait until the cluster is whole again.

        `force`: without its primary's help. `takeover`: without the other primaries' votes, too. Raises ValueError where
        the node is no replica, and what `wait_ok` raises.
        """
        if self._view()[replica.id].primary is None:
            raise ValueError(f"replica must be a replica, got node {replica.index}, a primary")
        how = ("TAKEOVER",) if takeover else ("FORCE",) if force else ()
        replica.ask("CLUSTER", "FAILOVER", *how)

        def missing() -> str | None:
            promoted = parse_nodes(replica.ask("CLUSTER", "NODES"))[replica.id].primary is None
            return self._missing() if promoted else f"node {replica.index} is still a replica"

        self._wait(missing)

    def begin_move(self, slot: int, target: ClusterServer) -> ClusterServer:
        """
        Open `slot` for moving to `target`, the legacy way (MIGRATING and IMPORTING); return the node that it leaves.

        Until `end_move()` its present owner answers ASK for keys that it does not have. Raises ValueError for the owner.
        """
        source = self.owner_of(slot)
        if source is target:
            raise ValueError(f"target must not own slot {slot} yet, got node {target.index}")
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        return source

    def move_keys(self, slot: int, target: ClusterServer, *, count: int | None = None) -> int:
        """Move `count` keys (None: all) of the open `slot` to `target` by MIGRATE; return how many have moved."""
        source = self.owner_of(slot)
        host, port = target.address
        password = (
            () if target.connection_kwargs.get("password") is None else ("AUTH", target.connection_kwargs["password"])
        )
        moved = 0
        while count is None or moved < count:
            most = _KEYS_AT_ONCE if count is None else min(_KEYS_AT_ONCE, count - moved)
            keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, most)
            if not keys:
                break
            source.ask("MIGRATE", host, port, "", 0, _MIGRATE_TIMEOUT_MS, *password, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_move(self, slot: int, target: ClusterServer) -> None:
        """Give the open `slot` to `target`; the other primaries learn it here, replicas from these."""
        source = self.owner_of(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        source.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        for node in self.primaries():
            if node is not source and node is not target:
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move_slots(self, slots: Iterable[int], target: ClusterServer, *, atomic: bool = False) -> None:
        """
        Move `slots` with their keys to `target`, one after the other (legacy), or by Valkey's CLUSTER MIGRATESLOTS.

        `atomic` needs Valkey 9; others raise redis-py's ResponseError. Returns when `target` owns them; the other nodes may
        not have heard of it yet: `wait_ok()` waits for that.
        """
        if atomic:
            self._move_atomically(sorted(slots), target)
            return
        for slot in slots:
            if self.owner_of(slot) is not target:
                self.begin_move(slot, target)
                self.move_keys(slot, target)
                self.end_move(slot, target)

    def _move_atomically(self, slots: list[int], target: ClusterServer) -> None:
        by_source: dict[str, list[int]] = {}
        for slot in slots:
            source = self.owner_of(slot)
            if source is not target:
                by_source.setdefault(source.id, []).append(slot)
        for source_id, moving in by_source.items():
            source = self.node(source_id)
            words: list[str | int] = ["SLOTSRANGE"]
            for slot in moving:
                words += [slot, slot]
            source.ask("CLUSTER", "MIGRATESLOTS", *words, "NODE", target.id)

        def missing() -> str | None:
            owned = parse_nodes(target.ask("CLUSTER", "NODES"))[target.id].slots
            left = [slot for slot in slots if not any(first <= slot <= last for first, last in owned)]
            return f"{len(left)} slots have not moved" if left else None

        self._wait(missing)

    # How it does it

    def _form(self) -> None:
        """Slots, epochs, acquaintance, replicas; an order that needs no vote."""
        masters, first = self._masters, self.nodes[0]
        for index, node in enumerate(self.nodes):
            if index < masters:
                node.ask("CLUSTER", "ADDSLOTSRANGE", index * SLOTS // masters, (index + 1) * SLOTS // masters - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for node in self.nodes[1:]:
            first.ask("CLUSTER", "MEET", *node.address, node.bus_port)

        def strangers() -> str | None:
            ids = {node.id for node in self.nodes}
            for node in self.nodes:
                if set(parse_nodes(node.ask("CLUSTER", "NODES"))) != ids:
                    return f"node {node.index} does not know all others"
            return None

        self._wait(strangers)
        for node in self.nodes[masters:]:
            node.ask("CLUSTER", "REPLICATE", self.nodes[node.index % masters].id)

    def _by_index(self, ids: Iterable[str]) -> list[ClusterServer]:
        wanted = set(ids)
        return [node for node in self.nodes if node.id in wanted and node.alive]

    def _running(self) -> list[ClusterServer]:
        return [node for node in self.nodes if node.alive and not node.paused]

    def _any_running(self) -> ClusterServer:
        return next(iter(self._running()), self.nodes[0])

    def _view(self) -> dict[str, NodeView]:
        """The nodes as the first running one that is sure sees them."""
        for node in self._running():
            try:
                return parse_nodes(node.ask("CLUSTER", "NODES"))
            except _UNREACHABLE:
                continue
        raise ServerError("no node of the cluster answers")


def _directives(bus_port: int, node_timeout_s: float, password: str | None, tls: bool) -> dict[str, ConfigValue]:
    directives: dict[str, ConfigValue] = {
        "cluster-enabled": True,
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": round(node_timeout_s * 1000),
        "cluster-port": bus_port,
        # A replica may take over however long it was without its primary, and does not wait for other replicas.
        "cluster-replica-validity-factor": 0,
        "repl-diskless-sync-delay": 0,
    }
    if password is not None:
        directives["masterauth"] = password
    if tls:
        directives |= {"tls-cluster": True, "tls-replication": True}
    return directives
