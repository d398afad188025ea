"""Sentinel: clients that ask sentinels where their server is, each time they connect, and travel by our transports.

Rules
- The address comes from the pool, which asks the sentinels anew for every connection.
- A connection that is to be the master's asks for its ROLE within the handshake: a sentinel may not have heard yet that the
  server it names was demoted. A server that is no master is refused as if it were down, NOT_SENT.
- A READONLY from what was the master, and a new address, retire the connections to the old one; the call that met READONLY was
  not run and goes on at the new master, as far as its retries allow.
- Replicas take turns, connection by connection; where there is none the master serves.
"""

from __future__ import annotations

from typing import Any, cast

from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import MasterNotFoundError, SlaveNotFoundError
from redis.asyncio.sentinel import SentinelConnectionPool as RedisPySentinelConnectionPool
from redis.asyncio.sentinel import SentinelManagedConnection as RedisPySentinelManagedConnection
from redis.exceptions import ConnectionError as RedisPyConnectionError
from redis.exceptions import ResponseError

from agent_memory._concurrency import ASYNC
from agent_memory.errors import Outcome, RedisUnavailableError
from agent_memory.redis.asyncio.client import Redis
from agent_memory.redis.originals import AsyncRedisPySentinel
from agent_memory.redis.redis_py_internals.features import AsyncReplicaNotFoundError as ReplicaNotFoundError
from agent_memory.redis.redis_py_internals.pools import trust_async_pool
from agent_memory.redis.redis_py_internals.replies import as_text
from agent_memory.redis.redis_py_internals.settings import fill_arguments

__all__ = [
    "MasterNotFoundError",
    "ReplicaNotFoundError",
    "Sentinel",
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "SentinelManagedSSLConnection",
    "SlaveNotFoundError",
]


class _Watcher(Redis):
    """A client of one sentinel. One that answers nonsense is as good as away: the next one is asked."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As the client's; raises RedisUnavailableError for an answer of another shape than a Sentinel's."""
        try:
            return await super().execute_command(*args, **options)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise RedisUnavailableError(
                f"no answer of a Sentinel: {error}", outcome=Outcome.APPLIED, endpoint=self.endpoint
            ) from error


class SentinelManagedConnection(RedisPySentinelManagedConnection):
    """redis-py's connection to what the sentinels name, which makes sure that a master is one. For one task at a time.

    A handshake that is cancelled closes the connection.
    """

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Handshake, then ask for the role. Raises redis.ConnectionError for a master that is none."""
        await super().on_connect_check_health(check_health=check_health)
        if not self.connection_pool.is_master:
            return
        try:
            connection: Any = self
            await connection.send_command("ROLE", check_health=False)
            reply = await connection.read_response()
        except ResponseError:
            return  # a user without that permission: the sentinels' word has to do
        role = as_text(reply[0])
        if role != "master":
            raise RedisPyConnectionError(f"{self.host}:{self.port} is no master but a {role}")


class SentinelManagedSSLConnection(SentinelManagedConnection, SSLConnection):
    """The same over TLS."""


class SentinelConnectionPool(RedisPySentinelConnectionPool):
    """redis-py's pool of connections to a service that sentinels watch. Any number of tasks may share it.

    A call that is cancelled gives its connection back.
    """

    def __init__(self, service_name: str, sentinel_manager: Any, **kwargs: Any) -> None:
        kind = SentinelManagedSSLConnection if kwargs.pop("ssl", False) else SentinelManagedConnection
        kwargs.setdefault("connection_class", kind)
        cast(Any, super()).__init__(service_name, sentinel_manager, **kwargs)


trust_async_pool(SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection)


class Sentinel(AsyncRedisPySentinel):
    """redis-py's Sentinel whose `master_for` and `slave_for` give our clients on our transports.

    Takes redis-py's arguments. The sentinels themselves are asked once each, without redis-py's retries: the next one is as
    good. Raises what redis-py raises; tasks of several event loops may share it, and so may the clients that it gives.
    """

    sentinels: list[Any]

    def __init__(
        self,
        sentinels: Any,
        min_other_sentinels: int = 0,
        sentinel_kwargs: dict[str, Any] | None = None,
        force_master_ip: str | None = None,
        **connection_kwargs: Any,
    ) -> None:
        cast(Any, super()).__init__(
            sentinels, min_other_sentinels, sentinel_kwargs, force_master_ip, **connection_kwargs
        )
        self.sentinels = [
            _Watcher(host=host, port=port, resilience=None, **self.sentinel_kwargs) for host, port in sentinels
        ]

    async def discover_master(self, service_name: str) -> Any:
        """The address of the service's master; MasterNotFoundError, with outcome NOT_SENT, where no sentinel knows one."""
        try:
            return await cast(Any, super()).discover_master(service_name)
        except MasterNotFoundError as error:
            error.outcome = Outcome.NOT_SENT  # type: ignore[attr-defined]
            raise

    def master_for(
        self,
        service_name: str,
        redis_class: Any = Redis,
        connection_pool_class: Any = SentinelConnectionPool,
        **kwargs: Any,
    ) -> Any:
        """A client of the service's master, wherever it is; `resilience=` and `guard=` are taken too."""
        return self._client(service_name, redis_class, connection_pool_class, kwargs | {"is_master": True})

    def slave_for(
        self,
        service_name: str,
        redis_class: Any = Redis,
        connection_pool_class: Any = SentinelConnectionPool,
        **kwargs: Any,
    ) -> Any:
        """A client of the service's replicas; `resilience=` and `guard=` are taken too."""
        return self._client(service_name, redis_class, connection_pool_class, kwargs | {"is_master": False})

    def _client(self, service_name: str, redis_class: Any, pool_class: Any, kwargs: dict[str, Any]) -> Any:
        own = {name: kwargs.pop(name) for name in ("resilience", "guard") if name in kwargs}
        arguments = self.connection_kwargs | kwargs
        if issubclass(redis_class, Redis):
            fill_arguments(arguments, asynchronous=ASYNC)
        client = redis_class(connection_pool=pool_class(service_name, self, **arguments), **own)
        client.auto_close_connection_pool = True
        return client
