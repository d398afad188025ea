"""`AsyncResilientRedisClient`: Redis with a circuit breaker, retries, priorities and a recovery queue, for asyncio.

Parts
- `.client` is the drop-in Redis (agent_memory.redis.asyncio) without a guard of its own, or whatever was injected. The
  methods below run on it, each as one call under this client's guard.
- Commands that are not listed here go to a drop-in on the same connections that shares the guard; for an injected client
  they are wrapped here. Either way one call is admitted once.
- What fails in `store_with_retry` goes to the recovery queue (`.recovery`), which drains when the circuit closes.
- While the circuit is open, a background probe asks the server whether it is back (not for injected clients).
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack, cast, overload

import redis.asyncio
from redis.exceptions import RedisError

from agent_memory import _check
from agent_memory._concurrency import ASYNC, async_in_thread, async_settle
from agent_memory._core import Guard
from agent_memory.errors import CircuitOpenError, RedisTimeoutError, RedisUnavailableError
from agent_memory.policy import (
    BreakerSettings,
    Priority,
    RecoveryConfig,
    RetryPolicy,
    exponential_backoff,
)
from agent_memory.policy.resilience import ResiliencePolicy
from agent_memory.recovery._async.engine import AsyncRecoveryEngine
from agent_memory.recovery._async.priority_commands import AsyncPriorityCommands
from agent_memory.recovery._async.queued_writes import AsyncStoreResult
from agent_memory.recovery._async.recovery import AsyncRecovery
from agent_memory.recovery._async.storing import AsyncStoring
from agent_memory.recovery.results import Health
from agent_memory.redis._async.probe import DEFAULT_INTERVAL_S, AsyncProber
from agent_memory.redis._async.server_facts import async_health_facts
from agent_memory.redis._typing import TextT
from agent_memory.redis.asyncio import Redis, RedisCluster
from agent_memory.redis.commands.direct import add_listed_commands
from agent_memory.redis.error_outcomes import ERRORS_OF_CONNECTIONS, as_ours
from agent_memory.redis.originals import AsyncRedisPy
from agent_memory.redis.redis_py_internals.pools import mark_unsent
from agent_memory.redis.server_checks import check_server
from agent_memory.storage import argument_checks
from agent_memory.storage._async.cluster import (
    AsyncClusterBinding,
    AsyncClusterCommands,
    AsyncClusterRunner,
    bind_cluster,
)
from agent_memory.storage._async.commands import AsyncListedCommands
from agent_memory.storage._async.injected import AsyncInjectedCommands
from agent_memory.storage._async.runner import AsyncOperationRunner
from agent_memory.storage.cluster_arguments import (
    addresses_of,
    arguments_of_cluster_url,
    check_cluster,
    is_cluster_url,
)
from agent_memory.storage.decorator import Command, current_call, joins_a_call, resilient_operation
from agent_memory.storage.injected_clusters import explain_cluster_error, is_redis_py_cluster, silence_retries
from agent_memory.storage.urls import arguments_of_url

if ASYNC:
    from agent_memory.policy import async_exponential_backoff

if TYPE_CHECKING:
    from redis.asyncio.lock import Lock
    from redis.typing import KeyT

    from agent_memory.embedded import EmbeddedServer
    from agent_memory.redis._async.monitor import Monitor
    from agent_memory.redis._async.pipeline import Pipeline
    from agent_memory.redis._async.pubsub import PubSub
    from agent_memory.redis._typing import AsyncResilientOptions
    from agent_memory.redis.exactly_once import ExactlyOnce

__all__ = [
    "AsyncResilientRedisClient",
    "AsyncStoreResult",
    "CircuitOpenError",
    "Priority",
    "RecoveryConfig",
    "RecoverySettings",
    "RedisTimeoutError",
    "RedisUnavailableError",
    "RetryPolicy",
    "exponential_backoff",
    "resilient_operation",
]
if ASYNC:
    __all__ += ["async_exponential_backoff"]

RecoverySettings = RecoveryConfig
DEFAULT_RECOVERY: Final = RecoveryConfig()

logger: Final = logging.getLogger("agent_memory.storage")

# SPEC's default for asyncio, where commands share one connection and only pub/sub, transactions and blocking commands lease
# their own; a thread that runs a command needs a connection to itself.
_DEFAULT_MAX_CONNECTIONS: Final = 10 if ASYNC else 100
_DEADLINE_IN_TIMEOUTS: Final = 2.0
"""The bound of a whole call, retries and pauses included, as a multiple of `socket_timeout`."""

_FOR_SUBCLASSES: Final = frozenset({"_create_redis_client", "_execute_with_circuit_breaker"})
"""What the specification lets a subclass override or call."""
_OURS: Final = (RedisUnavailableError, RedisTimeoutError)
_UNBOUNDED_TIMEOUT_S: Final = 5.0
"""What a call's deadline is reckoned from where `socket_timeout` is None, in seconds."""


class AsyncResilientRedisClient(AsyncListedCommands[TextT]):
    """A Redis client that stays usable, and stays honest, while its server does not.

    Every command is one call under a circuit breaker, with retries, deadlines and metrics. `store_with_retry` adds
    priorities and a recovery queue. A command without `init()` connects by itself; `async with` does `init()` and `close()`.

    Parameters, the first fifteen in this order, the rest by keyword:

    - `client_name`: names the client in errors, logs and metrics.
    - `host` ("localhost"), `port` (6379), `db` (0), `password` (None): where the server is.
    - `socket_timeout` (2.0), `socket_connect_timeout` (2.0): seconds for one answer, for connecting. None waits for ever. A
      call with its retries ends within twice `socket_timeout`.
    - `retry_policy` (RetryPolicy(): 3 retries, 1.0 s, doubled): how commands are retried. Only what is safe to repeat is.
    - `circuit_threshold` (3): consecutive failures that open the circuit.
    - `circuit_reset_timeout` (300): the longest wait in seconds until a call is let through again; with a probe (below) the
      circuit closes about as soon as the server answers.
    - `critical_retry_attempts` (3), `retry_base_delay` (0.5 s), `retry_max_delay` (30.0 s): the immediate retries of
      `store_with_retry` with Priority.CRITICAL.
    - `max_connections`: the most connections (asyncio 10, sync 100).
    - `health_check_interval` (30): seconds, handed to redis-py's connections.
    - `client`: a redis-py-compatible object to use instead of connecting (a mock, fakeredis, RedisCluster, the drop-in). It
      stays yours: `close()` leaves it open.
    - `cluster`: nodes of a Redis Cluster, in the place of `host` and `port`: "host:port", (host, port) or redis-py's
      ClusterNode; one that answers is enough. Each node has its own circuit, all share one retry budget, and a call with its
      retries ends within max(2 x `socket_timeout`, 20 s), since it waits for a failover. `max_connections` is per node. Needs
      `recovery=None`; `db`, `guard` and `exactly_once` are refused. redis-py's arguments of a cluster client are taken too,
      such as `address_remap`.
    - `guard`: a Guard to share with other clients; the circuit's and the retry policy's parameters are then its own.
    - `probe_interval_s` (0.75): the longest pause in seconds between two background probes while the circuit is open, or None:
      no probe.
    - `recovery` (RecoveryConfig()): bounds, pace and journal of the recovery queue; None for no queue.
    - `double_await` (False): True makes each listed method give an awaitable that gives the value, for code written as
      `await (await client.get(key))`.
    - `exactly_once` (False): True, or an `ExactlyOnce` with settings: a write whose answer was lost is resolved, and sent again
      only if it was not executed, by plain commands and by the recovery queue. An injected drop-in has its own setting, which
      then holds for the queue as well.
    - `connection_name` (None): what the server calls the connections (CLIENT SETNAME), as CLIENT LIST shows it.
    - `username` (None), `decode_responses` (True), and as `connection` any other argument of redis-py's, such as `ssl=True`,
      except `retry` and `retry_on_error`, for which there is `retry_policy`, and `connection_pool`.

    Raises ValueError or TypeError for an argument outside its rule, an unknown one, and one that would not be used. Methods
    raise CircuitOpenError (a RedisUnavailableError) while the circuit is open, RedisUnavailableError and RedisTimeoutError
    when the connection fails (each with `.outcome`), and redis-py's errors for what the server answered; those are logged,
    without keys or values.

    Any number of tasks may share a client, also in several event loops; a child of fork() may go on using it. A command
    that is cancelled after it was sent may have been executed; the others on its connection go on.
    """

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: AsyncResilientRedisClient[str],
            client_name: str,
            host: str = ...,
            port: int = ...,
            db: int = ...,
            password: str | None = ...,
            socket_timeout: float | None = ...,
            socket_connect_timeout: float | None = ...,
            retry_policy: RetryPolicy | None = ...,
            circuit_threshold: int = ...,
            circuit_reset_timeout: float = ...,
            critical_retry_attempts: int = ...,
            retry_base_delay: float = ...,
            retry_max_delay: float = ...,
            max_connections: int = ...,
            health_check_interval: int = ...,
            *,
            decode_responses: Literal[True] = ...,
            **options: Unpack[AsyncResilientOptions],
        ) -> None: ...

        @overload
        def __init__(
            self: AsyncResilientRedisClient[bytes],
            client_name: str,
            host: str = ...,
            port: int = ...,
            db: int = ...,
            password: str | None = ...,
            socket_timeout: float | None = ...,
            socket_connect_timeout: float | None = ...,
            retry_policy: RetryPolicy | None = ...,
            circuit_threshold: int = ...,
            circuit_reset_timeout: float = ...,
            critical_retry_attempts: int = ...,
            retry_base_delay: float = ...,
            retry_max_delay: float = ...,
            max_connections: int = ...,
            health_check_interval: int = ...,
            *,
            decode_responses: Literal[False],
            **options: Unpack[AsyncResilientOptions],
        ) -> None: ...

        @overload
        def __init__(
            self: AsyncResilientRedisClient[Any],
            client_name: str,
            host: str = ...,
            port: int = ...,
            db: int = ...,
            password: str | None = ...,
            socket_timeout: float | None = ...,
            socket_connect_timeout: float | None = ...,
            retry_policy: RetryPolicy | None = ...,
            circuit_threshold: int = ...,
            circuit_reset_timeout: float = ...,
            critical_retry_attempts: int = ...,
            retry_base_delay: float = ...,
            retry_max_delay: float = ...,
            max_connections: int = ...,
            health_check_interval: int = ...,
            *,
            decode_responses: bool,
            **options: Unpack[AsyncResilientOptions],
        ) -> None: ...

    def __init__(
        self,
        client_name: str,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        password: str | None = None,
        socket_timeout: float | None = 2.0,
        socket_connect_timeout: float | None = 2.0,
        retry_policy: RetryPolicy | None = None,
        circuit_threshold: int = 3,
        circuit_reset_timeout: float = 300,
        critical_retry_attempts: int = 3,
        retry_base_delay: float = 0.5,
        retry_max_delay: float = 30.0,
        max_connections: int = _DEFAULT_MAX_CONNECTIONS,
        health_check_interval: int = 30,
        *,
        client: Any = None,
        cluster: Iterable[Any] | None = None,
        guard: Guard | None = None,
        probe_interval_s: float | None = DEFAULT_INTERVAL_S,
        recovery: RecoveryConfig | None = DEFAULT_RECOVERY,
        double_await: bool = False,
        username: str | None = None,
        decode_responses: bool = True,
        connection_name: str | None = None,
        exactly_once: bool | ExactlyOnce = False,
        **connection: Any,
    ) -> None:
        argument_checks.client_arguments(
            client_name=client_name,
            host=host,
            port=port,
            db=db,
            socket_timeout=socket_timeout,
            socket_connect_timeout=socket_connect_timeout,
            circuit_threshold=circuit_threshold,
            circuit_reset_timeout=circuit_reset_timeout,
            critical_retry_attempts=critical_retry_attempts,
            retry_base_delay=retry_base_delay,
            retry_max_delay=retry_max_delay,
            max_connections=max_connections,
            health_check_interval=health_check_interval,
            probe_interval_s=probe_interval_s,
            double_await=double_await,
            decode_responses=decode_responses,
            connection_name=connection_name,
        )
        nodes = None if cluster is None else addresses_of(cluster)
        if nodes is not None:
            given = {
                "host": host,
                "port": port,
                "db": db,
                "client": client,
                "guard": guard,
                "exactly_once": exactly_once,
            }
            check_cluster({**connection, **given}, recovery)
        argument_checks.policies(retry_policy=retry_policy, guard=guard, recovery=recovery, client=client)
        argument_checks.exactly_once(exactly_once, client)
        if connection_name is not None:
            connection["client_name"] = connection_name
        secrets = {"username": username, "password": password}
        argument_checks.connection_arguments(
            AsyncRedisPy, client, connection, secrets, asynchronous=ASYNC, is_cluster=nodes is not None
        )
        self.client_name = client_name
        self.critical_retry_attempts = critical_retry_attempts
        self.retry_base_delay = retry_base_delay
        self.retry_max_delay = retry_max_delay
        self._double_await = double_await
        self._server: EmbeddedServer | None = None
        self._connection = {
            "host": host,
            "port": port,
            "db": db,
            "username": username,
            "password": password,
            "socket_timeout": socket_timeout,
            "socket_connect_timeout": socket_connect_timeout,
            "max_connections": max_connections,
            "health_check_interval": health_check_interval,
            "decode_responses": decode_responses,
            **connection,
        }
        self._exactly_once = exactly_once
        self._policy = ResiliencePolicy(
            breaker=BreakerSettings(circuit_threshold, circuit_reset_timeout),
            retry=retry_policy or RetryPolicy(),
            probe_interval_s=probe_interval_s,
        )
        self.endpoint = self._endpoint(nodes) if client is None else type(client).__name__
        """host:port or socket path of the server, of the given nodes of a cluster; the class of an injected client."""
        self._nodes = nodes
        self._assemble(client, guard, recovery, json.dumps([client_name, self.endpoint, db]))
        self.recovery = AsyncRecovery(self._engine)
        """What waits for the server to come back, and what was given up."""

    def _assemble(self, client: Any, guard: Guard | None, recovery: RecoveryConfig | None, identity: str) -> None:
        """Makes the parts of this client; `identity` names its journal."""
        name, timeout_s = self.client_name, self._connection["socket_timeout"]
        deadline_s = _DEADLINE_IN_TIMEOUTS * (_UNBOUNDED_TIMEOUT_S if timeout_s is None else timeout_s)
        self._cluster: AsyncClusterBinding | None = None
        self._runner: Any
        self._commands: Any
        self._client: Any
        self._straight: SimpleNamespace | AsyncClusterBinding | None
        self._direct_client: Any
        self._owned = None if client is not None or self._nodes is not None else self._create_redis_client()
        wrapped = self._owned if client is None else client
        # The recovery queue needs one circuit for all that it sends: beside one, a cluster client is injected like any other.
        if self._nodes is not None or (isinstance(wrapped, RedisCluster) and recovery is None and guard is None):
            self._assemble_cluster(wrapped, identity)
            return
        self._guard = guard or self._policy.make_guard(name, self.endpoint)
        self._runner = AsyncOperationRunner(self._guard, name, self.endpoint, deadline_s)
        self._wrap(wrapped)
        self._prober = self._make_prober(self._policy.probe_interval_s)
        if self._prober is not None:
            self._runner.ensure_probe = self._prober.ensure_running
        self._engine = AsyncRecoveryEngine(self._guard, recovery, name, identity, self._commands)
        self._storing = AsyncStoring(self._engine, self._guard, name, deadline_s, self._runner.ensure_probe)

    def _assemble_cluster(self, injected: Any, identity: str) -> None:
        """The same for a cluster client of this package, made here or `injected`, whose nodes have guards of their own."""
        name = self.client_name
        self._runner = AsyncClusterRunner(name)
        note = self._runner.note_error
        if injected is None:
            self._cluster = bind_cluster(self._nodes or [], self._connection, self._policy, name, note)
        else:
            self._cluster = AsyncClusterBinding(lambda: injected, note, owns=False)
        # It admits everything: what admits is each node's.
        self._guard = self._policy.make_guard(name, self.endpoint)
        self._client = None
        self._commands = AsyncClusterCommands(self._cluster)
        self._straight, self._direct_client, self._prober = self._cluster, None, None
        self._engine = AsyncRecoveryEngine(self._guard, None, name, identity, self._commands)
        self._storing = AsyncStoring(self._engine, self._guard, name, 0.0, self._runner.ensure_probe)

    # --- the wrapped client -------------------------------------------------------------------------------------------

    def _create_redis_client(self) -> Any:
        """Makes the client that `.client` will be; a subclass may make another one, which is then taken as injected.

        redis-py's class is looked up by its name at this moment: whatever has been put in its place (a mock) is called in
        its stead. Raises RedisUnavailableError when making it fails for want of a connection.
        """
        factory = redis.asyncio.Redis
        try:
            if factory in (AsyncRedisPy, Redis):  # the latter after `install()`
                return Redis(**self._connection, exactly_once=self._exactly_once, resilience=None)
            return factory(**self._connection)
        except ERRORS_OF_CONNECTIONS as error:
            raise as_ours(error, self.endpoint) from error

    @property
    def client(self) -> Any:
        """The wrapped client: the drop-in without a guard of its own, or what was injected.

        Commands on it are not guarded; those of a cluster client of this package are, by its nodes. Assigning injects another
        one; the one that was connected here is still closed by `close()`. Raises ValueError for assigning where each node of a
        cluster has its own circuit.
        """
        return self._client if self._cluster is None else self._cluster.client

    @client.setter
    def client(self, wrapped: Any) -> None:
        if self._cluster is not None:
            raise ValueError(f"client must be given to the constructor of a cluster's, got a {type(wrapped).__name__}")
        self._wrap(wrapped)
        self._engine.bind(self._commands)

    def _wrap(self, wrapped: Any) -> None:
        """Binds the wrapped client, and the guarded commands beyond the listed ones."""
        self._straight = None
        self._direct_client = None
        self._runner.shared = wrapped._shared if isinstance(wrapped, Redis) else None
        if not isinstance(wrapped, Redis):
            if type(wrapped) is AsyncRedisPy:
                mark_unsent(wrapped.connection_pool)
            elif is_redis_py_cluster(wrapped) and not isinstance(wrapped, RedisCluster):
                silence_retries(wrapped)
                self._runner.explain = explain_cluster_error
            self._client = wrapped
            self._commands = AsyncInjectedCommands(wrapped, self._runner.run)
            return
        self._client = wrapped.unguarded()
        pool = wrapped.connection_pool
        self._commands = Redis(connection_pool=pool, guard=self._guard, resilience=self._policy)
        self._commands.leave_retries_to_policy()
        self._commands.response_callbacks = wrapped.response_callbacks
        self._commands.subscribers_reconnect = True
        self._straight = SimpleNamespace(client=self._commands, note=self._runner.note_error)
        self._direct_client, self._direct_note = self._commands, self._runner.note_error

    @property
    def _direct(self) -> SimpleNamespace | AsyncClusterBinding | None:
        """What listed commands are called on at the drop-in's own speed; None where an operation has to be run."""
        return self._straight if type(self)._execute_with_circuit_breaker is _RUN else None

    def _make_prober(self, interval_s: float | None) -> AsyncProber | None:
        if interval_s is None or not isinstance(self._owned, Redis):
            return None
        # The view refers to nothing of this client, so the prober does not keep it alive.
        view = cast(Redis, self._client)
        return AsyncProber(self._guard, view.ping_afresh, interval_s=interval_s, name=self.client_name)

    def _is_injected(self) -> bool:
        return isinstance(self._commands, AsyncInjectedCommands)

    def _keys_of_cluster(self, match: Any, count: int | None, options: Any) -> AsyncIterator[TextT] | None:
        """The keys of all primaries; None for one server."""
        if self._cluster is None:
            return None
        return cast("AsyncIterator[TextT]", self._cluster.client.scan_iter(match=match, count=count, **options))

    if TYPE_CHECKING:  # a checker knows every command from AsyncTypedCommands, and what is no command from here

        def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline: ...
        def pubsub(self, **kwargs: Any) -> PubSub: ...
        def monitor(self) -> Monitor: ...
        def lock(self, name: KeyT, timeout: float | None = None, **options: Any) -> Lock: ...
        async def transaction(self, func: Callable[[Pipeline], Any], *watches: KeyT, **options: Any) -> Any: ...
        async def execute_command(self, *args: Any, **options: Any) -> Any: ...

    else:

        def __getattr__(self, name: str) -> Any:
            """Every other command of redis-py, pipelines and scripts: guarded in the same way."""
            if name.startswith("_") or "_commands" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(self._commands, name)

    def __dir__(self) -> list[str]:
        """Commands and what is documented: no attributes of our own or of the wrapped client that are not for users."""
        names = {*super().__dir__(), *dir(self._client)}
        return sorted(
            name for name in names if not name.startswith("_") or name.startswith("__") or name in _FOR_SUBCLASSES
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.client_name!r} at {self.endpoint}, circuit {self.state}>"

    def _endpoint(self, nodes: list[tuple[str, int]] | None) -> str:
        if nodes is not None:
            return ",".join(f"{host}:{port}" for host, port in nodes)
        path = self._connection.get("unix_socket_path")
        return str(path) if path else f"{self._connection['host']}:{self._connection['port']}"

    # --- life ---------------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload
        @classmethod
        def from_url(
            cls, url: str, client_name: str = ..., *, decode_responses: Literal[False], **options: Any
        ) -> AsyncResilientRedisClient[bytes]: ...

        @overload
        @classmethod
        def from_url(cls, url: str, client_name: str = ..., **options: Any) -> Self: ...

    @classmethod
    def from_url(cls, url: str, client_name: str = "default", **options: Any) -> Any:
        """A client for `url`: `redis://`, `rediss://`, `unix://` (or `valkey://`, `valkeys://`), `embedded://`, `embedded:///path`.

        `redis+cluster://host:port,host:port` and `rediss+cluster://` are nodes of a cluster, as of `cluster=`.

        An embedded server is private to this client: it is started here (which takes a fraction of a second) and stopped by
        `close()`; with a path its data stays there. `options` are the parameters of the class; those in the URL's query,
        such as `?socket_timeout=5`, win over them, as in redis-py. `client_name` ("default"), or `?client_name=`, names
        this client and, the latter as in redis-py, its connections. Raises ValueError for any other URL, and what
        `agent_memory.embedded.EmbeddedServer` raises.
        """
        _check.url(url)
        if not url.startswith("embedded:"):
            arguments = arguments_of_cluster_url(url) if is_cluster_url(url) else arguments_of_url(url)
            named: dict[str, Any] = {"client_name": client_name, **options, **arguments}
            return cls(**named)
        from agent_memory.embedded import open_embedded  # loaded only where a server is asked for

        address, _, query = url.partition("?")
        server = open_embedded(address)
        try:
            arguments = {**server.connection_kwargs, **arguments_of_url(f"redis://?{query}")}
            named = {"client_name": client_name, **options, **arguments}
            client = cls(**named)
        except BaseException:
            server.close()
            raise
        client._server = server
        return client

    async def init(self) -> bool:
        """Connects, and returns whether the server answered.

        A server that cannot be reached is no reason to raise: it is logged, counted by the circuit breaker, and the client
        goes on as it would if the server failed later. Raises what the server answered, such as a wrong password.
        """
        self._engine.reopen()
        if self._prober is not None:
            self._prober.reopen()
        try:
            if self._cluster is not None:
                await self._cluster.open()
                return True
            await self._runner.run("ping", Command(_call_ping, self._client), repeat=False)
        except _OURS as error:
            logger.warning("%s: %s", self.client_name, error)
            return False
        return True

    async def close(self) -> None:
        """Drains the recovery queue (at most `RecoveryConfig.close_timeout_s` seconds), stops probing, disconnects.

        Stops the embedded server if this client started one; leaves an injected client open. May be called again, and the
        client may be used again.
        """
        await self._engine.close()
        if self._prober is not None:
            await self._prober.stop()
        if self._cluster is not None:
            await self._cluster.close()
        if self._owned is not None:
            await async_settle(self._owned.aclose())
        if self._server is not None:
            await async_in_thread(self._server.close)

    if ASYNC:

        async def aclose(self) -> None:
            """`close()`, by the name that redis-py's asyncio clients and `contextlib.aclosing` have for it."""
            await self.close()

    async def __aenter__(self) -> Self:
        await self.init()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- the guard ----------------------------------------------------------------------------------------------------

    @property
    def guard(self) -> Guard:
        """The guard of this client; pass it as `guard=` to let another client share the circuit.

        Raises NotImplementedError for a cluster: each node has a guard of its own; see `health().nodes`.
        """
        if self._cluster is not None:
            raise NotImplementedError("guard is not there for a cluster: each node has its own, see health().nodes")
        return self._guard

    @property
    def state(self) -> str:
        """The state of the circuit: "closed", "open" or "half_open"; of a cluster, the worst of its primaries."""
        if self._cluster is not None:
            return self._cluster.health().state
        return self._guard.state

    def stats(self) -> dict[str, Any]:
        """The guard's figures (state, calls, errors, retries, rejections, latencies) and under "recovery" the queue's.

        Of a cluster those of all nodes summed, each node's under "nodes" by "host:port", the topology's under "cluster".
        """
        if self._cluster is not None:
            return {**self._cluster.stats(), "recovery": self.recovery.stats()}
        figures = self._guard.stats() if self._is_injected() else self._commands.stats()
        return {**figures, "recovery": self.recovery.stats()}

    def health(self) -> Health:
        """How the client is doing, from what it knows: sends nothing."""
        if self._cluster is not None:
            return self._cluster.health()
        state, retry_after_s = self._guard.state_and_retry_after_s()
        waiting = self.recovery.stats()
        return Health(
            healthy=state == "closed",
            state=state,
            retry_after_s=retry_after_s if state == "open" else None,
            queued=waiting["queued"],
            dead_letters=waiting["dead_letters"],
            damaged_records=self.recovery.damaged_records,
        )

    async def check_health(self) -> Health:
        """Asks the server (PING, TIME, INFO, as one guarded call) and returns what `health()` does, and its answers.

        Raises nothing for a server that cannot be reached or refuses: `healthy` is False then. `findings` leave it True where
        the server answers: they say what is risky.
        """
        if self._cluster is not None:
            raise NotImplementedError("check_health is not there for a cluster yet: see health()")
        try:
            facts = await self._runner.run("check_health", lambda: async_health_facts(self._client), repeat=False)
        except (*_OURS, RedisError):
            return replace(self.health(), healthy=False)
        return replace(
            self.health(),
            latency_s=facts.latencies_s[0],
            clock_skew_s=facts.clock_skew_s,
            findings=tuple(check_server(facts)),
        )

    def _execute_with_circuit_breaker(self, operation_name: str, operation: Callable[[], Any]) -> Awaitable[Any]:
        """Runs `operation` (no arguments) as one guarded call under the name `operation_name`; gives its value.

        What it returns is awaited to any depth. Inside a method decorated with @resilient_operation it joins that method's
        call. An operation of one's own is repeated only if its name is that of a command that reads: of several writes
        the first may have been applied when the second fails.
        """
        if joins_a_call(self):
            return async_settle(operation())
        run: Callable[..., Awaitable[Any]] = self._runner.run
        return run(operation_name, operation, repeat=type(operation) is Command)

    # --- storing by priority ------------------------------------------------------------------------------------------

    def with_priority(self, priority: Priority) -> AsyncPriorityCommands:
        """Every write command, and pipelines of them, giving an `AsyncStoreResult`: `with_priority(Priority.HIGH).set(k, v)`.

        `priority` is a Priority; raises ValueError for another. No command of it raises for a server that cannot be
        reached. What a failure leads to is as of `store_with_retry`, except that a write of unknown outcome is repeated
        only if that leaves the same data, or if `exactly_once` resolves it; else it is a dead letter. A relative expiry
        counts from the call. Writes of one key never overtake each other. A plain write of a key that has queued writes
        waits for those, or raises RedisUnavailableError (NOT_SENT) at its deadline.
        """
        return AsyncPriorityCommands(self._storing, self, argument_checks.priority(priority))

    async def store_with_retry(
        self,
        agent_id: str | int,
        state_data: Any,
        store_func: Callable[[str, Any], Any] | str,
        priority: Priority = Priority.NORMAL,
        retry_attempts: int | None = None,
        base_delay: float | None = None,
        max_delay: float | None = None,
    ) -> AsyncStoreResult:
        """Calls `store_func(agent_id, state_data)`; what a failure leads to depends on `priority` (NORMAL).

        - CRITICAL: tried again at once, `retry_attempts` times, after exponential_backoff(attempt, base_delay, max_delay)
          seconds each; if that fails too it is queued.
        - HIGH, NORMAL: queued for the background (`.recovery`), HIGH drained first.
        - LOW: logged and dropped.

        `retry_attempts`, `base_delay` and `max_delay` (seconds) default to the client's. A false value from `store_func` is
        a failure, as is an error of the connection. Its other errors are logged and raised, whatever the priority. Since a
        repeated `store_func` may run twice on the server, it should set values rather than change them. With a journal, only
        a function that is registered (`recovery.register`; pass it or its name) outlives this process.

        Writes of one `agent_id` never overtake each other: calls take turns, and while earlier writes wait in the queue a
        new one joins them (a LOW one is dropped). An `agent_id` that is a whole number is taken as text, here and by
        `store_func`.

        Returns a result that is true only when stored; see `.status`, and `.wait()` for a queued one. Raises ValueError
        for a parameter outside its rule.
        """
        attempts = self.critical_retry_attempts if retry_attempts is None else retry_attempts
        base_delay = self.retry_base_delay if base_delay is None else base_delay
        max_delay = self.retry_max_delay if max_delay is None else max_delay
        _check.whole("retry_attempts", attempts, 0)
        _check.at_least("base_delay", base_delay, 0)
        _check.at_least("max_delay", max_delay, 0)
        if isinstance(agent_id, bool) or not isinstance(agent_id, str | int):
            raise ValueError(f"agent_id must be str or int, got {agent_id!r}")
        if not callable(store_func) and not isinstance(store_func, str):
            raise ValueError(f"store_func must be a function, got {store_func!r}")
        chosen = argument_checks.priority(priority)
        agent_id = agent_id if isinstance(agent_id, str) else str(int(agent_id))
        return await self._storing.store(agent_id, state_data, store_func, chosen, attempts, base_delay, max_delay)

    if ASYNC:

        @staticmethod
        async def execute_with_double_await(coro: Awaitable[Any]) -> Any:
            """Awaits `coro` and what it gives, to any depth, and returns the value."""
            return await async_settle(coro)


_RUN: Final = AsyncResilientRedisClient._execute_with_circuit_breaker
add_listed_commands(
    AsyncListedCommands,
    AsyncResilientRedisClient,
    "_execute_with_circuit_breaker",
    current_call,
    drop_in=Redis,
    base=AsyncRedisPy,
    asynchronous=ASYNC,
)


async def _call_ping(client: Any) -> Any:
    return await async_settle(client.ping())
