"""The asyncio drop-in client: redis.asyncio's `Redis` with our transport below and a guard around every call."""

from __future__ import annotations

import inspect
from asyncio import get_running_loop
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self, cast

from redis.asyncio.client import Pipeline as RedisPyPipeline
from redis.asyncio.client import Redis as RedisPy
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ResponseError

from agent_memory.policy.resilience import DEFAULT_RESILIENCE, ResiliencePolicy
from agent_memory.redis import private
from agent_memory.redis._async_retry import async_retry
from agent_memory.redis.calls import (
    call_back,
    callback_of,
    deadline_of,
    describe,
    pack_command,
    pack_with_buffers,
    pipeline_operation,
    read_timeout_s,
)
from agent_memory.redis.outcomes import as_ours
from agent_memory.redis.plans import Plan, PlanTable, Route
from agent_memory.redis.transport.blocking import connect_failure, endpoint_of
from agent_memory.redis.transport.multiplexed import MultiplexedTransport

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable

    from agent_memory._core import Guard

    Attempt = Callable[[int, float | None], Awaitable[Any]]

__all__ = ["Pipeline", "Redis"]

_EMPTY_RESPONSE: Final = private.EMPTY_RESPONSE
_NEVER_DECODE: Final = private.NEVER_DECODE


class Redis(RedisPy):
    """redis.asyncio's client on a shared connection with implicit pipelining, with resilience built in.

    Takes every argument of `redis.asyncio.Redis`, and by keyword:

    - `resilience`: the `ResiliencePolicy` (breaker, retries, budget, deadline, probe); None switches resilience off: one
      attempt, no admission. Default: `DEFAULT_RESILIENCE`.
    - `guard`: a `Guard` to share with other clients, instead of one made from `resilience`.

    redis-py's own retries are off unless `retry=` is given: each of them would multiply ours.

    May be used from several event loops, also in several threads: each loop has its own connection. Any number of tasks may
    share one client.
    """

    def __init__(
        self,
        *args: Any,
        resilience: ResiliencePolicy | None = DEFAULT_RESILIENCE,
        guard: Guard | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("connection_pool") is None:
            kwargs.setdefault("retry", private.no_async_retries())
            if kwargs.get("maint_notifications_config") is None:
                kwargs["maint_notifications_config"] = private.no_maintenance_notifications()
        super().__init__(*args, **kwargs)
        self._resilience = resilience
        if guard is None and resilience is not None:
            guard = resilience.make_guard(kwargs.get("client_name") or "redis", self.endpoint)
        pool = self.connection_pool
        arguments = pool.connection_kwargs
        self.guard = guard
        self._plans = PlanTable(guard)
        self._timeout_s: float | None = arguments.get("socket_timeout", private.DEFAULT_SOCKET_TIMEOUT)
        self._deadline_s = deadline_of(resilience, self._timeout_s)
        self._foreign = self.single_connection_client or not private.is_stock_async_pool(pool)
        self._transports = transports_of(pool)
        self._asked_protocol = int(arguments.get("protocol") or 3)
        self._fallback_callbacks: dict[str, Callable[..., Any]] | None = None
        self._own_callbacks: dict[str, Callable[..., Any]] = {}

    @classmethod
    def from_url(cls, url: str, single_connection_client: bool = False, **kwargs: Any) -> Self:  # type: ignore[override]
        """As `redis.asyncio.Redis.from_url`; `resilience=` and `guard=` are taken too."""
        own = {name: kwargs.pop(name) for name in ("resilience", "guard") if name in kwargs}
        kwargs.setdefault("retry", private.no_async_retries())
        if "maint_notifications_config" not in kwargs:
            kwargs["maint_notifications_config"] = private.no_maintenance_notifications()
        pool = ConnectionPool.from_url(url, **kwargs)
        client = cls(connection_pool=pool, single_connection_client=single_connection_client, **own)
        client.auto_close_connection_pool = True
        return client

    def unguarded(self) -> Redis:
        """A view on the same transport that admits everything and tries once; for callers who guard by themselves."""
        view = Redis(connection_pool=self.connection_pool, resilience=None)
        view.response_callbacks = self.response_callbacks
        view._own_callbacks = self._own_callbacks
        return view

    # --- commands -------------------------------------------------------------------------------------------------

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, guarded, and return its reply as redis-py would show it."""
        plan = self._plans[args[0]]
        if self._foreign:
            return await self._execute_foreign(plan, args, options)
        head = plan.head
        try:
            packed = pack_command(args) if head is None else pack_command((*head, *args[1:]))
        except TypeError as error:
            packed = pack_with_buffers(args, head, error)
        try:
            transport = self._transports[get_running_loop()]
        except KeyError:
            transport = self._transports.open()
        if plan.route:
            return await self._execute_leased(transport, plan, packed, args, options)
        raw = _NEVER_DECODE in options
        permit = plan.admit()
        future = transport.send(packed, raw)
        try:
            if future is None:
                future = await transport.wait_and_send(packed, raw)
            reply = await future
        except Exception as error:
            reply = await self._recover(transport, plan, packed, raw, permit, error)
        except BaseException:
            transport.forget(future)
            plan.abandon(permit)
            raise
        else:
            if isinstance(reply, Exception):
                if _EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
                    plan.answered_error(permit)
                    return options[_EMPTY_RESPONSE]
                reply = await self._recover(transport, plan, packed, raw, permit, reply)
            else:
                plan.success(permit)
        if transport.protocol != self._asked_protocol:
            return await self._finish_after_fallback(plan, reply, options)
        callback = callback_of(self.response_callbacks, plan.name)
        if callback is None:
            return reply
        shaped = call_back(callback, reply, options)
        return await shaped if inspect.isawaitable(shaped) else shaped

    async def _recover(
        self, transport: MultiplexedTransport, plan: Plan, packed: bytes, raw: bool, permit: int, error: Exception
    ) -> Any:
        """The first attempt failed with `error`: retry as the guard says; returns a reply or raises."""

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            del permit
            return await transport.call_within(packed, raw, timeout_s)

        return await self._retry(plan, attempt, permit, error)

    async def _retry(self, plan: Plan, attempt: Attempt, permit: int, error: Exception) -> Any:
        try:
            return await async_retry(plan, attempt, permit, error, self._timeout_s, self._deadline_s)
        except Exception as last:
            describe(last, self.guard, plan.name)
            raise

    async def _guarded(self, plan: Plan, attempt: Attempt) -> Any:
        """One guarded call of anything that takes a permit and a timeout and returns a reply."""
        permit = plan.admit()
        try:
            reply = await attempt(permit, self._timeout_s)
        except Exception as error:
            return await self._retry(plan, attempt, permit, error)
        except BaseException:
            plan.abandon(permit)
            raise
        if isinstance(reply, Exception):
            return await self._retry(plan, attempt, permit, reply)
        plan.success(permit)
        return reply

    async def _execute_leased(
        self, transport: MultiplexedTransport, plan: Plan, packed: bytes, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """A command that may block or that changes its connection: on a connection of its own."""
        timeout_s = read_timeout_s(plan, args, self._timeout_s)
        raw = _NEVER_DECODE in options
        keep = plan.route is not Route.STATE

        async def attempt(permit: int, attempt_timeout_s: float | None) -> Any:
            del permit, attempt_timeout_s  # a blocking command may take longer than an ordinary one
            return await transport.call_leased(packed, raw, timeout_s, keep=keep)

        reply = await self._guarded(plan, attempt)
        if transport.protocol != self._asked_protocol:
            return await self._finish_after_fallback(plan, reply, options)
        callback = callback_of(self.response_callbacks, plan.name)
        if callback is None:
            return reply
        shaped = call_back(callback, reply, options)
        return await shaped if inspect.isawaitable(shaped) else shaped

    async def _execute_foreign(self, plan: Plan, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """redis-py's own path, guarded: a pinned connection, or a pool that is not redis-py's own."""

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            del permit, timeout_s  # the connection's own timeouts bound it
            try:
                return await RedisPy.execute_command(self, *args, **options)
            except Exception as error:
                raise as_ours(error, self.endpoint) from error

        return await self._guarded(plan, attempt)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """A pipeline as redis-py's, guarded as one call that is as risky as its riskiest command."""
        return Pipeline(self, transaction, shard_hint)

    # --- replies --------------------------------------------------------------------------------------------------

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Set a custom response callback, also for the case that the server refuses RESP3."""
        super().set_response_callback(command, callback)
        self._own_callbacks[command.upper()] = callback
        self._fallback_callbacks = None

    async def _finish_after_fallback(self, plan: Plan, reply: Any, options: dict[str, Any]) -> Any:
        """The server spoke RESP2 where RESP3 was asked for: RESP2's callbacks give the reply the shape that was asked for."""
        callbacks = self._fallback_callbacks
        if callbacks is None:
            arguments = self.connection_pool.connection_kwargs
            callbacks = private.callbacks_after_fallback(
                arguments.get("protocol"), arguments.get("legacy_responses", True)
            )
            callbacks.update(self._own_callbacks)
            self._fallback_callbacks = callbacks
        callback = callbacks.get(plan.name)
        if callback is None:
            return reply
        shaped = call_back(callback, reply, options)
        return await shaped if inspect.isawaitable(shaped) else shaped

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """host:port or socket path of the server."""
        return endpoint_of(self.connection_pool.connection_kwargs)

    def stats(self) -> dict[str, Any]:
        """The guard's figures: state of the circuit, calls, errors by kind, retries, rejections, latencies by operation."""
        return {} if self.guard is None else self.guard.stats()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections of this client in every loop; those of a pool that was given to it stay open."""
        if close_connection_pool or (close_connection_pool is None and self.auto_close_connection_pool):
            self._transports.close()
        await super().aclose(close_connection_pool)

    def __del__(self, *args: Any) -> None:
        if getattr(self, "auto_close_connection_pool", False) and hasattr(self, "_transports"):
            self._transports.close()
        super().__del__(*args)


class Pipeline(RedisPyPipeline):
    """redis-py's pipeline; its execution is one guarded call.

    It is retried by itself only where nothing can have been executed, or where it only reads. With WATCH it is bound to its
    connection and never retried.
    """

    def __init__(self, client: Redis, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the collected commands; replies in their order."""
        commands, scripts = list(self.command_stack), set(self.scripts)
        if not commands and not self.watching:
            return []
        plan = self._client._plans[pipeline_operation(self._client._plans, commands, self.watching)]

        async def attempt(permit: int, timeout_s: float | None) -> list[Any]:
            del permit, timeout_s  # the connection's own timeouts bound it
            # Executing empties the pipeline, also when it fails.
            self.command_stack, self.scripts = list(commands), set(scripts)
            await self._lease()
            try:
                return await RedisPyPipeline.execute(self, raise_on_error)
            except Exception as error:
                raise as_ours(error, self._client.endpoint) from error

        return cast("list[Any]", await self._client._guarded(plan, attempt))

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """WATCH and what follows it until MULTI: sent at once on the pipeline's connection."""
        plan = self._client._plans[args[0]]

        async def attempt(permit: int, timeout_s: float | None) -> Any:
            del permit, timeout_s
            await self._lease()
            try:
                return await RedisPyPipeline.immediate_execute_command(self, *args, **options)
            except Exception as error:
                raise as_ours(error, self._client.endpoint) from error

        return await self._client._guarded(plan, attempt)

    async def _lease(self) -> None:
        if self.connection is None:
            try:
                self.connection = cast(Any, await self.connection_pool.get_connection())
            except Exception as error:
                failure = connect_failure(error, self._client.endpoint)
                if failure is error:
                    raise
                raise failure from error


class TransportsByLoop(dict[Any, MultiplexedTransport]):
    """The transports of one pool, one for each running event loop; bounded by dropping those of loops that have closed."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self._pool = pool

    def open(self) -> MultiplexedTransport:
        """The transport of the running loop, made now."""
        for loop in [loop for loop in self.copy() if loop.is_closed()]:
            self.pop(loop, None)
        return self.setdefault(get_running_loop(), MultiplexedTransport(self._pool))

    def close(self) -> None:
        """Close all transports: here if this is their loop, else by asking their loop."""
        try:
            here: AbstractEventLoop | None = get_running_loop()
        except RuntimeError:
            here = None
        for loop, transport in self.copy().items():
            self.pop(loop, None)
            if loop is here:
                transport.close()
            elif not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(transport.close)
                except RuntimeError:
                    pass  # it was closed at this moment


def transports_of(pool: Any) -> TransportsByLoop:
    """The transports of a pool, shared by all clients of that pool."""
    return cast(TransportsByLoop, pool.__dict__.setdefault("_agent_memory_transports", TransportsByLoop(pool)))
